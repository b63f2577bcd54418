package train

import (
	"fmt"
	"hash"
	"hash/fnv"

	"github.com/chewxy/hm"
	"github.com/hashattn/hashattn/kernels"
	"gonum.org/v1/gonum/blas"
	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// number is the precision of a graph: float32 to train, float64 to check
// gradients by finite differences.
type number interface{ float32 | float64 }

func dtypeOf[T number]() tensor.Dtype {
	if _, ok := any(T(0)).(float32); ok {
		return tensor.Float32
	}
	return tensor.Float64
}

// op is a differentiable operation on matrices (or, if rows is 0, one that
// gives a scalar). It owns the tensor of its result, so that a step allocates
// nothing; a graph runs on one goroutine.
type op[T number] struct {
	name       string
	id         int // gorgonia merges nodes of equal hash
	rows, cols int
	inputs     []bool // whether a gradient flows to the input
	// scalars of inputs arrive as slices of one.
	forward func(out []T, in ...[]T)
	// backward builds the gradients of the inputs that have one.
	backward func(in G.Nodes, out, grad *G.Node) (G.Nodes, error)
	scalarIn []bool // which inputs are scalars, nil for none

	result *tensor.Dense
	value  G.Value
	buffer []T
}

// ops numbers the operations of one graph.
type ops[T number] struct{ count int }

// apply adds o to the graph behind the nodes in.
func (s *ops[T]) apply(o *op[T], in ...*G.Node) *G.Node {
	s.count++
	o.id = s.count
	n := max(1, o.rows*o.cols)
	o.buffer = make([]T, n)
	if o.rows > 0 {
		o.result = tensor.New(tensor.WithShape(o.rows, o.cols), tensor.WithBacking(o.buffer))
		o.value = o.result
	}
	if o.inputs == nil {
		o.inputs = make([]bool, len(in))
	}
	return G.Must(G.ApplyOp(o, in...))
}

func (o *op[T]) Arity() int { return len(o.inputs) }

func (o *op[T]) Type() hm.Type {
	matrix := G.TensorType{Dims: 2, Of: dtypeOf[T]()}
	var types []hm.Type
	for i := range o.inputs {
		if o.scalarIn != nil && o.scalarIn[i] {
			types = append(types, dtypeOf[T]())
		} else {
			types = append(types, matrix)
		}
	}
	if o.rows == 0 {
		return hm.NewFnType(append(types, dtypeOf[T]())...)
	}
	return hm.NewFnType(append(types, matrix)...)
}

func (o *op[T]) InferShape(...G.DimSizer) (tensor.Shape, error) {
	if o.rows == 0 {
		return tensor.ScalarShape(), nil
	}
	return tensor.Shape{o.rows, o.cols}, nil
}

func (o *op[T]) Do(in ...G.Value) (G.Value, error) {
	slices := make([][]T, len(in))
	for i, v := range in {
		switch x := v.Data().(type) {
		case []T:
			slices[i] = x
		case T:
			slices[i] = []T{x}
		default:
			return nil, fmt.Errorf("%s: input %d is %T", o.name, i, x)
		}
	}
	o.forward(o.buffer, slices...)
	if o.rows > 0 {
		return o.value, nil
	}
	if x, ok := any(o.buffer[0]).(float32); ok {
		return G.NewF32(x), nil
	}
	return G.NewF64(float64(o.buffer[0])), nil
}

func (o *op[T]) ReturnsPtr() bool      { return true }
func (o *op[T]) CallsExtern() bool     { return false }
func (o *op[T]) OverwritesInput() int  { return -1 }
func (o *op[T]) WriteHash(h hash.Hash) { fmt.Fprintf(h, "%s#%d", o.name, o.id) }
func (o *op[T]) Hashcode() uint32 {
	h := fnv.New32a()
	o.WriteHash(h)
	return h.Sum32()
}
func (o *op[T]) String() string       { return fmt.Sprintf("%s#%d", o.name, o.id) }
func (o *op[T]) DiffWRT(int) []bool   { return o.inputs }
func (o *op[T]) differentiable() bool { return o.backward != nil }

func (o *op[T]) SymDiff(in G.Nodes, out, grad *G.Node) (G.Nodes, error) {
	if !o.differentiable() {
		return nil, fmt.Errorf("%s has no gradient", o.name)
	}
	return o.backward(in, out, grad)
}

// gemm sets c = alpha op(a) op(b) + beta c, all row-major and without gaps:
// op(a) [m, k], op(b) [k, n].
func gemm[T number](ta, tb bool, m, n, k int, alpha T, a, b []T, beta T, c []T) {
	if m == 0 || n == 0 {
		return
	}
	if k == 0 {
		clear(c[:m*n])
		return
	}
	t := map[bool]blas.Transpose{false: blas.NoTrans, true: blas.Trans}
	lda, ldb := k, n
	if ta {
		lda = m
	}
	if tb {
		ldb = k
	}
	switch a := any(a).(type) {
	case []float32:
		G.WhichBLAS().Sgemm(t[ta], t[tb], m, n, k, float32(alpha), a, lda, any(b).([]float32), ldb, float32(beta), any(c).([]float32), n)
	case []float64:
		G.WhichBLAS().Dgemm(t[ta], t[tb], m, n, k, float64(alpha), a, lda, any(b).([]float64), ldb, float64(beta), any(c).([]float64), n)
	}
}

// rowCount is how many rows of a matrix are in use in this step; what lies
// behind them is not read.
type rowCount func() int

func fixed(n int) rowCount { return func() int { return n } }

// affine sets y = x W^T + b. x [rows, in] is slabs of slab rows; slab s is
// multiplied by head s mod heads of W [heads*out, in] and b [heads, out]. With
// one head only the rows in use are computed. A gradient flows through to x
// only if asked for: what the trace gave needs none.
func (s *ops[T]) affine(x, w, b *G.Node, heads, slab int, used rowCount, through bool) *G.Node {
	rows, in, out := x.Shape()[0], x.Shape()[1], b.Shape()[1]
	// slabs calls f with each slab's head and rows.
	slabs := func(f func(head, lo, hi int)) {
		if heads == 1 {
			f(0, 0, used())
			return
		}
		for i := 0; i*slab < rows; i++ {
			f(i%heads, i*slab, (i+1)*slab)
		}
	}
	forward := func(y []T, v ...[]T) {
		x, w, b := v[0], v[1], v[2]
		slabs(func(h, lo, hi int) {
			for r := lo; r < hi; r++ {
				copy(y[r*out:(r+1)*out], b[h*out:(h+1)*out])
			}
			gemm(false, true, hi-lo, out, in, 1, x[lo*in:], w[h*out*in:(h+1)*out*in], 1, y[lo*out:])
		})
	}
	dx := func(d []T, v ...[]T) {
		dy, w := v[0], v[1]
		slabs(func(h, lo, hi int) {
			gemm(false, false, hi-lo, in, out, 1, dy[lo*out:], w[h*out*in:(h+1)*out*in], 0, d[lo*in:])
		})
	}
	dw := func(d []T, v ...[]T) {
		x, dy := v[0], v[1]
		clear(d)
		slabs(func(h, lo, hi int) {
			gemm(true, false, out, in, hi-lo, 1, dy[lo*out:hi*out], x[lo*in:], 1, d[h*out*in:(h+1)*out*in])
		})
	}
	db := func(d []T, v ...[]T) {
		dy := v[0]
		clear(d)
		slabs(func(h, lo, hi int) {
			sum := d[h*out : (h+1)*out]
			for r := lo; r < hi; r++ {
				for i, g := range dy[r*out : (r+1)*out] {
					sum[i] += g
				}
			}
		})
	}
	backward := func(n G.Nodes, _, grad *G.Node) (G.Nodes, error) {
		var toX *G.Node
		if through {
			toX = s.apply(&op[T]{name: "affine.dx", rows: rows, cols: in, forward: dx}, grad, n[1])
		}
		return G.Nodes{toX,
			s.apply(&op[T]{name: "affine.dw", rows: heads * out, cols: in, forward: dw}, n[0], grad),
			s.apply(&op[T]{name: "affine.db", rows: heads, cols: out, forward: db}, grad)}, nil
	}
	return s.apply(&op[T]{name: "affine", rows: rows, cols: out, inputs: []bool{through, true, true}, forward: forward, backward: backward}, x, w, b)
}

// elementwise makes an operation y = f(x), elements apart, which leaves its
// slope at each of them.
func (s *ops[T]) elementwise(name string, x *G.Node, used rowCount, f func(y, slope, x []T)) *G.Node {
	rows, cols := x.Shape()[0], x.Shape()[1]
	slope := make([]T, rows*cols)
	return s.apply(&op[T]{name: name, rows: rows, cols: cols, inputs: []bool{true},
		forward: func(y []T, v ...[]T) {
			n := used() * cols
			f(y[:n], slope[:n], v[0][:n])
		},
		backward: func(_ G.Nodes, out, grad *G.Node) (G.Nodes, error) {
			return G.Nodes{s.apply(&op[T]{name: name + ".dx", rows: rows, cols: cols, forward: func(d []T, v ...[]T) {
				n := used() * cols
				dy, d, slope := v[0][:n], d[:n], slope[:n]
				for i, g := range dy {
					d[i] = g * slope[i]
				}
			}}, grad, out)}, nil // out only orders it behind the forward pass
		}}, x)
}

func (s *ops[T]) silu(x *G.Node, used rowCount) *G.Node {
	return s.elementwise("silu", x, used, func(y, slope, x []T) {
		negative(slope, x, 1)
		expSum(slope, 0)
		for i, e := range slope {
			g := 1 / (1 + e)
			y[i] = x[i] * g
			slope[i] = g * (1 + x[i]*(1-g))
		}
	})
}

func (s *ops[T]) tanh(x *G.Node, used rowCount) *G.Node {
	return s.elementwise("tanh", x, used, func(y, slope, x []T) {
		negative(slope, x, 2)
		expSum(slope, 0)
		for i, e := range slope {
			y[i] = (1 - e) / (1 + e)
			slope[i] = 1 - y[i]*y[i]
		}
	})
}

// sign is the code of z in ±1. Its gradient is that of tanh (straight through).
func (s *ops[T]) sign(z *G.Node, used rowCount) *G.Node {
	return s.elementwise("sign", z, used, func(y, slope, z []T) {
		negative(slope, z, 2)
		expSum(slope, 0)
		for i, e := range slope {
			y[i] = -1
			if z[i] > 0 {
				y[i] = 1
			}
			slope[i] = 4 * e / ((1 + e) * (1 + e)) // 1 - tanh(z)^2
		}
	})
}

// add is x + y, for two ways that meet.
func (s *ops[T]) add(x, y *G.Node, used rowCount) *G.Node {
	rows, cols := x.Shape()[0], x.Shape()[1]
	return s.apply(&op[T]{name: "add", rows: rows, cols: cols, inputs: []bool{true, true},
		forward: func(z []T, v ...[]T) {
			n := used() * cols
			x, y, z := v[0][:n], v[1][:n], z[:n]
			for i := range z {
				z[i] = x[i] + y[i]
			}
		},
		backward: func(_ G.Nodes, _, grad *G.Node) (G.Nodes, error) { return G.Nodes{grad, grad}, nil },
	}, x, y)
}

// round is w [rows, bits] rounded row by row as kernels.QuantizeQuery does, at
// the scale it had. Its gradient is that of w (straight through).
func (s *ops[T]) round(w *G.Node, queryBits int) *G.Node {
	rows, cols := w.Shape()[0], w.Shape()[1]
	z, weights := make([]float64, cols), make([]int8, cols)
	return s.apply(&op[T]{name: "round", rows: rows, cols: cols, inputs: []bool{true},
		forward: func(y []T, v ...[]T) {
			for at := 0; at < rows*cols; at += cols {
				for i, x := range v[0][at : at+cols] {
					z[i] = float64(x)
				}
				scale := kernels.QuantizeQuery(weights, z, queryBits)
				for i, x := range weights {
					y[at+i] = T(scale) * T(x)
				}
			}
		},
		backward: func(_ G.Nodes, _, grad *G.Node) (G.Nodes, error) { return G.Nodes{grad}, nil },
	}, w)
}

// negative sets y = -factor x, within what exp takes.
func negative[T number](y, x []T, factor T) {
	for i, v := range x {
		v *= -factor
		if v > 40 { // e^40 leaves no trace of the 1 beside it
			v = 40
		}
		y[i] = v
	}
}
