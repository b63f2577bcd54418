package train

import (
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/selector"
	"github.com/hashattn/hashattn/model/trace"
	"gonum.org/v1/gonum/mat"
)

// QueryMetric is a change of basis in which equal errors of a key cost equal
// errors of q.k: keys are multiplied by the root M of their queries' second
// moment, queries by its inverse, which leaves q.k as it was. Behind that,
// both are rotated to the keys' principal components, dealt to parts so that
// each carries like much (OPQ's parametric solution, Ge et al. 2013). It shows
// what a product code of that many parts is worth that minds the queries.
type QueryMetric struct {
	heads map[[2]int]basis // by layer and KV head
	group int
}

type basis struct {
	mean       []float64
	key, query *mat.Dense // [headDim, headDim], rows of keys and queries times it
}

// FitQueryMetric fits the basis to the keys and queries of a trace.
func FitQueryMetric(r *trace.Reader, sink, parts int) (*QueryMetric, error) {
	d, group := r.Model.HeadDim, r.Model.Group()
	if parts < 1 || d%parts != 0 {
		return nil, fmt.Errorf("query metric: %d parts of a head of %d dimensions", parts, d)
	}
	m := &QueryMetric{heads: map[[2]int]basis{}, group: group}
	for _, l := range r.Captured {
		for kv := range r.Model.KVHeads {
			u := &unit{config: Config{Sink: sink}, trace: r, layer: l, kvHead: kv, queryHead: kv * group, heads: group, dim: d, queryNorm: make([]norm, group)}
			s, err := u.sample()
			if err != nil {
				return nil, fmt.Errorf("query metric: %v: %w", u, err)
			}
			b, err := fitBasis(s, d, parts)
			if err != nil {
				return nil, fmt.Errorf("query metric: %v: %w", u, err)
			}
			m.heads[[2]int{l, kv}] = b
		}
	}
	return m, nil
}

func fitBasis(s sample, d, parts int) (basis, error) {
	b := basis{mean: normOf(s.keys).mean}
	metric, err := root(s.queries, d)
	if err != nil {
		return b, err
	}
	n, _ := s.keys.Dims()
	x := mat.NewDense(n, d, nil)
	for r := range n {
		for j, v := range s.keys.RawRowView(r) {
			x.Set(r, j, v-b.mean[j])
		}
	}
	x.Mul(x, metric)
	var moment mat.SymDense
	moment.SymOuterK(1/float64(n), x.T())
	var eigen mat.EigenSym
	if !eigen.Factorize(&moment, true) {
		return b, fmt.Errorf("the keys' second moment has no eigenvalues")
	}
	var vectors, inverse mat.Dense
	eigen.VectorsTo(&vectors)
	rotation := mat.NewDense(d, d, nil)
	for to, from := range deal(eigen.Values(nil), parts) {
		for i := range d {
			rotation.Set(i, to, vectors.At(i, from))
		}
	}
	if err := inverse.Inverse(metric); err != nil {
		return b, fmt.Errorf("the queries' second moment: %w", err)
	}
	b.key, b.query = mat.NewDense(d, d, nil), mat.NewDense(d, d, nil)
	b.key.Mul(metric, rotation)
	b.query.Mul(&inverse, rotation)
	return b, nil
}

// deal orders components of ascending variance into parts of equal length and
// nearly equal product of variances: the largest left goes to the part with
// the least so far that has room.
func deal(variances []float64, parts int) []int {
	d := len(variances)
	logOf := func(i int) float64 { return math.Log(max(variances[i], 1e-9)) }
	dealt, sums := make([][]int, parts), make([]float64, parts)
	for i := d - 1; i >= 0; i-- {
		best := -1
		for p := range parts {
			if len(dealt[p]) < d/parts && (best < 0 || sums[p] < sums[best]) {
				best = p
			}
		}
		dealt[best] = append(dealt[best], i)
		sums[best] += logOf(i) - logOf(0)
	}
	return slices.Concat(dealt...)
}

// rotate sets rows of dst to (row of x - mean) times m; mean may be nil.
func rotate(dst []float64, x []float64, mean []float64, m *mat.Dense) {
	d, _ := m.Dims()
	rows := mat.NewDense(len(x)/d, d, slices.Clone(x))
	for r := range len(x) / d {
		row := rows.RawRowView(r)
		for j := range mean {
			row[j] -= mean[j]
		}
	}
	out := mat.NewDense(len(x)/d, d, dst)
	out.Mul(rows, m)
}

// bf16 is rotate on bfloat16.
func (b basis) bf16(x []uint16, mean []float64, m *mat.Dense) []uint16 {
	wide := make([]float64, len(x))
	for i, v := range x {
		wide[i] = float64(dtype.F32FromBF16(v))
	}
	rotate(wide, wide, mean, m)
	out := make([]uint16, len(x))
	for i, v := range wide {
		out[i] = dtype.BF16FromF32(float32(v))
	}
	return out
}

// Rewrite writes a trace in the new basis to the folder, which it empties
// first, and opens it. Logits are those of the trace but for the rounding of
// bfloat16 and, for each query, a constant, which attention does not see.
func (m *QueryMetric) Rewrite(r *trace.Reader, dir string) (*trace.Reader, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	w, err := trace.Create(dir, r.Header)
	if err != nil {
		return nil, err
	}
	d := r.Model.HeadDim
	for i := range r.Shards {
		doc, err := r.Document(i)
		if err != nil {
			return nil, err
		}
		err = w.Add(trace.Document{ID: doc.ID, Hash: doc.Hash, Kind: doc.Kind, Tokens: doc.Tokens, Positions: doc.Positions,
			Layer: func(l int) (q, k, v []uint16, err error) {
				data, err := doc.Layer(l)
				if err != nil {
					return nil, nil, nil, err
				}
				for kv := range r.Model.KVHeads {
					b := m.heads[[2]int{l, kv}]
					if b.key == nil {
						return nil, nil, nil, fmt.Errorf("layer %d was not in the trace that the query metric was fitted to", l)
					}
					n, rows := len(doc.Tokens)*d, m.group*doc.Queries*d
					k = append(k, b.bf16(data.K[kv*n:(kv+1)*n], b.mean, b.key)...)
					q = append(q, b.bf16(data.Q[kv*rows:(kv+1)*rows], nil, b.query)...)
				}
				return q, k, data.V, nil
			}})
		if err != nil {
			return nil, err
		}
	}
	return trace.Open(dir)
}

// Samples gives samples in the new basis.
func (m *QueryMetric) Samples(s selector.Samples) selector.Samples { return metricSamples{m, s} }

type metricSamples struct {
	metric *QueryMetric
	of     selector.Samples
}

// Layer implements selector.Samples.
func (s metricSamples) Layer(layer int) (q, k [][]float32, err error) {
	if q, k, err = s.of.Layer(layer); err != nil {
		return nil, nil, err
	}
	turn := func(x []float32, mean []float64, m *mat.Dense) {
		wide := make([]float64, len(x))
		for i, v := range x {
			wide[i] = float64(v)
		}
		rotate(wide, wide, mean, m)
		for i, v := range wide {
			x[i] = float32(v)
		}
	}
	for kv, keys := range k {
		b := s.metric.heads[[2]int{layer, kv}]
		if b.key == nil {
			return nil, nil, fmt.Errorf("layer %d was not in the trace that the query metric was fitted to", layer)
		}
		turn(keys, b.mean, b.key)
		for g := range s.metric.group {
			turn(q[kv*s.metric.group+g], nil, b.query)
		}
	}
	return q, k, nil
}
