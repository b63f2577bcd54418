package train

import (
	"math"

	"github.com/hashattn/hashattn/kernels"
	"gonum.org/v1/gonum/blas"
	G "gorgonia.org/gorgonia"
)

// engine does the arithmetic of a graph: the host (host) or a GPU
// (cuda.Learner). Its slices, other than those called host, lie in its own
// memory: a GPU's may be cut, but not read. Matrices are row-major without
// gaps. An engine serves one goroutine; a GPU queues its work, and keeps a
// failure for the next Get.
type engine[T number] interface {
	// Wide engines take the rows of all heads at once, the others as few as
	// stay in a core's cache.
	Wide() bool
	// Make gives n zeros, Hold a copy of host memory that stays as it is.
	Make(n int) ([]T, error)
	Hold(host []uint16) ([]uint16, error)
	// Release frees all that Make and Hold gave.
	Release()
	// Put copies from host memory, Get to it.
	Put(dst, host []T)
	Get(host, src []T) error

	// Rows sets row i of dst, of the given stride, to
	// (x[at[i]] - mean) * inverse for x bfloat16 [.., dim]; mean and inverse
	// are [heads, dim], of which slabs of slab rows take turns.
	Rows(dst []T, stride int, x []uint16, dim int, at []int32, mean, inverse []T, slab int)
	// Gemm sets c = alpha op(a) op(b) + beta c: op(a) [m, k], op(b) [k, n].
	Gemm(ta, tb bool, m, n, k int, alpha T, a, b []T, beta T, c []T)
	// Repeat sets every row of y to row, Sums sum to the sum of x's rows, or
	// adds it.
	Repeat(y, row []T)
	Sums(sum, x []T, add bool)
	// Function sets y = f(x), elements apart, and slope to its derivative.
	Function(f int, y, slope, x []T)
	Multiply(z, x, y []T)
	Add(z, x, y []T)
	Scale(y, x []T, factor T)
	// Round rounds rows of w as kernels.QuantizeQuery does, at their scale.
	Round(y, w []T, cols, queryBits int)
	// Feedback turns u into z in place, see ops.feedback; FeedbackGradient
	// sets that of r.
	Feedback(z, r []T, bits, block int)
	FeedbackGradient(dr, z, dz []T, bits, block int)
	// Targets sets dst [m, keys] of the given stride, for logits
	// [heads*m, keys], or [heads*m, keys] if apart: the softmax of each row.
	// Otherwise heads are added up, each weighted by its share of attention
	// given the logits of the keys that are always read, edges
	// [heads*m, len/heads/m], to the power; more is the log of how many keys
	// each of the given ones stands for. first clears dst, last makes rows sum
	// to 1.
	Targets(dst []T, stride int, logits, edges []T, m, heads int, apart bool, more, power float64, first, last bool)
	// Top sets rows of dst to 1 at the count largest of x [.., keys], and to 0
	// elsewhere.
	Top(dst []T, stride int, x []T, keys, count int)
	// Loss turns rows of scores [.., keys] into their gradients given targets
	// of the given stride, and adds the rows' losses to the sum that Total
	// gives and clears: the cross-entropy -sum target log softmax(scores), or,
	// if positive is not 0, the mean binary cross-entropy of sigmoid(scores),
	// positives counting that many times.
	Loss(positive float64, scores, target []T, keys, stride int)
	Total() (float64, error)
}

// The elementwise functions.
const (
	silu = iota
	tanh
	sign // in ±1; its slope is that of tanh (straight through)
)

var (
	_ engine[float32] = (*host[float32])(nil)
	_ engine[float64] = (*host[float64])(nil)
)

// host is the engine that computes in Go and in this project's GEMM, one
// thread. In float32 it is what the others are held to.
type host[T number] struct {
	total       float64
	table, code []T
	wide        []float64
	weights     []int8
	small       []T
}

func (*host[T]) Wide() bool                        { return false }
func (*host[T]) Make(n int) ([]T, error)           { return make([]T, n), nil }
func (*host[T]) Hold(x []uint16) ([]uint16, error) { return x, nil }
func (*host[T]) Release()                          {}
func (*host[T]) Put(dst, x []T)                    { copy(dst, x) }
func (*host[T]) Get(x, src []T) error              { copy(x, src); return nil }

