// Package selector decides which cached tokens a decode step attends to.
//
// A Scorer ranks a sequence's cached tokens for a query; each method is one
// file with one Scorer and one row in the table of registry.go. Sparse turns a
// Scorer and a kernels.Selection (sink, local, budget, reranking) into a
// model.Attention. What a Scorer keeps of a sequence lives in a kernels.Index,
// filled by Build after a dense prefill and by Sparse as tokens arrive.
package selector

import (
	"fmt"
	"slices"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/shape"
)

// Shape is what a selector must know of a model.
type Shape struct {
	shape.Model
	Scale float32 // of q.k
}

// Scorer ranks cached tokens.
type Scorer interface {
	// Name is the method's name in results.
	Name() string
	// Bits is what the index stores per cached token and KV head.
	Bits() float64
	// Heads is the number of sets of a layer's selection: query heads or KV
	// heads.
	Heads(layer int) int
	// NewIndex allocates what the scorer keeps of one sequence of up to
	// capacity tokens in the given layers.
	NewIndex(capacity int, layers []int) (*kernels.Index, error)
	// Update adds the batch's tokens, already in the caches, to layer's index.
	Update(layer int, b *kernels.Batch)
	// Score gives scores [T, Heads(layer), stride], i32 or f32, of every cached token
	// for the batch's queries. They are valid until the next call.
	Score(q kernels.Tensor, layer int, b *kernels.Batch, s kernels.Selection) kernels.Tensor
}

// fused is a Scorer whose selection and attention a device does in one
// operation.
type fused interface {
	attend(out, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, s kernels.Selection)
}

// estimator is a Scorer whose scores estimate attention mass.
type estimator interface {
	// unit is what the scores of the last call of Score stand for.
	unit() kernels.MassUnit
}

// partial is a Scorer that does not cover all layers; the others stay dense.
type partial interface {
	covers(layer int) bool
}

// Sparse attends to the tokens that a Scorer ranks best. It implements
// model.Attention.
type Sparse struct {
	Scorer

	selection kernels.Selection // Heads unset: it differs by layer
	device    kernels.Device
	shape     Shape
	shares    *mapping.Shares
	dense     map[int]bool
	pool      pool
}

// NewSparse makes an attention out of a scorer. The selection's Heads is
// ignored: the scorer says how many sets a layer has. denseLayers attend to
// everything.
func NewSparse(d kernels.Device, shape Shape, sc Scorer, s kernels.Selection, denseLayers []int) (*Sparse, error) {
	if s.Sink < 0 || s.Local < 1 {
		return nil, fmt.Errorf("selection: sink %d, local %d: want at least 0 and 1", s.Sink, s.Local)
	}
	a := &Sparse{Scorer: sc, selection: s, device: d, shape: shape, dense: map[int]bool{}, pool: pool{device: d}}
	for _, l := range denseLayers {
		if l < 0 || l >= shape.Layers {
			return nil, fmt.Errorf("dense layer %d of a model of %d layers", l, shape.Layers)
		}
		a.dense[l] = true
	}
	if s.Mass > 0 {
		if _, ok := sc.(estimator); !ok {
			return nil, fmt.Errorf("p=%v: the scores of %s do not estimate attention mass (those of hash, oracle and pq do)", s.Mass, sc.Name())
		}
		if _, ok := d.(kernels.Uneven); !ok {
			return nil, fmt.Errorf("p=%v: device %s reads equally many tokens in all sets of a layer; use --device cpu", s.Mass, d.Info().Kind)
		}
	}
	return a, nil
}

// Divide gives the token sets their shares of the budget.
func (a *Sparse) Divide(shares *mapping.Shares) error {
	for l := range a.shape.Layers {
		budgets := shares.Budgets(l, a.selection.Budget)
		if a.Covers(l) != (budgets != nil) {
			return fmt.Errorf("layer %d is dense here or in the calibration, but not in both: calibrate again with the same denseLayers, or use the mapping with budgets=uniform", l)
		}
		if budgets != nil && len(budgets) != a.Heads(l) {
			return fmt.Errorf("layer %d has shares for %d token sets, the selection has %d", l, len(budgets), a.Heads(l))
		}
		if _, ok := a.device.(kernels.Uneven); !ok && !even(budgets) {
			return fmt.Errorf("layer %d: its token sets have budgets of different sizes, which device %s cannot read: calibrate with per=layer, or use the mapping with budgets=uniform", l, a.device.Info().Kind)
		}
	}
	a.shares = shares
	return nil
}

// even says whether all budgets are the same.
func even(budgets []kernels.Budget) bool {
	return !slices.ContainsFunc(budgets, func(b kernels.Budget) bool { return b != budgets[0] })
}

// Key implements model.Attention.
func (a *Sparse) Key() any { return a }

// Covers says whether layer attends sparsely.
func (a *Sparse) Covers(layer int) bool {
	if p, ok := a.Scorer.(partial); ok && !p.covers(layer) {
		return false
	}
	return !a.dense[layer]
}

// Selection is the rule by which layer chooses.
func (a *Sparse) Selection(layer int) kernels.Selection {
	s := a.selection
	s.Heads = a.Heads(layer)
	if a.shares == nil {
		return s
	}
	// Sets of one size need nothing of the device.
	if budgets := a.shares.Budgets(layer, s.Budget); budgets != nil && even(budgets) {
		s.Budget = budgets[0]
	} else {
		s.Budgets = budgets
	}
	return s
}

