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
	// Bits are fed back a part at a time: a part's pattern indexes the sum of
	// its columns of R, so that a row costs bits/part additions a bit.
	part := block
	for part > 8 {
		part = divisor(block, 8)
	}
	table := make([]T, 1<<part*bits)
	sums := make([]T, len(table)*(bits/part))
	forward := func(z []T, v ...[]T) {
		u, r := v[0], v[1]
		for p := range bits / part {
			patterns(sums[p*len(table):(p+1)*len(table)], r, p*part, part, bits)
		}
		n := used()
		copy(z[:n*bits], u)
		for row := range n {
			z := z[row*bits : (row+1)*bits]
			for first := 0; first < bits-block; first += block {
				for p := first; p < first+block; p += part {
					pattern := 0
					for j, x := range z[p : p+part] {
						if x > 0 {
							pattern |= 1 << j
						}
					}
					at := (p/part<<part + pattern) * bits
					add := sums[at+first+block : at+bits]
					later := z[first+block:][:len(add)]
					for i, x := range add {
						later[i] += x
					}
				}
			}
		}
	}
	code := make([]T, rows*bits)
	dr := func(d []T, v ...[]T) {
		z, dz := v[0], v[1]
		n := used()
		for i, x := range z[:n*bits] {
			code[i] = -1
			if x > 0 {
				code[i] = 1
			}
		}
		gemm(true, false, bits, bits, n, 1, dz, code, 0, d)
		for i := range bits { // a block does not see itself or later ones
			clear(d[i*bits+i/block*block : (i+1)*bits])
		}
	}
	return s.apply(&op[T]{name: "feedback", rows: rows, cols: bits, inputs: []bool{true, true}, forward: forward,
		backward: func(_ G.Nodes, out, grad *G.Node) (G.Nodes, error) {
			return G.Nodes{grad, s.apply(&op[T]{name: "feedback.dr", rows: bits, cols: bits, forward: dr}, out, grad)}, nil
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
