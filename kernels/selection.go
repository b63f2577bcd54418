package kernels

import (
	"fmt"
	"sort"
)

// Budget is how many tokens a decode step may choose by score: Count, or the
// share Num/Den of the cached tokens, rounded down.
type Budget struct {
	Num, Den int
	Count    int
}

// At is the budget among n cached tokens.
func (b Budget) At(n int) int {
	if b.Den > 0 {
		return int(int64(n) * int64(b.Num) / int64(b.Den))
	}
	return b.Count
}

// String is "1/32" or "512".
func (b Budget) String() string {
	if b.Den > 0 {
		return fmt.Sprintf("%d/%d", b.Num, b.Den)
	}
	return fmt.Sprint(b.Count)
}

// Selection is which cached tokens a row may choose and how many.
type Selection struct {
	// Heads is the number of sets: query heads, or KV heads when a group
	// shares one.
	Heads int
	// Sink first and Local last tokens are always read, and never chosen.
	Sink, Local int
	Budget      Budget
	// Budgets, if any, are the sets' own in place of Budget: one for each of
	// Heads. Only a device that is Uneven runs sets of different sizes.
	Budgets []Budget
	// Mass above 0 cuts a set short, below its budget, where CutMass estimates
	// that the tokens before hold this share of the candidates' attention.
	Mass float64
	// Candidates is how many times the budget is taken by score before Rerank
	// keeps the best; below 2 there is no reranking.
	Candidates int
}

// Range is the candidates [lo, hi) of a row that sees n cached tokens. It is
// empty when sink and local cover all of them.
func (s Selection) Range(n int) (lo, hi int) {
	lo, hi = min(s.Sink, n), max(n-s.Local, 0)
	return lo, max(lo, hi)
}

// Of is the budget of a set.
func (s Selection) Of(set int) Budget {
	if s.Budgets == nil {
		return s.Budget
	}
	return s.Budgets[set]
}

// Uneven says whether a layer's sets may differ in size.
func (s Selection) Uneven() bool { return s.Budgets != nil || s.Mass > 0 }

// largest is the largest set's budget among n tokens.
func (s Selection) largest(n int) int {
	most := s.Budget.At(n)
	if s.Budgets != nil {
		most = 0
		for _, b := range s.Budgets {
			most = max(most, b.At(n))
		}
	}
	return most
}

// Chosen is how many tokens TopK or Rerank keeps for a row that sees n, in the
// largest set.
func (s Selection) Chosen(n int) int {
	lo, hi := s.Range(n)
	return min(s.largest(n), hi-lo)
}

// ChosenOf is Chosen of one set.
func (s Selection) ChosenOf(set, n int) int {
	lo, hi := s.Range(n)
	return min(s.Of(set).At(n), hi-lo)
}

// Scored is how many tokens TopK passes on for a row that sees n, in the
// largest set: Chosen, or the candidates for Rerank.
func (s Selection) Scored(n int) int {
	lo, hi := s.Range(n)
	return min(s.largest(n)*max(1, s.Candidates), hi-lo)
}

// ScoredOf is Scored of one set.
func (s Selection) ScoredOf(set, n int) int {
	lo, hi := s.Range(n)
	return min(s.Of(set).At(n)*max(1, s.Candidates), hi-lo)
}

// Kept is how many of a set's candidates Rerank keeps. Where CutMass has cut
// the candidates short, the cut holds for what is kept too.
func (s Selection) Kept(set, n, candidates int) int {
	count := s.ChosenOf(set, n)
	if s.Mass > 0 && candidates < s.ScoredOf(set, n) {
		count = min(count, (candidates+max(1, s.Candidates)-1)/max(1, s.Candidates))
	}
	return count
}

// List is the tokens in the first most places of a set's list, which CutMass
// may have ended early by -1.
func (s Selection) List(list []int32, most int) []int32 {
	list = list[:most]
	if s.Mass > 0 {
		end := sort.Search(len(list), func(i int) bool { return list[i] < 0 })
		list = list[:end]
	}
	return list
}

