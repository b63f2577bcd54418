package selector

import (
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// streaming keeps the most recent tokens behind the sink (StreamingLLM, arXiv
// 2309.17453): all scores are equal, and of equal ones the most recent win.
type streaming struct {
	device kernels.Device
	shape  Shape
	pool   pool
}

func newStreaming(e Env, o options) (Scorer, error) {
	return &streaming{e.Device, e.Shape, pool{device: e.Device}}, o.unknown()
}

// Name implements Scorer.
func (s *streaming) Name() string { return "streaming" }

// Bits implements Scorer.
func (s *streaming) Bits() float64 { return 0 }

// Heads implements Scorer.
func (s *streaming) Heads(int) int { return s.shape.KVHeads }

// NewIndex implements Scorer.
func (s *streaming) NewIndex(_ int, layers []int) (*kernels.Index, error) {
	return newIndex(s.shape.Layers, layers, func() ([]kernels.Tensor, error) { return nil, nil })
}

// Update implements Scorer.
func (s *streaming) Update(int, *kernels.Batch) {}

// Score implements Scorer.
func (s *streaming) Score(_ kernels.Tensor, _ int, b *kernels.Batch, _ kernels.Selection) kernels.Tensor {
	// the pool's memory is zeroed when allocated and nothing else writes to it
	return s.pool.get("scores", dtype.I32, b.Tokens, s.shape.KVHeads, room(b))
}
