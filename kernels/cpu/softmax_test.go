package cpu

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestExpSumAndMax(t *testing.T) {
	onEverySet(t, func(t *testing.T, _ *kernelSet) {
		r := rand.New(rand.NewPCG(1, 2))
		for _, n := range []int{1, 7, 15, 16, 17, 99, 4096} {
			x := random(r, n)
			for i := range x {
				x[i] *= 20
			}
			top, at := x[0], make([]float64, n)
			for _, v := range x {
				top = max(top, v)
			}
			if got := Max(x); got != top {
				t.Fatalf("%d values: max %v, want %v", n, got, top)
			}
			want := 0.0
			for i, v := range x {
				at[i] = math.Exp(float64(v) - float64(top))
				want += at[i]
			}
			sum := ExpSum(x, top)
			if !(math.Abs(float64(sum)-want) <= 1e-5*want) {
				t.Errorf("%d values: sum %v, want %v", n, sum, want)
			}
			for i, v := range x {
				if !(math.Abs(float64(v)-at[i]) <= 1e-5*at[i]+1e-37) {
					t.Fatalf("%d values: exp %d is %v, want %v", n, i, v, at[i])
				}
			}
		}
		far := []float32{-1000, float32(math.Inf(-1)), 0}
		if sum := ExpSum(far, 0); sum != 1 || far[0] != 0 || far[1] != 0 {
			t.Errorf("exp of -1000, -Inf and 0: %v, sum %v", far, sum)
		}
	})
}
