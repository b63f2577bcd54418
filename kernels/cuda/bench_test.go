//go:build gpu

package cuda

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// layerBench is one layer of Llama-3.1-8B's attention (32 query heads, 8 KV
// heads of 128) with random keys, values and codes.
type layerBench struct {
	d      *Device
	batch  *kernels.Batch
	q, out kernels.Tensor
	enc    kernels.Encoder // a linear query map
	joint  kernels.Encoder // one with an MLP
	shared kernels.Encoder // one a query head
	key    kernels.Encoder
	dense  float64 // median microseconds
	runs   int
}

const benchHeads, benchKV, benchDim, benchBits = 32, 8, 128, 32

func newLayerBench(b *testing.B, d *Device, batch, context int) *layerBench {
	b.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	block := normalBlock(r, 8<<20)
	fill := func(t kernels.Tensor) { fatal(b, d.tile(t, block)) }
	l := &layerBench{d: d, batch: &kernels.Batch{}, runs: 31}
	var segments []kernels.Segment
	for range batch {
		c, err := d.NewCache(kernels.CacheSpec{Layers: 1, KVHeads: benchKV, HeadDim: benchDim, Capacity: context, Type: dtype.BF16})
		fatal(b, err)
		fill(c.K[0])
		fill(c.V[0])
		codes := hostAlloc(b, dtype.U32, benchKV, context, benchBits/32)
		for i := range codes.U32() {
			codes.U32()[i] = r.Uint32()
		}
		segments = append(segments, kernels.Segment{Cache: c, Start: context - 1, Len: 1, Index: &kernels.Index{Layers: [][]kernels.Tensor{{upload(b, d, codes)}}}})
	}
	fatal(b, d.SetBatch(l.batch, segments))
	q := hostAlloc(b, dtype.F32, batch, benchHeads, benchDim)
	fillNormal(r, q)
	l.q = upload(b, d, q)
	l.out = upload(b, d, q)
	weight := make([]float32, benchKV*benchBits*benchHeads/benchKV*benchDim)
	for i := range weight {
		weight[i] = float32(r.NormFloat64())
	}
	var err error
	l.enc, err = d.LoadProjection(kernels.Projection{Name: "query", Heads: benchKV, Skip: &kernels.Affine{In: benchHeads / benchKV * benchDim, Out: benchBits, Weight: weight, Bias: make([]float32, benchKV*benchBits)}})
	fatal(b, err)
	affine := func(in, out int) kernels.Affine {
		a := kernels.Affine{In: in, Out: out, Weight: make([]float32, benchKV*in*out), Bias: make([]float32, benchKV*out)}
		for i := range a.Weight {
			a.Weight[i] = float32(r.NormFloat64())
		}
		return a
	}
	const in, hidden = benchHeads / benchKV * benchDim, 2 * benchDim
	skip, keys := affine(in, benchBits), affine(benchDim, benchBits)
	l.joint, err = d.LoadProjection(kernels.Projection{Name: "joint", Heads: benchKV, Skip: &skip, Layers: []kernels.Affine{affine(in, hidden), affine(hidden, hidden), affine(hidden, benchBits)}})
	fatal(b, err)
	all := kernels.Affine{In: benchDim, Out: benchBits, Weight: make([]float32, benchHeads*benchDim*benchBits), Bias: make([]float32, benchHeads*benchBits)}
	for i := range all.Weight {
		all.Weight[i] = float32(r.NormFloat64())
	}
	l.shared, err = d.LoadProjection(kernels.Projection{Name: "shared", Heads: benchHeads, Skip: &all})
	fatal(b, err)
	l.key, err = d.LoadProjection(kernels.Projection{Name: "key", Heads: benchKV, Skip: &keys, Feedback: make([]float32, benchKV*benchBits*benchBits), BlockBits: 4})
	fatal(b, err)
	return l
}

