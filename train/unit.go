package train

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/trace"
	G "gorgonia.org/gorgonia"
)

// unit is what is trained on its own: the maps of one KV head with the query
// heads of its group, or of one query head in the paper's recipe.
type unit struct {
	config Config
	trace  *trace.Reader
	blocks [][]block

	layer, kvHead int
	queryHead     int // the first one
	heads         int // query heads
	dim           int
	joint         bool // one query map for the concatenated queries

	keyNorm   norm
	queryNorm []norm // per query head
}

// String names the unit in errors.
func (u *unit) String() string {
	if u.config.Preset == "paper" {
		return fmt.Sprintf("layer %d query head %d", u.layer, u.queryHead)
	}
	return fmt.Sprintf("layer %d KV head %d", u.layer, u.kvHead)
}

// head is the unit's number within its layer.
func (u *unit) head() int {
	if u.config.Preset == "paper" {
		return u.queryHead
	}
	return u.kvHead
}

// trained is the maps of a unit: a key map of one head, query maps of one
// head for each query head, or of one if joint.
type trained struct{ key, query kernels.Projection }

// point is one point of a loss curve.
type point struct {
	Layer int     `json:"layer"`
	Head  int     `json:"head"`
	Step  int     `json:"step"` // steps done
	Loss  float64 `json:"loss"` // mean since the point before
}

// curveEvery is the number of steps between points of the loss curve.
const curveEvery = 10

// train runs the recipe. report gets every point of the curve.
func (u *unit) train(ctx context.Context, on engine[float32], report func(point)) (m trained, curve []point, err error) {
	// gorgonia's builders panic on shapes that do not fit
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v: %v", u, p)
		}
	}()
	g, err := newGraph(u, on)
	if err != nil {
		return m, nil, fmt.Errorf("%v: %w", u, err)
	}
	defer g.close()
	sum := 0.0
	for step := range u.config.Steps {
		if err := ctx.Err(); err != nil {
			return m, nil, err
		}
		loss, err := g.step(step)
		if err != nil {
			return m, nil, fmt.Errorf("%v, step %d: %w", u, step, err)
		}
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return m, nil, fmt.Errorf("%v, step %d: the loss is %v: training diverged, lower learningRate (%v) or check the trace", u, step, loss, u.config.LearningRate)
		}
		sum += loss
		if done := step + 1; done%curveEvery == 0 || done == u.config.Steps {
			p := point{u.layer, u.head(), done, sum / float64(done-lastStep(curve))}
			curve, sum = append(curve, p), 0
			report(p)
		}
	}
	m = g.maps()
	for _, p := range []kernels.Projection{m.key, m.query} {
		for _, a := range append(slices.Clone(p.Layers), deref(p.Skip)) {
			for _, v := range a.Weight {
				if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
					return m, nil, fmt.Errorf("%v: a trained weight is %v: training diverged, lower learningRate (%v)", u, v, u.config.LearningRate)
				}
			}
		}
	}
	return m, curve, nil
}

func deref(a *kernels.Affine) kernels.Affine {
	if a == nil {
		return kernels.Affine{}
	}
	return *a
}

func lastStep(curve []point) int {
	if len(curve) == 0 {
		return 0
	}
	return curve[len(curve)-1].Step
}

// rate is the learning rate of a step: it rises over the first steps, then
// stays or falls as a cosine.
func (c Config) rate(step int) float64 {
	f := min(1, float64(step+1)/warmup)
	if c.Decay {
		f *= (1-finalRate)*(1+math.Cos(math.Pi*float64(step)/float64(c.Steps)))/2 + finalRate
	}
	return c.LearningRate * f
}

// linear is one trainable linear layer, heads of [out, in].
type linear struct {
	w, b           *G.Node
	heads, in, out int
}

// graph is a unit's computation.
type graph[T number] struct {
	u       *unit
	g       *G.ExprGraph
	ops     ops[T]
	batch   *batch[T]
	loss    *G.Node
	vm      G.VM
	solver  *G.AdamSolver
	learned G.Nodes
	weights []G.ValueGrad

	keyLayers, queryLayers []linear
	keySkip, querySkip     *linear
	feedback               *G.Node
}

