package train

import (
	G "gorgonia.org/gorgonia"
)

// feedback turns u [rows, bits] into the z of a residual binary code: in blocks
// of the given length, first block first, z = u + R bits of the blocks before,
// bit = z > 0 ? 1 : -1. Row i of R [bits, bits] adds to z_i. The bits fed back
// count as constants, as in the straight-through training of binary nets, so
// the gradient of u is that of z.
func (s *ops[T]) feedback(u, r *G.Node, block int, used rowCount) *G.Node {
	rows, bits := u.Shape()[0], u.Shape()[1]
	r = s.here(r)
	return s.apply(&op[T]{name: "feedback", rows: rows, cols: bits, inputs: []bool{true, true},
		forward: func(z []T, v ...[]T) error {
			n := used() * bits
			s.on.Scale(z[:n], v[0][:n], 1)
			s.on.Feedback(z[:n], v[1], bits, block)
			return nil
		},
		backward: func(_ G.Nodes, out, grad *G.Node) (G.Nodes, error) {
			return G.Nodes{grad, s.apply(&op[T]{name: "feedback.dr", rows: bits, cols: bits, forward: func(d []T, v ...[]T) error {
				n := used() * bits
				s.on.FeedbackGradient(d, v[0][:n], v[1][:n], bits, block)
				return nil
			}}, out, grad)}, nil
		}}, u, r)
}

// divisor is the largest divisor of n up to most.
func divisor(n, most int) int {
	for d := most; d > 1; d-- {
		if n%d == 0 {
			return d
		}
	}
	return 1
}

// patterns sets sums [2^part, bits] to R b for every pattern b of the bits
// first .. first+part-1.
func patterns[T number](sums, r []T, first, part, bits int) {
	for i := range bits {
		for pattern := range 1 << part {
			x := T(0)
			for j := range part {
				if pattern>>j&1 == 1 {
					x += r[i*bits+first+j]
				} else {
					x -= r[i*bits+first+j]
				}
			}
			sums[pattern*bits+i] = x
		}
	}
}
