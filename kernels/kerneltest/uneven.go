package kerneltest

import (
	"math"
	"slices"

	"pgregory.net/rapid"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// testUneven is the sets of different sizes that a kernels.Uneven device runs:
// a budget for each set, and sets cut short by mass.
func testUneven(s *suite) {
	got, ok := s.got.(kernels.Uneven)
	if !ok {
		s.Skip("the device has sets of one size only")
	}
	s.sub("budgets", func(s *suite) {
		budgets := []kernels.Budget{{Num: 1, Den: 4}, {Num: 1, Den: 64}, {Count: 7}}
		for _, n := range []int{1, 33, 400, 5003} {
			for _, candidates := range []int{0, 2} {
				sel := kernels.Selection{Heads: 3, Sink: 4, Local: 5, Budgets: budgets, Candidates: candidates}
				s.topK(label("%d tokens, %d candidates", n, candidates), s.send(s.normal(1, 3, n)), sel, s.at(n))
			}
		}
		even := kernels.Selection{Heads: 2, Sink: 16, Local: 16, Budgets: []kernels.Budget{{Num: 1, Den: 4}, {Num: 1, Den: 16}}}
		var all []sequence
		for _, n := range []int{1, 5, 20} {
			q := s.cache(2, 64, 300, dtype.BF16)
			q.tokens(s.rand.IntN(300-n), n)
			all = append(all, q)
		}
		s.attendSelected(3, even, all...)
	})
	for _, c := range hashCases {
		s.sub(c.name, func(s *suite) {
			budgets := make([]kernels.Budget, c.sets)
			for i := range budgets {
				budgets[i] = kernels.Budget{Num: 1 + i%3, Den: 16}
			}
			for _, n := range []int{20, 400} {
				s.attendHashWith(c, 64, n, kernels.Selection{Budgets: budgets})
				s.attendHashWith(c, 64, n, kernels.Selection{Budget: kernels.Budget{Num: 1, Den: 4}, Mass: 0.7})
			}
		})
	}
	s.sub("cut", func(s *suite) { s.cutMass(got) })
}

// cutMass draws scores and compares both devices with a cut by its definition.
func (s *suite) cutMass(got kernels.Uneven) {
	s.Helper()
	rapid.Check(s.T, func(r *rapid.T) {
		n := rapid.IntRange(1, 200).Draw(r, "tokens")
		q := s.at(n)
		sel := kernels.Selection{
			Heads: rapid.IntRange(1, 3).Draw(r, "heads"),
			Sink:  rapid.IntRange(0, 20).Draw(r, "sink"), Local: rapid.IntRange(0, 20).Draw(r, "local"),
			Budget: kernels.Budget{Count: rapid.IntRange(0, 220).Draw(r, "budget")}, Candidates: rapid.IntRange(0, 3).Draw(r, "candidates"),
			Mass: rapid.SampledFrom([]float64{1e-9, 0.1, 0.5, 0.9, 0.999, 1}).Draw(r, "mass"),
		}
		kind := rapid.SampledFrom([]dtype.Type{dtype.I32, dtype.F32}).Draw(r, "type")
		unit := kernels.MassUnit{Linear: kind == dtype.F32 && rapid.Bool().Draw(r, "linear"), Scale: rapid.SampledFrom([]float64{0, 0.01, 0.3}).Draw(r, "scale")}
		scores := s.alloc(kind, 1, sel.Heads, n)
		for i := range scores.want.Len() {
			if kind == dtype.I32 {
				scores.want.I32()[i] = rapid.Int32Range(-40, 40).Draw(r, "score")
			} else {
				scores.want.F32()[i] = float32(rapid.IntRange(0, 60).Draw(r, "score")) / 4
			}
		}
		s.send(scores)
		want, batch := s.batch(q)
		selected := s.alloc(dtype.I32, 1, sel.Heads, max(1, sel.Scored(n)))
		s.want.TopK(selected.want, scores.want, want, sel)
		s.send(selected)
		s.want.CutMass(selected.want, scores.want, unit, want, sel)
		got.CutMass(selected.got, scores.got, unit, batch, sel)
		s.equal("cut lists", selected)
		for set := range sel.Heads {
			list := sel.List(selected.want.I32()[set*selected.want.Dim(2):], sel.Scored(n))
			lo, hi := sel.Range(n)
			values := make([]float64, 0, hi-lo)
			for p := lo; p < hi; p++ {
				if kind == dtype.I32 {
					values = append(values, float64(scores.want.I32()[set*n+p]))
				} else {
					values = append(values, float64(scores.want.F32()[set*n+p]))
				}
			}
			least, most := slowCut(values, unit, sel, sel.Chosen(n))
			factor := max(1, sel.Candidates)
			if len(list) < min(least*factor, hi-lo) || len(list) > min(most*factor, hi-lo) {
				r.Fatalf("set %d keeps %d of %d, want %d to %d times %d", set, len(list), hi-lo, least, most, factor)
			}
		}
	})
}

// slowCut is the number of best values that hold the mass, by sorting: from
// one that rounding might allow to one that it might ask for.
func slowCut(values []float64, unit kernels.MassUnit, sel kernels.Selection, budget int) (least, most int) {
	if sel.Mass >= 1 {
		return budget, budget
	}
	slices.Sort(values)
	slices.Reverse(values)
	total := 0.0
	weights := make([]float64, len(values))
	scale := unit.Scale
	if scale == 0 {
		scale = 1
	}
	for i, v := range values {
		weights[i] = math.Exp(scale * v)
		if unit.Linear {
			weights[i] = v
		}
		total += weights[i]
	}
	count := func(share float64) int {
		sum, k := 0.0, 0
		for k < budget && !(k > 0 && sum >= share*total) {
			sum += weights[k]
			k++
		}
		return k
	}
	return count(sel.Mass * (1 - 1e-9)), count(sel.Mass * (1 + 1e-9))
}
