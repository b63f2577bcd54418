package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

func open(tb testing.TB) *Device {
	tb.Helper()
	d, err := New(Options{Threads: min(2, runtime.GOMAXPROCS(0))})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.Close() })
	return d
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func tensor(d kernels.Device, r *rand.Rand, shape ...int) kernels.Tensor {
	t := must(d.Alloc(dtype.F32, shape...))
	copy(t.F32(), random(r, t.Len()))
	return t
}

func BenchmarkReadBandwidth(b *testing.B) {
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			best := 0.0
			for range b.N {
				best = max(best, ReadBandwidth(threads))
			}
			b.ReportMetric(best/1e9, "GB/s")
		})
	}
}

// attentionStep is one layer's decode step of the size: 32 query and 8
// KV heads, d 128, a bf16 cache of n tokens.
type attentionStep struct {
	d      *Device
	q, out kernels.Tensor
	batch  kernels.Batch
	hash   kernels.HashQuery
	sel    kernels.Selection
}

func newAttentionStep(b *testing.B, n int, joint bool, candidates int) *attentionStep {
	const heads, kv, width, bits = 32, 8, 128, 32
	d := open(b)
	r := rand.New(rand.NewPCG(1, 2))
	cache := must(d.NewCache(kernels.CacheSpec{Layers: 1, KVHeads: kv, HeadDim: width, Capacity: n, Type: dtype.BF16}))
	for _, t := range []kernels.Tensor{cache.K[0], cache.V[0]} {
		values := t.BF16()
		known := min(len(values), 1<<16+1)
		for i := range values[:known] {
			values[i] = dtype.BF16FromF32(r.Float32() - 0.5)
		}
		for n := known; n < len(values); n *= 2 { // a generator would take longer than the benchmark
			copy(values[n:], values[:n])
		}
	}
	codes := must(d.Alloc(dtype.U32, kv, n, 1))
	for i := range codes.U32() {
		codes.U32()[i] = r.Uint32()
	}
	s := &attentionStep{d: d, q: tensor(d, r, 1, heads, width), out: tensor(d, r, 1, heads, width)}
	segment := kernels.Segment{Cache: cache, Index: &kernels.Index{Layers: [][]kernels.Tensor{{codes}}}, Start: n - 1, Len: 1}
	if err := d.SetBatch(&s.batch, []kernels.Segment{segment}); err != nil {
		b.Fatal(err)
	}
	affine := func(in, out int) kernels.Affine {
		a := kernels.Affine{In: in, Out: out, Weight: random(r, kv*in*out), Bias: random(r, kv*out)}
		for i, v := range a.Weight {
			a.Weight[i] = dtype.F32FromBF16(dtype.BF16FromF32(v))
		}
		return a
	}
	const in = width * heads / kv
	skip := affine(in, bits)
	p := kernels.Projection{Name: "query", Heads: kv, Skip: &skip}
	if joint {
		p.Layers = []kernels.Affine{affine(in, 2*width), affine(2*width, 2*width), affine(2*width, bits)}
	}
	s.hash = kernels.HashQuery{Encoder: must(d.LoadProjection(p)), Bits: 8}
	s.sel = kernels.Selection{Heads: kv, Sink: 128, Local: 128, Budget: kernels.Budget{Num: 1, Den: 32}, Candidates: candidates}
	return s
}

func (s *attentionStep) scale() float32 { return float32(1 / math.Sqrt(128)) }

func BenchmarkAttendDense(b *testing.B) {
	for _, n := range []int{8 << 10, 32 << 10, 128 << 10} {
		b.Run(fmt.Sprintf("context=%dK", n>>10), func(b *testing.B) {
			s := newAttentionStep(b, n, false, 0)
			s.d.Attend(s.out, s.q, 0, &s.batch, s.scale(), 0)
			b.SetBytes(int64(n) * 8 * 128 * 2 * 2)
			b.ReportAllocs()
			for b.Loop() {
				s.d.Attend(s.out, s.q, 0, &s.batch, s.scale(), 0)
			}
		})
	}
}

func BenchmarkAttendHash(b *testing.B) {
	for _, c := range []struct {
		name       string
		joint      bool
		candidates int
	}{{"linear", false, 0}, {"joint", true, 0}, {"joint-rerank2x", true, 2}} {
		for _, n := range []int{8 << 10, 32 << 10, 128 << 10} {
			for _, bits := range []int{4, 8} {
				b.Run(fmt.Sprintf("%s/context=%dK/int%d", c.name, n>>10, bits), func(b *testing.B) {
					s := newAttentionStep(b, n, c.joint, c.candidates)
					s.hash.Bits = bits
					s.d.AttendHash(s.out, s.q, 0, &s.batch, s.scale(), s.hash, s.sel)
					b.ReportAllocs()
					for b.Loop() {
						s.d.AttendHash(s.out, s.q, 0, &s.batch, s.scale(), s.hash, s.sel)
					}
				})
			}
		}
	}
}

