package cpu

import (
	"math"
	"sync"
	"unsafe"

	"github.com/hashattn/hashattn/kernels/dtype"
)

const portableLanes = 8

// portable is the kernels in plain Go, which also say what the assembly does.
func portable() *kernelSet {
	s := &kernelSet{
		name: "portable", lanes: portableLanes, tileRows: 4, tileCols: portableLanes, keys: 1,
		ask: func(int, *int32, *byte, int) {}, projectF32: projectPortable(widenF32), projectBF16: projectPortable(widenBF16), tile: tilePortable, transpose: transposePortable,
		maximum: maximumPortable, expSum: expSumPortable, softmaxColumns: softmaxColumnsPortable,
		scaleColumns: scaleColumnsPortable, gate: gatePortable, scaleBy: scaleByPortable,
		addTo: addToPortable, widen: widenPortable, readAll: readAllPortable,
		toFloat: toFloatPortable, reach: reachPortable, choose: choosePortable, cutUnit: 1, cutI32: cutPortable[int32], cutF32: cutPortable[float32],
		formats: map[dtype.Type]formatKernels{},
	}
	for i := range 4 {
		s.dotF32[i] = dotPortable(i+1, widenF32)
		s.dotBF16[i] = dotPortable(i+1, widenBF16)
		s.mixF32[i] = mixPortable(i+1, widenF32)
		s.mixBF16[i] = mixPortable(i+1, widenBF16)
		s.dotAtF32[i], s.mixAtF32[i] = dotAtPortable(s.dotF32[i], 4), mixAtPortable(s.mixF32[i], 4)
		s.dotAtBF16[i], s.mixAtBF16[i] = dotAtPortable(s.dotBF16[i], 2), mixAtPortable(s.mixBF16[i], 2)
	}
	for _, t := range []dtype.Type{dtype.F32, dtype.F16, dtype.BF16, dtype.Q4_0, dtype.Q4_1, dtype.Q5_0, dtype.Q5_1,
		dtype.Q8_0, dtype.Q2_K, dtype.Q3_K, dtype.Q4_K, dtype.Q5_K, dtype.Q6_K} {
		s.formats[t] = formatPortable(t)
	}
	return s
}

func floats(p *float32, n int) []float32 { return unsafe.Slice(p, n) }

func tilePortable(kc int, a *float32, rs, ks int, b, c *float32, ldc, add int) {
	const rows, cols = 4, portableLanes
	as, bs, cs := floats(a, (rows-1)*rs+(kc-1)*ks+1), floats(b, kc*cols), floats(c, (rows-1)*ldc+cols)
	var acc [rows][cols]float32
	for k := range kc {
		bk := (*[cols]float32)(bs[k*cols:])
		for i := range rows {
			v := as[i*rs+k*ks]
			for j := range cols {
				acc[i][j] += v * bk[j]
			}
		}
	}
	for i := range rows {
		out := cs[i*ldc:][:cols]
		for j, v := range acc[i] {
			if add != 0 {
				v += out[j]
			}
			out[j] = v
		}
	}
}

func transposePortable(dst *float32, ldd int, src *float32, lds int) {
	const n = portableLanes
	d, s := floats(dst, (n-1)*ldd+n), floats(src, (n-1)*lds+n)
	for i := range n {
		for j := range n {
			d[j*ldd+i] = s[i*lds+j]
		}
	}
}

func widenF32(p *byte, at int) float32 { return *(*float32)(unsafe.Add(unsafe.Pointer(p), 4*at)) }

func widenBF16(p *byte, at int) float32 {
	return dtype.F32FromBF16(*(*uint16)(unsafe.Add(unsafe.Pointer(p), 2*at)))
}

func dotPortable(queries int, load func(p *byte, at int) float32) func(width, rows, ahead int, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int) {
	return func(width, rows, _ int, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int) {
		qs, o := floats(q, (queries-1)*ldq+width), floats(out, (queries-1)*ldo+rows)
		for i := range rows {
			var sums [4]float32
			for x := range width {
				v := load(k, i*ldk+x)
				for j := range queries {
					sums[j] += v * qs[j*ldq+x]
				}
			}
			for j := range queries {
				o[j*ldo+i] = sums[j]
			}
		}
	}
}

func mixPortable(queries int, load func(p *byte, at int) float32) func(width, rows int, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int) {
	return func(width, rows int, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int) {
		ps, o := floats(p, (queries-1)*ldp+rows), floats(out, (queries-1)*ldo+width)
		for i := range rows {
			for x := range width {
				value := load(v, i*ldv+x)
				for j := range queries {
					o[j*ldo+x] += ps[j*ldp+i] * value
				}
			}
		}
	}
}

// dotAtPortable and mixAtPortable take the listed rows one by one.
func dotAtPortable(dot func(width, rows, ahead int, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int), size int) func(width, rows, listed int, at *int32, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int) {
	return func(width, rows, _ int, at *int32, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int) {
		for i, p := range unsafe.Slice(at, rows) {
			row := (*byte)(unsafe.Add(unsafe.Pointer(k), int(p)*ldk*size))
			dot(width, 1, 0, row, ldk, q, ldq, (*float32)(unsafe.Add(unsafe.Pointer(out), 4*i)), ldo)
		}
	}
}

func mixAtPortable(mix func(width, rows int, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int), size int) func(width, rows, listed int, at *int32, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int) {
	return func(width, rows, _ int, at *int32, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int) {
		for i, position := range unsafe.Slice(at, rows) {
			row := (*byte)(unsafe.Add(unsafe.Pointer(v), int(position)*ldv*size))
			mix(width, 1, row, ldv, (*float32)(unsafe.Add(unsafe.Pointer(p), 4*i)), ldp, out, ldo)
		}
	}
}

