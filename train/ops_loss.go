package train

import G "gorgonia.org/gorgonia"

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
// its keys, the loss of their rows against target (engine.Loss), averaged
// over the rows. w is [documents*queries, bits], code [documents*keys, bits], target
// [documents*queries, keys]. Scores never leave the cache: both gradients are
// made while they are there and handed out in the backward pass.
func (s *ops[T]) rank(w, code, target *G.Node, l *layout, positive float64) *G.Node {
	bits := w.Shape()[1]
	dw, dc := s.make(w.Shape()[0]*bits), s.make(code.Shape()[0]*bits)
	scores := s.make(l.chunk * l.keys)
	forward := func(out []T, v ...[]T) error {
		w, code, target := v[0], v[1], v[2]
		scale := 1 / T(l.documents*l.queries)
		for b := range l.documents {
			lo, hi := l.offset[b], l.offset[b+1]
			n := hi - lo
			keys, dkeys := code[lo*bits:hi*bits], dc[lo*bits:hi*bits]
			for r := b * l.queries; r < (b+1)*l.queries; r += l.chunk {
				scores := scores[:l.chunk*n]
				rows := w[r*bits : (r+l.chunk)*bits]
				beta := T(1)
				if r == b*l.queries {
					beta = 0
				}
				s.on.Gemm(false, true, l.chunk, n, bits, 1, rows, keys, 0, scores)
				s.on.Loss(positive, scores, target[r*l.keys:(r+l.chunk)*l.keys], n, l.keys)
				s.on.Gemm(false, false, l.chunk, bits, n, scale, scores, keys, 0, dw[r*bits:(r+l.chunk)*bits])
				s.on.Gemm(true, false, n, bits, l.chunk, scale, scores, rows, beta, dkeys)
			}
		}
		total, err := s.on.Total()
		out[0] = T(total) * scale
		return err
	}
	hand := func(name string, kept []T, rows int, used rowCount) func(out, grad *G.Node) *G.Node {
		return func(out, grad *G.Node) *G.Node {
			return s.apply(&op[T]{name: name, rows: rows, cols: bits, scalarIn: []bool{true, true},
				forward: func(d []T, v ...[]T) error {
					n := used() * bits
					s.on.Scale(d[:n], kept[:n], v[0][0])
					return nil
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