// BenchmarkAttentionCold is a layer's decode step and its stages with nothing
// of them in the caches, as between the layers of a model, whose weights were
// read and not written (dirty lines would have to be written back), and with
// all threads awake: the median, and the shortest for a machine that others use.
func BenchmarkAttentionCold(b *testing.B) {
	trash, sum := make([]uint64, 16<<20), uint64(0)
	for i := range trash {
		trash[i] = 1
	}
	var wake func()
	cold := func(b *testing.B, run func()) {
		run()
		times := make([]float64, 0, b.N)
		for b.Loop() {
			for i := 0; i < len(trash); i += 8 {
				sum += trash[i]
			}
			wake()
			start := time.Now()
			run()
			times = append(times, time.Since(start).Seconds()*1e6)
		}
		slices.Sort(times)
		b.ReportMetric(times[len(times)/2], "us")
		b.ReportMetric(times[0], "us-min")
	}
	for _, n := range []int{32 << 10, 128 << 10} {
		s := newAttentionStep(b, n, true, 0)
		d := s.d
		x, y := tensor(d, rand.New(rand.NewPCG(3, 4)), 4*small), tensor(d, rand.New(rand.NewPCG(3, 4)), 4*small)
		wake = func() { d.Add(x, y) }
		weights := must(d.Alloc(dtype.I8, 1, 8, 32))
		selected := must(d.Alloc(dtype.I32, 1, 8, s.sel.Scored(n)))
		scores := must(d.Alloc(dtype.I32, 1, 8, n))
		d.EncodeQueries(weights, kernels.Tensor{}, s.hash.Encoder, s.q, s.hash.Bits)
		d.ScanHash(scores, weights, 0, &s.batch)
		d.TopK(selected, scores, &s.batch, s.sel)
		for _, c := range []struct {
			name string
			run  func()
		}{
			{"dense", func() { d.Attend(s.out, s.q, 0, &s.batch, s.scale(), 0) }},
			{"hash", func() { d.AttendHash(s.out, s.q, 0, &s.batch, s.scale(), s.hash, s.sel) }},
			{"encode", func() { d.EncodeQueries(weights, kernels.Tensor{}, s.hash.Encoder, s.q, s.hash.Bits) }},
			{"scan", func() { d.ScanHash(scores, weights, 0, &s.batch) }},
			{"select", func() { d.TopK(selected, scores, &s.batch, s.sel) }},
			{"attend", func() { d.AttendSelected(s.out, s.q, 0, &s.batch, s.scale(), selected, s.sel) }},
		} {
			b.Run(fmt.Sprintf("context=%dK/%s", n>>10, c.name), func(b *testing.B) { cold(b, c.run) })
		}
	}
}

// BenchmarkLinear is one token's, or a batch's, product with a weight matrix.
func BenchmarkLinear(b *testing.B) {
	for _, f := range []dtype.Type{dtype.Q8_0, dtype.Q5_0, dtype.Q4_0, dtype.Q4_K, dtype.Q6_K, dtype.Q5_K, dtype.Q2_K, dtype.Q3_K, dtype.BF16, dtype.F16, dtype.F32} {
		for _, tokens := range []int{1, 4, 8, 512} {
			const rows, cols = 4096, 1536
			b.Run(fmt.Sprintf("%v/tokens=%d", f, tokens), func(b *testing.B) {
				d := open(b)
				r := rand.New(rand.NewPCG(1, 2))
				size := must(f.Bytes(rows * cols))
				data := make([]byte, size)
				if f != dtype.F32 && f != dtype.BF16 && f != dtype.F16 {
					for i := range data {
						data[i] = byte(r.Uint32())
					}
				}
				w := must(d.LoadMatrix(kernels.Matrix{Name: "w", Type: f, Rows: rows, Cols: cols, Data: data}))
				x, out := tensor(d, r, tokens, cols), tensor(d, r, tokens, rows)
				b.ReportAllocs()
				for b.Loop() {
					d.Linear(out, x, w, kernels.Tensor{}, false)
				}
				b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
				b.ReportMetric(2*float64(rows*cols*tokens)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

// BenchmarkAttendPrefill is causal attention of a chunk behind a context.
func BenchmarkAttendPrefill(b *testing.B) {
	for _, c := range []struct{ heads, kv, width, context, chunk int }{{9, 3, 64, 1536, 512}, {14, 2, 64, 1536, 512}, {32, 8, 128, 3584, 512}} {
		b.Run(fmt.Sprintf("heads=%d/kv=%d/d=%d/context=%d/chunk=%d", c.heads, c.kv, c.width, c.context, c.chunk), func(b *testing.B) {
			d := open(b)
			r := rand.New(rand.NewPCG(1, 2))
			cache := must(d.NewCache(kernels.CacheSpec{Layers: 1, KVHeads: c.kv, HeadDim: c.width, Capacity: c.context + c.chunk, Type: dtype.BF16}))
			var batch kernels.Batch
			if err := d.SetBatch(&batch, []kernels.Segment{{Cache: cache, Start: c.context, Len: c.chunk}}); err != nil {
				b.Fatal(err)
			}
			q, out := tensor(d, r, c.chunk, c.heads, c.width), tensor(d, r, c.chunk, c.heads, c.width)
			for b.Loop() {
				d.Attend(out, q, 0, &batch, 0.125, 0)
			}
			work := 4 * float64(c.heads*c.width*c.chunk) * (float64(c.context) + float64(c.chunk)/2)
			b.ReportMetric(work*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
}

// BenchmarkOverhead is an operation on next to nothing, on both threads.
func BenchmarkOverhead(b *testing.B) {
	d := open(b)
	r := rand.New(rand.NewPCG(1, 2))
	w := must(d.LoadMatrix(kernels.Matrix{Name: "w", Type: dtype.F32, Rows: 64, Cols: 32, Data: make([]byte, 64*32*4)}))
	x, out := tensor(d, r, 1, 32), tensor(d, r, 1, 64)
	b.ReportAllocs()
	for b.Loop() {
		d.Linear(out, x, w, kernels.Tensor{}, false)
	}
}