// gemm is Gemm of the host.
func gemm[T number](ta, tb bool, m, n, k int, alpha T, a, b []T, beta T, c []T) {
	if m == 0 || n == 0 {
		return
	}
	if k == 0 {
		clear(c[:m*n])
		return
	}
	t := map[bool]blas.Transpose{false: blas.NoTrans, true: blas.Trans}
	lda, ldb := k, n
	if ta {
		lda = m
	}
	if tb {
		ldb = k
	}
	switch a := any(a).(type) {
	case []float32:
		G.WhichBLAS().Sgemm(t[ta], t[tb], m, n, k, float32(alpha), a, lda, any(b).([]float32), ldb, float32(beta), any(c).([]float32), n)
	case []float64:
		G.WhichBLAS().Dgemm(t[ta], t[tb], m, n, k, float64(alpha), a, lda, any(b).([]float64), ldb, float64(beta), any(c).([]float64), n)
	}
}

func (*host[T]) Gemm(ta, tb bool, m, n, k int, alpha T, a, b []T, beta T, c []T) {
	gemm(ta, tb, m, n, k, alpha, a, b, beta, c)
}

func (*host[T]) Rows(dst []T, stride int, x []uint16, dim int, at []int32, mean, inverse []T, slab int) {
	heads := len(mean) / dim
	for i, r := range at {
		h := i / slab % heads * dim
		mean, inverse := mean[h:h+dim], inverse[h:h+dim]
		out := dst[i*stride : i*stride+dim]
		widen(out, x[int(r)*dim:(int(r)+1)*dim])
		for j, v := range out {
			out[j] = (v - mean[j]) * inverse[j]
		}
	}
}

func (*host[T]) Repeat(y, row []T) {
	for ; len(y) >= len(row); y = y[len(row):] {
		copy(y, row)
	}
}

func (*host[T]) Sums(sum, x []T, add bool) {
	if !add {
		clear(sum)
	}
	for ; len(x) >= len(sum); x = x[len(sum):] {
		for i, v := range x[:len(sum)] {
			sum[i] += v
		}
	}
}

func (*host[T]) Function(f int, y, slope, x []T) {
	factor := T(2)
	if f == silu {
		factor = 1
	}
	negative(slope, x, factor)
	expSum(slope, 0)
	for i, e := range slope {
		switch f {
		case silu:
			g := 1 / (1 + e)
			y[i] = x[i] * g
			slope[i] = g * (1 + x[i]*(1-g))
		case tanh:
			y[i] = (1 - e) / (1 + e)
			slope[i] = 1 - y[i]*y[i]
		case sign:
			y[i] = -1
			if x[i] > 0 {
				y[i] = 1
			}
			slope[i] = 4 * e / ((1 + e) * (1 + e)) // 1 - tanh(x)^2
		}
	}
}

func (*host[T]) Multiply(z, x, y []T) {
	x, y = x[:len(z)], y[:len(z)]
	for i := range z {
		z[i] = x[i] * y[i]
	}
}

func (*host[T]) Add(z, x, y []T) {
	x, y = x[:len(z)], y[:len(z)]
	for i := range z {
		z[i] = x[i] + y[i]
	}
}

func (*host[T]) Scale(y, x []T, factor T) {
	for i, v := range x {
		y[i] = factor * v
	}
}

func (e *host[T]) Round(y, w []T, cols, queryBits int) {
	if len(e.wide) != cols {
		e.wide, e.weights = make([]float64, cols), make([]int8, cols)
	}
	for at := 0; at < len(w); at += cols {
		for i, x := range w[at : at+cols] {
			e.wide[i] = float64(x)
		}
		scale := kernels.QuantizeQuery(e.weights, e.wide, queryBits)
		for i, x := range e.weights {
			y[at+i] = T(scale) * T(x)
		}
	}
}

func (e *host[T]) Feedback(z, r []T, bits, block int) {
	// Bits are fed back a part at a time: a part's pattern indexes the sum of
	// its columns of R, so that a row costs bits/part additions a bit.
	part := block
	for part > 8 {
		part = divisor(block, 8)
	}
	size := 1 << part * bits
	if len(e.table) != size*(bits/part) {
		e.table = make([]T, size*(bits/part))
	}
	for p := range bits / part {
		patterns(e.table[p*size:(p+1)*size], r, p*part, part, bits)
	}
	for ; len(z) > 0; z = z[bits:] {
		for first := 0; first < bits-block; first += block {
			for p := first; p < first+block; p += part {
				pattern := 0
				for j, x := range z[p : p+part] {
					if x > 0 {
						pattern |= 1 << j
					}
				}
				at := (p/part<<part + pattern) * bits
				add := e.table[at+first+block : at+bits]
				later := z[first+block:][:len(add)]
				for i, x := range add {
					later[i] += x
				}
			}
		}
	}
}

