//go:build gpu

package cuda

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/kernels/kerneltest"
)

// tolerance: matrix products take operands rounded to bf16, attention weights
// are rounded to bf16.
var tolerance = kerneltest.Tolerance{Dense: 1.2e-2, Attention: 8e-3, Scores: 2e-5, Bits: 2e-3, Weights: 4e-3}

// precise is what Options.Precise holds: float32 sums in another order.
var precise = kerneltest.Tolerance{Dense: 1e-5, Attention: 1e-5, Scores: 2e-5, Bits: 2e-3}

func TestSuite(t *testing.T) {
	testDevice(t, Options{}).Close()
	kerneltest.Run(t, func(t testing.TB) kernels.Device { return testDevice(t, Options{}) }, tolerance)
}

// TestSuiteNoClusters runs what GPUs before compute capability 9.0 run.
func TestSuiteNoClusters(t *testing.T) {
	testDevice(t, Options{}).Close()
	kerneltest.Run(t, func(t testing.TB) kernels.Device { return testDevice(t, Options{NoClusters: true}) }, tolerance)
}

// TestSuiteAmpere runs the kernels that GPUs of compute capability 8.x run,
// where no such GPU is at hand. The driver compiles them first.
func TestSuiteAmpere(t *testing.T) {
	testDevice(t, Options{}).Close()
	kerneltest.Run(t, func(t testing.TB) kernels.Device {
		d := testDevice(t, Options{Code: "compute_80"})
		if !d.options.NoClusters || d.queue.overlap {
			t.Fatal("clusters or overlap on compute capability 8.x")
		}
		return d
	}, tolerance)
}

// TestSuitePrecise holds computation in float32 to the reference's.
func TestSuitePrecise(t *testing.T) {
	testDevice(t, Options{}).Close()
	kerneltest.Run(t, func(t testing.TB) kernels.Device { return testDevice(t, Options{Precise: true}) }, precise)
}

// hashStep is one hash attention step of one layer on the GPU and its parts on
// the host.
type hashStep struct {
	d           *Device
	ref         *kernels.Reference
	rand        *rand.Rand
	batch, host *kernels.Batch
	q, out      kernels.Tensor
	weights     kernels.Tensor
	hostWeights kernels.Tensor
	enc         *encoder
	heads, bits int
	queryBits   int
	kv, dim     int
}

type stepShape struct {
	kv, group, dim, bits, queryBits, mapsPerSet int
	lengths                                     []int
	skew                                        string
}

