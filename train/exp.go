package train

import "math"

// expSum replaces each x by exp(x - top), for top the largest, and gives their
// sum: for float32 within 1e-5 of it, which training does not notice.
func expSum[T number](x []T, top T) T {
	if x, ok := any(x).([]float32); ok {
		return T(expSum32(x, float32(top)))
	}
	sum := T(0)
	for i, v := range x {
		x[i] = T(math.Exp(float64(v - top)))
		sum += x[i]
	}
	return sum
}

// expSum32 takes e^x = 2^n 2^f with n an integer and f in ±1/2: adding 1.5*2^23
// rounds to n and leaves it in the low bits, and a minimax polynomial gives 2^f.
func expSum32(xs []float32, top float32) float32 {
	const round = 1.5 * (1 << 23)
	sum := float32(0)
	for i, x := range xs {
		x -= top
		if x < -87 {
			x = -87
		}
		x *= 1.44269504
		n := x + round
		bits := math.Float32bits(n) << 23
		f := x - (n - round)
		p := (((0.0095700963*f+0.055917860)*f+0.24024745)*f+0.69312181)*f + 0.99999926
		y := math.Float32frombits(math.Float32bits(p) + bits)
		xs[i] = y
		sum += y
	}
	return sum
}

// maximum is the largest of x.
func maximum[T number](x []T) T {
	top := x[0]
	for _, v := range x {
		if v > top {
			top = v
		}
	}
	return top
}
