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
