package eval

import (
	"cmp"
	"fmt"
	"slices"
)

// gain is what a token set gains at each of some budgets, in ascending parts.
type gain struct {
	parts []int
	value []float64
}

// envelope is the least concave curve above g: its corners.
func (g gain) envelope() gain {
	var out gain
	for i, p := range g.parts {
		for n := len(out.parts); n >= 2; n = len(out.parts) {
			// the middle corner stays if the slope falls there
			before := (out.value[n-1] - out.value[n-2]) / float64(out.parts[n-1]-out.parts[n-2])
			after := (g.value[i] - out.value[n-1]) / float64(p-out.parts[n-1])
			if before > after {
				break
			}
			out.parts, out.value = out.parts[:n-1], out.value[:n-1]
		}
		out.parts, out.value = append(out.parts, p), append(out.value, g.value[i])
	}
	return out
}

// at is the curve's value at parts, linear between its points.
func (g gain) at(parts int) float64 {
	i, _ := slices.BinarySearch(g.parts, parts)
	switch {
	case i == 0:
		return g.value[0]
	case i == len(g.parts):
		return g.value[i-1]
	}
	lo, hi := g.parts[i-1], g.parts[i]
	return g.value[i-1] + (g.value[i]-g.value[i-1])*float64(parts-lo)/float64(hi-lo)
}

// group is token sets that get equally many parts.
type group struct {
	sets int
	gain gain // of all of them together, by the parts of each
}

// allocate divides total parts among the groups' sets so that the sum of the
// groups' concave envelopes is the largest, within the first and last budgets
// of each curve: from the smallest budgets on, it takes the segments of the
// envelopes by falling gain for each part (water filling). It gives the parts
// of each group's sets.
func allocate(groups []group, total int) ([]int, error) {
	type segment struct {
		group, parts int
		slope        float64
	}
	out := make([]int, len(groups))
	var segments []segment
	left, most := total, 0
	for i, g := range groups {
		e := g.gain.envelope()
		out[i] = e.parts[0]
		left -= g.sets * e.parts[0]
		most += g.sets * e.parts[len(e.parts)-1]
		for j := 1; j < len(e.parts); j++ {
			parts := e.parts[j] - e.parts[j-1]
			segments = append(segments, segment{i, parts, (e.value[j] - e.value[j-1]) / float64(parts*g.sets)})
		}
	}
	if left < 0 || total > most {
		return nil, fmt.Errorf("a mean budget of %d parts cannot be kept: the sets' bounds allow %d to %d", total, total-left, most)
	}
	slices.SortStableFunc(segments, func(a, b segment) int { return cmp.Compare(b.slope, a.slope) })
	// Groups of one size fill the total in one pass. With several sizes one
	// may not fit the rest, which then goes to those that do.
	for again := true; left > 0 && again; {
		again = false
		for i := range segments {
			s := &segments[i]
			steps := min(s.parts, left/groups[s.group].sets)
			out[s.group] += steps
			s.parts -= steps
			left -= steps * groups[s.group].sets
			again = again || steps > 0
		}
	}
	if left > 0 {
		return nil, fmt.Errorf("%d parts are left that no group of sets can take; choose shares per set", left)
	}
	return out, nil
}
