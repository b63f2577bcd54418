//go:build gpu

package cuda

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"gorgonia.org/cu"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// modelShape is a transformer of random weights.
type modelShape struct {
	name                                              string
	layers, width, heads, kv, dim, feedForward, words int
}

var benchModels = []modelShape{
	{"qwen2.5-1.5b", 28, 1536, 12, 2, 128, 8960, 151936},
	{"llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256},
}

type modelLayer struct {
	q, k, v, o, gate, up, down kernels.Weight
	key                        kernels.Encoder
}

// modelBench runs decode steps and prefills of a modelShape. Layers share norm
// gains and maps; every layer has its own weights.
type modelBench struct {
	modelShape
	d                               *Device
	table                           kernels.Weight
	layer                           []modelLayer
	gain, freq, tokens, next        kernels.Tensor
	x, h, qx, kx, vx, att, gate, up kernels.Tensor
	cos, sin, logits                kernels.Tensor
	query                           kernels.HashQuery
	weightBytes                     int
	batch                           *kernels.Batch
	caches                          []*kernels.Cache
	indexes                         []*kernels.Index
	rows                            int
}

func newModelBench(b *testing.B, d *Device, s modelShape, rows int) *modelBench {
	b.Helper()
	r := rand.New(rand.NewPCG(2, 5))
	block := normalBlock(r, 16<<20)
	for i := 1; i < len(block); i += 2 {
		block[i] = block[i]&0x80 | 0x3c | block[i]&1 // about 0.01
	}
	m := &modelBench{modelShape: s, d: d, batch: &kernels.Batch{}, rows: rows}
	data := make([]byte, 2*max(s.words, s.feedForward)*s.width)
	for at := 0; at < len(data); at += len(block) {
		copy(data[at:], block)
	}
	load := func(rows, cols int) kernels.Weight {
		w, err := d.LoadMatrix(kernels.Matrix{Name: "w", Type: dtype.BF16, Rows: rows, Cols: cols, Data: data[:2*rows*cols]})
		fatal(b, err)
		m.weightBytes += 2 * rows * cols
		return w
	}
	group := s.heads / s.kv
	affine := func(heads, in, out int) kernels.Affine {
		a := kernels.Affine{In: in, Out: out, Weight: make([]float32, heads*in*out), Bias: make([]float32, heads*out)}
		for i := range a.Weight {
			a.Weight[i] = float32(r.NormFloat64())
		}
		return a
	}
	key := affine(s.kv, s.dim, 32)
	enc, err := d.LoadProjection(kernels.Projection{Name: "key", Heads: s.kv, Skip: &key, Feedback: make([]float32, s.kv*32*32), BlockBits: 4})
	fatal(b, err)
	skip := affine(s.kv, group*s.dim, 32)
	joint, err := d.LoadProjection(kernels.Projection{Name: "query", Heads: s.kv, Skip: &skip, Layers: []kernels.Affine{
		affine(s.kv, group*s.dim, 2*s.dim), affine(s.kv, 2*s.dim, 2*s.dim), affine(s.kv, 2*s.dim, 32)}})
	fatal(b, err)
	m.query = kernels.HashQuery{Encoder: joint, Bits: 8}
	m.table = load(s.words, s.width)
	for range s.layers {
		m.layer = append(m.layer, modelLayer{
			load(s.heads*s.dim, s.width), load(s.kv*s.dim, s.width), load(s.kv*s.dim, s.width), load(s.width, s.heads*s.dim),
			load(s.feedForward, s.width), load(s.feedForward, s.width), load(s.width, s.feedForward), enc})
	}
	alloc := func(t dtype.Type, shape ...int) kernels.Tensor {
		x, err := d.Alloc(t, shape...)
		fatal(b, err)
		return x
	}
	ones := hostAlloc(b, dtype.F32, s.width)
	for i := range ones.F32() {
		ones.F32()[i] = 1
	}
	m.gain = upload(b, d, ones)
	m.freq, m.cos, m.sin = alloc(dtype.F32, s.dim/2), alloc(dtype.F32, rows, s.dim/2), alloc(dtype.F32, rows, s.dim/2)
	m.tokens, m.next = alloc(dtype.I32, rows), alloc(dtype.I32, 8)
	m.x, m.h = alloc(dtype.F32, rows, s.width), alloc(dtype.F32, rows, s.width)
	m.qx, m.att = alloc(dtype.F32, rows, s.heads, s.dim), alloc(dtype.F32, rows, s.heads, s.dim)
	m.kx, m.vx = alloc(dtype.F32, rows, s.kv, s.dim), alloc(dtype.F32, rows, s.kv, s.dim)
	m.gate, m.up = alloc(dtype.F32, rows, s.feedForward), alloc(dtype.F32, rows, s.feedForward)
	m.logits = alloc(dtype.F32, 8, s.words)
	return m
}

// sequences gives the model batch caches of context tokens; large ones share
// the memory of every fourth layer.
func (m *modelBench) sequences(b *testing.B, batch, context, last int) {
	b.Helper()
	for i, c := range m.caches {
		for _, t := range slices.Concat(c.K, c.V) {
			if _, ok := m.d.live[devicePtr(t)]; ok {
				m.d.Free(t)
			}
		}
		for _, l := range m.indexes[i].Layers {
			if _, ok := m.d.live[devicePtr(l[0])]; ok {
				m.d.Free(l[0])
			}
		}
	}
	m.caches, m.indexes = nil, nil
	r := rand.New(rand.NewPCG(1, 1))
	block, random := normalBlock(r, 16<<20), make([]byte, 4<<20)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	own := m.layers
	if batch*context > 16384 {
		own = 4
	}
	var segments []kernels.Segment
	for range batch {
		c, err := m.d.NewCache(kernels.CacheSpec{Layers: own, KVHeads: m.kv, HeadDim: m.dim, Capacity: context, Type: dtype.BF16})
		fatal(b, err)
		index := &kernels.Index{}
		for l := range m.layers {
			if l < own {
				fatal(b, m.d.tile(c.K[l], block))
				fatal(b, m.d.tile(c.V[l], block))
				codes, err := m.d.Alloc(dtype.U32, m.kv, context, 1)
				fatal(b, err)
				fatal(b, m.d.tile(codes, random))
				index.Layers = append(index.Layers, []kernels.Tensor{codes})
				continue
			}
			c.K, c.V = append(c.K, c.K[l%own]), append(c.V, c.V[l%own])
			index.Layers = append(index.Layers, index.Layers[l%own])
		}
		c.Layers = m.layers
		m.caches, m.indexes = append(m.caches, c), append(m.indexes, index)
		segments = append(segments, kernels.Segment{Cache: c, Index: index, Start: context - last, Len: last})
	}
	fatal(b, m.d.SetBatch(m.batch, segments))
}

// pass is one forward pass of the batch's rows, hash attention if sel is set.
func (m *modelBench) pass(sel *kernels.Selection) {
	d, n := m.d, m.batch.Tokens
	rows := func(t kernels.Tensor) kernels.Tensor { return t.Rows(0, n) }
	x, h, q, k, v, att, gate, up, cos, sin := rows(m.x), rows(m.h), rows(m.qx), rows(m.kx), rows(m.vx), rows(m.att), rows(m.gate), rows(m.up), rows(m.cos), rows(m.sin)
	d.Embed(x, m.table, rows(m.tokens), 1)
	d.RopeTable(cos, sin, m.freq, m.batch)
	for i, l := range m.layer {
		d.RMSNorm(h, x, m.gain, 1e-6)
		d.Linear(q, h, l.q, kernels.Tensor{}, false)
		d.Linear(k, h, l.k, kernels.Tensor{}, false)
		d.Linear(v, h, l.v, kernels.Tensor{}, false)
		d.Rope(q, cos, sin)
		d.Rope(k, cos, sin)
		d.Append(i, k, v, m.batch)
		if sel == nil {
			d.Attend(att, q, i, m.batch, 0.0884, 0)
		} else {
			d.EncodeKeys(l.key, i, m.batch)
			d.AttendHash(att, q, i, m.batch, 0.0884, m.query, *sel)
		}
		d.Linear(x, att, l.o, kernels.Tensor{}, true)
		d.RMSNorm(h, x, m.gain, 1e-6)
		d.Linear(gate, h, l.gate, kernels.Tensor{}, false)
		d.Linear(up, h, l.up, kernels.Tensor{}, false)
		d.Gate(gate, gate, up, kernels.SiLU)
		d.Linear(x, gate, l.down, kernels.Tensor{}, true)
	}
	last := min(n, 8)
	d.RMSNorm(h.Rows(0, last), x.Rows(n-last, n), m.gain, 1e-6)
	d.Linear(m.logits.Rows(0, last), h.Rows(0, last), m.table, kernels.Tensor{}, false)
	d.ArgMax(m.next.Rows(0, last), m.logits.Rows(0, last))
}

// prefillRows is the tokens of one prefill pass.
const prefillRows = 8192

// BenchmarkModel times decode steps, dense and by hash attention, and prefill.
func BenchmarkModel(b *testing.B) {
	for _, s := range benchModels {
		b.Run(s.name, func(b *testing.B) {
			d := testDevice(b, Options{})
			defer d.Close()
			bandwidth, err := d.ReadBandwidth()
			fatal(b, err)
			m := newModelBench(b, d, s, prefillRows)
			l := &layerBench{d: d}
			for _, c := range [][2]int{{1, 4096}, {1, 32768}, {1, 131072}, {8, 32768}} {
				m.sequences(b, c[0], c[1], 1)
				l.dense = l.median(b, func() { m.pass(nil) })
				cache := 4 * s.layers * s.kv * s.dim * c[0] * c[1]
				fmt.Printf("%s decode %d x %d: dense %.0f us (weights %d MiB, cache %d MiB: %.0f%% of %.0f GB/s)\n", s.name, c[0], c[1], l.dense,
					m.weightBytes>>20, cache>>20, 100*float64(m.weightBytes+cache)/(l.dense*1e-6)/bandwidth, bandwidth/1e9)
				sel := kernels.Selection{Heads: s.kv, Sink: 128, Local: 128, Budget: kernels.Budget{Num: 1, Den: 32}}
				l.report(b, "hash-1/32", l.median(b, func() { m.pass(&sel) }))
				sel.Candidates = 2
				l.report(b, "hash-1/32-rerank", l.median(b, func() { m.pass(&sel) }))
			}
			m.sequences(b, 1, 16384, prefillRows)
			total := 0.0
			for start := 0; start < 16384; start += prefillRows {
				m.batch.Segments[0].Start = start
				fatal(b, d.SetBatch(m.batch, m.batch.Segments))
				total += l.median(b, func() { m.pass(nil) })
			}
			fmt.Printf("%s prefill of 16384 tokens in passes of %d: %.1f ms\n", s.name, prefillRows, total/1e3)
		})
	}
}

func devicePtr(t kernels.Tensor) cu.DevicePtr { return cu.DevicePtr(address(t)) }
