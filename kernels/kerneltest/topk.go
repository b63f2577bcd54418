package kerneltest

import (
	"math"

	"pgregory.net/rapid"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// topK runs TopK on both devices and compares.
func (s *suite) topK(what string, scores pair, sel kernels.Selection, sequences ...sequence) {
	s.Helper()
	want, got := s.batch(sequences...)
	k := 1
	want.Row(func(_ int, _ *kernels.Segment, p int) { k = max(k, sel.Scored(p+1)) })
	selected := s.poison(s.alloc(dtype.I32, want.Tokens, sel.Heads, k+s.rand.IntN(3)))
	s.want.TopK(selected.want, scores.want, want, sel)
	s.got.TopK(selected.got, scores.got, got, sel)
	s.equal(what, selected)
}

// at is a sequence whose last token is at position n-1.
func (s *suite) at(n int) sequence {
	s.Helper()
	q := s.cache(1, 64, n, dtype.BF16)
	q.tokens(n-1, 1)
	return q
}

func testTopK(s *suite) {
	selections := []kernels.Selection{
		{Heads: 3, Sink: 4, Local: 4, Budget: kernels.Budget{Num: 1, Den: 8}},
		{Heads: 3, Sink: 0, Local: 0, Budget: kernels.Budget{Num: 1, Den: 1}},
		{Heads: 3, Sink: 128, Local: 128, Budget: kernels.Budget{Num: 1, Den: 32}},
		{Heads: 3, Sink: 4, Local: 1, Budget: kernels.Budget{Count: 64}},
		{Heads: 3, Sink: 4, Local: 4, Budget: kernels.Budget{Num: 1, Den: 16}, Candidates: 2},
		{Heads: 3, Sink: 0, Local: 0, Budget: kernels.Budget{Count: 0}},
		{Heads: 3, Sink: 2, Local: 3, Budget: kernels.Budget{Count: 1}},
	}
	kinds := map[string]func(i, n int) float64{
		"random":      func(int, int) float64 { return math.Round(s.rand.NormFloat64() * 30) },
		"few values":  func(int, int) float64 { return float64(s.rand.IntN(3)) },
		"all equal":   func(int, int) float64 { return -7 },
		"ascending":   func(i, _ int) float64 { return float64(i) },
		"descending":  func(i, _ int) float64 { return float64(-i) },
		"wide":        func(int, int) float64 { return float64(int32(s.rand.Uint32())) },
		"one outlier": func(i, n int) float64 { return float64(s.rand.IntN(5)) + map[bool]float64{true: 1e9}[i == n/2] },
	}
	floats := map[string]func(i, n int) float64{
		"normal":    func(int, int) float64 { return s.rand.NormFloat64() },
		"tiny":      func(int, int) float64 { return s.rand.NormFloat64() * 1e-42 },
		"NaN":       func(i, _ int) float64 { return map[bool]float64{true: math.NaN()}[s.rand.IntN(2) == 0] + float64(i%5) },
		"all NaN":   func(int, int) float64 { return math.NaN() },
		"infinite":  func(i, _ int) float64 { return []float64{math.Inf(1), 1, math.Inf(-1)}[s.rand.IntN(3)] },
		"zeros":     func(int, int) float64 { return []float64{0, math.Copysign(0, -1)}[s.rand.IntN(2)] },
		"near ties": func(int, int) float64 { return 1 + float64(s.rand.IntN(4))*0x1p-23 },
		"skewed":    func(int, int) float64 { return math.Exp(8 * s.rand.NormFloat64()) },
	}
	sizes := []int{1, 9, 33, 99, 400}
	if quick() {
		sizes = []int{1, 33, 99}
	} else {
		sizes = append(sizes, 4099)
	}
	for _, n := range sizes {
		one, other := s.at(n), s.cache(1, 64, 300, dtype.BF16)
		other.tokens(290, 3)
		longest := max(n, 293)
		for _, t := range []dtype.Type{dtype.I32, dtype.F32} {
			all := map[string]func(i, n int) float64{}
			for k, f := range kinds {
				all[k] = f
			}
			if t == dtype.F32 {
				for k, f := range floats {
					all[k] = f
				}
			}
			for kind, f := range all {
				scores := s.alloc(t, 4, 3, longest+s.rand.IntN(4))
				stride := scores.want.Dim(2)
				for i := range scores.want.Len() {
					if t == dtype.I32 {
						scores.want.I32()[i] = int32(f(i%stride, longest))
					} else {
						scores.want.F32()[i] = float32(f(i%stride, longest))
					}
				}
				s.send(scores)
				for i, sel := range selections {
					if n > 5000 && i != 2 { // sorting is slow: the usual selection only
						continue
					}
					s.topK(label("%v %s scores, %d tokens, %+v", t, kind, n, sel), scores, sel, one, other)
				}
			}
		}
	}
}

// testTopKProperty draws scores, budgets and sizes at random.
func testTopKProperty(s *suite) {
	s.Helper()
	sequences := map[int]sequence{}
	rapid.Check(s.T, func(r *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(r, "tokens")
		q, ok := sequences[n]
		if !ok {
			q = s.at(n)
			sequences[n] = q
		}
		sel := kernels.Selection{
			Heads: rapid.IntRange(1, 3).Draw(r, "heads"),
			Sink:  rapid.IntRange(0, 40).Draw(r, "sink"), Local: rapid.IntRange(0, 40).Draw(r, "local"),
			Budget:     kernels.Budget{Count: rapid.IntRange(0, 320).Draw(r, "budget")},
			Candidates: rapid.IntRange(0, 3).Draw(r, "candidates"),
		}
		kind := dtype.I32
		if rapid.Bool().Draw(r, "float") {
			kind = dtype.F32
		}
		scores := s.alloc(kind, 1, sel.Heads, n)
		span := rapid.SampledFrom([]int32{1, 3, 100, math.MaxInt32}).Draw(r, "span")
		for i := range scores.want.Len() {
			if kind == dtype.I32 {
				scores.want.I32()[i] = rapid.Int32Range(-span, span).Draw(r, "score")
			} else {
				scores.want.F32()[i] = rapid.Float32().Draw(r, "score")
			}
		}
		s.send(scores)
		s.topK("drawn", scores, sel, q)
	})
}