// normalBlock is bytes of normal bf16 numbers.
func normalBlock(r *rand.Rand, bytes int) []byte {
	block := make([]byte, bytes)
	for i := 0; i < len(block); i += 2 {
		v := dtype.BF16FromF32(float32(r.NormFloat64()))
		block[i], block[i+1] = byte(v), byte(v>>8)
	}
	return block
}

// tile fills a tensor with copies of a block.
func (d *Device) tile(t kernels.Tensor, block []byte) error {
	m := t.Memory.(memory)
	for at := 0; at < m.size; at += len(block) {
		if err := d.copyIn(m.ptr+uint64(at), block[:min(len(block), m.size-at)]); err != nil {
			return err
		}
	}
	return nil
}

// median times operations and gives the median in microseconds.
func (l *layerBench) median(b *testing.B, operations func()) float64 {
	b.Helper()
	seconds, err := l.d.Time(max(l.runs, 9), operations)
	fatal(b, err)
	slices.Sort(seconds)
	return seconds[len(seconds)/2] * 1e6
}

func (l *layerBench) report(b *testing.B, what string, us float64) {
	fmt.Printf("  %-44s %9.1f us  %5.2fx\n", what, us, l.dense/us)
	b.ReportMetric(us, what+"-us")
}

// BenchmarkLayer times a decode step of one layer: dense, the fused kernel in
// every cluster size, and the single operations. Correctness is TestFused's.
func BenchmarkLayer(b *testing.B) {
	infos, err := Devices()
	if err != nil {
		b.Skip(err)
	}
	for _, c := range [][2]int{{1, 8192}, {1, 32768}, {1, 131072}, {8, 32768}, {8, 131072}} {
		b.Run(fmt.Sprintf("%dx%dK", c[0], c[1]/1024), func(b *testing.B) {
			d := testDevice(b, Options{})
			defer d.Close()
			l := newLayerBench(b, d, c[0], c[1])
			fmt.Printf("%s, %d x %d\n", infos[0].Name, c[0], c[1])
			l.dense = l.median(b, func() { d.Attend(l.out, l.q, 0, l.batch, 0.0884, 0) })
			l.report(b, "dense", l.dense)
			for _, sel := range []kernels.Selection{
				{Heads: benchKV, Sink: 128, Local: 128, Budget: kernels.Budget{Num: 1, Den: 32}},
			} {
				l.fused(b, sel)
			}
			sel := kernels.Selection{Heads: benchHeads, Sink: 128, Local: 128, Budget: kernels.Budget{Num: 1, Den: 32}}
			l.single(b, sel)
			sel.Heads = benchKV
			l.single(b, sel)
			for range b.N { // timed above
			}
		})
	}
}

