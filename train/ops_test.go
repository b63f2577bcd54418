package train

import (
	"math"
	"math/rand/v2"
	"testing"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// checker compares the gradients of a graph with finite differences.
type checker struct {
	g    *G.ExprGraph
	ops  ops[float64]
	rng  *rand.Rand
	vars []*G.Node
}

func newChecker() *checker {
	return &checker{g: G.NewGraph(), ops: ops[float64]{on: &host[float64]{}}, rng: rand.New(rand.NewPCG(3, 4))}
}

func (c *checker) matrix(name string, rows, cols int, variable bool) *G.Node {
	x := make([]float64, rows*cols)
	for i := range x {
		x[i] = c.rng.NormFloat64()
	}
	n := G.NewMatrix(c.g, tensor.Float64, G.WithShape(rows, cols), G.WithName(name),
		G.WithValue(tensor.New(tensor.WithShape(rows, cols), tensor.WithBacking(x))))
	if variable {
		c.vars = append(c.vars, n)
	}
	return n
}

// weigh is the scalar sum over rows in use of weights * x, and the gradient it
// sends back.
func (c *checker) weigh(x *G.Node, used rowCount) *G.Node {
	rows, cols := x.Shape()[0], x.Shape()[1]
	weights := make([]float64, rows*cols)
	for i := range weights {
		weights[i] = c.rng.NormFloat64()
	}
	return c.ops.apply(&op[float64]{name: "weigh", inputs: []bool{true},
		forward: func(out []float64, v ...[]float64) error {
			out[0] = 0
			for i, x := range v[0][:used()*cols] {
				out[0] += weights[i] * x
			}
			return nil
		},
		backward: func(_ G.Nodes, out, grad *G.Node) (G.Nodes, error) {
			return G.Nodes{c.ops.apply(&op[float64]{name: "weigh.dx", rows: rows, cols: cols, scalarIn: []bool{true, true},
				forward: func(d []float64, v ...[]float64) error {
					for i := range d[:used()*cols] { // rows behind those in use stay 0
						d[i] = weights[i] * v[0][0]
					}
					return nil
				}}, grad, out)}, nil
		}}, x)
}

// check runs the graph; smooth gives the loss by other means where the
// forward pass has steps, nil to run the graph itself.
func (c *checker) check(t *testing.T, loss *G.Node, smooth func() float64) {
	t.Helper()
	if _, err := G.Grad(loss, c.vars...); err != nil {
		t.Fatal(err)
	}
	vm := G.NewTapeMachine(c.g, G.BindDualValues(c.vars...))
	defer vm.Close()
	var value G.Value
	G.Read(loss, &value)
	run := func() float64 {
		t.Helper()
		if err := vm.RunAll(); err != nil {
			t.Fatal(err)
		}
		vm.Reset()
		return float64(*loss.Value().(*G.F64))
	}
	run()
	var grads [][]float64
	for _, n := range c.vars {
		d, err := n.Grad()
		if err != nil {
			t.Fatal(err)
		}
		grads = append(grads, append([]float64(nil), d.Data().([]float64)...))
	}
	if smooth == nil {
		smooth = run
	}
	for k, n := range c.vars {
		x := n.Value().Data().([]float64)
		for range 12 {
			i := c.rng.IntN(len(x))
			const h = 1e-6
			old := x[i]
			x[i] = old + h
			up := smooth()
			x[i] = old - h
			down := smooth()
			x[i] = old
			want := (up - down) / (2 * h)
			if diff := math.Abs(want - grads[k][i]); !(diff <= 1e-6*(1+math.Abs(want))) {
				t.Errorf("%s[%d]: gradient %v, finite difference %v", n.Name(), i, grads[k][i], want)
			}
		}
	}
}

func TestAffineGradient(t *testing.T) {
	for _, heads := range []int{1, 3} {
		c := newChecker()
		const slab, in, out = 5, 7, 4
		rows := 2 * heads * slab
		used := fixed(rows)
		if heads == 1 {
			used = fixed(rows - 3) // rows behind those in use must not count
		}
		x := c.matrix("x", rows, in, true)
		y := c.ops.affine(x, c.matrix("w", heads*out, in, true), c.matrix("b", heads, out, true), heads, slab, used, true)
		c.check(t, c.weigh(y, used), nil)
	}
}

func TestElementwiseGradients(t *testing.T) {
	for _, f := range []int{silu, tanh} {
		c := newChecker()
		y := c.ops.function(f, c.matrix("x", 6, 5, true), fixed(4))
		c.check(t, c.weigh(y, fixed(4)), nil)
	}
}

// The straight-through gradient of sign is that of tanh.
func TestSignGradient(t *testing.T) {
	c := newChecker()
	z := c.matrix("z", 6, 5, true)
	loss := c.weigh(c.ops.function(sign, z, fixed(6)), fixed(6))
	twin := newChecker() // draws the same numbers
	soft := twin.matrix("z", 6, 5, false)
	twinLoss := twin.weigh(twin.ops.function(tanh, soft, fixed(6)), fixed(6))
	vm := G.NewTapeMachine(twin.g)
	defer vm.Close()
	c.check(t, loss, func() float64 {
		copy(soft.Value().Data().([]float64), z.Value().Data().([]float64))
		if err := vm.RunAll(); err != nil {
			t.Fatal(err)
		}
		vm.Reset()
		return float64(*twinLoss.Value().(*G.F64))
	})
}

func TestAddGradient(t *testing.T) {
	c := newChecker()
	x, y := c.matrix("x", 6, 5, true), c.matrix("y", 6, 5, true)
	c.check(t, c.weigh(c.ops.add(x, y, fixed(4)), fixed(4)), nil)
}

// The values are those that a device scores with; the gradient passes as if
// they were not rounded.
func TestRound(t *testing.T) {
	for _, bits := range []int{4, 8} {
		c := newChecker()
		w := c.matrix("w", 6, 5, true)
		clear(w.Value().Data().([]float64)[:5]) // a row of zeros has no scale
		y := c.ops.round(w, bits)
		twin := newChecker()
		soft := twin.matrix("w", 6, 5, false)
		twinLoss := twin.weigh(soft, fixed(6))
		vm := G.NewTapeMachine(twin.g)
		defer vm.Close()
		c.check(t, c.weigh(y, fixed(6)), func() float64 {
			copy(soft.Value().Data().([]float64), w.Value().Data().([]float64))
			if err := vm.RunAll(); err != nil {
				t.Fatal(err)
			}
			vm.Reset()
			return float64(*twinLoss.Value().(*G.F64))
		})
		limit := float64(int(1)<<(bits-1) - 1)
		got, want := y.Value().Data().([]float64), w.Value().Data().([]float64)
		for r := 0; r < 30; r += 5 {
			top := 0.0
			for _, v := range want[r : r+5] {
				top = max(top, math.Abs(v))
			}
			for i, v := range got[r : r+5] {
				level := v / max(top, 1e-9) * limit
				if !(math.Abs(level-math.Round(level)) <= 1e-4 && math.Abs(v-want[r+i]) <= top/limit/2*(1+1e-6)) {
					t.Errorf("%d bits: %v became %v, %v levels of %v", bits, want[r+i], v, level, limit)
				}
			}
		}
	}
}

func TestFeedbackGradient(t *testing.T) {
	for _, shape := range [][2]int{{8, 2}, {12, 4}, {24, 12}, {6, 3}, {5, 1}, {4, 4}} {
		bits, block := shape[0], shape[1]
		c := newChecker()
		z := c.ops.feedback(c.matrix("u", 9, bits, true), c.matrix("r", bits, bits, true), block, fixed(7))
		c.check(t, c.weigh(z, fixed(7)), nil)
	}
}

// The blockwise tables must give what the definition says.
func TestFeedbackForward(t *testing.T) {
	const rows, bits, block = 9, 24, 12
	c := newChecker()
	u, r := c.matrix("u", rows, bits, false), c.matrix("r", bits, bits, false)
	z := c.ops.feedback(u, r, block, fixed(rows))
	vm := G.NewTapeMachine(c.g)
	defer vm.Close()
	if err := vm.RunAll(); err != nil {
		t.Fatal(err)
	}
	want := append([]float64(nil), u.Value().Data().([]float64)...)
	for row := range rows {
		x := want[row*bits : (row+1)*bits]
		for i := range x {
			for j := range i / block * block {
				f := r.Value().Data().([]float64)[i*bits+j]
				if x[j] <= 0 {
					f = -f
				}
				x[i] += f
			}
		}
	}
	for i, got := range z.Value().Data().([]float64) {
		if !(math.Abs(got-want[i]) <= 1e-12) {
			t.Fatalf("z[%d] = %v, want %v", i, got, want[i])
		}
	}
}

func TestRankGradient(t *testing.T) {
	for name, positive := range map[string]float64{"cross entropy": 0, "binary": paperPositiveWeight} {
		t.Run(name, func(t *testing.T) {
			c := newChecker()
			l := &layout{documents: 3, queries: 4, keys: 6, chunk: 2, offset: []int{0, 6, 9, 14}}
			w, code := c.matrix("w", 12, 5, true), c.matrix("code", 18, 5, true)
			target := c.matrix("target", 12, 6, false)
			x := target.Value().Data().([]float64)
			for r := range 12 {
				n := l.offset[r/4+1] - l.offset[r/4]
				sum := 0.0
				for i := range n {
					x[r*6+i] = math.Abs(x[r*6+i])
					if name == "binary" {
						x[r*6+i] = float64(c.rng.IntN(2))
					}
					sum += x[r*6+i]
				}
				for i := range n {
					if name != "binary" {
						x[r*6+i] /= sum
					}
				}
			}
			c.check(t, c.ops.rank(w, code, target, l, positive), nil)
		})
	}
}

// Where the sigmoid saturates the loss must still push scores back.
func TestBinaryLossFarOut(t *testing.T) {
	for _, x := range []float64{-500, 500} {
		s, s32 := []float64{x, x}, []float32{float32(x), float32(x)}
		loss := new(host[float64]).weightedBinary(paperPositiveWeight, s, []float64{0, 1})
		loss32 := new(host[float32]).weightedBinary(paperPositiveWeight, s32, []float32{0, 1})
		wrong := 0 // the element on the wrong side
		if x < 0 {
			wrong = 1
		}
		for _, g := range []float64{s[wrong], float64(s32[wrong])} {
			if !(math.Abs(g) >= 0.5) {
				t.Errorf("x %v: gradient %v vanishes", x, g)
			}
		}
		if !(math.Abs(loss-loss32) <= 1e-3*loss) {
			t.Errorf("x %v: loss %v in float64, %v in float32", x, loss, loss32)
		}
	}
}

func TestExp(t *testing.T) {
	exp := func(v float32) float32 {
		x := []float32{v}
		expSum(x, 0)
		return x[0]
	}
	for v := float32(-86); v < 88; v += 0.0137 {
		want := math.Exp(float64(v))
		if got := float64(exp(v)); !(math.Abs(got-want) <= 1e-5*want) {
			t.Fatalf("exp(%v) = %v, want %v", v, got, want)
		}
	}
	for v := float32(0); v <= 1; v += 0.01 {
		if got, want := float64(log1p(v)), math.Log1p(float64(v)); !(math.Abs(got-want) <= 1e-6) {
			t.Errorf("log1p(%v) = %v, want %v", v, got, want)
		}
	}
	x := []float32{-3, 2, -90, 0.5}
	want := 0.0
	for _, v := range x {
		want += math.Exp(float64(v) - 2)
	}
	if got := float64(expSum(x, 2)); !(math.Abs(got-want) <= 1e-5*want) || !(math.Abs(float64(x[1])-1) <= 1e-5) {
		t.Errorf("expSum = %v, want %v; %v", got, want, x)
	}
	if got := exp(-1000); got > 1e-37 || got < 0 {
		t.Errorf("exp(-1000) = %v", got)
	}
	if got := exp(float32(math.NaN())); got == got {
		t.Errorf("exp(NaN) = %v", got)
	}
}

func BenchmarkExp(b *testing.B) {
	x := make([]float32, 4096)
	for i := range x {
		x[i] = -float32(i) / 512
	}
	y := make([]float32, len(x))
	for b.Loop() {
		copy(y, x)
		if s := expSum(y, 0); !(s > 0) {
			b.Fatal(s)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4096, "ns/value")
}