// Read is how many tokens attention reads for a row that sees n, in the
// largest set.
func (s Selection) Read(n int) int {
	lo, hi := s.Range(n)
	return n - (hi - lo) + s.Chosen(n)
}

// Reranks says whether candidates are reranked.
func (s Selection) Reranks() bool { return s.Candidates > 1 }

// HashQuery is a layer's query side of hash attention.
type HashQuery struct {
	Encoder Encoder
	// Bits is 1 for Hamming distance (both sides hard), 4 or 8 for integer
	// weights of that many bits.
	Bits int
	// Mass ranks a group's tokens by GroupMass over its heads' scores instead
	// of by their sum.
	Mass bool
}

// Affine is one linear layer per head: weight [heads, out, in], bias [heads, out].
type Affine struct {
	In, Out      int
	Weight, Bias []float32
}

// Projection is a learned map phi applied per head: an MLP with SiLU between
// its layers, plus a linear path, plus the feedback of a residual binary code.
//
//	z = Skip(x) + Layers[n-1](SiLU(... Layers[0](x)))
//	z[block s] += Feedback[block s] bits of the blocks before s,  bit = z > 0 ? 1 : -1
//
// With Feedback the bits are decided in blocks of BlockBits, first block first.
type Projection struct {
	Name      string
	Heads     int
	Layers    []Affine // may be empty if Skip is set
	Skip      *Affine
	Feedback  []float32 // [heads, bits, bits]: row i adds to z_i; nil if none
	BlockBits int
}

// In is the width of x, Out that of z.
func (p Projection) In() int {
	if p.Skip != nil {
		return p.Skip.In
	}
	return p.Layers[0].In
}

// Out is the number of bits.
func (p Projection) Out() int {
	if p.Skip != nil {
		return p.Skip.Out
	}
	return p.Layers[len(p.Layers)-1].Out
}

// Words is the number of 32-bit words of a code.
func (p Projection) Words() int { return (p.Out() + 31) / 32 }

// Check reports parts whose shapes do not fit together.
func (p Projection) Check() error {
	if p.Heads < 1 || len(p.Layers) == 0 && p.Skip == nil {
		return fmt.Errorf("%s: no layers", p.Name)
	}
	check := func(what string, a Affine, in int) error {
		if a.In != in || a.Out < 1 {
			return fmt.Errorf("%s: %s takes %d inputs, want %d", p.Name, what, a.In, in)
		}
		if len(a.Weight) != p.Heads*a.In*a.Out || len(a.Bias) != p.Heads*a.Out {
			return fmt.Errorf("%s: %s has %d weights and %d biases for %d heads of [%d %d]", p.Name, what, len(a.Weight), len(a.Bias), p.Heads, a.Out, a.In)
		}
		return nil
	}
	in := p.In()
	for i, a := range p.Layers {
		if err := check(fmt.Sprintf("layer %d", i), a, in); err != nil {
			return err
		}
		in = a.Out
	}
	if p.Skip != nil {
		if err := check("linear path", *p.Skip, p.In()); err != nil {
			return err
		}
		if len(p.Layers) > 0 && in != p.Skip.Out {
			return fmt.Errorf("%s: the MLP gives %d bits, the linear path %d", p.Name, in, p.Skip.Out)
		}
	}
	bits := p.Out()
	if p.Feedback != nil && (len(p.Feedback) != p.Heads*bits*bits || p.BlockBits < 1 || bits%p.BlockBits != 0) {
		return fmt.Errorf("%s: feedback of %d values in blocks of %d for %d heads of %d bits", p.Name, len(p.Feedback), p.BlockBits, p.Heads, bits)
	}
	return nil
}

// Encoder is a Projection on a device.
type Encoder interface {
	Projection() Projection
}
