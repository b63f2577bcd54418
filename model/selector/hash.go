package selector

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/mapping"
)

// hash ranks tokens by a learned or random code: the scan of HashAttention.
type hash struct {
	name      string
	device    kernels.Device
	shape     Shape
	heads     func(layer int) int // of the selection
	queryBits int
	mass      bool
	bits      float64
	layers    []hashLayer
	pool      pool
	last      kernels.MassUnit // of Score
}

// learned is a hash whose codes were trained to rank by attention mass.
type learned struct{ *hash }

func (h learned) unit() kernels.MassUnit { return h.last }

type hashLayer struct {
	key, query kernels.Encoder // nil where the mapping leaves the layer dense
}

// NewHash makes the scorer of a learned mapping, which must fit the model.
func NewHash(d kernels.Device, shape Shape, m *mapping.Mapping) (Scorer, error) {
	if err := m.CheckModel(shape.Model); err != nil {
		return nil, err
	}
	h := &hash{
		name: m.Preset, device: d, shape: shape, heads: m.SelectionHeads, queryBits: m.QueryBits,
		mass: m.GroupRule == mapping.Mass, bits: float64(m.BitsPerToken()), pool: pool{device: d},
	}
	for l, layer := range m.Layers {
		if layer == nil {
			h.layers = append(h.layers, hashLayer{})
			continue
		}
		key, err := d.LoadProjection(layer.Key)
		if err != nil {
			return nil, fmt.Errorf("mapping layer %d: %w", l, err)
		}
		query, err := d.LoadProjection(layer.Query)
		if err != nil {
			return nil, fmt.Errorf("mapping layer %d: %w", l, err)
		}
		h.layers = append(h.layers, hashLayer{key, query})
	}
	return learned{h}, nil
}

// newLSH is random hyperplanes shared by keys and queries, both sides hard
// (SimHash, Charikar 2002): one code per KV head, a set per query head.
func newLSH(e Env, o options) (Scorer, error) {
	bits, seed := o.integer("bits", 128, 1, 1024), o.integer("seed", 1, 0, math.MaxInt32)
	if err := o.unknown(); err != nil {
		return nil, err
	}
	h := &hash{
		name: o.name("lsh"), device: e.Device, shape: e.Shape, queryBits: 1,
		heads: func(int) int { return e.Shape.QueryHeads },
		bits:  float64(bits), pool: pool{device: e.Device},
	}
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	for l := range e.Shape.Layers {
		planes := make([]float32, bits*e.Shape.HeadDim)
		for i := range planes {
			planes[i] = float32(rng.NormFloat64())
		}
		load := func(side string, heads int) (kernels.Encoder, error) {
			a := kernels.Affine{In: e.Shape.HeadDim, Out: bits, Bias: make([]float32, heads*bits)}
			for range heads {
				a.Weight = append(a.Weight, planes...)
			}
			return e.Device.LoadProjection(kernels.Projection{Name: fmt.Sprintf("lsh layer %d %s", l, side), Heads: heads, Skip: &a})
		}
		key, err := load("key", e.Shape.KVHeads)
		if err != nil {
			return nil, err
		}
		query, err := load("query", e.Shape.QueryHeads)
		if err != nil {
			return nil, err
		}
		h.layers = append(h.layers, hashLayer{key, query})
	}
	return h, nil
}

// Name implements Scorer.
func (h *hash) Name() string { return h.name }

// Bits implements Scorer.
func (h *hash) Bits() float64 { return h.bits }

// Heads implements Scorer.
func (h *hash) Heads(layer int) int { return h.heads(layer) }

func (h *hash) covers(layer int) bool { return h.layers[layer].key != nil }

// NewIndex implements Scorer: packed key codes [key heads, capacity, words].
func (h *hash) NewIndex(capacity int, layers []int) (*kernels.Index, error) {
	i := 0
	return newIndex(h.shape.Layers, layers, func() ([]kernels.Tensor, error) {
		p := h.layers[layers[i]].key.Projection()
		i++
		codes, err := h.device.Alloc(dtype.U32, p.Heads, capacity, p.Words())
		return []kernels.Tensor{codes}, err
	})
}

// Update implements Scorer.
func (h *hash) Update(layer int, b *kernels.Batch) {
	h.device.EncodeKeys(h.layers[layer].key, layer, b)
}

// Score implements Scorer.
func (h *hash) Score(q kernels.Tensor, layer int, b *kernels.Batch, s kernels.Selection) kernels.Tensor {
	enc := h.layers[layer].query
	p := enc.Projection()
	weights := h.pool.get("weights", dtype.I8, b.Tokens, p.Heads, p.Out())
	scales := h.pool.get("scales", dtype.F32, b.Tokens, p.Heads)
	h.device.EncodeQueries(weights, scales, enc, q, h.queryBits)
	sets := s.Heads
	mass := h.mass && s.Heads < p.Heads
	if mass {
		sets = p.Heads
	}
	scores := h.pool.get("scores", dtype.I32, b.Tokens, sets, room(b))
	h.device.ScanHash(scores, weights, layer, b)
	if h.last = (kernels.MassUnit{Scales: scales}); !mass {
		return scores
	}
	h.last = kernels.MassUnit{Linear: true}
	masses := h.pool.get("mass", dtype.F32, b.Tokens, s.Heads, room(b))
	h.device.GroupMass(masses, scores, scales, b, s)
	return masses
}

func (h *hash) attend(out, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, s kernels.Selection) {
	query := kernels.HashQuery{Encoder: h.layers[layer].query, Bits: h.queryBits, Mass: h.mass && s.Heads < h.layers[layer].query.Projection().Heads}
	h.device.AttendHash(out, q, layer, b, scale, query, s)
}
