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

// expSum32 works on two values at a time, since a sum of one after the other
// would wait for itself.
func expSum32(x []float32, top float32) float32 {
	var even, odd float32
	for len(x) >= 2 {
		a, b := exp32(x[0]-top), exp32(x[1]-top)
		x[0], x[1] = a, b
		even += a
		odd += b
		x = x[2:]
	}
	for i := range x {
		x[i] = exp32(x[i] - top)
		even += x[i]
	}
	return even + odd
}

// exp32 is e^x = 2^n 2^f with n an integer and f in ±1/2: adding 1.5*2^23
// rounds to n and leaves it in the low bits, and a minimax polynomial gives
// 2^f. Below -87 it stays at e^-87.
func exp32(x float32) float32 {
	const round = 1.5 * (1 << 23)
	if x < -87 {
		x = -87
	}
	x *= 1.44269504
	n := x + round
	f := x - (n - round)
	p := (((0.0095700963*f+0.055917860)*f+0.24024745)*f+0.69312181)*f + 0.99999926
	return math.Float32frombits(math.Float32bits(p) + math.Float32bits(n)<<23)
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
