package train

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/hashattn/hashattn/kernels/dtype"
	"gonum.org/v1/gonum/mat"
)

// sampleRows is about how many keys and queries the start is fitted to.
const sampleRows = 4096

// sample is a unit's keys and queries from all over the trace.
type sample struct {
	keys    *mat.Dense   // [n, headDim]
	queries []*mat.Dense // per head [m, headDim]
}

func (u *unit) sample() (s sample, err error) {
	keyRows, queryRows := 0, 0
	for _, shard := range u.trace.Shards {
		keyRows += max(0, shard.Tokens-u.config.Sink)
		queryRows += shard.Queries
	}
	keyStep := max(1, keyRows/sampleRows)
	queryStep := max(1, queryRows*len(u.queryNorm)/sampleRows)
	var keys []float64
	queries := make([][]float64, len(u.queryNorm))
	pick := func(dst []float64, x []uint16, first, end, step int) []float64 {
		for r := first; r < end; r += step {
			for _, v := range x[r*u.dim : (r+1)*u.dim] {
				dst = append(dst, float64(dtype.F32FromBF16(v)))
			}
		}
		return dst
	}
	for i := range u.trace.Shards {
		doc, err := u.trace.Document(i)
		if err != nil {
			return s, err
		}
		layer, err := doc.Layer(u.layer)
		if err != nil {
			return s, err
		}
		n, m := len(doc.Tokens), doc.Queries
		keys = pick(keys, layer.K[u.kvHead*n*u.dim:], min(u.config.Sink, n-1), n, keyStep)
		for g := range queries {
			queries[g] = pick(queries[g], layer.Q[(u.queryHead+g)*m*u.dim:], 0, m, queryStep)
		}
	}
	s.keys = mat.NewDense(len(keys)/u.dim, u.dim, keys)
	for _, q := range queries {
		s.queries = append(s.queries, mat.NewDense(len(q)/u.dim, u.dim, q))
	}
	for _, x := range append([]*mat.Dense{s.keys}, s.queries...) {
		if v := mat.Sum(x); math.IsNaN(v) || math.IsInf(v, 0) {
			return s, fmt.Errorf("the trace has values that are not finite")
		}
	}
	return s, nil
}

// normOf is the mean and standard deviation of each column.
func normOf(x *mat.Dense) norm {
	n, d := x.Dims()
	out := norm{make([]float64, d), make([]float64, d), make([]float64, d)}
	for r := range n {
		for j, v := range x.RawRowView(r) {
			out.mean[j] += v / float64(n)
		}
	}
	for r := range n {
		for j, v := range x.RawRowView(r) {
			out.scale[j] += (v - out.mean[j]) * (v - out.mean[j]) / float64(max(1, n-1))
		}
	}
	for j := range d {
		out.scale[j] = math.Sqrt(out.scale[j]) + 1e-3
		out.inverse[j] = 1 / out.scale[j]
	}
	return out
}

// start is the maps before training, on raw keys and queries: z = w (k - mean)
// + feedback of earlier bits, query weights = a q.
type start struct {
	w        *mat.Dense // [bits, headDim]
	feedback *mat.Dense // [bits, bits], row i adds to z_i
	a        *mat.Dense // [bits, headDim]
}

// residualStart fits a residual binary code to the keys in the query metric:
// errors of q.k count, so keys are multiplied by the square root of the
// queries' second moment. Each block of bits is the signs of the first
// principal components of what the bits before it have left, whitened; the
// query map is the ridge fit k = mean + A^T bits, times the scale of
// attention.
// Block 0 makes a plain code: all bits at once, their components rotated at
// random so that none has more variance than another.
func residualStart(s sample, scale float64, bits, block int, rng *rand.Rand) (out start, err error) {
	n, d := s.keys.Dims()
	mean := normOf(s.keys).mean
	x := mat.NewDense(n, d, nil)
	for r := range n {
		for j, v := range s.keys.RawRowView(r) {
			x.Set(r, j, v-mean[j])
		}
	}
	metric, err := root(s.queries, d)
	if err != nil {
		return out, err
	}
	var y mat.Dense
	y.Mul(x, metric)
	residual := mat.DenseCopyOf(&y)
	code := mat.NewDense(n, bits, nil)
	out.w = mat.NewDense(bits, d, nil)
	out.feedback = mat.NewDense(bits, bits, nil)
	width := block
	if width == 0 {
		width = bits
	}
	var decode *mat.Dense // [bits so far, d]
	for first := 0; first < bits; first += width {
		e, err := components(residual, width, rng) // [d, width]
		if err != nil {
			return out, err
		}
		if block == 0 {
			e.Mul(e, rotation(width, rng))
		}
		var w, z mat.Dense
		w.Mul(metric, e)
		for i := range width {
			for j := range d {
				out.w.Set(first+i, j, w.At(j, i))
			}
		}
		if first > 0 {
			var f mat.Dense
			f.Mul(decode, e) // [first, width]
			for i := range width {
				for j := range first {
					out.feedback.Set(first+i, j, -f.At(j, i))
				}
			}
		}
		z.Mul(residual, e)
		for r := range n {
			for i := range width {
				code.Set(r, first+i, -1)
				if z.At(r, i) > 0 {
					code.Set(r, first+i, 1)
				}
			}
		}
		seen := mat.DenseCopyOf(code.Slice(0, n, 0, first+width))
		if decode, err = ridge(seen, &y); err != nil {
			return out, err
		}
		residual.Mul(seen, decode)
		residual.Sub(&y, residual)
	}
	if out.a, err = ridge(code, x); err != nil {
		return out, err
	}
	out.a.Scale(scale, out.a)
	return out, nil
}

