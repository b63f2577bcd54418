package train

import (
	"math"

	"github.com/hashattn/hashattn/kernels/cpu"
)

// expSum replaces each x by exp(x - top), for top the largest, and gives their
// sum. In float32 the CPU's kernels do it, which agree to the last bit from run
// to run on one kind of processor.
func expSum[T number](x []T, top T) T {
	if x, ok := any(x).([]float32); ok {
		return T(cpu.ExpSum(x, float32(top)))
	}
	sum := T(0)
	for i, v := range x {
		x[i] = T(math.Exp(float64(v - top)))
		sum += x[i]
	}
	return sum
}

// maximum is the largest of x.
func maximum[T number](x []T) T {
	if x, ok := any(x).([]float32); ok {
		return T(cpu.Max(x))
	}
	top := x[0]
	for _, v := range x {
		if v > top {
			top = v
		}
	}
	return top
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