// newGraph builds the graph and sets its weights to where training starts. It
// panics where gorgonia does.
func newGraph[T number](u *unit, on engine[T]) (*graph[T], error) {
	c := u.config
	rng := rand.New(rand.NewPCG(c.Seed, uint64(u.layer)<<32|uint64(u.head())))
	most := 0
	for _, of := range u.blocks {
		for _, b := range of {
			most = max(most, min(c.Keys, b.start-c.Local-c.Sink))
		}
	}
	u.keyNorm, u.queryNorm = identity(u.dim), nil
	for range u.heads {
		u.queryNorm = append(u.queryNorm, identity(u.dim))
	}
	g := &graph[T]{u: u, g: G.NewGraph(), ops: ops[T]{on: on}}
	var s sample
	if c.Preset != "paper" {
		var err error
		if s, err = u.sample(); err != nil {
			return nil, err
		}
		u.keyNorm = normOf(s.keys)
		for h := range u.queryNorm {
			u.queryNorm[h] = normOf(s.queries[h])
		}
	}
	g.batch = newBatch(u, &g.ops, most)
	b := g.batch
	keys := g.input("keys", c.Documents*most, u.dim, b.keys)
	width := u.dim
	if u.joint {
		width *= u.heads
	}
	queries := g.input("queries", len(b.queries)/width, width, b.queries)
	target := g.input("target", c.Documents*b.layout.queries, most, b.target)
	all := fixed(queries.Shape()[0])

	var w, code *G.Node
	positive := 0.0
	switch {
	case c.Preset == "paper":
		positive = paperPositiveWeight
		g.keyLayers = g.mlp("key", 1, rng, u.dim, paperHidden, paperHidden, c.Bits)
		g.queryLayers = g.mlp("query", 1, rng, u.dim, paperHidden, paperHidden, c.Bits)
		code = g.ops.function(tanh, g.run(g.keyLayers, keys, b.used), b.used)
		w = g.ops.function(tanh, g.run(g.queryLayers, queries, all), all)
	default:
		from, err := residualStart(s, float64(u.trace.Scale), c.Bits, c.BlockBits, rng)
		if err != nil {
			return nil, err
		}
		g.start(from)
		z := g.ops.affine(keys, g.keySkip.w, g.keySkip.b, 1, 0, b.used, false)
		if c.KeyHidden > 0 {
			g.keyLayers = g.residual("key", rng, u.dim, c.KeyHidden, c.Bits)
			z = g.ops.add(z, g.run(g.keyLayers, keys, b.used), b.used)
		}
		if g.feedback != nil {
			z = g.ops.feedback(z, g.feedback, c.BlockBits, b.used)
		}
		code = g.ops.function(sign, z, b.used)
		w = g.ops.affine(queries, g.querySkip.w, g.querySkip.b, g.querySkip.heads, c.Queries, all, false)
		if u.joint {
			g.queryLayers = g.residual("query", rng, width, 2*u.dim, 2*u.dim, c.Bits)
			w = g.ops.add(w, g.run(g.queryLayers, queries, all), all)
		}
		if c.QueryAware {
			w = g.ops.round(w, c.QueryBits)
		}
	}
	g.loss = g.ops.rank(w, code, target, &b.layout, positive)
	gradient.Lock()
	_, err := G.Grad(g.loss, g.learned...)
	gradient.Unlock()
	if err != nil {
		return nil, err
	}
	g.vm = G.NewTapeMachine(g.g, G.BindDualValues(g.learned...))
	g.solver = G.NewAdamSolver(G.WithBeta1(beta1), G.WithBeta2(beta2))
	g.weights = G.NodesToValueGrads(g.learned)
	return g, nil
}

// gradient guards what gorgonia's differentiation shares between graphs: its
// constant nodes keep their hash when it is first asked for.
var gradient sync.Mutex

// close lets go of the machine. It has a finalizer, so a graph that still
// pointed to it would be a cycle that the garbage collector never frees.
func (g *graph[T]) close() {
	g.vm.Close()
	g.vm = nil
	g.ops.on.Release()
}

// step runs one training step and gives its loss.
func (g *graph[T]) step(number int) (float64, error) {
	if err := g.batch.fill(g.u.config.step(number, g.u.blocks)); err != nil {
		return 0, err
	}
	if err := g.vm.RunAll(); err != nil {
		return 0, err
	}
	var loss float64
	switch x := g.loss.Value().Data().(type) {
	case float32:
		loss = float64(x)
	case float64:
		loss = x
	}
	G.WithLearnRate(g.u.config.rate(number))(g.solver)
	if err := g.solver.Step(g.weights); err != nil {
		return loss, err
	}
	g.vm.Reset()
	return loss, nil
}

func (g *graph[T]) matrix(name string, rows, cols int, data []T) *G.Node {
	return G.NewMatrix(g.g, dtypeOf[T](), G.WithShape(rows, cols), G.WithName(name), G.WithValue(matrix(rows, cols, data)))
}

// input is a node whose values are refilled before each step.
func (g *graph[T]) input(name string, rows, cols int, data []T) *G.Node {
	return g.matrix(name, rows, cols, data)
}

func (g *graph[T]) learn(name string, rows, cols int, data []T) *G.Node {
	n := g.matrix(name, rows, cols, data)
	g.learned = append(g.learned, n)
	return n
}

func values[T number](n *G.Node) []T { return n.Value().Data().([]T) }

// mlp makes layers of the given widths, uniform in ±1/sqrt(in) as torch does.
func (g *graph[T]) mlp(name string, heads int, rng *rand.Rand, widths ...int) []linear {
	var layers []linear
	for i, in := range widths[:len(widths)-1] {
		out := widths[i+1]
		uniform := func(n int) []T {
			x := make([]T, n)
			for j := range x {
				x[j] = T((2*rng.Float64() - 1) / math.Sqrt(float64(in)))
			}
			return x
		}
		layers = append(layers, linear{
			g.learn(fmt.Sprintf("%s.%d.weight", name, i), heads*out, in, uniform(heads*out*in)),
			g.learn(fmt.Sprintf("%s.%d.bias", name, i), heads, out, uniform(heads*out)), heads, in, out})
	}
	return layers
}