func (s stepShape) String() string {
	return fmt.Sprintf("kv%d group%d d%d %d bits, query bits %d x%d, %v %s", s.kv, s.group, s.dim, s.bits, s.queryBits, s.mapsPerSet, s.lengths, s.skew)
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// upload makes a tensor with the host tensor's contents.
func upload(t testing.TB, d kernels.Device, h kernels.Tensor) kernels.Tensor {
	t.Helper()
	x, err := d.Alloc(h.Type, h.Shape...)
	fatal(t, err)
	fatal(t, d.Upload(x, h.Bytes()))
	return x
}

func hostAlloc(t testing.TB, kind dtype.Type, shape ...int) kernels.Tensor {
	t.Helper()
	x, err := kernels.NewReference().Alloc(kind, shape...)
	fatal(t, err)
	return x
}

// fillNormal writes normal values, drawn from a table for speed.
func fillNormal(r *rand.Rand, x kernels.Tensor) {
	var table [4096]uint16
	for i := range table {
		table[i] = dtype.BF16FromF32(float32(r.NormFloat64()))
	}
	b := x.Bytes()
	for i := range x.Len() {
		v := table[r.Uint32()>>20]
		if x.Type == dtype.BF16 {
			binary.LittleEndian.PutUint16(b[2*i:], v)
		} else {
			binary.LittleEndian.PutUint32(b[4*i:], uint32(v)<<16)
		}
	}
}

func newStep(t testing.TB, d *Device, s stepShape) *hashStep {
	t.Helper()
	r := rand.New(rand.NewPCG(5, uint64(s.lengths[0])))
	h := &hashStep{d: d, ref: kernels.NewReference(), rand: r, heads: s.kv * s.group, bits: s.bits, queryBits: s.queryBits, kv: s.kv, dim: s.dim}
	T := len(s.lengths)
	words := (s.bits + 31) / 32
	var segments, hosts []kernels.Segment
	maps := s.kv * s.mapsPerSet
	h.hostWeights = hostAlloc(t, dtype.I8, T, maps, s.bits)
	limit := 1<<(s.queryBits-1) - 1
	for i := range h.hostWeights.I8() {
		if s.queryBits == 1 {
			h.hostWeights.I8()[i] = int8(2*r.IntN(2) - 1)
		} else {
			h.hostWeights.I8()[i] = int8(r.IntN(2*limit+1) - limit)
		}
	}
	for i, n := range s.lengths {
		spec := kernels.CacheSpec{Layers: 1, KVHeads: s.kv, HeadDim: s.dim, Capacity: n + i%3, Type: dtype.BF16}
		host, err := h.ref.NewCache(spec)
		fatal(t, err)
		fillNormal(r, host.K[0])
		fillNormal(r, host.V[0])
		if s.skew == "equal keys" { // their logits are equal, too
			const period = 7
			rows := host.K[0].Bytes()
			for at := period * 2 * s.dim; at < len(rows); at++ {
				rows[at] = rows[at-period*2*s.dim]
			}
		}
		c, err := d.NewCache(spec)
		fatal(t, err)
		fatal(t, d.Upload(c.K[0], host.K[0].Bytes()))
		fatal(t, d.Upload(c.V[0], host.V[0].Bytes()))
		codes := hostAlloc(t, dtype.U32, s.kv, spec.Capacity, words)
		for j := range codes.U32() {
			at := j / words % spec.Capacity
			switch {
			case s.skew == "all equal", s.skew == "together" && at >= n/3 && at < n/3+n/16+8:
				codes.U32()[j] = bestCode(h.hostWeights.I8()[(i*maps+j/words/spec.Capacity*s.mapsPerSet)*s.bits:], j%words*32, s.bits)
			default:
				codes.U32()[j] = r.Uint32()
			}
			if j%words == words-1 && s.bits%32 != 0 {
				codes.U32()[j] &= 1<<(s.bits%32) - 1
			}
		}
		segments = append(segments, kernels.Segment{Cache: c, Index: &kernels.Index{Layers: [][]kernels.Tensor{{upload(t, d, codes)}}}, Start: n - 1, Len: 1})
		hosts = append(hosts, kernels.Segment{Cache: host, Index: &kernels.Index{Layers: [][]kernels.Tensor{{codes}}}, Start: n - 1, Len: 1})
	}
	h.batch, h.host = &kernels.Batch{}, &kernels.Batch{}
	fatal(t, d.SetBatch(h.batch, segments))
	fatal(t, h.ref.SetBatch(h.host, hosts))
	h.weights = upload(t, d, h.hostWeights)
	hostQ := hostAlloc(t, dtype.F32, T, h.heads, s.dim)
	fillNormal(r, hostQ)
	h.q = upload(t, d, hostQ)
	h.out = upload(t, d, hostAlloc(t, dtype.F32, T, h.heads, s.dim))
	h.enc = &encoder{p: kernels.Projection{Heads: maps, Skip: &kernels.Affine{In: s.dim, Out: s.bits}}}
	return h
}

// bestCode is 32 bits of the code that the weights like most.
func bestCode(w []int8, from, bits int) uint32 {
	var x uint32
	for i := from; i < min(bits, from+32); i++ {
		if w[i] > 0 {
			x |= 1 << (i - from)
		}
	}
	return x
}

// fusedShapes covers groups, dimensions, code lengths, ragged batches and ties.
func fusedShapes(short bool) []stepShape {
	shapes := []stepShape{
		{2, 4, 128, 32, 1, 1, []int{1000}, ""},
		{2, 4, 128, 32, 1, 4, []int{777, 3, 1025}, ""},
		{1, 1, 64, 32, 4, 1, []int{1, 2, 33, 500}, ""},
		{3, 7, 64, 32, 8, 1, []int{3001}, ""},
		{2, 8, 128, 32, 8, 8, []int{2048, 999}, ""},
		{1, 5, 256, 64, 8, 1, []int{1500}, ""},
		{2, 3, 128, 128, 4, 1, []int{1301}, ""},
		{2, 2, 64, 128, 8, 2, []int{2500}, ""},
		{1, 6, 128, 40, 8, 1, []int{640}, ""},
		{2, 4, 128, 32, 8, 1, []int{3000, 4000}, "all equal"},
		{2, 4, 128, 32, 1, 1, []int{3000}, "all equal"},
		{2, 4, 128, 32, 8, 1, []int{5000, 2000}, "together"},
	}
	if !short {
		shapes = append(shapes,
			stepShape{2, 4, 128, 32, 8, 1, []int{32768}, ""},
			stepShape{2, 4, 128, 32, 1, 1, []int{131072, 70000}, ""},
			stepShape{1, 8, 64, 64, 4, 1, []int{100003}, "together"},
			stepShape{8, 4, 128, 32, 8, 1, []int{20000, 1, 3, 20001, 300, 5000, 8191, 8193}, ""},
		)
	}
	return shapes
}

// TestFused holds the cluster kernel against the reference: the same set for
// every input, near outputs, the same bits twice.
func TestFused(t *testing.T) {
	d := testDevice(t, Options{})
	defer d.Close()
	if d.options.NoClusters {
		t.Skip("this GPU has no thread-block clusters")
	}
	selections := []kernels.Selection{
		{Sink: 4, Local: 64, Budget: kernels.Budget{Num: 1, Den: 32}},
		{Sink: 128, Local: 128, Budget: kernels.Budget{Num: 1, Den: 8}},
		{Sink: 0, Local: 1, Budget: kernels.Budget{Count: 1}},
		{Sink: 3, Local: 5, Budget: kernels.Budget{Count: 100000}},
		{Sink: 16, Local: 16, Budget: kernels.Budget{Count: 0}},
	}
	for _, s := range fusedShapes(testing.Short()) {
		h := newStep(t, d, s)
		for _, sel := range selections {
			sel.Heads = s.kv
			h.check(t, s, sel)
		}
		h.free()
	}
}

// TestFusedRerank holds reranking inside the cluster kernel against the
// reference's separate operations.
func TestFusedRerank(t *testing.T) {
	d := testDevice(t, Options{})
	defer d.Close()
	if d.options.NoClusters {
		t.Skip("this GPU has no thread-block clusters")
	}
	shapes := append(fusedShapes(testing.Short()),
		stepShape{2, 4, 128, 32, 8, 1, []int{3000, 777}, "equal keys"},
		stepShape{1, 1, 64, 32, 8, 1, []int{2000}, "equal keys"},
		stepShape{1, 8, 256, 32, 4, 1, []int{4100}, ""},
	)
	selections := []kernels.Selection{
		{Sink: 128, Local: 128, Budget: kernels.Budget{Num: 1, Den: 32}, Candidates: 2},
		{Sink: 4, Local: 3, Budget: kernels.Budget{Num: 1, Den: 10}, Candidates: 4},
		{Sink: 0, Local: 1, Budget: kernels.Budget{Count: 1}, Candidates: 3},
		{Sink: 3, Local: 5, Budget: kernels.Budget{Count: 100000}, Candidates: 2},
		{Sink: 16, Local: 16, Budget: kernels.Budget{Count: 0}, Candidates: 2},
	}
	for _, s := range shapes {
		h := newStep(t, d, s)
		for _, sel := range selections {
			sel.Heads = s.kv
			h.checkRerank(t, s, sel)
		}
		h.free()
	}
}

func (h *hashStep) checkRerank(t *testing.T, s stepShape, sel kernels.Selection) {
	t.Helper()
	state := h.d.use(h.batch)
	plan, ok := h.d.fusable(h.q, 0, state, h.enc, kernels.HashQuery{Encoder: h.enc, Bits: h.queryBits}, sel)
	if ok && !plan.reranks && sel.Budget.Count > 1000 {
		return // more candidates than a cluster holds the logits of
	}
	if !ok || !plan.reranks {
		t.Fatalf("%v, %+v: not reranked in the fused kernel", s, sel)
	}
	T, n := len(s.lengths), slices.Max(s.lengths)
	scores := hostAlloc(t, dtype.I32, T, s.kv, n)
	candidates, want := hostAlloc(t, dtype.I32, T, s.kv, max(1, sel.Scored(n))), hostAlloc(t, dtype.I32, T, s.kv, max(1, sel.Chosen(n)))
	hostQ, out := hostAlloc(t, dtype.F32, h.q.Shape...), hostAlloc(t, dtype.F32, h.out.Shape...)
	fatal(t, h.d.Download(hostQ.Bytes(), h.q))
	h.ref.ScanHash(scores, h.hostWeights, 0, h.host)
	h.ref.TopK(candidates, scores, h.host, sel)
	h.ref.Rerank(want, candidates, hostQ, 0, h.host, 0.1, sel)
	h.ref.AttendSelected(out, hostQ, 0, h.host, 0.1, want, sel)
	shape := fusedShape{state.shape.limit, sel.Read(state.shape.limit) - sel.Chosen(state.shape.limit) + sel.Scored(state.shape.limit), state.indexed(0, 0).width, s.bits * most(s.queryBits) * s.mapsPerSet, s.group, s.dim, true}
	plans := []fusedPlan{plan}
	for _, blocks := range []int{plan.blocks * 2, 16} {
		if p := shape.plan(blocks, 8); blocks <= 16 && p.fits() {
			plans = append(plans, p)
		}
	}
	for _, p := range plans {
		outs := [2][]byte{make([]byte, 4*h.out.Len()), make([]byte, 4*h.out.Len())}
		for run := range outs {
			fatal(t, h.d.Upload(h.out, bytes.Repeat([]byte{0xff}, 4*h.out.Len())))
			h.d.attendFused(p, h.out, h.q, address(h.weights), 0, 0, 0, state, 0.1, h.enc, sel)
			fatal(t, h.d.Download(outs[run], h.out))
		}
		if !bytes.Equal(outs[0], outs[1]) {
			t.Fatalf("%v, %+v, %d blocks: two runs differ", s, sel, p.blocks)
		}
		compare(t, fmt.Sprintf("%v, %+v, %d blocks, reranked", s, sel, p.blocks), floats(outs[0]), out.F32(), s.dim, 3e-3)
	}
}

// most is the largest weight of some query bits.
func most(queryBits int) int {
	if queryBits == 1 {
		return 1
	}
	return 1<<(queryBits-1) - 1
}

func (h *hashStep) free() {
	for _, s := range h.batch.Segments {
		for _, x := range []kernels.Tensor{s.Cache.K[0], s.Cache.V[0], s.Index.Layers[0][0]} {
			h.d.Free(x)
		}
	}
	for _, x := range []kernels.Tensor{h.q, h.out, h.weights} {
		h.d.Free(x)
	}
}

func (h *hashStep) check(t *testing.T, s stepShape, sel kernels.Selection) {
	t.Helper()
	state := h.d.use(h.batch)
	query := kernels.HashQuery{Encoder: h.enc, Bits: h.queryBits}
	plan, ok := h.d.fusable(h.q, 0, state, h.enc, query, sel)
	if !ok {
		t.Fatalf("%v, %+v: not fused", s, sel)
	}
	T, n := len(s.lengths), slices.Max(s.lengths)
	k := max(1, sel.Chosen(n))
	scores, want := hostAlloc(t, dtype.I32, T, s.kv, n), hostAlloc(t, dtype.I32, T, s.kv, k)
	h.ref.ScanHash(scores, h.hostWeights, 0, h.host)
	h.ref.TopK(want, scores, h.host, sel)
	chosen, err := h.d.Alloc(dtype.I32, T, s.kv, k)
	fatal(t, err)
	defer h.d.Free(chosen)
	first := make([]byte, 4*h.out.Len())
	shape := fusedShape{state.shape.limit, sel.Read(state.shape.limit), state.indexed(0, 0).width, s.bits * most(s.queryBits) * s.mapsPerSet, s.group, s.dim, false}
	plans := []fusedPlan{plan}
	for blocks := plan.blocks * 2; blocks <= 16; blocks *= 2 {
		plans = append(plans, shape.plan(blocks, 8))
	}
	if shape.words == 1 && s.dim <= 128 {
		for _, p := range []fusedPlan{shape.plan(4, 4), shape.plan(16, 4)} {
			if p.fits() {
				plans = append(plans, p)
			}
		}
	}
	for i, p := range plans {
		blocks := fmt.Sprintf("%d x %d warps", p.blocks, p.warps)
		poison := bytes.Repeat([]byte{0xff}, 4*h.out.Len())
		outs := [2][]byte{make([]byte, len(poison)), make([]byte, len(poison))}
		for run := range outs {
			fatal(t, h.d.Upload(h.out, poison))
			fatal(t, h.d.Upload(chosen, bytes.Repeat([]byte{0xee}, 4*chosen.Len())))
			h.d.attendFused(p, h.out, h.q, address(h.weights), address(chosen), k, 0, state, 0.1, h.enc, sel)
			fatal(t, h.d.Download(outs[run], h.out))
		}
		got := hostAlloc(t, dtype.I32, T, s.kv, k)
		fatal(t, h.d.Download(got.Bytes(), chosen))
		for j, w := range want.I32() {
			if g := got.I32()[j]; g != w {
				t.Fatalf("%v, %+v, %s: selected %d of set %d is %d, want %d", s, sel, blocks, j%k, j/k, g, w)
			}
		}
		if !bytes.Equal(outs[0], outs[1]) {
			t.Fatalf("%v, %+v, %s: two runs differ", s, sel, blocks)
		}
		if i > 0 {
			// another cluster is another order of sums
			compare(t, fmt.Sprintf("%v, %+v, %s against the first", s, sel, blocks), floats(outs[0]), floats(first), s.dim, 4e-3)
			continue
		}
		copy(first, outs[0])
		out := hostAlloc(t, dtype.F32, h.out.Shape...)
		hostQ := hostAlloc(t, dtype.F32, h.q.Shape...)
		fatal(t, h.d.Download(hostQ.Bytes(), h.q))
		h.ref.AttendSelected(out, hostQ, 0, h.host, 0.1, want, sel)
		compare(t, fmt.Sprintf("%v, %+v, %s", s, sel, blocks), floats(outs[0]), out.F32(), s.dim, 3e-3)
	}
}

func floats(b []byte) []float32 {
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

// compare holds each head's relative error below the tolerance.
func compare(t *testing.T, what string, got, want []float32, dim int, tolerance float64) {
	t.Helper()
	for at := 0; at < len(want); at += dim {
		e, n := 0.0, 0.0
		for i := at; i < at+dim; i++ {
			if got[i] != got[i] && want[i] != want[i] {
				continue // nothing to attend to
			}
			e += math.Pow(float64(got[i])-float64(want[i]), 2)
			n += float64(want[i]) * float64(want[i])
		}
		if r := math.Sqrt(e / max(n, 1e-30)); !(r <= tolerance) {
			t.Fatalf("%s: head %d is off by %.2g", what, at/dim, r)
		}
	}
}

// TestRecord replays a step while the context grows, with and without graphs.
func TestRecord(t *testing.T) {
	outs := [2][][]byte{}
	for i, o := range []Options{{}, {NoGraphs: true}} {
		d := testDevice(t, o)
		s := stepShape{2, 4, 128, 32, 8, 1, []int{3000, 500}, ""}
		h := newStep(t, d, s)
		sel := kernels.Selection{Heads: 2, Sink: 16, Local: 16, Budget: kernels.Budget{Num: 1, Den: 16}}
		r := rand.New(rand.NewPCG(1, 2))
		p := kernels.Projection{Name: "query", Heads: 2, Skip: &kernels.Affine{In: 512, Out: 32, Weight: make([]float32, 2*512*32), Bias: make([]float32, 64)}}
		for j := range p.Skip.Weight {
			p.Skip.Weight[j] = float32(r.NormFloat64())
		}
		enc, err := d.LoadProjection(p)
		fatal(t, err)
		segments := slices.Clone(h.batch.Segments)
		d.ResetReads()
		for step := range 24 {
			for j := range segments {
				segments[j].Start = h.batch.Segments[j].Cache.Capacity - 25 + step
				if j == 1 {
					segments[j].Start = 300 + step
				}
			}
			fatal(t, d.SetBatch(h.batch, slices.Clone(segments)))
			d.Record("step", func() {
				d.Attend(h.out, h.q, 0, h.batch, 0.1, 0)
				d.Add(h.q, h.out)
				d.AttendHash(h.out, h.q, 0, h.batch, 0.1, kernels.HashQuery{Encoder: enc, Bits: 8}, sel)
			})
			b := make([]byte, 4*h.out.Len())
			fatal(t, d.Download(b, h.out))
			outs[i] = append(outs[i], b)
		}
		reads := d.Reads()
		var attended, cached int64
		for step := range 24 {
			for _, n := range []int{segments[0].Start - 23 + step + 1, 300 + step + 1} {
				attended += int64(h.q.Dim(1) * (n + sel.Read(n)))
				cached += int64(h.q.Dim(1) * 2 * n)
			}
		}
		if reads.Attended != attended || reads.Cached != cached {
			t.Errorf("reads %+v, want %d of %d", reads, attended, cached)
		}
		if g := d.graphs["step"]; (g == nil || g.graph.exec == nil) != o.NoGraphs {
			t.Errorf("options %+v: recorded %v", o, g)
		}
		fatal(t, d.Close())
	}
	for i := range outs[0] {
		if !bytes.Equal(outs[0][i], outs[1][i]) {
			t.Fatalf("step %d: a replay differs from direct operations", i)
		}
	}
}

// TestOutOfMemory asks for more than there is.
func TestOutOfMemory(t *testing.T) {
	d := testDevice(t, Options{})
	defer d.Close()
	if _, err := d.Alloc(dtype.F32, 1<<38); err == nil || !strings.Contains(err.Error(), "MiB") {
		t.Errorf("1 TiB: %v", err)
	}
	if _, err := d.NewCache(kernels.CacheSpec{Layers: 80, KVHeads: 8, HeadDim: 128, Capacity: 4 << 20, Type: dtype.BF16}); err == nil || !strings.Contains(err.Error(), "MiB") {
		t.Errorf("cache of 4M tokens: %v", err)
	}
	if p := d.borrow("too much", 1<<42); p != 0 || d.Synchronize() == nil {
		t.Error("4 TiB of scratch")
	}
	// the device still works
	x, err := d.Alloc(dtype.F32, 1000)
	fatal(t, err)
	d.Add(x, x)
	fatal(t, d.Synchronize())
	bandwidth, err := d.ReadBandwidth()
	fatal(t, err)
	t.Logf("%s reads %.0f GB/s", d.Info().Name, bandwidth/1e9)
}
