package train

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/shape"
	"github.com/hashattn/hashattn/model/trace"
)

// BenchmarkStep times a training step of one group (4 documents of 64 queries,
// 4096 keys each, headDim 128, 4 query heads) beside its matrix products
// alone, on one core; and on a GPU, where there is one.
func BenchmarkStep(b *testing.B) {
	const n, d, heads = 8192, 128, 4
	model := shape.Model{Name: "bench", Fingerprint: "f00d", Layers: 1, QueryHeads: heads, KVHeads: 1, HeadDim: d}
	dir := b.TempDir()
	w, err := trace.Create(dir, trace.Header{Model: model, Tokenizer: "t", Context: n, Captured: []int{0}, Scale: trace.DefaultScale(d)})
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	normal := func(n int) []uint16 {
		x := make([]uint16, n)
		for i := range x {
			x[i] = dtype.BF16FromF32(float32(rng.NormFloat64()))
		}
		return x
	}
	positions := trace.Blocks(n)
	positions = positions[len(positions)-4*trace.BlockLen:]
	err = w.Add(trace.Document{ID: "a", Hash: "0123456789abcdef", Tokens: make([]int32, n), Positions: positions,
		Layer: func(int) (q, k, v []uint16, err error) {
			k = normal(n * d)
			return normal(heads * len(positions) * d), k, k, nil
		}})
	if err != nil {
		b.Fatal(err)
	}
	r, err := trace.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	useBLAS()
	for _, preset := range []string{"grouped", "shared", "paper"} {
		bench := func(b *testing.B, on engine[float32]) (steps time.Duration, c Config) {
			c, err := Preset(preset)
			if err != nil {
				b.Fatal(err)
			}
			blocks, err := blocksOf(r, c)
			if err != nil {
				b.Fatal(err)
			}
			g, err := newGraph(unitsOf(r, c, []int{0}, blocks)[0], on)
			if err != nil {
				b.Fatal(err)
			}
			defer g.close()
			// best of all: other programs only add
			step, steps := 0, time.Hour
			for b.Loop() {
				start := time.Now()
				loss, err := g.step(step)
				if err != nil || !(loss > 0) {
					b.Fatal(loss, err)
				}
				steps = min(steps, time.Since(start))
				step++
			}
			b.ReportMetric(float64(steps.Microseconds())/1e3, "ms-step")
			return steps, c
		}
		b.Run(preset, func(b *testing.B) {
			steps, c := bench(b, &host[float32]{})
			products := time.Hour
			for range 10 {
				products = min(products, productTime(c, heads, d))
			}
			b.ReportMetric(float64(products.Microseconds())/1e3, "ms-products")
			b.ReportMetric(float64(steps)/float64(products), "step/products")
		})
		b.Run(preset+"/cuda", func(b *testing.B) {
			bench(b, gpu(b))
		})
	}
}

// productTime is the time of the matrix products of a step.
func productTime(c Config, heads, d int) time.Duration {
	q, n, bits, joint := c.Queries, c.Keys, c.Bits, c.Preset == "grouped"
	x := make([]float32, 4*n*max(d, paperHidden))
	for i := range x {
		x[i] = float32(i%17) / 17
	}
	y, z, out := x[:n*d], x[:heads*q*d], make([]float32, 4*n*max(d, bits, paperHidden))
	scores, queries := make([]float32, q*n), heads
	if joint {
		queries = 1
	}
	if c.Preset == "paper" {
		return paperProductTime(c, d, x, y, out)
	}
	start := time.Now()
	gemm(false, true, 4*n, bits, d, 1, x, y, 0, out)                 // key map
	gemm(true, false, bits, d, 4*n, 1, out, x, 0, x[:bits*d:bits*d]) // its gradient
	gemm(true, false, bits, bits, 4*n, 1, out, out, 0, scores)       // that of the feedback
	for range c.Documents {
		for range heads {
			gemm(false, true, q, n, d, 1, z, y, 0, scores) // exact logits
		}
		for range queries {
			gemm(false, true, q, n, bits, 1, z, y, 0, scores) // scores
			gemm(false, false, q, bits, n, 1, scores, y, 0, out)
			gemm(true, false, n, bits, q, 1, scores, z, 1, out)
		}
	}
	if joint { // sink and local, and the query map with its gradients
		for range c.Documents * heads {
			gemm(false, true, q, c.Sink+c.Local, d, 1, z, y, 0, scores)
		}
		m := c.Documents * q
		for _, l := range [][2]int{{heads * d, bits}, {heads * d, 2 * d}, {2 * d, 2 * d}, {2 * d, bits}} {
			for range 3 {
				gemm(false, true, m, l[1], l[0], 1, x, x, 0, out)
			}
		}
	}
	return time.Since(start)
}

// paperProductTime is productTime of one query head in the paper's recipe.
func paperProductTime(c Config, d int, x, y, out []float32) time.Duration {
	q, n, scores := c.Queries, c.Keys, make([]float32, c.Queries*c.Keys)
	start := time.Now()
	for _, rows := range []int{c.Documents * n, c.Documents * q} {
		for i, l := range [][2]int{{d, paperHidden}, {paperHidden, paperHidden}, {paperHidden, c.Bits}} {
			gemm(false, true, rows, l[1], l[0], 1, x, y, 0, out)
			gemm(true, false, l[1], l[0], rows, 1, x, x, 0, out)
			if i > 0 {
				gemm(false, false, rows, l[0], l[1], 1, x, y, 0, out)
			}
		}
	}
	for range c.Documents {
		gemm(false, true, q, n, d, 1, x, y, 0, scores)
		gemm(false, true, q, n, c.Bits, 1, x, y, 0, scores)
		gemm(false, false, q, c.Bits, n, 1, scores, y, 0, out)
		gemm(true, false, n, c.Bits, q, 1, scores, x, 1, out)
	}
	return time.Since(start)
}