// residual makes an MLP that stands beside a linear map: its last layer starts
// small, so that training starts from the linear map.
func (g *graph[T]) residual(name string, rng *rand.Rand, widths ...int) []linear {
	layers := g.mlp(name, 1, rng, widths...)
	last := layers[len(layers)-1]
	for _, n := range []*G.Node{last.w, last.b} {
		for i := range values[T](n) {
			values[T](n)[i] *= residualScale
		}
	}
	return layers
}

func (g *graph[T]) run(layers []linear, x *G.Node, used rowCount) *G.Node {
	for i, l := range layers {
		if i > 0 {
			x = g.ops.function(silu, x, used)
		}
		x = g.ops.affine(x, l.w, l.b, 1, 0, used, i > 0)
	}
	return x
}

// start sets the linear paths and the feedback to those fitted, on
// standardised inputs.
func (g *graph[T]) start(from start) {
	u, bits, d := g.u, g.u.config.Bits, g.u.dim
	w := make([]T, bits*d)
	for i := range bits {
		for j := range d {
			w[i*d+j] = T(from.w.At(i, j) * u.keyNorm.scale[j])
		}
	}
	g.keySkip = &linear{g.learn("key.skip.weight", bits, d, w), g.learn("key.skip.bias", 1, bits, make([]T, bits)), 1, d, bits}
	if u.config.BlockBits > 0 {
		r := make([]T, bits*bits)
		for i := range r {
			r[i] = T(from.feedback.At(i/bits, i%bits))
		}
		g.feedback = g.learn("key.feedback", bits, bits, r)
	}
	heads, width, shrink := u.heads, d, 1.0
	if u.joint {
		heads, width, shrink = 1, u.heads*d, 1/math.Sqrt(float64(u.heads))
	}
	a, bias := make([]T, heads*bits*width), make([]T, heads*bits)
	for h, n := range u.queryNorm {
		for i := range bits {
			at, b := (h*bits+i)*width, h*bits+i
			if u.joint {
				at, b = i*width+h*d, i
			}
			for j := range d {
				v := from.a.At(i, j) * shrink
				a[at+j] = T(v * n.scale[j])
				bias[b] += T(v * n.mean[j])
			}
		}
	}
	g.querySkip = &linear{g.learn("query.skip.weight", heads*bits, width, a), g.learn("query.skip.bias", heads, bits, bias), heads, width, bits}
}

// maps reads the weights out, on raw inputs: w (x - mean) / scale + b is
// (w / scale) x + b - (w / scale) mean.
func (g *graph[T]) maps() trained {
	u := g.u
	width := len(u.keyNorm.mean)
	// half: a group's query map is stored as bfloat16 numbers, since a decode
	// step reads all of it from memory; the codes of keys stay float32
	fold := func(l linear, norms []norm, half bool) kernels.Affine {
		a := kernels.Affine{In: l.in, Out: l.out, Weight: make([]float32, l.heads*l.out*l.in), Bias: make([]float32, l.heads*l.out)}
		w, b := values[T](l.w), values[T](l.b)
		for row := range l.heads * l.out {
			bias := float64(b[row])
			for j := range l.in {
				v, mean := float64(w[row*l.in+j]), 0.0
				if norms != nil {
					n := norms[0]
					if l.in > width {
						n = norms[j/width]
					} else if l.heads > 1 {
						n = norms[row/l.out]
					}
					v *= n.inverse[j%width]
					mean = n.mean[j%width]
				}
				if half {
					v = float64(dtype.F32FromBF16(dtype.BF16FromF32(float32(v))))
				}
				a.Weight[row*l.in+j] = float32(v)
				bias -= v * mean
			}
			a.Bias[row] = float32(bias)
		}
		return a
	}
	project := func(name string, layers []linear, skip *linear, norms []norm, half bool) kernels.Projection {
		p := kernels.Projection{Name: name, Heads: 1}
		for i, l := range layers {
			var n []norm
			if i == 0 {
				n = norms
			}
			p.Layers = append(p.Layers, fold(l, n, half))
			p.Heads = l.heads
		}
		if skip != nil {
			a := fold(*skip, norms, half)
			p.Skip, p.Heads = &a, skip.heads
		}
		return p
	}
	m := trained{
		key:   project("key", g.keyLayers, g.keySkip, []norm{u.keyNorm}, false),
		query: project("query", g.queryLayers, g.querySkip, u.queryNorm, u.joint),
	}
	if g.feedback != nil {
		m.key.BlockBits = u.config.BlockBits
		bits := u.config.Bits
		for i, v := range values[T](g.feedback) {
			if i%bits >= i/bits/m.key.BlockBits*m.key.BlockBits { // never read
				v = 0
			}
			m.key.Feedback = append(m.key.Feedback, float32(v))
		}
	}
	return m
}
