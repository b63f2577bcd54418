package latency

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// Shape is one attention layer's step: Batch sequences of Context cached tokens,
// one new token each.
type Shape struct {
	QueryHeads, KVHeads, HeadDim int
	Batch, Context               int
}

// String is e.g. "32q/8kv d128".
func (s Shape) String() string {
	return fmt.Sprintf("%dq/%dkv d%d", s.QueryHeads, s.KVHeads, s.HeadDim)
}

// HashShape is a hash selection to time: the shape of a preset's maps, with
// random weights.
type HashShape struct {
	Preset     string // paper, shared or grouped
	Bits       int
	QueryBits  int
	Candidates int
	Sink       int
	Local      int
}

// AttentionOptions says what Attention times.
type AttentionOptions struct {
	Device  kernels.Device
	Shapes  []Shape
	Hashes  []HashShape
	Budgets []kernels.Budget
	Runs    int
	// Skewed gives a run of tokens in the middle the best codes there are, so
	// that all winners lie side by side instead of spread by chance.
	Skewed    bool
	Bandwidth float64 // bytes per second, 0 if unknown
	Progress  func(done, total int)
}

// Attention times one layer's decode step, dense and by hash attention with its
// stages, on random keys and values in bf16 and queries in f32. Every output is
// compared with the reference device's before it is timed.
func Attention(ctx context.Context, o AttentionOptions) ([]result.BenchRow, error) {
	var rows []result.BenchRow
	done, total := 0, len(o.Shapes)*(1+len(o.Hashes)*len(o.Budgets))
	step := func() {
		done++
		if o.Progress != nil {
			o.Progress(done, total)
		}
	}
	watch, err := newStopwatch(o.Device, o.Runs)
	if err != nil {
		return nil, fmt.Errorf("bench attention: %w", err)
	}
	for _, shape := range o.Shapes {
		b := attentionBench{AttentionOptions: o, shape: shape, watch: watch}
		if err := b.prepare(); err != nil {
			return nil, fmt.Errorf("bench attention %v, %d x %d tokens: %w", shape, shape.Batch, shape.Context, err)
		}
		dense, err := b.dense()
		if err != nil {
			return nil, fmt.Errorf("bench attention %v, dense, %d tokens: %w", shape, shape.Context, err)
		}
		rows = append(rows, dense)
		step()
		for _, h := range o.Hashes {
			for _, budget := range o.Budgets {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				sparse, err := b.hash(h, budget, dense.Median)
				if err != nil {
					return nil, fmt.Errorf("bench attention %v, %s, %d tokens: %w", shape, h.Preset, shape.Context, err)
				}
				rows = append(rows, sparse...)
				step()
			}
		}
		b.free()
	}
	return rows, nil
}

// attentionBench holds one shape's data, on the device and for the reference.
type attentionBench struct {
	AttentionOptions
	shape  Shape
	watch  *stopwatch
	scale  float32
	q, out kernels.Tensor
	caches []*kernels.Cache

	// of each sequence, for the reference
	refQ      []kernels.Tensor // [1, queryHeads, headDim]
	refCaches []*kernels.Cache
}

