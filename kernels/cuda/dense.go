//go:build gpu

package cuda

import (
	"fmt"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// shadow is the bf16 copy of an activation tensor, which matrix products read.
// Each producer has one; it holds until its source is written again.
type shadow struct {
	src        uint64 // address of the float32 rows; 0: none
	rows, cols int
	ptr        uint64
}

// The producers of bf16 copies.
const (
	shadowNorm = iota
	shadowGate
	shadowAttention
)

var shadowNames = [...]string{"copy of norm", "copy of gate", "copy of attention"}

// shadowFor reserves the producer's copy of out [rows, cols].
func (d *Device) shadowFor(producer int, out kernels.Tensor, rows, cols int) uint64 {
	p := d.borrow(shadowNames[producer], 2*rows*padded(cols))
	d.shadows[producer] = shadow{address(out), rows, cols, p}
	return p
}

// wrote drops copies of a tensor that is written.
func (d *Device) wrote(t kernels.Tensor) {
	lo := address(t)
	hi := lo + uint64(t.Memory.(memory).size)
	for i, s := range d.shadows {
		if s.src != 0 && lo < s.src+uint64(4*s.rows*s.cols) && s.src < hi {
			d.shadows[i] = shadow{}
		}
	}
}

// bf16 is the address of x's copy, rows of padded(cols): a producer's, or one
// made now.
func (d *Device) bf16(x kernels.Tensor, rows, cols int) uint64 {
	at := address(x)
	for _, s := range d.shadows {
		if s.src == 0 || s.cols != cols || at < s.src || (at-s.src)%uint64(4*cols) != 0 {
			continue
		}
		if first := int(at-s.src) / (4 * cols); first+rows <= s.rows {
			return s.ptr + uint64(2*first*padded(cols))
		}
	}
	p := d.borrow("copy", 2*rows*padded(cols))
	d.elementwise("convert", padded(cols), rows, p, x, cols, padded(cols))
	return p
}

// elementwise launches a kernel over rows of width, block row y.
func (d *Device) elementwise(name string, width, rows int, args ...any) {
	const most = 65535 // blocks in y
	if rows > most {
		panic(fmt.Sprintf("cuda: %d rows in one operation, %d at most", rows, most))
	}
	d.launch(name, size{x: min((width+255)/256, 64), y: rows, z: 1, block: 256}, args...)
}

// flat launches a kernel over n elements.
func (d *Device) flat(name string, n int, args ...any) {
	d.launch(name, size{x: min((n+255)/256, 32*d.info.Multiprocessors), y: 1, z: 1, block: 256}, args...)
}

// Embed implements kernels.Device.
func (d *Device) Embed(out kernels.Tensor, table kernels.Weight, tokens kernels.Tensor, scale float32) {
	want("out", out, dtype.F32)
	want("tokens", tokens, dtype.I32)
	w := table.(*weight)
	d.wrote(out)
	kernel := "embed"
	if w.wide {
		kernel = "wide_embed"
	}
	d.elementwise(kernel, w.cols, tokens.Len(), out, w.ptr, tokens, w.cols, w.stride, scale)
}

// RMSNorm implements kernels.Device.
func (d *Device) RMSNorm(out, x, gain kernels.Tensor, eps float32) {
	want("x", x, dtype.F32)
	width := gain.Len()
	rows := x.Len() / width
	d.wrote(out)
	var copy uint64
	if len(out.Shape) == 2 && out.Dim(1) == width { // not the norm of heads
		copy = d.shadowFor(shadowNorm, out, rows, width)
	}
	n := normArgs{out: out, x: x, gain: gain, copy: copy, rows: rows, width: width, eps: eps}
	if d.holdNorm(n) {
		return
	}
	d.flush()
	d.norm(n)
}

// normArgs is an RMS norm of rows of width; copy gets the bf16 rows, if set.
type normArgs struct {
	out, x, gain kernels.Tensor
	copy         uint64
	rows, width  int
	eps          float32
}

// norm queues an RMS norm.
func (d *Device) norm(n normArgs) {
	block := min(1024, (n.width+31)/32*32)
	if n.rows > 64 {
		block = min(256, block)
	}
	d.queueKernel("rms_norm", size{x: n.rows, y: 1, z: 1, block: block}, n.out, n.x, n.gain, n.copy, n.width, padded(n.width), n.eps)
}

// Linear implements kernels.Device. Up to 16 rows run in a kernel that streams
// the weights once, more in cuBLAS.
func (d *Device) Linear(out, x kernels.Tensor, w_ kernels.Weight, bias kernels.Tensor, add bool) {
	want("x", x, dtype.F32)
	want("out", out, dtype.F32)
	w := w_.(*weight)
	rows := x.Len() / w.cols
	if x.Len()%w.cols != 0 || out.Len() != rows*w.rows {
		panic(fmt.Sprintf("kernels: linear of %v to %v by [%d %d]", x.Shape, out.Shape, w.rows, w.cols))
	}
	if rows == 0 {
		return
	}
	in := address(x)
	if !w.wide {
		in = d.bf16(x, rows, w.cols)
	}
	d.wrote(out)
	if rows <= 16 && !w.wide {
		d.follow(w)
		d.holdLinear(out, in, w, bias, rows, add)
		return
	}
	d.flush()
	var beta float32
	if !bias.None() {
		d.elementwise("bias_rows", w.rows, rows, out, bias, w.rows, add)
		beta = 1
	} else if add {
		beta = 1
	}
	if d.failed == nil {
		d.fail(d.blas.linear(d.queue, rows, w.rows, w.stride, in, w.ptr, w.wide, address(out), beta))
	}
}

// linearSplit is over how many warps a row of weights is divided: as many as
// leave each warp one batch of loads.
func linearSplit(stride int) int {
	split := 1
	for split < 8 && stride/32 >= 12*split {
		split *= 2
	}
	return split
}

// Gate implements kernels.Device.
func (d *Device) Gate(out, gate, up kernels.Tensor, act kernels.Activation) {
	want("gate", gate, dtype.F32)
	cols := out.Dim(-1)
	rows := out.Len() / cols
	d.wrote(out)
	if d.gateHeld(out, gate, up, rows, cols, act) {
		return
	}
	d.elementwise("gate", padded(cols), rows, out, gate, up, d.shadowFor(shadowGate, out, rows, cols), cols, padded(cols), int(act))
}

// Add implements kernels.Device.
func (d *Device) Add(x, y kernels.Tensor) {
	want("x", x, dtype.F32)
	d.wrote(x)
	d.flat("add", x.Len(), x, y, x.Len())
}

// RopeTable implements kernels.Device.
func (d *Device) RopeTable(cos, sin, freq kernels.Tensor, b *kernels.Batch) {
	d.wrote(cos)
	d.wrote(sin)
	d.flat("rope_table", b.Tokens*freq.Len(), cos, sin, freq, d.use(b).rows, freq.Len(), b.Tokens)
}

// Rope implements kernels.Device.
func (d *Device) Rope(x, cos, sin kernels.Tensor) {
	want("x", x, dtype.F32)
	d.wrote(x)
	d.holdRope(x, cos, sin)
}

// ArgMax implements kernels.Device.
func (d *Device) ArgMax(out, x kernels.Tensor) {
	want("out", out, dtype.I32)
	d.wrote(out)
	rows, width := out.Len(), x.Dim(-1)
	const perBlock = 8192 // values
	parts := max(1, min((width+perBlock-1)/perBlock, d.info.Multiprocessors/rows))
	d.launch("argmax", size{x: parts, y: rows, z: 1, block: 1024}, out, x, width, d.borrow("argmax parts", rows*parts*8), d.borrow("argmax arrivals", rows*4))
}

// NegLogLikelihood implements kernels.Device.
func (d *Device) NegLogLikelihood(out, logits, targets kernels.Tensor) {
	want("targets", targets, dtype.I32)
	d.wrote(out)
	d.launch("neg_log_likelihood", size{x: out.Len(), y: 1, z: 1, block: 1024}, out, logits, targets, logits.Dim(-1))
}