func (l *layerBench) fused(b *testing.B, sel kernels.Selection) {
	d, s := l.d, l.d.use(l.batch)
	e := l.enc.(*encoder)
	for _, bits := range []int{1, 8} {
		weights := d.borrow("query weights", l.batch.Tokens*benchKV*benchBits)
		w := kernels.Tensor{Type: dtype.I8, Shape: []int{l.batch.Tokens, benchKV, benchBits}, Memory: memory{weights, l.batch.Tokens * benchKV * benchBits}}
		d.EncodeQueries(w, kernels.Tensor{}, l.enc, l.q, bits)
		plan, ok := d.fusable(l.q, 0, s, e, kernels.HashQuery{Encoder: l.enc, Bits: bits}, sel)
		if !ok {
			continue
		}
		shape := fusedShape{s.shape.limit, sel.Read(s.shape.limit), 1, benchBits * most(bits), benchHeads / benchKV, benchDim, false}
		for _, warps := range []int{8, 4} {
			for blocks := 2; blocks <= 16; blocks *= 2 {
				p := shape.plan(blocks, warps)
				if !p.fits() || s.shape.limit > 32768*blocks || s.shape.limit < 256*blocks {
					continue
				}
				chosen := ""
				if blocks == plan.blocks && warps == plan.warps {
					chosen = "*"
				}
				l.report(b, fmt.Sprintf("fused-%dbit-sink%d-%dx%d%s", bits, sel.Sink, blocks, warps, chosen),
					l.median(b, func() { d.attendFused(p, l.out, l.q, weights, 0, 0, 0, s, 0.0884, e, sel) }))
			}
		}
		for name, enc := range map[string]kernels.Encoder{"linear": l.enc, "joint": l.joint} {
			query := kernels.HashQuery{Encoder: enc, Bits: bits}
			l.report(b, "step-encode-"+name, l.median(b, func() {
				d.EncodeKeys(l.key, 0, l.batch)
				d.EncodeQueries(w, kernels.Tensor{}, enc, l.q, bits)
			}))
			for _, candidates := range []int{1, 2} {
				sel.Candidates = candidates
				l.report(b, fmt.Sprintf("step-%s-%dbit-%dx", name, bits, candidates), l.median(b, func() {
					d.EncodeKeys(l.key, 0, l.batch)
					d.AttendHash(l.out, l.q, 0, l.batch, 0.0884, query, sel)
				}))
			}
			sel.Candidates = 0
		}
		perHead := sel
		perHead.Heads = benchHeads
		query := kernels.HashQuery{Encoder: l.shared, Bits: bits}
		shape = fusedShape{s.shape.limit, sel.Read(s.shape.limit), 1, benchBits * most(bits), 1, benchDim, false}
		all := d.borrow("query weights of heads", l.batch.Tokens*benchHeads*benchBits)
		wide := kernels.Tensor{Type: dtype.I8, Shape: []int{l.batch.Tokens, benchHeads, benchBits}, Memory: memory{all, l.batch.Tokens * benchHeads * benchBits}}
		d.EncodeQueries(wide, kernels.Tensor{}, l.shared, l.q, bits)
		for _, warps := range []int{8, 4} {
			for blocks := 2; blocks <= 16; blocks *= 2 {
				if p := shape.plan(blocks, warps).spread(l.batch.Tokens*benchHeads, d.info.Multiprocessors); p.fits() && s.shape.limit <= 65536*blocks && s.shape.limit >= 512*blocks {
					l.report(b, fmt.Sprintf("perhead-%dbit-%dx%d", bits, blocks, warps), l.median(b, func() { d.attendFused(p, l.out, l.q, all, 0, 0, 0, s, 0.0884, l.shared.(*encoder), perHead) }))
				}
			}
		}
		l.report(b, fmt.Sprintf("step-shared-%dbit", bits), l.median(b, func() {
			d.EncodeKeys(l.key, 0, l.batch)
			d.AttendHash(l.out, l.q, 0, l.batch, 0.0884, query, perHead)
		}))
	}
}

// single times the operations one by one, then together.
func (l *layerBench) single(b *testing.B, sel kernels.Selection) {
	d, T, n := l.d, l.batch.Tokens, l.batch.Longest
	weights, err := d.Alloc(dtype.I8, T, benchKV, benchBits)
	fatal(b, err)
	scores, err := d.Alloc(dtype.I32, T, sel.Heads, n)
	fatal(b, err)
	selected, err := d.Alloc(dtype.I32, T, sel.Heads, sel.Scored(n))
	fatal(b, err)
	defer func() {
		for _, t := range []kernels.Tensor{weights, scores, selected} {
			d.Free(t)
		}
	}()
	maps := weights
	if sel.Heads == benchHeads { // one map a query head
		if maps, err = d.Alloc(dtype.I8, T, benchHeads, benchBits); err != nil {
			b.Fatal(err)
		}
		defer d.Free(maps)
		r := rand.New(rand.NewPCG(8, 9))
		host := make([]byte, maps.Len())
		for i := range host {
			host[i] = byte(r.IntN(255) - 127)
		}
		fatal(b, d.Upload(maps, host))
	} else {
		d.EncodeQueries(weights, kernels.Tensor{}, l.enc, l.q, 8)
	}
	scan := func() { d.ScanHash(scores, maps, 0, l.batch) }
	cut := func() { d.TopK(selected, scores, l.batch, sel) }
	attend := func() { d.AttendSelected(l.out, l.q, 0, l.batch, 0.0884, selected, sel) }
	name := fmt.Sprintf("%dsets-", sel.Heads)
	l.report(b, name+"encode", l.median(b, func() { d.EncodeQueries(weights, kernels.Tensor{}, l.enc, l.q, 8) }))
	l.report(b, name+"scan", l.median(b, scan))
	l.report(b, name+"topk", l.median(b, cut))
	l.report(b, name+"attend", l.median(b, attend))
	l.report(b, name+"together", l.median(b, func() { scan(); cut(); attend() }))
	rerank := sel
	rerank.Candidates = 2
	candidates, err := d.Alloc(dtype.I32, T, sel.Heads, rerank.Scored(n))
	fatal(b, err)
	defer d.Free(candidates)
	l.report(b, name+"reranked-together", l.median(b, func() {
		scan()
		d.TopK(candidates, scores, l.batch, rerank)
		d.Rerank(selected, candidates, l.q, 0, l.batch, 0.0884, rerank)
		attend()
	}))
}

