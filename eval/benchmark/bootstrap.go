package benchmark

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
)

// resamples is the number of bootstrap samples behind an interval.
const resamples = 10000

// resampledMeans is the means of bootstrap samples of x: as many values drawn
// with replacement. The same name gives the same draws, so that settings are
// compared over the same samples.
func resampledMeans(x []float64, name string) []float64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	rng := rand.New(rand.NewPCG(1, h.Sum64()))
	means := make([]float64, resamples)
	for i := range means {
		sum := 0.0
		for range x {
			sum += x[rng.IntN(len(x))]
		}
		means[i] = sum / float64(len(x))
	}
	return means
}

// interval is the middle 95% of the means: the percentile interval of Efron
// and Tibshirani, between values linearly interpolated.
func interval(means []float64) (low, high float64) {
	sorted := slices.Sorted(slices.Values(means))
	at := func(share float64) float64 {
		pos := share * float64(len(sorted)-1)
		i := int(math.Floor(pos))
		if i+1 == len(sorted) {
			return sorted[i]
		}
		return sorted[i] + (pos-float64(i))*(sorted[i+1]-sorted[i])
	}
	return at(.025), at(.975)
}

// meanOf averages several tasks' bootstrap means, draw by draw: each task is
// resampled within itself.
func meanOf(tasks [][]float64) []float64 {
	out := make([]float64, resamples)
	for _, means := range tasks {
		for i, v := range means {
			out[i] += v / float64(len(tasks))
		}
	}
	return out
}

func mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}
