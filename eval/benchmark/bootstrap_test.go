package benchmark

import (
	"math"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"
)

// The mean of a resampled set of zeros and ones is binomial, so the ends of
// its interval are known.
func TestIntervalOfBinomial(t *testing.T) {
	const n, ones = 40, 12
	x := make([]float64, n)
	for i := range ones {
		x[i*3] = 1
	}
	low, high := interval(resampledMeans(x, "test"))
	b := distuv.Binomial{N: n, P: float64(ones) / n}
	quantile := func(p float64) float64 {
		k := 0.0
		for b.CDF(k) < p {
			k++
		}
		return k / n
	}
	for _, c := range []struct{ got, want float64 }{{low, quantile(.025)}, {high, quantile(.975)}} {
		if !(math.Abs(c.got-c.want) <= 1e-9) {
			t.Errorf("end of the interval %v, the binomial's is %v", c.got, c.want)
		}
	}
}

// The average over tasks varies as the tasks' means do, each divided by their
// number.
func TestIntervalOfAverage(t *testing.T) {
	var tasks [][]float64
	variance := 0.0
	for task, n := range []int{50, 100, 200} {
		x := make([]float64, n)
		m := 0.0
		for i := range x {
			x[i] = math.Sin(float64(i*i + task))
			m += x[i] / float64(n)
		}
		v := 0.0
		for _, y := range x {
			v += (y - m) * (y - m) / float64(n)
		}
		variance += v / float64(n) / 9
		tasks = append(tasks, resampledMeans(x, string(rune('a'+task))))
	}
	low, high := interval(meanOf(tasks))
	want := 2 * 1.96 * math.Sqrt(variance)
	if !(math.Abs(high-low-want) <= .03*want) {
		t.Errorf("interval %v to %v is %v wide, a normal distribution's is %v", low, high, high-low, want)
	}
}

func TestResampledMeansAreSeeded(t *testing.T) {
	x := []float64{1, 2, 3, 4, 5}
	a, b, c := resampledMeans(x, "a"), resampledMeans(x, "a"), resampledMeans(x, "b")
	differ := false
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("draw %d: %v and %v", i, a[i], b[i])
		}
		differ = differ || a[i] != c[i]
	}
	if !differ {
		t.Error("two names give the same draws")
	}
	if low, high := interval(resampledMeans([]float64{3}, "a")); low != 3 || high != 3 {
		t.Errorf("interval of one value is %v to %v", low, high)
	}
}
