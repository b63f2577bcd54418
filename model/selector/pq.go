package selector

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// pq ranks tokens by product-quantised keys (Jegou et al. 2011; for attention
// PQCache, arXiv 2407.12820): the key in parts, each replaced by the nearest
// of 2^bits entries of a codebook made by k-means on calibration keys.
type pq struct {
	name      string
	device    kernels.Device
	shape     Shape
	parts     int
	bits      int
	codebooks []kernels.Tensor // per layer f32 [kvHeads, parts, entries, width]
	pool      pool
}

// kmeansKeys bounds the keys per head that k-means looks at.
const kmeansKeys, kmeansRounds = 4096, 10

func newPQ(e Env, o options) (Scorer, error) {
	p := &pq{device: e.Device, shape: e.Shape, pool: pool{device: e.Device}}
	p.parts, p.bits = o.integer("parts", 4, 1, e.Shape.HeadDim), o.integer("bits", 8, 1, 8)
	p.name = o.name("pq")
	if err := o.unknown(); err != nil {
		return nil, err
	}
	if e.Shape.HeadDim%p.parts != 0 {
		return nil, fmt.Errorf("pq: %d parts of a head of %d dimensions", p.parts, e.Shape.HeadDim)
	}
	if e.Samples == nil {
		return nil, fmt.Errorf("pq needs a trace to make its codebooks from")
	}
	d, width, entries := e.Shape.HeadDim, e.Shape.HeadDim/p.parts, 1<<p.bits
	for l := range e.Shape.Layers {
		if slices.Contains(e.Dense, l) {
			p.codebooks = append(p.codebooks, kernels.Tensor{})
			continue
		}
		_, k, err := e.Samples.Layer(l)
		if err != nil {
			return nil, fmt.Errorf("pq: layer %d: %w", l, err)
		}
		var books []float32
		for h, keys := range k {
			stride := max(1, len(keys)/d/kmeansKeys)
			for part := range p.parts {
				var x []float32
				for at := 0; at+d <= len(keys); at += stride * d {
					x = append(x, keys[at+part*width:at+(part+1)*width]...)
				}
				rng := rand.New(rand.NewPCG(uint64(l), uint64(h*p.parts+part)))
				books = append(books, kmeans(x, width, entries, rng)...)
			}
		}
		t, err := e.Device.Alloc(dtype.F32, e.Shape.KVHeads, p.parts, entries, width)
		if err == nil {
			err = e.Device.Upload(t, bytesOf(books))
		}
		if err != nil {
			return nil, err
		}
		p.codebooks = append(p.codebooks, t)
	}
	return p, nil
}

// kmeans is Lloyd's algorithm from random rows of x [n, width]; an entry that
// no row is nearest to moves to a random row.
func kmeans(x []float32, width, entries int, rng *rand.Rand) []float32 {
	n := len(x) / width
	centres := make([]float32, 0, entries*width)
	for range entries {
		i := rng.IntN(n)
		centres = append(centres, x[i*width:(i+1)*width]...)
	}
	norms := make([]float32, entries)
	for range kmeansRounds {
		for e := range entries {
			norms[e] = 0
			for _, v := range centres[e*width : (e+1)*width] {
				norms[e] += v * v
			}
		}
		sums, counts := make([]float64, len(centres)), make([]int, entries)
		for i := range n {
			row := x[i*width : (i+1)*width]
			best, nearest := 0, float32(math.Inf(1))
			for e := range entries {
				c := centres[e*width : (e+1)*width]
				dot := float32(0)
				for j, v := range row {
					dot += v * c[j]
				}
				if distance := norms[e] - 2*dot; distance < nearest {
					best, nearest = e, distance
				}
			}
			counts[best]++
			for j, v := range row {
				sums[best*width+j] += float64(v)
			}
		}
		for e, count := range counts {
			if count == 0 {
				i := rng.IntN(n)
				copy(centres[e*width:], x[i*width:(i+1)*width])
				continue
			}
			for j := range width {
				centres[e*width+j] = float32(sums[e*width+j] / float64(count))
			}
		}
	}
	return centres
}

func (p *pq) unit() kernels.MassUnit { return kernels.MassUnit{Scale: float64(p.shape.Scale)} }

// Name implements Scorer.
func (p *pq) Name() string { return p.name }

// Bits implements Scorer.
func (p *pq) Bits() float64 { return float64(p.parts * p.bits) }

// Heads implements Scorer.
func (p *pq) Heads(int) int { return p.shape.QueryHeads }

// NewIndex implements Scorer: a byte per part [kvHeads, capacity, parts].
func (p *pq) NewIndex(capacity int, layers []int) (*kernels.Index, error) {
	return newIndex(p.shape.Layers, layers, func() ([]kernels.Tensor, error) {
		t, err := p.device.Alloc(dtype.U8, p.shape.KVHeads, capacity, p.parts)
		return []kernels.Tensor{t}, err
	})
}

// Update implements Scorer.
func (p *pq) Update(layer int, b *kernels.Batch) { p.device.IndexParts(p.codebooks[layer], layer, b) }

// Score implements Scorer.
func (p *pq) Score(q kernels.Tensor, layer int, b *kernels.Batch, _ kernels.Selection) kernels.Tensor {
	tables := p.pool.get("tables", dtype.F32, b.Tokens, p.shape.QueryHeads, p.parts, 1<<p.bits)
	p.device.PartTables(tables, q, p.codebooks[layer])
	scores := p.pool.get("scores", dtype.F32, b.Tokens, p.shape.QueryHeads, room(b))
	p.device.ScanTables(scores, tables, layer, b)
	return scores
}