func (b *attentionBench) prepare() error {
	s := b.shape
	b.scale = float32(1 / math.Sqrt(float64(s.HeadDim)))
	rng := rand.New(rand.NewPCG(1, uint64(s.Context)))
	query := make([]float32, s.Batch*s.QueryHeads*s.HeadDim)
	for i := range query {
		query[i] = float32(rng.NormFloat64())
	}
	var err error
	if b.q, err = b.Device.Alloc(dtype.F32, s.Batch, s.QueryHeads, s.HeadDim); err != nil {
		return err
	}
	if err = b.Device.Upload(b.q, dtype.Bytes(query)); err != nil {
		return err
	}
	if b.out, err = b.Device.Alloc(dtype.F32, s.Batch, s.QueryHeads, s.HeadDim); err != nil {
		return err
	}
	spec := kernels.CacheSpec{Layers: 1, KVHeads: s.KVHeads, HeadDim: s.HeadDim, Capacity: s.Context, Type: dtype.BF16}
	for i := range s.Batch {
		c, err := b.Device.NewCache(spec)
		if err != nil {
			return err
		}
		c.Len = s.Context
		host := &kernels.Cache{CacheSpec: spec, Len: s.Context}
		for _, side := range []struct {
			device kernels.Tensor
			host   *[]kernels.Tensor
		}{{c.K[0], &host.K}, {c.V[0], &host.V}} {
			values := randomBF16(rng, side.device.Len())
			if err := b.Device.Upload(side.device, dtype.Bytes(values)); err != nil {
				return err
			}
			*side.host = []kernels.Tensor{hostTensor(dtype.BF16, dtype.Bytes(values), side.device.Shape...)}
			if _, ok := side.device.Memory.(kernels.HostMemory); ok {
				*side.host = []kernels.Tensor{side.device}
			}
		}
		b.caches, b.refCaches = append(b.caches, c), append(b.refCaches, host)
		width := s.QueryHeads * s.HeadDim
		b.refQ = append(b.refQ, hostTensor(dtype.F32, dtype.Bytes(query[i*width:(i+1)*width]), 1, s.QueryHeads, s.HeadDim))
	}
	return nil
}

// randomBF16 is n normal bf16 numbers out of a short table: filling gigabytes
// by a generator would take longer than the benchmark.
func randomBF16(rng *rand.Rand, n int) []uint16 {
	const table = 1 << 16
	var normal [table]uint16
	for i := range normal {
		normal[i] = dtype.BF16FromF32(float32(rng.NormFloat64()))
	}
	values := make([]uint16, n)
	state := rng.Uint64() | 1
	for i := range values {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		values[i] = normal[state>>48]
	}
	return values
}

func hostTensor(t dtype.Type, data []byte, shape ...int) kernels.Tensor {
	return kernels.Tensor{Type: t, Shape: shape, Memory: kernels.HostMemory(data)}
}

func (b *attentionBench) free() {
	for _, c := range b.caches {
		b.Device.Free(c.K[0])
		b.Device.Free(c.V[0])
	}
	b.Device.Free(b.q)
	b.Device.Free(b.out)
}

// batch is the last token of every sequence.
func (b *attentionBench) batch(d kernels.Device, caches []*kernels.Cache, indexes []*kernels.Index) (*kernels.Batch, error) {
	segments := make([]kernels.Segment, len(caches))
	for i, c := range caches {
		segments[i] = kernels.Segment{Cache: c, Start: c.Len - 1, Len: 1}
		if indexes != nil {
			segments[i].Index = indexes[i]
		}
	}
	batch := &kernels.Batch{}
	return batch, d.SetBatch(batch, segments)
}

// row is what all rows of this shape have in common.
func (b *attentionBench) row() result.BenchRow {
	return result.BenchRow{
		Part: "attention", Device: b.Device.Info().Kind, Shape: b.shape.String() + " bf16",
		Batch: b.shape.Batch, Context: b.shape.Context, Selector: "dense", Density: 1,
	}
}

// read is what a step must read of a sequence, with an index of so many bits
// per KV-head token.
func (b *attentionBench) read(bits float64) kernels.StepRead {
	return kernels.StepRead{KVHeads: b.shape.KVHeads, HeadDim: b.shape.HeadDim, Bits: bits, Cached: b.shape.Context}
}

func (b *attentionBench) dense() (result.BenchRow, error) {
	row := b.row()
	batch, err := b.batch(b.Device, b.caches, nil)
	if err != nil {
		return row, err
	}
	run := func() { b.Device.Attend(b.out, b.q, 0, batch, b.scale, 0) }
	if err := b.checkDense(run); err != nil {
		return row, err
	}
	seconds, err := b.watch.time(run)
	if err != nil {
		return row, err
	}
	row = timed(row, seconds)
	row.Dense, row.Speedup, row.Checked = row.Median, 1, true
	row.Bytes = int64(b.shape.Batch) * int64(b.read(0).Dense())
	b.share(&row)
	return row, nil
}

// share sets what part of the bandwidth a row reaches.
func (b *attentionBench) share(row *result.BenchRow) {
	if b.Bandwidth > 0 {
		row.BandwidthShare = float64(row.Bytes) / (row.Median / 1e6) / b.Bandwidth
	}
}
