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

// rows copies rows of x [.., dim], bfloat16, into dst as (x - mean) / scale.
func rows[T number](dst []T, x []uint16, dim int, at []int, n norm) {
	for i, r := range at {
		out := dst[i*dim : (i+1)*dim]
		for j, v := range x[r*dim : (r+1)*dim] {
			out[j] = (T(dtype.F32FromBF16(v)) - T(n.mean[j])) * T(n.inverse[j])
		}
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

// batch is the data of one step of a unit.
type batch[T number] struct {
	layout
	u       *unit
	keys    []T // [documents*keys, headDim], standardised, documents packed
	queries []T // [documents, heads, queries, headDim] or joint [documents*queries, heads*headDim]
	target  []T // [documents*layout.queries, layout.keys]

	teacher []T // [queries, headDim] of one head, so that teacher . key is the logit
	logits  []T // [queries, layout.keys]
	edge    []T // [sink+local, headDim] keys that are always read
	edges   []T // [queries, sink+local]
}

func newBatch[T number](u *unit, keys int) *batch[T] {
	c, d, heads := u.config, u.dim, len(u.queryNorm)
	b := &batch[T]{u: u, layout: layout{documents: c.Documents, queries: c.Queries, keys: keys, chunk: c.Queries, offset: make([]int, c.Documents+1)}}
	if !u.joint {
		b.layout.queries *= heads
	}
	b.keys = make([]T, c.Documents*keys*d)
	b.queries = make([]T, c.Documents*heads*c.Queries*d)
	b.target = make([]T, c.Documents*b.layout.queries*keys)
	b.teacher = make([]T, c.Queries*d)
	b.logits = make([]T, c.Queries*keys)
	b.edge = make([]T, (c.Sink+c.Local)*d)
	b.edges = make([]T, c.Queries*(c.Sink+c.Local))
	return b
}

// fill loads the draws' queries and keys and what attention made of them.
func (b *batch[T]) fill(draws []draw) error {
	u, c, d := b.u, b.u.config, b.u.dim
	for i, w := range draws {
		doc, err := u.trace.Document(w.document)
		if err != nil {
			return err
		}
		layer, err := doc.Layer(u.layer)
		if err != nil {
			return err
		}
		n := len(doc.Tokens)
		k := layer.K[u.kvHead*n*d : (u.kvHead+1)*n*d]
		lo := b.offset[i]
		hi := lo + len(w.keys)
		b.offset[i+1] = hi
		keys := b.keys[lo*d : hi*d]
		rows(keys, k, d, w.keys, u.keyNorm)
		if u.joint {
			edge := make([]int, 0, c.Sink+c.Local)
			for p := range c.Sink {
				edge = append(edge, p)
			}
			for p := w.start - c.Local; p < w.start; p++ {
				edge = append(edge, p)
			}
			rows(b.edge, k, d, edge, u.keyNorm)
		}
		for g, norm := range u.queryNorm {
			head := (u.queryHead + g) * doc.Queries * d
			q := layer.Q[head : head+doc.Queries*d]
			if u.joint {
				b.joint(i, g, q, w.queries, norm)
			} else {
				at := (i*len(u.queryNorm) + g) * c.Queries * d
				rows(b.queries[at:at+c.Queries*d], q, d, w.queries, norm)
			}
			b.teach(i, g, q, w, keys)
		}
		if u.joint {
			for r := i * c.Queries; r < (i+1)*c.Queries; r++ {
				normalise(b.target[r*b.layout.keys:][:len(w.keys)])
			}
		}
	}
	return nil
}

// joint sets one head's part of the concatenated queries.
func (b *batch[T]) joint(i, g int, q []uint16, at []int, n norm) {
	d, width := b.u.dim, len(b.u.queryNorm)*b.u.dim
	for r, row := range at {
		out := b.queries[(i*len(at)+r)*width+g*d:]
		rows(out[:d], q, d, []int{row}, n)
	}
}

// teach sets the targets of head g of document i. The logit, scale q.k, is,
// up to a constant of the query, that of the standardised key with the query
// times the key's scale.
func (b *batch[T]) teach(i, g int, q []uint16, w draw, keys []T) {
	u, d, n, m := b.u, b.u.dim, len(w.keys), len(w.queries)
	scale := float64(u.trace.Scale)
	for r, row := range w.queries {
		for j, v := range q[row*d : (row+1)*d] {
			b.teacher[r*d+j] = T(float64(dtype.F32FromBF16(v)) * u.keyNorm.scale[j] * scale)
		}
	}
	logits := b.logits[:m*n]
	gemm(false, true, m, n, d, 1, b.teacher, keys, 0, logits)
	stride := b.layout.keys
	switch {
	case u.config.Preset == "paper":
		count := max(4, int(math.Round(paperPositives*float64(n)/float64(w.past))))
		for r := range m {
			top(b.target[(i*m+r)*stride:][:n], logits[r*n:(r+1)*n], count)
		}
	case !u.joint:
		for r := range m {
			at := (i*len(u.queryNorm)+g)*m + r
			softmax(b.target[at*stride:][:n], logits[r*n:(r+1)*n], whole, false)
		}
	default:
		// The head's mass on the drawn keys among all: those drawn stand for
		// all past ones, sink and local are exact.
		edge := u.config.Sink + u.config.Local
		edges := b.edges[:m*edge]
		gemm(false, true, m, edge, d, 1, b.teacher, b.edge, 0, edges)
		more := math.Log(float64(w.past) / float64(n))
		for r := range m {
			share := whole
			if edge > 0 {
				x := edges[r*edge : (r+1)*edge]
				top := maximum(x)
				outside := float64(top) + math.Log(float64(expSum(x, top)))
				share = func(inside float64) float64 {
					s := 1 / (math.Exp(more) + math.Exp(min(outside-inside, 80)))
					if p := u.config.MassPower; p != 1 {
						s = math.Pow(s, p)
					}
					return s
				}
			}
			softmax(b.target[(i*m+r)*stride:][:n], logits[r*n:(r+1)*n], share, g > 0)
		}
	}
}

// softmax sets dst to share softmax(x), or adds that to dst; x is overwritten.
// share gets log sum exp of x.
func softmax[T number](dst, x []T, share func(logSum float64) float64, add bool) {
	top := maximum(x)
	sum := expSum(x, top)
	f := T(share(float64(top)+math.Log(float64(sum))) / float64(sum))
	dst = dst[:len(x)]
	if add {
		for i, e := range x {
			dst[i] += e * f
		}
		return
	}
	for i, e := range x {
		dst[i] = e * f
	}
}

func whole(float64) float64 { return 1 }

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