// Layers is the layers that attend sparsely.
func (a *Sparse) Layers() []int {
	var layers []int
	for l := range a.shape.Layers {
		if a.Covers(l) {
			layers = append(layers, l)
		}
	}
	return layers
}

// Build makes the index of a sequence whose cache holds c.Len tokens.
func (a *Sparse) Build(c *kernels.Cache) (*kernels.Index, error) {
	ix, err := a.NewIndex(c.Capacity, a.Layers())
	if err != nil {
		return nil, fmt.Errorf("index of %s for %d tokens: %w", a.Name(), c.Capacity, err)
	}
	const step = 4096 // bounds the devices' scratch
	var b kernels.Batch
	for from := 0; from < c.Len; from += step {
		segment := kernels.Segment{Cache: c, Index: ix, Start: from, Len: min(step, c.Len-from)}
		if err := a.device.SetBatch(&b, []kernels.Segment{segment}); err != nil {
			return nil, err
		}
		for _, l := range a.Layers() {
			a.Update(l, &b)
		}
		if err := a.device.Synchronize(); err != nil {
			return nil, err
		}
	}
	return ix, nil
}

// scoreBytes bounds the scores held at a time; longer batches go in parts.
const scoreBytes = 64 << 20

// Attend implements model.Attention.
func (a *Sparse) Attend(out, q kernels.Tensor, layer int, b *kernels.Batch) {
	if !a.Covers(layer) {
		a.device.Attend(out, q, layer, b, a.shape.Scale, 0)
		return
	}
	a.Update(layer, b)
	rows := max(1, scoreBytes/(4*a.shape.QueryHeads*room(b)))
	if b.Tokens <= rows {
		a.attendPart(out, q, layer, b)
		return
	}
	row := 0
	for _, s := range b.Segments {
		for from := 0; from < s.Len; from += rows {
			n := min(rows, s.Len-from)
			part := kernels.Segment{Cache: s.Cache, Index: s.Index, Start: s.Start + from, Len: n}
			var sub kernels.Batch
			if err := a.device.SetBatch(&sub, []kernels.Segment{part}); err != nil {
				panic(err) // the whole batch was accepted
			}
			a.attendPart(out.Rows(row, row+n), q.Rows(row, row+n), layer, &sub)
			row += n
		}
	}
}

func (a *Sparse) attendPart(out, q kernels.Tensor, layer int, b *kernels.Batch) {
	if f, ok := a.Scorer.(fused); ok && a.selection.Mass == 0 {
		f.attend(out, q, layer, b, a.shape.Scale, a.Selection(layer))
		return
	}
	a.device.AttendSelected(out, q, layer, b, a.shape.Scale, a.Select(q, layer, b), a.Selection(layer))
}

// Select gives the sets that Attend would read beside sink and local, i32
// [T, Heads(layer), k], for the batch's queries; Selection.List gives the tokens
// of one. They are valid until the next call.
func (a *Sparse) Select(q kernels.Tensor, layer int, b *kernels.Batch) kernels.Tensor {
	s := a.Selection(layer)
	scored, chosen := max(1, s.Scored(room(b))), max(1, s.Chosen(room(b)))
	scores := a.Score(q, layer, b, s)
	selected := a.pool.get("selected", dtype.I32, b.Tokens, s.Heads, scored)
	a.device.TopK(selected, scores, b, s)
	if s.Mass > 0 {
		a.device.(kernels.Uneven).CutMass(selected, scores, a.Scorer.(estimator).unit(), b, s)
	}
	if !s.Reranks() {
		return selected
	}
	kept := a.pool.get("kept", dtype.I32, b.Tokens, s.Heads, chosen)
	a.device.Rerank(kept, selected, q, layer, b, a.shape.Scale, s)
	return kept
}

// room is the most tokens that a sequence of the batch can come to hold.
// Scratch is shaped by it and not by the tokens held now, so that a recorded
// step stays right as its sequences grow.
func room(b *kernels.Batch) int {
	n := 0
	for _, s := range b.Segments {
		n = max(n, s.Cache.Capacity)
	}
	return n
}

// pool keeps scratch tensors by name, growing them as needed.
type pool struct {
	device kernels.Device
	held   map[string]kernels.Tensor
}

// get is a tensor of the shape whose contents are arbitrary. It panics when
// the device has no memory left; the caller's budget is scoreBytes.
func (p *pool) get(name string, t dtype.Type, shape ...int) kernels.Tensor {
	want := kernels.Tensor{Type: t, Shape: shape}
	need := want.Len() * t.BlockBytes()
	have, ok := p.held[name]
	if !ok || have.Type != t || have.Len()*t.BlockBytes() < need {
		if ok {
			p.device.Free(have)
		}
		fresh, err := p.device.Alloc(t, want.Len())
		if err != nil {
			panic(fmt.Sprintf("selector: scratch %s %v: %v", name, shape, err))
		}
		if p.held == nil {
			p.held = map[string]kernels.Tensor{}
		}
		p.held[name], have = fresh, fresh
	}
	want.Memory = have.Memory.Slice(0, need)
	return want
}

// newIndex allocates tensors for the given layers by alloc.
func newIndex(total int, layers []int, alloc func() ([]kernels.Tensor, error)) (*kernels.Index, error) {
	ix := &kernels.Index{Layers: make([][]kernels.Tensor, total)}
	for _, l := range layers {
		tensors, err := alloc()
		if err != nil {
			return nil, err
		}
		ix.Layers[l] = tensors
	}
	return ix, nil
}
