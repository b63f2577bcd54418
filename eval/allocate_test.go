package eval

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// drawGroups draws curves over the same levels; each value is at least the one
// before unless falling curves are wanted.
func drawGroups(t *rapid.T, sizes []int, falling bool) []group {
	levels := []int{1, 2, 4, 7, 11}
	groups := make([]group, rapid.IntRange(1, 4).Draw(t, "groups"))
	for i := range groups {
		g := gain{levels, make([]float64, len(levels))}
		value := 0.0
		for j := range levels {
			value += float64(rapid.IntRange(map[bool]int{true: -5}[falling], 20).Draw(t, "step"))
			g.value[j] = value
		}
		groups[i] = group{rapid.SampledFrom(sizes).Draw(t, "sets"), g}
	}
	return groups
}

// slowAllocate is the best sum of the envelopes by trying every division, by
// dynamic programming over groups and parts.
func slowAllocate(groups []group, total int) float64 {
	best := make([]float64, total+1)
	for i := range best {
		best[i] = math.Inf(-1)
	}
	best[0] = 0
	for _, g := range groups {
		e := g.gain.envelope()
		next := make([]float64, total+1)
		for spent := range next {
			next[spent] = math.Inf(-1)
			for p := e.parts[0]; p <= e.parts[len(e.parts)-1] && p*g.sets <= spent; p++ {
				next[spent] = max(next[spent], best[spent-p*g.sets]+e.at(p))
			}
		}
		best = next
	}
	return best[total]
}

func TestAllocateIsTheBestDivision(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := drawGroups(t, []int{rapid.IntRange(1, 3).Draw(t, "size")}, rapid.Bool().Draw(t, "falling"))
		size, least := groups[0].sets, len(groups)
		total := size * rapid.IntRange(least, 11*len(groups)).Draw(t, "parts")
		parts, err := allocate(groups, total)
		if err != nil {
			t.Fatal(err)
		}
		sum, value := 0, 0.0
		for i, p := range parts {
			if p < 1 || p > 11 {
				t.Fatalf("group %d has %d parts, its curve goes from 1 to 11", i, p)
			}
			sum += p * groups[i].sets
			value += groups[i].gain.envelope().at(p)
		}
		if sum != total {
			t.Fatalf("%v sum to %d, want %d", parts, sum, total)
		}
		if want := slowAllocate(groups, total); !(math.Abs(value-want) <= 1e-9*max(1, math.Abs(want))) {
			t.Fatalf("%v gains %v, the best division %v", parts, value, want)
		}
	})
}

// Groups of different sizes: the total and the bounds hold, or it is an error.
func TestAllocateKeepsTheTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := drawGroups(t, []int{1, 3}, true)
		least, most := 0, 0
		for _, g := range groups {
			least, most = least+g.sets, most+11*g.sets
		}
		total := rapid.IntRange(0, most+2).Draw(t, "parts")
		parts, err := allocate(groups, total)
		if err != nil {
			if total >= least && total <= most && slices.ContainsFunc(groups, func(g group) bool { return g.sets == 1 }) && total < most-2 {
				// only a rest that no group of 3 can take may be left, once the small groups are full
				if !strings.Contains(err.Error(), "are left") {
					t.Fatal(err)
				}
			}
			return
		}
		sum := 0
		for i, p := range parts {
			if p < 1 || p > 11 {
				t.Fatalf("group %d has %d parts", i, p)
			}
			sum += p * groups[i].sets
		}
		if sum != total {
			t.Fatalf("%v sum to %d, want %d", parts, sum, total)
		}
	})
}

func TestAllocateRefuses(t *testing.T) {
	g := []group{{2, gain{[]int{2, 5}, []float64{0, 1}}}}
	for total, want := range map[int]string{3: "allow 4 to 10", 11: "allow 4 to 10", 7: "1 parts are left"} {
		if _, err := allocate(g, total); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d parts: error %v, want %q", total, err, want)
		}
	}
}

func TestEnvelope(t *testing.T) {
	g := gain{[]int{0, 1, 2, 4, 8}, []float64{0, 1, 1.5, 5, 4}}
	e := g.envelope()
	if !slices.Equal(e.parts, []int{0, 4, 8}) || !slices.Equal(e.value, []float64{0, 5, 4}) {
		t.Errorf("envelope %+v", e)
	}
	for i, p := range g.parts {
		if e.at(p) < g.value[i] || g.at(p) != g.value[i] {
			t.Errorf("at %d: envelope %v, curve %v", p, e.at(p), g.at(p))
		}
	}
}
