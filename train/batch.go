package train

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/trace"
)

// block is a run of consecutive query positions of a document.
type block struct {
	document   int
	start      int // position of the first query
	first, len int // rows of the document's queries
}

// blocksOf lists the runs of at least c.Queries queries that have keys to rank
// before them, by document. A document without any is an error, since it would
// be left out unnoticed.
func blocksOf(r *trace.Reader, c Config) ([][]block, error) {
	all := make([][]block, len(r.Shards))
	for d := range r.Shards {
		doc, err := r.Document(d)
		if err != nil {
			return nil, err
		}
		p := doc.Positions
		for i := 0; i < len(p); {
			j := i + 1
			for j < len(p) && p[j] == p[j-1]+1 && j-i < trace.BlockLen {
				j++
			}
			if j-i >= c.Queries && int(p[i])-c.Local-c.Sink >= 16 {
				all[d] = append(all[d], block{d, int(p[i]), i, j - i})
			}
			i = j
		}
		if len(all[d]) == 0 {
			return nil, fmt.Errorf("trace document %s has no run of %d queries with 16 keys between sink %d and local %d: capture it with query blocks, or lower queries, sink or local", doc.ID, c.Queries, c.Sink, c.Local)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the trace has no documents")
	}
	return all, nil
}

// draw is what one document gives to a step: the same for all layers and heads.
type draw struct {
	block
	queries []int // rows of the document's queries
	keys    []int // positions, ascending
	past    int   // how many keys there were to draw from
}

// step draws the documents of a training step.
func (c Config) step(number int, blocks [][]block) []draw {
	rng := rand.New(rand.NewPCG(c.Seed, uint64(number)))
	draws := make([]draw, c.Documents)
	for i := range draws {
		of := blocks[rng.IntN(len(blocks))]
		d := draw{block: of[rng.IntN(len(of))]}
		for _, q := range rng.Perm(d.len)[:c.Queries] {
			d.queries = append(d.queries, d.first+q)
		}
		slices.Sort(d.queries)
		lo, hi := c.Sink, d.start-c.Local
		d.past = hi - lo
		need := min(d.past, c.Keys)
		for p := lo; need > 0; p++ { // selection sampling: each subset is equally likely
			if need == hi-p || rng.IntN(hi-p) < need {
				d.keys = append(d.keys, p)
				need--
			}
		}
		draws[i] = d
	}
	return draws
}

// widen sets dst to x.
func widen[T number](dst []T, x []uint16) {
	if dst, ok := any(dst).([]float32); ok {
		dtype.F32FromBF16s(dst, x)
		return
	}
	for i, v := range x {
		dst[i] = T(dtype.F32FromBF16(v))
	}
}

// norm is how inputs are standardised; it is folded into the trained weights.
type norm struct{ mean, scale, inverse []float64 }

func identity(dim int) norm {
	n := norm{make([]float64, dim), make([]float64, dim), make([]float64, dim)}
	for i := range dim {
		n.scale[i], n.inverse[i] = 1, 1
	}
	return n
}

// batch is the data of one step of a unit, in the memory of its engine.
type batch[T number] struct {
	layout
	u       *unit
	on      engine[T]
	keys    []T // [documents*keys, headDim], standardised, documents packed
	queries []T // [documents, heads, queries, headDim] or joint [documents*queries, heads*headDim]
	target  []T // [documents*layout.queries, layout.keys]

	together int // heads whose logits are made at a time
	teacher  []T // [together*queries, headDim], so that teacher . key is the logit
	logits   []T // [together*queries, layout.keys]
	edge     []T // [sink+local, headDim] keys that are always read
	edges    []T // [together*queries, sink+local]
	key      ends[T]
	query    ends[T] // of all heads
	teach    ends[T]
	held     map[int][2][]uint16 // by document: the group's queries, the keys
	at       []int32
}

// ends are a norm in the engine's memory, of one or more heads.
type ends[T number] struct{ mean, inverse []T }

func newBatch[T number](u *unit, s *ops[T], keys int) *batch[T] {
	c, d, heads := u.config, u.dim, len(u.queryNorm)
	b := &batch[T]{u: u, on: s.on, held: map[int][2][]uint16{}, together: 1,
		layout: layout{documents: c.Documents, queries: c.Queries, keys: keys, chunk: c.Queries, offset: make([]int, c.Documents+1)}}
	if s.on.Wide() {
		b.together = heads
	}
	if !u.joint {
		b.layout.queries *= heads
		b.layout.chunk *= b.together
	}
	b.keys = s.make(c.Documents * keys * d)
	b.queries = s.make(c.Documents * heads * c.Queries * d)
	b.target = s.make(c.Documents * b.layout.queries * keys)
	b.teacher = s.make(b.together * c.Queries * d)
	b.logits = s.make(b.together * c.Queries * keys)
	if u.joint {
		b.edge = s.make((c.Sink + c.Local) * d)
		b.edges = s.make(b.together * c.Queries * (c.Sink + c.Local))
	}
	put := func(x []float64) []T {
		narrow := make([]T, len(x))
		for i, v := range x {
			narrow[i] = T(v)
		}
		y := s.make(len(x))
		s.on.Put(y, narrow)
		return y
	}
	b.key = ends[T]{put(u.keyNorm.mean), put(u.keyNorm.inverse)}
	var means, inverses []float64
	for _, n := range u.queryNorm {
		means, inverses = append(means, n.mean...), append(inverses, n.inverse...)
	}
	b.query = ends[T]{put(means), put(inverses)}
	// The logit, scale q.k, is, up to a constant of the query, that of the
	// standardised key with the query times the key's scale.
	factor := make([]float64, d)
	for j, v := range u.keyNorm.scale {
		factor[j] = v * float64(u.trace.Scale)
	}
	b.teach = ends[T]{put(make([]float64, d)), put(factor)}
	return b
}

// document is a document's queries of the unit's heads, [heads, n, headDim],
// and keys.
func (b *batch[T]) document(i int) (q, k []uint16, queries int, err error) {
	u, d := b.u, b.u.dim
	doc, err := u.trace.Document(i)
	if err != nil {
		return nil, nil, 0, err
	}
	m := doc.Queries
	held, ok := b.held[i]
	if !ok {
		layer, err := doc.Layer(u.layer)
		if err != nil {
			return nil, nil, 0, err
		}
		n, heads := len(doc.Tokens), len(u.queryNorm)
		if held[0], err = b.on.Hold(layer.Q[u.queryHead*m*d : (u.queryHead+heads)*m*d]); err != nil {
			return nil, nil, 0, err
		}
		if held[1], err = b.on.Hold(layer.K[u.kvHead*n*d : (u.kvHead+1)*n*d]); err != nil {
			return nil, nil, 0, err
		}
		b.held[i] = held
	}
	return held[0], held[1], m, nil
}

// fill loads the draws' queries and keys and what attention made of them.
func (b *batch[T]) fill(draws []draw) error {
	u, c, d := b.u, b.u.config, b.u.dim
	heads := len(u.queryNorm)
	for i, w := range draws {
		q, k, m, err := b.document(w.document)
		if err != nil {
			return err
		}
		lo := b.offset[i]
		hi := lo + len(w.keys)
		b.offset[i+1] = hi
		keys := b.keys[lo*d : hi*d]
		b.on.Rows(keys, d, k, d, b.rows(w.keys, 0, 0, 1), b.key.mean, b.key.inverse, len(w.keys))
		if u.joint {
			b.at = b.at[:0]
			for p := range c.Sink {
				b.at = append(b.at, int32(p))
			}
			for p := w.start - c.Local; p < w.start; p++ {
				b.at = append(b.at, int32(p))
			}
			b.on.Rows(b.edge, d, k, d, b.at, b.key.mean, b.key.inverse, len(b.at))
			for g := range heads {
				out := b.queries[i*c.Queries*heads*d+g*d:]
				out = out[:min(len(out), c.Queries*heads*d)]
				b.on.Rows(out, heads*d, q, d, b.rows(w.queries, m, g, g+1), b.query.mean[g*d:(g+1)*d], b.query.inverse[g*d:(g+1)*d], c.Queries)
			}
		} else {
			at := i * heads * c.Queries * d
			b.on.Rows(b.queries[at:at+heads*c.Queries*d], d, q, d, b.rows(w.queries, m, 0, heads), b.query.mean, b.query.inverse, c.Queries)
		}
		for g := 0; g < heads; g += b.together {
			b.teachHeads(i, g, q, m, w, keys)
		}
	}
	return nil
}

// rows are those of the heads from .. to-1, each of which has m. They hold until
// the next call.
func (b *batch[T]) rows(at []int, m, from, to int) []int32 {
	b.at = b.at[:0]
	for h := from; h < to; h++ {
		for _, r := range at {
			b.at = append(b.at, int32(h*m+r))
		}
	}
	return b.at
}

// teachHeads sets the targets of some heads of document i, head g first, whose
// queries are q [heads, m, headDim].
func (b *batch[T]) teachHeads(i, g int, q []uint16, m int, w draw, keys []T) {
	u, c, d, n, count := b.u, b.u.config, b.u.dim, len(w.keys), len(w.queries)
	at := b.rows(w.queries, m, g, g+b.together)
	rows := len(at)
	b.on.Rows(b.teacher, d, q, d, at, b.teach.mean, b.teach.inverse, rows)
	logits := b.logits[:rows*n]
	b.on.Gemm(false, true, rows, n, d, 1, b.teacher, keys, 0, logits)
	stride := b.layout.keys
	if u.joint {
		// A head's mass on the drawn keys among all: those drawn stand for all
		// past ones, sink and local are exact.
		dst := b.target[i*count*stride : (i+1)*count*stride]
		var edges []T
		if edge := c.Sink + c.Local; edge > 0 {
			edges = b.edges[:rows*edge]
			b.on.Gemm(false, true, rows, edge, d, 1, b.teacher, b.edge, 0, edges)
		}
		more := math.Log(float64(w.past) / float64(n))
		b.on.Targets(dst, stride, logits, edges, count, b.together, false, more, c.MassPower, g == 0, g+b.together == len(u.queryNorm))
		return
	}
	first := (i*len(u.queryNorm) + g) * count
	dst := b.target[first*stride : (first+rows)*stride]
	if c.Preset == "paper" {
		b.on.Top(dst, stride, logits, n, max(4, int(math.Round(paperPositives*float64(n)/float64(w.past)))))
		return
	}
	b.on.Targets(dst, stride, logits, nil, count, b.together, true, 0, 1, true, true)
}

func normalise[T number](x []T) {
	sum := T(0)
	for _, v := range x {
		sum += v
	}
	f := 1 / max(sum, 1e-20)
	for i := range x {
		x[i] *= f
	}
}

// top sets dst to 1 at the count largest of x and to 0 elsewhere.
func top[T number](dst, x []T, count int) {
	count = min(count, len(x))
	// a heap of the largest so far, the smallest of them first
	heap := make([]T, 0, count)
	for _, v := range x {
		if len(heap) < count {
			heap = append(heap, v)
			if len(heap) == count {
				slices.Sort(heap)
			}
			continue
		}
		if v <= heap[0] {
			continue
		}
		i := 0
		for {
			child := 2*i + 1
			if child >= count {
				break
			}
			if child+1 < count && heap[child+1] < heap[child] {
				child++
			}
			if heap[child] >= v {
				break
			}
			heap[i] = heap[child]
			i = child
		}
		heap[i] = v
	}
	least := slices.Min(heap)
	for i, v := range x {
		dst[i] = 0
		if v >= least {
			dst[i] = 1
		}
	}
}
