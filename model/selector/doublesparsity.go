package selector

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// doubleSparsity ranks tokens by the few channels that weigh most in q.k,
// their keys rounded to a few bits (Double Sparsity, arXiv 2408.07092). The
// channels are calibrated: those with the largest mean |q_i k_i|.
type doubleSparsity struct {
	name     string
	device   kernels.Device
	shape    Shape
	channels []kernels.Tensor // per layer i32 [kvHeads, c]
	count    int
	bits     int
	pool     pool
}

func newDoubleSparsity(e Env, o options) (Scorer, error) {
	s := &doubleSparsity{device: e.Device, shape: e.Shape, pool: pool{device: e.Device}}
	s.count, s.bits = o.integer("channels", 16, 1, e.Shape.HeadDim), o.integer("bits", 4, 1, 8)
	s.name = o.name("doublesparsity")
	if err := o.unknown(); err != nil {
		return nil, err
	}
	if e.Samples == nil {
		return nil, fmt.Errorf("doublesparsity needs a trace to calibrate its channels on")
	}
	for l := range e.Shape.Layers {
		if slices.Contains(e.Dense, l) {
			s.channels = append(s.channels, kernels.Tensor{})
			continue
		}
		q, k, err := e.Samples.Layer(l)
		if err != nil {
			return nil, fmt.Errorf("doublesparsity: layer %d: %w", l, err)
		}
		var ids []byte
		group := e.Shape.QueryHeads / e.Shape.KVHeads
		for h := range e.Shape.KVHeads {
			weight := multiply(meanAbs(q[h*group:(h+1)*group], e.Shape.HeadDim), meanAbs(k[h:h+1], e.Shape.HeadDim))
			order := make([]int, len(weight))
			for i := range order {
				order[i] = i
			}
			slices.SortStableFunc(order, func(a, b int) int {
				switch {
				case weight[a] > weight[b]:
					return -1
				case weight[a] < weight[b]:
					return 1
				}
				return 0
			})
			chosen := slices.Clone(order[:s.count])
			slices.Sort(chosen)
			for _, c := range chosen {
				ids = binary.LittleEndian.AppendUint32(ids, uint32(c))
			}
		}
		t, err := e.Device.Alloc(dtype.I32, e.Shape.KVHeads, s.count)
		if err == nil {
			err = e.Device.Upload(t, ids)
		}
		if err != nil {
			return nil, err
		}
		s.channels = append(s.channels, t)
	}
	return s, nil
}

// meanAbs is the mean of |x_i| over the rows of all heads, per channel.
func meanAbs(heads [][]float32, d int) []float64 {
	sum := make([]float64, d)
	rows := 0
	for _, h := range heads {
		for at := 0; at < len(h); at += d {
			for i, v := range h[at : at+d] {
				sum[i] += math.Abs(float64(v))
			}
			rows++
		}
	}
	for i := range sum {
		sum[i] /= float64(max(rows, 1))
	}
	return sum
}

func multiply(a, b []float64) []float64 {
	for i := range a {
		a[i] *= b[i]
	}
	return a
}

// Name implements Scorer.
func (s *doubleSparsity) Name() string { return s.name }

// Bits implements Scorer.
func (s *doubleSparsity) Bits() float64 { return float64(s.count * s.bits) }

// Heads implements Scorer.
func (s *doubleSparsity) Heads(int) int { return s.shape.QueryHeads }

// NewIndex implements Scorer: rounded channels [kvHeads, capacity, c].
func (s *doubleSparsity) NewIndex(capacity int, layers []int) (*kernels.Index, error) {
	return newIndex(s.shape.Layers, layers, func() ([]kernels.Tensor, error) {
		t, err := s.device.Alloc(dtype.F32, s.shape.KVHeads, capacity, s.count)
		return []kernels.Tensor{t}, err
	})
}

// Update implements Scorer.
func (s *doubleSparsity) Update(layer int, b *kernels.Batch) {
	s.device.IndexChannels(s.channels[layer], s.bits, layer, b)
}

// Score implements Scorer.
func (s *doubleSparsity) Score(q kernels.Tensor, layer int, b *kernels.Batch, _ kernels.Selection) kernels.Tensor {
	part := s.pool.get("query", dtype.F32, b.Tokens, s.shape.QueryHeads, s.count)
	s.device.GatherChannels(part, q, s.channels[layer])
	scores := s.pool.get("scores", dtype.F32, b.Tokens, s.shape.QueryHeads, room(b))
	s.device.ScanDot(scores, part, layer, 0, b, s.shape.Scale)
	return scores
}
