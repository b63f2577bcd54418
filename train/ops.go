package train

import (
	"fmt"
	"hash"
	"hash/fnv"

	"github.com/chewxy/hm"
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
// nothing; a graph runs on one goroutine. Matrices are in the memory of the
// graph's engine: gorgonia hands them on without a look at them.
type op[T number] struct {
	name       string
	id         int // gorgonia merges nodes of equal hash
	rows, cols int
	inputs     []bool // whether a gradient flows to the input
	// scalars of inputs arrive as slices of one, in host memory, and so goes out
	// a scalar.
	forward func(out []T, in ...[]T) error
	// backward builds the gradients of the inputs that have one.
	backward func(in G.Nodes, out, grad *G.Node) (G.Nodes, error)
	scalarIn []bool // which inputs are scalars, nil for none
	home     bool   // the result is in host memory

	value  G.Value
	buffer []T
}

// ops makes the operations of one graph, which run on an engine.
type ops[T number] struct {
	on    engine[T]
	count int
}

// make is Make of the engine. While a graph is built, failures are panics, as
// gorgonia's are.
func (s *ops[T]) make(n int) []T {
	x, err := s.on.Make(n)
	if err != nil {
		panic(err)
	}
	return x
}

// matrix is a value of gorgonia's over x.
func matrix[T number](rows, cols int, x []T) *tensor.Dense {
	return tensor.New(tensor.WithShape(rows, cols), tensor.WithBacking(x))
}

// here is a learned matrix, which the solver keeps in host memory, in that of
// the engine.
func (s *ops[T]) here(n *G.Node) *G.Node {
	if _, ok := s.on.(*host[T]); ok {
		return n
	}
	rows, cols := n.Shape()[0], n.Shape()[1]
	return s.apply(&op[T]{name: "put", rows: rows, cols: cols, inputs: []bool{true},
		forward: func(y []T, v ...[]T) error { s.on.Put(y, v[0]); return nil },
		backward: func(_ G.Nodes, _, grad *G.Node) (G.Nodes, error) {
			return G.Nodes{s.apply(&op[T]{name: "get", rows: rows, cols: cols, home: true,
				forward: func(y []T, v ...[]T) error { return s.on.Get(y, v[0]) }}, grad)}, nil
		}}, n)
}

// apply adds o to the graph behind the nodes in.
func (s *ops[T]) apply(o *op[T], in ...*G.Node) *G.Node {
	s.count++
	o.id = s.count
	if o.rows == 0 || o.home {
		o.buffer = make([]T, max(1, o.rows*o.cols))
	} else {
		o.buffer = s.make(o.rows * o.cols)
	}
	if o.rows > 0 {
		o.value = matrix(o.rows, o.cols, o.buffer)
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
	if err := o.forward(o.buffer, slices...); err != nil {
		return nil, err
	}
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
	w, b = s.here(w), s.here(b)
	// slabs calls f with each slab's head and rows, and whether the head had
	// one before.
	slabs := func(f func(head, lo, hi int, again bool)) error {
		if heads == 1 {
			f(0, 0, used(), false)
			return nil
		}
		for i := 0; i*slab < rows; i++ {
			f(i%heads, i*slab, (i+1)*slab, i >= heads)
		}
		return nil
	}
	once := func(again bool) T {
		if again {
			return 1
		}
		return 0
	}
	forward := func(y []T, v ...[]T) error {
		x, w, b := v[0], v[1], v[2]
		return slabs(func(h, lo, hi int, _ bool) {
			s.on.Repeat(y[lo*out:hi*out], b[h*out:(h+1)*out])
			s.on.Gemm(false, true, hi-lo, out, in, 1, x[lo*in:hi*in], w[h*out*in:(h+1)*out*in], 1, y[lo*out:hi*out])
		})
	}
	dx := func(d []T, v ...[]T) error {
		dy, w := v[0], v[1]
		return slabs(func(h, lo, hi int, _ bool) {
			s.on.Gemm(false, false, hi-lo, in, out, 1, dy[lo*out:hi*out], w[h*out*in:(h+1)*out*in], 0, d[lo*in:hi*in])
		})
	}
	dw := func(d []T, v ...[]T) error {
		x, dy := v[0], v[1]
		return slabs(func(h, lo, hi int, again bool) {
			s.on.Gemm(true, false, out, in, hi-lo, 1, dy[lo*out:hi*out], x[lo*in:hi*in], once(again), d[h*out*in:(h+1)*out*in])
		})
	}
	db := func(d []T, v ...[]T) error {
		dy := v[0]
		return slabs(func(h, lo, hi int, again bool) { s.on.Sums(d[h*out:(h+1)*out], dy[lo*out:hi*out], again) })
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

// function is an elementwise function of x.
func (s *ops[T]) function(f int, x *G.Node, used rowCount) *G.Node {
	name := [...]string{silu: "silu", tanh: "tanh", sign: "sign"}[f]
	rows, cols := x.Shape()[0], x.Shape()[1]
	slope := s.make(rows * cols)
	return s.apply(&op[T]{name: name, rows: rows, cols: cols, inputs: []bool{true},
		forward: func(y []T, v ...[]T) error {
			n := used() * cols
			s.on.Function(f, y[:n], slope[:n], v[0][:n])
			return nil
		},
		backward: func(_ G.Nodes, out, grad *G.Node) (G.Nodes, error) {
			return G.Nodes{s.apply(&op[T]{name: name + ".dx", rows: rows, cols: cols, forward: func(d []T, v ...[]T) error {
				n := used() * cols
				s.on.Multiply(d[:n], v[0][:n], slope[:n])
				return nil
			}}, grad, out)}, nil // out only orders it behind the forward pass
		}}, x)
}

// add is x + y, for two ways that meet.
func (s *ops[T]) add(x, y *G.Node, used rowCount) *G.Node {
	rows, cols := x.Shape()[0], x.Shape()[1]
	return s.apply(&op[T]{name: "add", rows: rows, cols: cols, inputs: []bool{true, true},
		forward: func(z []T, v ...[]T) error {
			n := used() * cols
			s.on.Add(z[:n], v[0][:n], v[1][:n])
			return nil
		},
		backward: func(_ G.Nodes, _, grad *G.Node) (G.Nodes, error) { return G.Nodes{grad, grad}, nil },
	}, x, y)
}

// round is w [rows, bits] rounded row by row as kernels.QuantizeQuery does, at
// the scale it had. Its gradient is that of w (straight through).
func (s *ops[T]) round(w *G.Node, queryBits int) *G.Node {
	rows, cols := w.Shape()[0], w.Shape()[1]
	return s.apply(&op[T]{name: "round", rows: rows, cols: cols, inputs: []bool{true},
		forward:  func(y []T, v ...[]T) error { s.on.Round(y, v[0], cols, queryBits); return nil },
		backward: func(_ G.Nodes, _, grad *G.Node) (G.Nodes, error) { return G.Nodes{grad}, nil },
	}, w)
}