// root is the square root of the second moment of the queries.
func root(queries []*mat.Dense, d int) (*mat.Dense, error) {
	moment := mat.NewSymDense(d, nil)
	count := 0
	for _, q := range queries {
		n, _ := q.Dims()
		count += n
		var m mat.SymDense
		m.SymOuterK(1, q.T())
		moment.AddSym(moment, &m)
	}
	moment.ScaleSym(1/float64(count), moment)
	var eigen mat.EigenSym
	if !eigen.Factorize(moment, true) {
		return nil, fmt.Errorf("the queries' second moment has no eigenvalues")
	}
	values := eigen.Values(nil)
	var vectors, scaled, out mat.Dense
	eigen.VectorsTo(&vectors)
	scaled.CloneFrom(&vectors)
	floor := max(1e-6*values[d-1], 1e-30)
	for j, v := range values {
		for i := range d {
			scaled.Set(i, j, scaled.At(i, j)*math.Sqrt(max(v, floor)))
		}
	}
	out.Mul(&scaled, vectors.T())
	return &out, nil
}

// components is the first width principal components of x, each divided by its
// standard deviation: [d, width]. If width exceeds d, random combinations of
// all of them follow.
func components(x *mat.Dense, width int, rng *rand.Rand) (*mat.Dense, error) {
	n, d := x.Dims()
	var moment mat.SymDense
	moment.SymOuterK(1/float64(n), x.T())
	var eigen mat.EigenSym
	if !eigen.Factorize(&moment, true) {
		return nil, fmt.Errorf("the keys' second moment has no eigenvalues")
	}
	values := eigen.Values(nil)
	var vectors mat.Dense
	eigen.VectorsTo(&vectors)
	out := mat.NewDense(d, width, nil)
	for i := range min(width, d) {
		from := d - 1 - i
		f := 1 / math.Sqrt(max(values[from], 1e-9))
		for j := range d {
			out.Set(j, i, vectors.At(j, from)*f)
		}
	}
	for i := d; i < width; i++ {
		for k := range d {
			f := rng.NormFloat64() / math.Sqrt(float64(d))
			for j := range d {
				out.Set(j, i, out.At(j, i)+f*out.At(j, k))
			}
		}
	}
	return out, nil
}

// ridge is the least-squares A of code A = y, slightly shrunk.
func ridge(code, y *mat.Dense) (*mat.Dense, error) {
	n, bits := code.Dims()
	var moment mat.SymDense
	moment.SymOuterK(1, code.T())
	for i := range bits {
		moment.SetSym(i, i, moment.At(i, i)+1e-3*float64(n))
	}
	var right, out mat.Dense
	right.Mul(code.T(), y)
	var chol mat.Cholesky
	if !chol.Factorize(&moment) {
		return nil, fmt.Errorf("the codes' second moment is singular")
	}
	if err := chol.SolveTo(&out, &right); err != nil {
		return nil, err
	}
	return &out, nil
}

// rotation is a random orthogonal matrix.
func rotation(n int, rng *rand.Rand) *mat.Dense {
	x := mat.NewDense(n, n, nil)
	for i := range n {
		for j := range n {
			x.Set(i, j, rng.NormFloat64())
		}
	}
	var qr mat.QR
	qr.Factorize(x)
	var q mat.Dense
	qr.QTo(&q)
	return &q
}
