package kerneltest

import (
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

func testAppend(s *suite) {
	for _, t := range []dtype.Type{dtype.BF16, dtype.F32} {
		a, b := s.cache(3, 64, 50, t), s.cache(3, 64, 200, t)
		a.tokens(49, 1)
		b.tokens(7, 150)
		want, got := s.batch(a, b)
		k, v := s.normal(151, 3, 64), s.normal(151, 3, 64)
		s.want.Append(0, k.want, v.want, want)
		s.got.Append(0, k.got, v.got, got)
		for _, q := range []sequence{a, b} {
			s.equal("keys", pair{q.want.Cache.K[0], q.got.Cache.K[0]})
			s.equal("values", pair{q.want.Cache.V[0], q.got.Cache.V[0]})
		}
	}
}

// shapes are head counts and sizes of real models, and odd ones.
var shapes = []struct{ kv, group, d int }{
	{3, 3, 64}, {2, 7, 64}, {1, 4, 256}, {2, 1, 128}, {2, 4, 128}, {1, 8, 64}, {1, 5, 128}, {2, 2, 80},
}

func testAttend(s *suite) {
	for i, shape := range shapes {
		for _, t := range []dtype.Type{dtype.BF16, dtype.F32} {
			if t == dtype.F32 && i > 2 {
				continue
			}
			s.sub(label("kv%d group%d d%d %v", shape.kv, shape.group, shape.d, t), func(s *suite) {
				for _, run := range []struct{ start, n, window int }{
					{0, 1, 0}, {32, 1, 0}, {99, 1, 31}, {999, 1, 0}, {397, 3, 0}, {0, 7, 3},
					{0, 8, 0}, {0, 33, 0}, {90, 70, 0}, {300, 33, 40}, {0, 130, 31},
				} {
					q := s.cache(shape.kv, shape.d, run.start+run.n, t)
					q.tokens(run.start, run.n)
					s.attend(run.window, 1, shape.group, q)
				}
			})
		}
	}
	s.sub("ragged", func(s *suite) {
		var all []sequence
		for _, n := range []int{1, 70, 1, 9, 2} {
			q := s.cache(2, 64, 200, dtype.BF16)
			q.tokens(s.rand.IntN(200-n), n)
			all = append(all, q)
		}
		s.attend(0, 1, 3, all...)
		s.attend(20, 1, 3, all...)
	})
	s.sub("large logits", func(s *suite) {
		for _, n := range []int{1, 40} {
			q := s.cache(2, 64, 300, dtype.BF16)
			q.tokens(300-n, n)
			s.attend(0, 300, 2, q)
		}
	})
	s.sub("reads", func(s *suite) {
		a, b := s.cache(2, 64, 100, dtype.BF16), s.cache(2, 64, 100, dtype.BF16)
		a.tokens(50, 1)
		b.tokens(0, 20)
		s.got.ResetReads()
		s.want.ResetReads()
		s.attend(0, 1, 2, a, b)
		s.reads()
	})
	if !quick() {
		q := s.cache(1, 64, 20001, dtype.BF16)
		q.tokens(20000, 1)
		s.attend(0, 1, 2, q)
		q.tokens(19992, 9)
		s.attend(0, 1, 1, q)
	}
}

func (s *suite) attend(window int, size float64, group int, sequences ...sequence) {
	s.Helper()
	want, got := s.batch(sequences...)
	c := sequences[0].want.Cache
	q := s.scaled(size, want.Tokens, c.KVHeads*group, c.HeadDim)
	out := s.poison(s.alloc(dtype.F32, want.Tokens, c.KVHeads*group, c.HeadDim))
	s.want.Attend(out.want, q.want, 0, want, 0.125, window)
	s.got.Attend(out.got, q.got, 0, got, 0.125, window)
	// the values are of size 1, the logits of size size*sqrt(d)/8
	s.nearScale(label("tokens %d to %d, window %d", sequences[0].want.Start, sequences[0].want.Start+sequences[0].want.Len, window), out, s.tol.Attention*max(1, size), 1)
}

func (s *suite) reads() {
	s.Helper()
	if err := s.got.Synchronize(); err != nil {
		s.Fatal(err)
	}
	if s.got.Reads() != s.want.Reads() {
		s.Fatalf("reads %+v, want %+v", s.got.Reads(), s.want.Reads())
	}
}

func testAttendSelected(s *suite) {
	for _, shape := range shapes {
		for _, t := range []dtype.Type{dtype.BF16, dtype.F32} {
			s.sub(label("kv%d group%d d%d %v", shape.kv, shape.group, shape.d, t), func(s *suite) {
				for _, heads := range []int{shape.kv, shape.kv * shape.group} {
					for _, n := range []int{1, 33, 99, 1000} {
						q := s.cache(shape.kv, shape.d, n, t)
						q.tokens(n-1, 1)
						s.attendSelected(shape.group, kernels.Selection{Heads: heads, Sink: 5, Local: 9, Budget: kernels.Budget{Num: 1, Den: 8}}, q)
						s.attendSelected(shape.group, kernels.Selection{Heads: heads, Sink: 0, Local: 1, Budget: kernels.Budget{Count: 200}}, q)
					}
				}
			})
		}
	}
	s.sub("ragged", func(s *suite) {
		var all []sequence
		for _, n := range []int{1, 5, 1, 20} {
			q := s.cache(2, 64, 300, dtype.BF16)
			q.tokens(s.rand.IntN(300-n), n)
			all = append(all, q)
		}
		s.attendSelected(3, kernels.Selection{Heads: 2, Sink: 16, Local: 16, Budget: kernels.Budget{Num: 1, Den: 4}}, all...)
		s.attendSelected(3, kernels.Selection{Heads: 6, Sink: 16, Local: 16, Budget: kernels.Budget{Count: 40}}, all...)
	})
}

func (s *suite) attendSelected(group int, sel kernels.Selection, sequences ...sequence) {
	s.Helper()
	want, got := s.batch(sequences...)
	c := sequences[0].want.Cache
	q := s.scaled(2, want.Tokens, c.KVHeads*group, c.HeadDim)
	selected := s.chooseAny(want, sel)
	out := s.poison(s.alloc(dtype.F32, want.Tokens, c.KVHeads*group, c.HeadDim))
	s.want.ResetReads()
	s.got.ResetReads()
	s.want.AttendSelected(out.want, q.want, 0, want, 0.1, selected.want, sel)
	s.got.AttendSelected(out.got, q.got, 0, got, 0.1, selected.got, sel)
	s.nearScale(label("%+v", sel), out, s.tol.Attention, 1)
	s.reads()
}

// chooseAny selects random candidates.
func (s *suite) chooseAny(b *kernels.Batch, sel kernels.Selection) pair {
	s.Helper()
	scores := s.normal(b.Tokens, sel.Heads, b.Longest)
	k := 1
	b.Row(func(_ int, _ *kernels.Segment, p int) { k = max(k, sel.Chosen(p+1)) })
	selected := s.alloc(dtype.I32, b.Tokens, sel.Heads, k)
	sel.Candidates = 0
	s.want.TopK(selected.want, scores.want, b, sel)
	return s.send(selected)
}
