package selector

import (
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// oracle ranks tokens by their exact logits: the best any selector can do. By
// group it ranks by the sum of the heads' attention masses.
type oracle struct {
	device kernels.Device
	shape  Shape
	group  bool
	pool   pool
}

func newOracle(e Env, o options) (Scorer, error) {
	group := o.choice("per", "head", "group") == "group"
	return &oracle{e.Device, e.Shape, group, pool{device: e.Device}}, o.unknown()
}

func (o *oracle) unit() kernels.MassUnit { return kernels.MassUnit{Linear: o.group} }

// Name implements Scorer.
func (o *oracle) Name() string {
	if o.group {
		return "oracle-group"
	}
	return "oracle"
}

func (o *oracle) scansKeys() {}

// Bits implements Scorer: it reads the keys themselves.
func (o *oracle) Bits() float64 { return float64(16 * o.shape.HeadDim) }

// Heads implements Scorer.
func (o *oracle) Heads(int) int {
	if o.group {
		return o.shape.KVHeads
	}
	return o.shape.QueryHeads
}

// NewIndex implements Scorer: nothing beside the cache.
func (o *oracle) NewIndex(_ int, layers []int) (*kernels.Index, error) {
	return newIndex(o.shape.Layers, layers, func() ([]kernels.Tensor, error) { return nil, nil })
}

// Update implements Scorer.
func (o *oracle) Update(int, *kernels.Batch) {}

// Score implements Scorer.
func (o *oracle) Score(q kernels.Tensor, layer int, b *kernels.Batch, s kernels.Selection) kernels.Tensor {
	scores := o.pool.get("scores", dtype.F32, b.Tokens, o.shape.QueryHeads, room(b))
	o.device.ScanDot(scores, q, layer, -1, b, o.shape.Scale)
	if !o.group {
		return scores
	}
	mass := o.pool.get("mass", dtype.F32, b.Tokens, o.shape.KVHeads, room(b))
	o.device.GroupMass(mass, scores, kernels.Tensor{}, b, s)
	return mass
}