// BenchmarkPrefill times causal attention of Qwen2.5-1.5B's heads and the
// layer's products.
func BenchmarkPrefill(b *testing.B) {
	d := testDevice(b, Options{})
	defer d.Close()
	for _, n := range []int{4096, 16384} {
		const heads, kv, dim = 12, 2, 128
		c, err := d.NewCache(kernels.CacheSpec{Layers: 1, KVHeads: kv, HeadDim: dim, Capacity: n, Type: dtype.BF16})
		fatal(b, err)
		r := rand.New(rand.NewPCG(1, uint64(n)))
		host := hostAlloc(b, dtype.BF16, c.K[0].Shape...)
		fillNormal(r, host)
		fatal(b, d.Upload(c.K[0], host.Bytes()))
		fatal(b, d.Upload(c.V[0], host.Bytes()))
		q := hostAlloc(b, dtype.F32, n, heads, dim)
		fillNormal(r, q)
		x := upload(b, d, q)
		batch := &kernels.Batch{}
		fatal(b, d.SetBatch(batch, []kernels.Segment{{Cache: c, Len: n}}))
		l := &layerBench{d: d, dense: 1, runs: 31}
		us := l.median(b, func() { d.Attend(x, x, 0, batch, 0.0884, 0) })
		fmt.Printf("prefill attention %d tokens, %d/%d heads: %.0f us, %.0f TFLOP/s\n", n, heads, kv, us, 2*float64(n)*float64(n)*dim*heads/us/1e6)
		d.Free(x)
		for _, t := range []kernels.Tensor{c.K[0], c.V[0]} {
			d.Free(t)
		}
	}
	for _, shape := range [][2]int{{1536, 1536}, {8960, 1536}, {1536, 8960}, {151936, 1536}, {4096, 4096}, {14336, 4096}} {
		m := kernels.Matrix{Name: "w", Type: dtype.BF16, Rows: shape[0], Cols: shape[1], Data: make([]byte, 2*shape[0]*shape[1])}
		for i := range m.Data {
			m.Data[i] = byte(i*7+i>>8) & 0xbf
		}
		w, err := d.LoadMatrix(m)
		fatal(b, err)
		for _, n := range []int{1, 8} {
			x, err := d.Alloc(dtype.F32, n, shape[1])
			fatal(b, err)
			y, err := d.Alloc(dtype.F32, n, shape[0])
			fatal(b, err)
			l := &layerBench{d: d, dense: 1, runs: 31}
			us := l.median(b, func() { d.Linear(y, x, w, kernels.Tensor{}, false) })
			fmt.Printf("linear [%d %d] x %d: %.1f us, %.0f GB/s\n", shape[0], shape[1], n, us, float64(len(m.Data))/us/1e3)
			d.Free(x)
			d.Free(y)
		}
	}
}
