package train

import (
	"math"

	G "gorgonia.org/gorgonia"
)

// rowLoss turns a row of scores into its gradient in place, given the row of
// targets, and gives the row's loss.
type rowLoss[T number] func(scores, target []T) float64

// crossEntropy is -sum target log softmax(scores), for targets that sum to 1.
// Up to the target's entropy it is their KL divergence.
func crossEntropy[T number](scores, target []T) float64 {
	top := maximum(scores)
	target = target[:len(scores)]
	var even, odd T // two sums, since one would wait for itself
	for i := 0; i+1 < len(scores); i += 2 {
		even += target[i] * (scores[i] - top)
		odd += target[i+1] * (scores[i+1] - top)
	}
	if last := len(scores) - 1; last%2 == 0 {
		even += target[last] * (scores[last] - top)
	}
	match := even + odd
	sum := expSum(scores, top)
	scale := 1 / sum
	for i, e := range scores {
		scores[i] = e*scale - target[i]
	}
	return math.Log(float64(sum)) - float64(match)
}

// weightedBinary is the mean binary cross-entropy of sigmoid(scores), in the
// softplus form, which keeps its gradient where the sigmoid saturates. Targets
// are 0 or 1; a positive counts paperPositiveWeight times (the paper's
// equation for the loss of its mapping).
func weightedBinary[T number](scores, target []T) float64 {
	const weight = paperPositiveWeight
	target = target[:len(scores)]
	small := make([]T, len(scores)) // exp(-|score|)
	for i, x := range scores {
		small[i] = x
		if x > 0 {
			small[i] = -x
		}
	}
	expSum(small, 0)
	loss := 0.0
	scale := 1 / T(len(scores))
	for i, x := range scores {
		e := small[i]
		softplus := max(x, 0) + log1p(e)
		g := 1 / (1 + e) // the sigmoid
		if x < 0 {
			g *= e
		}
		if target[i] > 0 {
			loss += float64(weight * (softplus - x))
			scores[i] = weight * (g - 1) * scale
		} else {
			loss += float64(softplus)
			scores[i] = g * scale
		}
	}
	return loss * float64(scale)
}

// log1p is log(1+x) for x in 0 .. 1: for float32 an odd polynomial in
// x/(2+x), within 1e-6.
func log1p[T number](x T) T {
	if _, ok := any(x).(float32); !ok {
		return T(math.Log1p(float64(x)))
	}
	s := x / (2 + x)
	t := s * s
	return 2 * s * (1 + t*(1./3+t*(1./5+t*(1./7+t*(1./9+t/11)))))
}

// layout says which rows of a step's matrices belong together: document b has
// query rows b*queries .. and key rows offset[b] .. offset[b+1].
type layout struct {
	documents int
	queries   int // query rows of a document, over all heads of the graph
	keys      int // most keys of a document: the row stride of targets
	chunk     int // query rows whose scores are held at a time
	offset    []int
}

func (l *layout) used() int { return l.offset[l.documents] }

// rank is the training loss: scores = w code^T of each document's queries over
// its keys, the row loss of them against target, averaged over the rows. w is
// [documents*queries, bits], code [documents*keys, bits], target
// [documents*queries, keys]. Scores never leave the cache: both gradients are
// made while they are there and handed out in the backward pass.
func (s *ops[T]) rank(w, code, target *G.Node, l *layout, loss rowLoss[T]) *G.Node {
	bits := w.Shape()[1]
	dw, dc := make([]T, w.Shape()[0]*bits), make([]T, code.Shape()[0]*bits)
	scores := make([]T, l.chunk*l.keys)
	forward := func(out []T, v ...[]T) {
		w, code, target := v[0], v[1], v[2]
		total := 0.0
		scale := 1 / T(l.documents*l.queries)
		clear(dc[:l.used()*bits])
		for b := range l.documents {
			lo, hi := l.offset[b], l.offset[b+1]
			n := hi - lo
			keys, dkeys := code[lo*bits:hi*bits], dc[lo*bits:hi*bits]
			for r := b * l.queries; r < (b+1)*l.queries; r += l.chunk {
				scores := scores[:l.chunk*n]
				rows := w[r*bits : (r+l.chunk)*bits]
				gemm(false, true, l.chunk, n, bits, 1, rows, keys, 0, scores)
				for i := range l.chunk {
					total += loss(scores[i*n:(i+1)*n], target[(r+i)*l.keys:])
				}
				gemm(false, false, l.chunk, bits, n, scale, scores, keys, 0, dw[r*bits:(r+l.chunk)*bits])
				gemm(true, false, n, bits, l.chunk, scale, scores, rows, 1, dkeys)
			}
		}
		out[0] = T(total) * scale
	}
	hand := func(name string, kept []T, rows int, used rowCount) func(out, grad *G.Node) *G.Node {
		return func(out, grad *G.Node) *G.Node {
			return s.apply(&op[T]{name: name, rows: rows, cols: bits, scalarIn: []bool{true, true},
				forward: func(d []T, v ...[]T) {
					n := used() * bits
					for i, x := range kept[:n] {
						d[i] = v[0][0] * x
					}
				}}, grad, out) // out only orders it behind the forward pass
		}
	}
	toW := hand("rank.dw", dw, w.Shape()[0], fixed(w.Shape()[0]))
	toCode := hand("rank.dcode", dc, code.Shape()[0], l.used)
	return s.apply(&op[T]{name: "rank", inputs: []bool{true, true, false}, forward: forward,
		backward: func(_ G.Nodes, out, grad *G.Node) (G.Nodes, error) {
			return G.Nodes{toW(out, grad), toCode(out, grad), nil}, nil
		}}, w, code, target)
}
