package cpu

import (
	"math"
	"unsafe"

	"github.com/hashattn/hashattn/kernels"
)

// rangesJob is a function of a range, cut into parts. Building the function
// allocates, so small operations do without.
type rangesJob struct {
	n, part int
	do      func(worker, lo, hi int)
}

func (j *rangesJob) task(worker, index int) {
	lo := index * j.part
	j.do(worker, lo, min(j.n, lo+j.part))
}

// ranges runs do over 0 to n in parts of about part.
func (d *Device) ranges(n, part int, do func(worker, lo, hi int)) {
	part = max(1, part)
	d.pool.run((n+part-1)/part, &rangesJob{n, part, do})
}

// small is the number of values below which an operation stays on one thread.
const small = 1 << 14

// Copy implements kernels.Device.
func (d *Device) Copy(dst, src kernels.Tensor) {
	kernels.CheckCopy(dst, src)
	to, from := dst.Bytes(), src.Bytes()
	if len(to) <= 4*small {
		copy(to, from)
		return
	}
	d.ranges(len(to), 4*small, func(_, lo, hi int) { copy(to[lo:hi], from[lo:hi]) })
}

// RMSNorm implements kernels.Device.
func (d *Device) RMSNorm(out, x, gain kernels.Tensor, eps float32) {
	o, in, g := out.F32(), x.F32(), gain.F32()
	if len(in) <= small {
		d.normRows(0, o, in, g, eps)
		return
	}
	width := len(g)
	d.ranges(len(in)/width, small/2/width, func(worker, lo, hi int) {
		d.normRows(worker, o[lo*width:hi*width], in[lo*width:hi*width], g, eps)
	})
}

func (d *Device) normRows(worker int, out, x, gain []float32, eps float32) {
	width, k := len(gain), d.set
	whole := width / k.lanes * k.lanes
	for at := 0; at < len(x); at += width {
		xs, o := x[at:at+width], out[at:at+width]
		sum := d.dot(worker, xs, xs)
		scale := float32(1 / math.Sqrt(float64(sum)/float64(width)+float64(eps)))
		if whole > 0 {
			k.scaleBy(whole, &o[0], &xs[0], &gain[0], scale)
		}
		for i := whole; i < width; i++ {
			o[i] = xs[i] * scale * gain[i]
		}
	}
}

// dot is the dot product of two vectors.
func (d *Device) dot(worker int, a, b []float32) float32 {
	k := d.set
	whole := len(a) / k.lanes * k.lanes
	var sum float32
	if whole > 0 {
		s := &d.scratch[worker].sums
		k.dotF32[0](whole, 1, 0, (*byte)(unsafe.Pointer(&a[0])), whole, &b[0], whole, &s[0], 1)
		sum = s[0]
	}
	for i := whole; i < len(a); i++ {
		sum += a[i] * b[i]
	}
	return sum
}

// Gate implements kernels.Device.
func (d *Device) Gate(out, gate, up kernels.Tensor, act kernels.Activation) {
	a, b := float32(1), float32(0)
	switch act {
	case kernels.SiLU:
	case kernels.GELUTanh:
		slope := math.Sqrt(8 / math.Pi)
		a, b = float32(slope), float32(0.044715*slope)
	default:
		d.Reference.Gate(out, gate, up, act)
		return
	}
	o, g, u := out.F32(), gate.F32(), up.F32()
	if len(o) <= small {
		d.gate(o, g, u, a, b)
		return
	}
	d.ranges(len(o), small/2, func(_, lo, hi int) { d.gate(o[lo:hi], g[lo:hi], u[lo:hi], a, b) })
}

func (d *Device) gate(out, x, up []float32, a, b float32) {
	k := d.set
	whole := len(out) / k.lanes * k.lanes
	if whole > 0 {
		k.gate(whole, &out[0], &x[0], &up[0], a, b)
	}
	for i := whole; i < len(out); i++ {
		v := x[i]
		out[i] = v / (1 + exp32(-v*(a+b*v*v))) * up[i]
	}
}

// Add implements kernels.Device.
func (d *Device) Add(x, y kernels.Tensor) {
	xs, ys := x.F32(), y.F32()
	if len(xs) <= small {
		d.add(xs, ys)
		return
	}
	d.ranges(len(xs), small, func(_, lo, hi int) { d.add(xs[lo:hi], ys[lo:hi]) })
}

func (d *Device) add(x, y []float32) {
	whole := len(x) / d.set.lanes * d.set.lanes
	if whole > 0 {
		d.set.addTo(whole, &x[0], &y[0])
	}
	for i := whole; i < len(x); i++ {
		x[i] += y[i]
	}
}

// Rope implements kernels.Device.
func (d *Device) Rope(x, cos, sin kernels.Tensor) {
	tokens, heads, width := x.Dim(0), x.Dim(1), x.Dim(2)
	xs, cs, ss := x.F32(), cos.F32(), sin.F32()
	if len(xs) <= small {
		rope(xs, cs, ss, heads, width, cos.Dim(1))
		return
	}
	half, row := cos.Dim(1), heads*width
	d.ranges(tokens, small/row, func(_, lo, hi int) {
		rope(xs[lo*row:hi*row], cs[lo*half:hi*half], ss[lo*half:hi*half], heads, width, half)
	})
}

func rope(x, cos, sin []float32, heads, width, half int) {
	for t := 0; t*heads*width < len(x); t++ {
		c, s := cos[t*half:(t+1)*half], sin[t*half:(t+1)*half]
		for h := range heads {
			v := x[(t*heads+h)*width:][:width]
			a, b := v[:half], v[half:2*half]
			for i, x := range a {
				y := b[i]
				a[i], b[i] = x*c[i]-y*s[i], x*s[i]+y*c[i]
			}
		}
	}
}

// NegLogLikelihood implements kernels.Device.
func (d *Device) NegLogLikelihood(out, logits, targets kernels.Tensor) {
	width := logits.Dim(-1)
	o, ls, ts := out.F32(), logits.F32(), targets.I32()
	d.ranges(len(ts), 1, func(worker, lo, hi int) {
		for t := lo; t < hi; t++ {
			o[t] = d.negLog(worker, ls[t*width:(t+1)*width], int(ts[t]))
		}
	})
}

func (d *Device) negLog(worker int, logits []float32, target int) float32 {
	const block = 4096
	k := d.set
	buf := grow(&d.scratch[worker].a, block)
	top := float32(math.Inf(-1))
	for _, v := range logits {
		top = max(top, v)
	}
	total := 0.0
	for at := 0; at < len(logits); at += block {
		n := copy(buf[:block], logits[at:])
		total += float64(k.expSum(d.fill(buf, n), &buf[0], 1, top))
	}
	return float32(float64(top) + math.Log(total) - float64(logits[target]))
}

// fill sets values behind the first n to -Inf up to whole registers and gives
// the rounded count; exp of them is 0.
func (d *Device) fill(x []float32, n int) int {
	lanes := d.set.lanes
	rounded := (n + lanes - 1) / lanes * lanes
	for i := n; i < rounded; i++ {
		x[i] = float32(math.Inf(-1))
	}
	return rounded
}
