package kerneltest

import (
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// codes is random key codes of a sequence.
func (s *suite) codes(heads, capacity, bits int) pair {
	s.Helper()
	p := s.alloc(dtype.U32, heads, capacity, (bits+31)/32)
	for i := range p.want.U32() {
		p.want.U32()[i] = s.rand.Uint32()
	}
	return s.send(p)
}

// weights is random query weights of queryBits bits.
func (s *suite) weights(queryBits int, shape ...int) pair {
	s.Helper()
	p := s.alloc(dtype.I8, shape...)
	limit := 1<<(queryBits-1) - 1
	for i := range p.want.I8() {
		if queryBits == 1 {
			p.want.I8()[i] = int8(2*s.rand.IntN(2) - 1)
		} else {
			p.want.I8()[i] = int8(s.rand.IntN(2*limit+1) - limit)
		}
	}
	return s.send(p)
}

// sameScores compares what the rows may see of scores, bit by bit or nearly.
func (s *suite) sameScores(what string, b *kernels.Batch, p pair, tolerance float64) {
	s.Helper()
	got := s.receive(p)
	sets, stride := p.want.Dim(1), p.want.Dim(2)
	// beyond a row's tokens anything may stand: make it equal
	size := p.want.Type.BlockBytes()
	seen := make([]bool, p.want.Len())
	b.Row(func(row int, _ *kernels.Segment, position int) {
		for set := range sets {
			for i := range position + 1 {
				seen[(row*sets+set)*stride+i] = true
			}
		}
	})
	for i, ok := range seen {
		if !ok {
			clear(p.want.Bytes()[i*size : (i+1)*size])
			clear(got.Bytes()[i*size : (i+1)*size])
		}
	}
	if err := s.got.Upload(p.got, got.Bytes()); err != nil {
		s.Fatal(err)
	}
	if tolerance == 0 {
		s.equal(what, p)
	} else {
		s.near(what, p, tolerance)
	}
}

func testScanHash(s *suite) {
	for _, c := range []struct{ keyHeads, maps, sets int }{{2, 2, 2}, {2, 6, 6}, {2, 6, 2}, {6, 6, 6}, {6, 6, 2}, {1, 8, 1}, {3, 9, 3}} {
		for _, bits := range []int{32, 64, 96, 128, 40} {
			s.sub(label("%d key heads, %d maps, %d sets, %d bits", c.keyHeads, c.maps, c.sets, bits), func(s *suite) {
				for _, queryBits := range []int{1, 4, 8} {
					for _, n := range []int{1, 31, 33, 99, 1000} {
						a, b := s.cache(1, 64, n, dtype.BF16), s.cache(1, 64, 77, dtype.BF16)
						a.tokens(n-1, 1)
						b.tokens(70, 3)
						a.index(s.codes(c.keyHeads, a.want.Cache.Capacity, bits))
						b.index(s.codes(c.keyHeads, b.want.Cache.Capacity, bits))
						want, got := s.batch(a, b)
						w := s.weights(queryBits, want.Tokens, c.maps, bits)
						scores := s.alloc(dtype.I32, want.Tokens, c.sets, want.Longest+s.rand.IntN(5))
						s.want.ScanHash(scores.want, w.want, 0, want)
						s.got.ScanHash(scores.got, w.got, 0, got)
						s.sameScores(label("%d tokens, %d query bits", n, queryBits), want, scores, 0)
					}
				}
			})
		}
	}
}

func testScans(s *suite) {
	for _, shape := range []struct{ kv, group, d int }{{3, 3, 64}, {1, 7, 128}, {2, 1, 256}} {
		for _, n := range []int{1, 33, 700} {
			heads := shape.kv * shape.group
			a, b := s.cache(shape.kv, shape.d, n, dtype.BF16), s.cache(shape.kv, shape.d, 60, dtype.BF16)
			a.tokens(n-1, 1)
			b.tokens(50, 5)
			const pageLen, parts, entries, channels = 16, 4, 16, 24
			for _, q := range []*sequence{&a, &b} {
				capacity := q.want.Cache.Capacity
				pages := (capacity + pageLen - 1) / pageLen
				lo, hi := s.normal(shape.kv, pages, shape.d), s.normal(shape.kv, pages, shape.d)
				for i, v := range lo.want.F32() {
					w := hi.want.F32()[i]
					lo.want.F32()[i], hi.want.F32()[i] = min(v, w), max(v, w)
				}
				s.send(lo)
				s.send(hi)
				q.index(lo, hi, s.normal(shape.kv, capacity, channels))
			}
			want, got := s.batch(a, b)
			q := s.normal(want.Tokens, heads, shape.d)
			check := func(what string, run func(d kernels.Device, scores kernels.Tensor, b *kernels.Batch, side func(pair) kernels.Tensor)) {
				s.Helper()
				scores := s.alloc(dtype.F32, want.Tokens, heads, want.Longest+3)
				run(s.want, scores.want, want, func(p pair) kernels.Tensor { return p.want })
				run(s.got, scores.got, got, func(p pair) kernels.Tensor { return p.got })
				s.sameScores(label("%s, %+v, %d tokens", what, shape, n), want, scores, s.tol.Scores)
			}
			check("keys", func(d kernels.Device, scores kernels.Tensor, b *kernels.Batch, side func(pair) kernels.Tensor) {
				d.ScanDot(scores, side(q), 0, -1, b, 0.5)
			})
			labels := s.normal(want.Tokens, heads, channels)
			check("labels", func(d kernels.Device, scores kernels.Tensor, b *kernels.Batch, side func(pair) kernels.Tensor) {
				d.ScanDot(scores, side(labels), 0, 2, b, 2)
			})
			check("pages", func(d kernels.Device, scores kernels.Tensor, b *kernels.Batch, side func(pair) kernels.Tensor) {
				d.ScanPages(scores, side(q), 0, pageLen, b)
			})
			for _, c := range []*sequence{&a, &b} {
				c.want.Index.Layers[0], c.got.Index.Layers[0] = nil, nil
				codes := s.alloc(dtype.U8, shape.kv, c.want.Cache.Capacity, parts)
				for i := range codes.want.U8() {
					codes.want.U8()[i] = uint8(s.rand.IntN(entries))
				}
				c.index(s.send(codes))
			}
			want, got = s.batch(a, b)
			tables := s.normal(want.Tokens, heads, parts, entries)
			check("tables", func(d kernels.Device, scores kernels.Tensor, b *kernels.Batch, side func(pair) kernels.Tensor) {
				d.ScanTables(scores, side(tables), 0, b)
			})
		}
	}
}

func testIndex(s *suite) {
	for _, t := range []dtype.Type{dtype.BF16, dtype.F32} {
		const kv, group, d, pageLen, channels, parts, entries = 2, 3, 64, 16, 12, 8, 32
		q := s.cache(kv, d, 150, t)
		capacity := q.want.Cache.Capacity
		reset := func(tensors ...pair) {
			q.want.Index.Layers[0], q.got.Index.Layers[0] = nil, nil
			q.index(tensors...)
		}
		// the pages grow in two steps
		lo, hi := s.alloc(dtype.F32, kv, (capacity+pageLen-1)/pageLen, d), s.alloc(dtype.F32, kv, (capacity+pageLen-1)/pageLen, d)
		reset(lo, hi)
		for _, run := range [][2]int{{0, 37}, {37, 1}, {38, 100}} {
			q.tokens(run[0], run[1])
			want, got := s.batch(q)
			s.want.IndexPages(0, pageLen, want)
			s.got.IndexPages(0, pageLen, got)
		}
		s.equal("page minima", lo)
		s.equal("page maxima", hi)

		chosen := s.alloc(dtype.I32, kv, channels)
		for h := range kv {
			for i, c := range s.rand.Perm(d)[:channels] {
				chosen.want.I32()[h*channels+i] = int32(c)
			}
		}
		s.send(chosen)
		labels := s.alloc(dtype.F32, kv, capacity, channels)
		reset(labels)
		q.tokens(5, 99)
		want, got := s.batch(q)
		s.want.IndexChannels(chosen.want, 4, 0, want)
		s.got.IndexChannels(chosen.got, 4, 0, got)
		s.near("labels", labels, 1e-6)
		x := s.normal(3, kv*group, d)
		picked := s.alloc(dtype.F32, 3, kv*group, channels)
		s.want.GatherChannels(picked.want, x.want, chosen.want)
		s.got.GatherChannels(picked.got, x.got, chosen.got)
		s.equal("query channels", picked)

		books := s.normal(kv, parts, entries, d/parts)
		codes := s.alloc(dtype.U8, kv, capacity, parts)
		reset(codes)
		want, got = s.batch(q)
		s.want.IndexParts(books.want, 0, want)
		s.got.IndexParts(books.got, 0, got)
		s.equal("part codes", codes)
		tables := s.alloc(dtype.F32, 3, kv*group, parts, entries)
		s.want.PartTables(tables.want, x.want, books.want)
		s.got.PartTables(tables.got, x.got, books.got)
		s.near("tables", tables, s.tol.Scores)
	}
}

func testGroupMass(s *suite) {
	for _, n := range []int{1, 20, 33, 99, 1000} {
		a, b := s.cache(2, 64, n, dtype.BF16), s.cache(2, 64, 90, dtype.BF16)
		a.tokens(n-1, 1)
		b.tokens(50, 4)
		want, got := s.batch(a, b)
		sel := kernels.Selection{Heads: 2, Sink: 8, Local: 8, Budget: kernels.Budget{Num: 1, Den: 8}}
		scores, out := s.scaled(4, want.Tokens, 6, want.Longest), s.alloc(dtype.F32, want.Tokens, 2, want.Longest)
		s.want.GroupMass(out.want, scores.want, kernels.Tensor{}, want, sel)
		s.got.GroupMass(out.got, scores.got, kernels.Tensor{}, got, sel)
		s.candidates("float scores", want, out, sel)
		whole, scales := s.ints(500, want.Tokens, 6, want.Longest), s.scaled(0.05, want.Tokens, 6)
		s.want.GroupMass(out.want, whole.want, scales.want, want, sel)
		s.got.GroupMass(out.got, whole.got, scales.got, got, sel)
		s.candidates("integer scores", want, out, sel)
	}
}

// candidates compares the candidates' part of float scores.
func (s *suite) candidates(what string, b *kernels.Batch, p pair, sel kernels.Selection) {
	s.Helper()
	got := s.receive(p)
	groups, stride := p.want.Dim(1), p.want.Dim(2)
	b.Row(func(row int, _ *kernels.Segment, position int) {
		lo, hi := sel.Range(position + 1)
		for g := range groups {
			for i := lo; i < hi; i++ {
				at := (row*groups+g)*stride + i
				x, y := p.want.F32()[at], got.F32()[at]
				if d := float64(x) - float64(y); !(d <= s.tol.Scores && d >= -s.tol.Scores) {
					s.Fatalf("%s: row %d group %d token %d is %v, want %v", what, row, g, i, y, x)
				}
			}
		}
	})
}
