package cpu

// ExpSum replaces each x by exp(x - shift), relative error below 1e-6, and
// gives their sum; below exp(-87.3) is 0. It works on one thread, and the
// result depends on the instruction set alone.
func ExpSum(x []float32, shift float32) float32 {
	set, sum := defaultSet(), float32(0)
	whole := len(x) / set.lanes * set.lanes
	if whole > 0 {
		sum = set.expSum(whole, &x[0], 1, shift)
	}
	for i, v := range x[whole:] {
		y := exp32(v - shift)
		x[whole+i] = y
		sum += y
	}
	return sum
}

// Max is the largest of x, which is not empty; NaN is passed over unless it is
// the first.
func Max(x []float32) float32 {
	set, top := defaultSet(), x[0]
	whole := len(x) / set.lanes * set.lanes
	if whole > 0 {
		top = set.maximum(whole, &x[0])
	}
	for _, v := range x[whole:] {
		if v > top {
			top = v
		}
	}
	return top
}
