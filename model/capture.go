package model

import (
	"context"
	"fmt"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/shape"
	"github.com/hashattn/hashattn/model/trace"
)

// Shape is the model as traces and mappings record it.
func (m *Model) Shape() shape.Model {
	return shape.Model{
		Name: m.Name, Fingerprint: m.Fingerprint,
		Layers: m.Layers, QueryHeads: m.QueryHeads, KVHeads: m.KVHeads, HeadDim: m.HeadDim,
		Rope: shape.Rope{Base: m.Rope.Base, Dims: m.HeadDim, Scaling: shape.Scaling{
			Kind: m.Rope.Scaling, Factor: m.Rope.Factor, LowFreq: m.Rope.LowFreq, HighFreq: m.Rope.HighFreq, Context: int(m.Rope.Original),
		}},
	}
}

// GlobalLayers is the layers that attend to all tokens: those that can be
// sparse.
func (m *Model) GlobalLayers() []int {
	var layers []int
	for l := range m.Layers {
		if m.LayerWindow(l) == 0 {
			layers = append(layers, l)
		}
	}
	return layers
}

// Capture runs tokens densely and gives a document's trace: queries at the
// positions, keys and values of all tokens, in the layers asked for, rounded
// to bfloat16. It holds one document's tensors in memory.
func (r *Runner) Capture(ctx context.Context, tokens, positions []int32, layers []int, progress func(done, total int)) (*trace.Document, error) {
	m := r.Model
	s, err := m.NewSequence(len(tokens), captureCache(m.Device))
	if err != nil {
		return nil, err
	}
	queries := map[int][]uint16{} // per layer [queryHeads, len(positions), headDim]
	for _, l := range layers {
		queries[l] = make([]uint16, m.QueryHeads*len(positions)*m.HeadDim)
	}
	var failed error
	r.Observe = func(layer int, q, _, _ kernels.Tensor, b *kernels.Batch) {
		if into, ok := queries[layer]; ok && failed == nil {
			failed = m.keepQueries(into, q, b, positions)
		}
	}
	defer func() { r.Observe = nil }()
	for done := 0; done < len(tokens); done = s.Len() {
		part := tokens[done:min(done+r.Rows, len(tokens))]
		if err := r.Prefill(ctx, s, part, Dense{m}, false); err != nil {
			return nil, err
		}
		if failed != nil {
			return nil, failed
		}
		if progress != nil {
			progress(s.Len(), len(tokens))
		}
	}
	return &trace.Document{Tokens: tokens, Positions: positions, Layer: func(layer int) (q, k, v []uint16, err error) {
		if queries[layer] == nil {
			return nil, nil, nil, fmt.Errorf("layer %d was not captured", layer)
		}
		if k, err = m.downloadBF16(s.Cache.K[layer]); err != nil {
			return nil, nil, nil, err
		}
		v, err = m.downloadBF16(s.Cache.V[layer])
		return queries[layer], k, v, err
	}}, nil
}

// captureCache is float32 where the device's cache can be, so that rounding
// the trace is the only rounding.
func captureCache(d kernels.Device) dtype.Type {
	if d.Info().Kind == "cuda" {
		return dtype.BF16
	}
	return dtype.F32
}

// keepQueries copies the rows of q [T, queryHeads, headDim] whose positions
// are wanted.
func (m *Model) keepQueries(into []uint16, q kernels.Tensor, b *kernels.Batch, positions []int32) error {
	raw := make([]byte, 4*q.Len())
	if err := m.Device.Download(raw, q); err != nil {
		return err
	}
	values := floatsOf(raw)
	first := b.Segments[0].Start
	for i, p := range positions {
		row := int(p) - first
		if row < 0 || row >= b.Tokens {
			continue
		}
		for h := range m.QueryHeads {
			from := values[(row*m.QueryHeads+h)*m.HeadDim:][:m.HeadDim]
			to := into[(h*len(positions)+i)*m.HeadDim:]
			for j, v := range from {
				to[j] = dtype.BF16FromF32(v)
			}
		}
	}
	return nil
}

// downloadBF16 is a cache tensor as bfloat16 bits.
func (m *Model) downloadBF16(t kernels.Tensor) ([]uint16, error) {
	raw := make([]byte, t.Len()*t.Type.BlockBytes())
	if err := m.Device.Download(raw, t); err != nil {
		return nil, err
	}
	out := make([]uint16, t.Len())
	if t.Type == dtype.BF16 {
		for i := range out {
			out[i] = uint16(raw[2*i]) | uint16(raw[2*i+1])<<8
		}
		return out, nil
	}
	for i, v := range floatsOf(raw) {
		out[i] = dtype.BF16FromF32(v)
	}
	return out, nil
}