// projectPortable's matrix is row after row: a register of keys is one row.
func projectPortable(load func(p *byte, at int) float32) func(rows, width int, w *byte, x, y *float32) {
	return func(rows, width int, w *byte, x, y *float32) {
		xs := floats(x, width)
		for i := range floats(y, rows) {
			sum := float32(0)
			for j, v := range xs {
				sum += load(w, i*width+j) * v
			}
			floats(y, rows)[i] = sum
		}
	}
}

func maximumPortable(n int, x *float32) float32 {
	xs := floats(x, n)
	best := xs[0]
	for _, v := range xs {
		if v > best {
			best = v
		}
	}
	return best
}

func exp32(x float32) float32 { return float32(math.Exp(float64(x))) }

func expSumPortable(n int, x *float32, scale, shift float32) float32 {
	sum := float32(0)
	for i, v := range floats(x, n) {
		y := exp32(v*scale - shift)
		floats(x, n)[i] = y
		sum += y
	}
	return sum
}

func softmaxColumnsPortable(rows int, x *float32, scale float32, top, sum, shrink *float32) {
	const cols = portableLanes
	xs, tops, sums, shrinks := floats(x, rows*cols), floats(top, cols), floats(sum, cols), floats(shrink, cols)
	for j := range cols {
		best := tops[j]
		for i := range rows {
			best = max(best, xs[i*cols+j]*scale)
		}
		shrinks[j] = exp32(tops[j] - best)
		tops[j] = best
		total := sums[j] * shrinks[j]
		for i := range rows {
			y := exp32(xs[i*cols+j]*scale - best)
			xs[i*cols+j] = y
			total += y
		}
		sums[j] = total
	}
}

func scaleColumnsPortable(rows int, x, factor *float32) {
	const cols = portableLanes
	xs, f := floats(x, rows*cols), floats(factor, cols)
	for i := range rows {
		for j, v := range f {
			xs[i*cols+j] *= v
		}
	}
}

func gatePortable(n int, out, x, up *float32, a, b float32) {
	o, xs, us := floats(out, n), floats(x, n), floats(up, n)
	for i, v := range xs {
		o[i] = v / (1 + exp32(-v*(a+b*v*v))) * us[i]
	}
}

func scaleByPortable(n int, out, x, gain *float32, scale float32) {
	o, g := floats(out, n), floats(gain, n)
	for i, v := range floats(x, n) {
		o[i] = v * scale * g[i]
	}
}

func addToPortable(n int, x, y *float32) {
	xs := floats(x, n)
	for i, v := range floats(y, n) {
		xs[i] += v
	}
}

func widenPortable(n int, dst *float32, src *uint16) {
	dtype.F32FromBF16s(floats(dst, n), unsafe.Slice(src, n))
}

func readAllPortable(n int, p *byte) uint64 {
	or := uint64(0)
	for _, v := range unsafe.Slice((*uint64)(unsafe.Pointer(p)), n/8) {
		or |= v
	}
	return or
}

// formatPortable decodes through package dtype, one run after the other.
func formatPortable(t dtype.Type) formatKernels {
	length := max(32, t.BlockLen())
	size, err := t.Bytes(length)
	if err != nil {
		panic(err)
	}
	decode := func(dst []float32, w []byte) {
		if err := dtype.ToF32(dst, t, w); err != nil {
			panic(err)
		}
	}
	// A decoder's output may outlive the call for all that the compiler knows: a
	// buffer on the stack would be allocated anew in every product.
	buffers := sync.Pool{New: func() any { return new([256]float32) }}
	return formatKernels{
		length: length,
		dequant: func(runs int, w *byte, dst *float32) {
			decode(floats(dst, runs*length), unsafe.Slice(w, runs*size))
		},
		product: func(rows, runs int, w *byte, x, y *float32) {
			buf := buffers.Get().(*[256]float32)
			defer buffers.Put(buf)
			ws, xs, ys := unsafe.Slice(w, rows*runs*size), floats(x, runs*length), floats(y, rows)
			for i := range ys {
				sum := float32(0)
				for run := range runs {
					values := buf[:length]
					decode(values, ws[(i*runs+run)*size:][:size])
					for j, v := range values {
						sum += v * xs[run*length+j]
					}
				}
				ys[i] = sum
			}
		},
	}
}

func toFloatPortable(n int, dst *float32, src *int32) {
	d := floats(dst, n)
	for i, v := range unsafe.Slice(src, n) {
		d[i] = float32(v)
	}
}

func cutPortable[T int32 | float32](n int, scores *T, threshold T, first int, positions *int32, kept *T) int {
	ps, ks := unsafe.Slice(positions, n), unsafe.Slice(kept, n)
	count := 0
	for i, v := range unsafe.Slice(scores, n) {
		if v >= threshold {
			ps[count], ks[count] = int32(first+i), v
			count++
		}
	}
	return count
}

func reachPortable(n int, keys *int32, threshold int32) int {
	count := 0
	for _, k := range unsafe.Slice(keys, n) {
		if k >= threshold {
			count++
		}
	}
	return count
}

func choosePortable(n int, keys *int32, threshold int32, positions *int32) int {
	ps := unsafe.Slice(positions, n)
	count := 0
	for i, k := range unsafe.Slice(keys, n) {
		ps[count] = ps[i]
		count += int(1 + (int64(k)-int64(threshold))>>63) // no branch, which nobody could predict
	}
	return count
}
