package cpu

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// layerStep is the operations of a layer's decode step, or of a chunk, on a
// device: attention dense and by hash.
type layerStep struct {
	d                    *Device
	x, q, k, out, logits kernels.Tensor
	cos, sin, best, gain kernels.Tensor
	w, head              kernels.Weight
	keys, queries        kernels.Encoder
	batch                kernels.Batch
	mass                 bool
}

func newLayerStep(tb testing.TB, threads, tokens int) *layerStep {
	const heads, kv, width, context, bits = 8, 2, 64, 3000, 32
	d, err := New(Options{Threads: threads})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.Close() })
	r := rand.New(rand.NewPCG(5, 6))
	cache := must(d.NewCache(kernels.CacheSpec{Layers: 1, KVHeads: kv, HeadDim: width, Capacity: context, Type: dtype.BF16}))
	for _, t := range []kernels.Tensor{cache.K[0], cache.V[0]} {
		for i, v := range random(r, t.Len()) {
			t.BF16()[i] = dtype.BF16FromF32(v)
		}
	}
	codes := must(d.Alloc(dtype.U32, kv, context, 1))
	for i := range codes.U32() {
		codes.U32()[i] = r.Uint32()
	}
	s := &layerStep{d: d, x: tensor(d, r, tokens, heads*width), q: tensor(d, r, tokens, heads, width), k: tensor(d, r, tokens, kv, width),
		out: tensor(d, r, tokens, heads, width), logits: tensor(d, r, tokens, 1000), cos: tensor(d, r, tokens, width/2), sin: tensor(d, r, tokens, width/2),
		best: must(d.Alloc(dtype.I32, tokens)), gain: tensor(d, r, heads*width)}
	segment := kernels.Segment{Cache: cache, Index: &kernels.Index{Layers: [][]kernels.Tensor{{codes}}}, Start: context - tokens, Len: tokens}
	if err := d.SetBatch(&s.batch, []kernels.Segment{segment}); err != nil {
		tb.Fatal(err)
	}
	matrix := func(rows, cols int) kernels.Weight {
		data := make([]byte, must(dtype.Q8_0.Bytes(rows*cols)))
		for i := range data {
			data[i] = byte(r.Uint32()) & 0x3f
		}
		return must(d.LoadMatrix(kernels.Matrix{Name: "w", Type: dtype.Q8_0, Rows: rows, Cols: cols, Data: data}))
	}
	s.w, s.head = matrix(heads*width, heads*width), matrix(1000, heads*width)
	affine := func(heads, in, out int) *kernels.Affine {
		return &kernels.Affine{In: in, Out: out, Weight: random(r, heads*in*out), Bias: random(r, heads*out)}
	}
	feedback := random(r, kv*bits*bits)
	s.keys = must(d.LoadProjection(kernels.Projection{Name: "k", Heads: kv, Skip: affine(kv, width, bits), Feedback: feedback, BlockBits: 4}))
	s.queries = must(d.LoadProjection(kernels.Projection{Name: "q", Heads: heads, Skip: affine(heads, width, bits)}))
	return s
}

func (s *layerStep) run() {
	d := s.d
	d.RMSNorm(s.x, s.x, s.gain, 1e-5)
	d.Linear(s.q.Reshape(s.x.Shape...), s.x, s.w, kernels.Tensor{}, false)
	d.Rope(s.q, s.cos, s.sin)
	d.Append(0, s.k, s.k, &s.batch)
	d.EncodeKeys(s.keys, 0, &s.batch)
	d.Attend(s.out, s.q, 0, &s.batch, 0.125, 0)
	d.Add(s.x, s.out)
	sel := kernels.Selection{Heads: 2, Sink: 64, Local: 64, Budget: kernels.Budget{Num: 1, Den: 16}, Candidates: 2}
	d.AttendHash(s.out, s.q, 0, &s.batch, 0.125, kernels.HashQuery{Encoder: s.queries, Bits: 8, Mass: s.mass}, sel)
	d.Gate(s.x, s.x, s.out, kernels.SiLU)
	d.Linear(s.logits, s.x, s.head, kernels.Tensor{}, false)
	d.ArgMax(s.best, s.logits)
}

func TestDecodeStepDoesNotAllocate(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	onEverySet(t, func(t *testing.T, _ *kernelSet) {
		s := newLayerStep(t, 2, 1)
		for range 3 {
			s.run()
		}
		// Reshape, which a model does once, takes two
		if n := testing.AllocsPerRun(20, s.run); n > 2 {
			t.Errorf("a decode step allocates %v times", n)
		}
	})
}

func TestThreadsDoNotChangeResults(t *testing.T) {
	onEverySet(t, func(t *testing.T, _ *kernelSet) {
		for _, tokens := range []int{1, 5, 40} {
			for _, mass := range []bool{false, true} {
				one, many := newLayerStep(t, 1, tokens), newLayerStep(t, 3, tokens)
				one.mass, many.mass = mass, mass
				one.run()
				many.run()
				for name, pair := range map[string][2]kernels.Tensor{"hash attention": {one.out, many.out}, "logits": {one.logits, many.logits}} {
					if !bytes.Equal(pair[0].Bytes(), pair[1].Bytes()) {
						t.Errorf("%d tokens: %s differ between 1 and 3 threads", tokens, name)
					}
				}
			}
		}
	})
}
