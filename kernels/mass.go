package kernels

import (
	"cmp"
	"math"
	"slices"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// Uneven is a Device that runs sets of different sizes in one layer:
// Selection.Budgets, and sets that CutMass has cut short.
type Uneven interface {
	// CutMass keeps of each list of selected, i32 [T, sets, k] as TopK has
	// chosen them by scores, only the best tokens that together hold the share
	// s.Mass of the attention mass of all candidates, as softmax over the
	// scores estimates it, and at least one; times s.Candidates where they are
	// to be reranked. The lists stay ascending and end with -1.
	CutMass(selected, scores Tensor, unit MassUnit, b *Batch, s Selection)
}

// MassUnit says how scores estimate attention: as logits in units of a scale,
// or as masses.
type MassUnit struct {
	// Scales is f32 [T, maps], what a score of 1 stands for in each query map;
	// none: Scale. The maps of one set are averaged, as logits.
	Scales Tensor
	Scale  float64 // 0 is 1
	// Linear scores are attention masses themselves, as GroupMass gives them.
	Linear bool
}

// MassCut is CutMass row by row, for devices in host memory.
type MassCut struct {
	selected, scores Tensor
	unit             MassUnit
	selection        Selection
	scratch          []ranked
	weights          []float64
}

type ranked struct {
	position int32
	score    float64
}

// NewMassCut prepares CutMass of these operands. A MassCut serves one
// goroutine.
func NewMassCut(selected, scores Tensor, unit MassUnit, s Selection) *MassCut {
	return &MassCut{selected: selected, scores: scores, unit: unit, selection: s}
}

// Row cuts a set of the row at a position.
//
// With w(p) = exp(scale (score(p) - largest score)), the total sums w over the
// candidates in order of position, and the cut comes behind the token at which
// the running sum over tokens by falling score (of equal ones the most recent
// first) reaches Mass times the total.
func (c *MassCut) Row(row, set, position int) {
	s, n := c.selection, position+1
	lo, hi := s.Range(n)
	k, sets, stride := c.selected.Dim(2), c.scores.Dim(1), c.scores.Dim(2)
	list := c.selected.I32()[(row*sets+set)*k:][:s.ScoredOf(set, n)]
	if s.Mass <= 0 || s.Mass >= 1 || len(list) == 0 {
		return
	}
	at := (row*sets + set) * stride
	c.scratch = c.scratch[:0]
	for _, p := range list {
		c.scratch = append(c.scratch, ranked{p, score(c.scores, at+int(p))})
	}
	slices.SortFunc(c.scratch, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(b.position, a.position))
	})
	weight, total := c.weigh(at+lo, at+hi, c.scratch[0].score, c.scale(row, set))
	count, most, sum := 0, s.ChosenOf(set, n), 0.0
	for count < most && !(count > 0 && sum >= s.Mass*total) {
		sum += weight(c.scratch[count].score)
		count++
	}
	best := c.scratch[:min(count*max(1, s.Candidates), len(list))]
	slices.SortFunc(best, func(a, b ranked) int { return cmp.Compare(a.position, b.position) })
	for i := range list {
		list[i] = -1
		if i < len(best) {
			list[i] = best[i].position
		}
	}
}

// scale is what a score of 1 stands for in a set.
func (c *MassCut) scale(row, set int) float64 {
	if c.unit.Scales.None() {
		return cmp.Or(c.unit.Scale, 1)
	}
	maps, sets := c.unit.Scales.Dim(1), c.scores.Dim(1)
	each, sum := maps/sets, 0.0
	for _, v := range c.unit.Scales.F32()[row*maps+set*each:][:each] {
		sum += float64(v)
	}
	return sum / float64(each) / float64(each)
}

// maxLevels bounds the table of weights of whole scores.
const maxLevels = 1 << 16

// weigh gives the weight of a score, and the sum over scores [from, to).
func (c *MassCut) weigh(from, to int, top, scale float64) (weight func(float64) float64, total float64) {
	weight = func(v float64) float64 { return math.Exp(scale * (v - top)) }
	if c.unit.Linear {
		weight = func(v float64) float64 { return v }
	}
	if c.scores.Type == dtype.I32 && !c.unit.Linear {
		ints := c.scores.I32()[from:to]
		low := slices.Min(ints)
		if levels := int64(top) - int64(low) + 1; levels <= maxLevels {
			c.weights = c.weights[:0]
			for i := range levels {
				c.weights = append(c.weights, weight(float64(int64(low)+i)))
			}
			for _, v := range ints {
				total += c.weights[v-low]
			}
			return weight, total
		}
	}
	for i := from; i < to; i++ {
		total += weight(score(c.scores, i))
	}
	return weight, total
}

// CutMass implements Uneven.
func (r *Reference) CutMass(selected, scores Tensor, unit MassUnit, b *Batch, s Selection) {
	c := NewMassCut(selected, scores, unit, s)
	b.Row(func(row int, _ *Segment, position int) {
		for set := range scores.Dim(1) {
			c.Row(row, set, position)
		}
	})
}