func (e *host[T]) FeedbackGradient(dr, z, dz []T, bits, block int) {
	if len(e.code) < len(z) {
		e.code = make([]T, len(z))
	}
	for i, x := range z {
		e.code[i] = -1
		if x > 0 {
			e.code[i] = 1
		}
	}
	gemm(true, false, bits, bits, len(z)/bits, 1, dz, e.code, 0, dr)
	for i := range bits { // a block does not see itself or later ones
		clear(dr[i*bits+i/block*block : (i+1)*bits])
	}
}

func (e *host[T]) Targets(dst []T, stride int, logits, edges []T, m, heads int, apart bool, more, power float64, first, last bool) {
	rows := heads * m
	n, edge := len(logits)/rows, len(edges)/rows
	for r := range rows {
		x := logits[r*n : (r+1)*n]
		to := r
		if !apart {
			to = r % m
		}
		out := dst[to*stride : to*stride+n]
		top := maximum(x)
		sum := expSum(x, top)
		share := 1.0
		if edge > 0 {
			y := edges[r*edge : (r+1)*edge]
			most := maximum(y)
			outside := float64(most) + math.Log(float64(expSum(y, most)))
			inside := float64(top) + math.Log(float64(sum))
			share = 1 / (math.Exp(more) + math.Exp(min(outside-inside, 80)))
			if power != 1 {
				share = math.Pow(share, power)
			}
		}
		f := T(share / float64(sum))
		if apart || first && r < m {
			for i, e := range x {
				out[i] = e * f
			}
		} else {
			for i, e := range x {
				out[i] += e * f
			}
		}
		if !apart && last && r >= rows-m {
			normalise(out)
		}
	}
}

func (*host[T]) Top(dst []T, stride int, x []T, keys, count int) {
	for r := range len(x) / keys {
		top(dst[r*stride:][:keys], x[r*keys:(r+1)*keys], count)
	}
}

func (e *host[T]) Loss(positive float64, scores, target []T, keys, stride int) {
	for r := range len(scores) / keys {
		row, want := scores[r*keys:(r+1)*keys], target[r*stride:]
		if positive > 0 {
			e.total += e.weightedBinary(T(positive), row, want)
		} else {
			e.total += crossEntropy(row, want)
		}
	}
}

func (e *host[T]) Total() (float64, error) {
	total := e.total
	e.total = 0
	return total, nil
}

// crossEntropy is -sum target log softmax(scores), for targets that sum to
// 1. Up to the target's entropy it is their KL divergence. scores become its
// gradient.
func crossEntropy[T number](scores, target []T) float64 {
	top := maximum(scores)
	target = target[:len(scores)]
	var even, odd T // two sums, since one would wait for itself
	for i := 0; i+1 < len(scores); i += 2 {
		even += target[i] * (scores[i] - top)
		odd += target[i+1] * (scores[i+1] - top)
	}
	if last := len(scores) - 1; last%2 == 0 {
		even += target[last] * (scores[last] - top)
	}
	match := even + odd
	sum := expSum(scores, top)
	scale := 1 / sum
	for i, e := range scores {
		scores[i] = e*scale - target[i]
	}
	return math.Log(float64(sum)) - float64(match)
}

// weightedBinary is the mean binary cross-entropy of sigmoid(scores), in the
// softplus form, which keeps its gradient where the sigmoid saturates. Targets
// are 0 or 1; a positive counts weight times (the paper's equation for the loss
// of its mapping). scores become its gradient.
func (e *host[T]) weightedBinary(weight T, scores, target []T) float64 {
	target = target[:len(scores)]
	if len(e.small) < len(scores) {
		e.small = make([]T, len(scores))
	}
	small := e.small[:len(scores)] // exp(-|score|)
	for i, x := range scores {
		small[i] = x
		if x > 0 {
			small[i] = -x
		}
	}
	expSum(small, 0)
	loss := 0.0
	scale := 1 / T(len(scores))
	for i, x := range scores {
		e := small[i]
		softplus := max(x, 0) + log1p(e)
		g := 1 / (1 + e) // the sigmoid
		if x < 0 {
			g *= e
		}
		if target[i] > 0 {
			loss += float64(weight * (softplus - x))
			scores[i] = weight * (g - 1) * scale
		} else {
			loss += float64(softplus)
			scores[i] = g * scale
		}
	}
	return loss * float64(scale)
}
