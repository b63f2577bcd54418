//go:build gpu

package cuda

import "github.com/hashattn/hashattn/kernels"

// Decode steps are many small launches. Linear layers of the same input (q, k
// and v; gate and up, with the activation), two rotary embeddings by the same
// angles with storing the keys, and the encoding of keys and queries are therefore held back and launched together; every other operation launches
// what is held first.
type held struct {
	linears linears
	layers  int    // of linears
	bytes   [3]int // of their outputs
	rope    ropeArgs
	keys    *encoder // of the step, to be encoded with its queries
	keyArgs encodeArgs
}

type ropeArgs struct {
	x, y, cos, sin, heads, heads2, dim, half, first, pairs int
	set                                                    bool
}

// flush launches what is held.
func (d *Device) flush() {
	h := d.held
	d.held = held{}
	if h.layers > 0 {
		a := h.linears
		for i := h.layers; i < 3; i++ {
			a.end[i] = a.end[h.layers-1]
		}
		name := "linear_8"
		if a.tokens > 8 {
			name = "linear_16"
		}
		d.queueKernel(name, size{x: int(a.end[2]), y: 1, z: 1, block: 256}, a)
	}
	if h.keys != nil {
		d.encodeFew([]*encoder{h.keys}, []encodeArgs{h.keyArgs})
	}
	if r := h.rope; r.set {
		d.queueKernel("rope", size{x: min((r.pairs+255)/256, 32*d.info.Multiprocessors), y: 1, z: 1, block: 256},
			r.x, r.y, r.cos, r.sin, r.heads, r.heads2, r.dim, r.half, r.first, r.pairs)
	}
}

// holdLinear adds a small linear layer to those held if it reads the same
// input and writes memory of its own.
func (d *Device) holdLinear(out kernels.Tensor, in uint64, w *weight, bias kernels.Tensor, tokens int, add bool) {
	split := linearSplit(w.stride)
	blocks := ((w.rows+7)/8 + 8/split - 1) / (8 / split)
	l := &d.held.linears
	if n := d.held.layers; n == 0 || n == 3 || add || l.add != 0 || l.x != in || int(l.tokens) != tokens || int(l.stride) != w.stride || d.held.writes(out) {
		d.flush()
		*l = linears{x: in, tokens: int32(tokens), stride: int32(w.stride), split: int32(split), add: int32(flag(add))}
	}
	n := d.held.layers
	l.out[n], l.w[n], l.bias[n], l.rows[n], l.end[n] = address(out), w.ptr, address(bias), int32(w.rows), int32(blocks)
	if n > 0 {
		l.end[n] += l.end[n-1]
	}
	d.held.bytes[n] = out.Memory.(memory).size
	d.held.layers++
}

// gateStride is the longest rows whose products gain by being launched with the
// activation: a warp reads a quarter of a row then, instead of an eighth.
const gateStride = 2048

// gateHeld launches the two held layers that give gate and up together with
// the activation; false if they are not held.
func (d *Device) gateHeld(out, gate, up kernels.Tensor, rows, cols int, act kernels.Activation) bool {
	l := &d.held.linears
	if d.held.layers != 2 || l.add != 0 || l.out[0] != address(gate) || l.out[1] != address(up) ||
		l.stride > gateStride || int(l.tokens) != rows || int(l.rows[0]) != cols || int(l.rows[1]) != cols || padded(cols) != cols {
		return false
	}
	l.gated, l.act = address(out), int32(act)+1
	l.shadow = d.shadowFor(shadowGate, out, rows, cols)
	l.end = [3]int32{int32(cols / 8), int32(cols / 8), int32(cols / 8)}
	d.flush()
	return true
}

// ropeHeld launches the two held rotary embeddings together with storing the
// keys and values; false if they are not held.
func (d *Device) ropeHeld(layer int, k, v kernels.Tensor, b *kernels.Batch, s *batch) bool {
	r, heads, dim := d.held.rope, k.Dim(1), k.Dim(2)
	if !r.set || r.first == r.pairs || r.y != int(address(k)) || r.heads2 != heads || r.dim != dim || 2*r.half != dim ||
		r.pairs != b.Tokens*(r.heads+heads)*r.half {
		return false
	}
	d.held.rope = ropeArgs{}
	d.elementwise(s.cacheKernel("rope_append"), (r.heads+2*heads)*r.half, b.Tokens,
		r.x, r.y, v, r.cos, r.sin, s.rows, s.layers, s.shape.layers, layer, r.heads, heads, dim)
	return true
}

// writes says whether a held layer writes memory of the tensor.
func (h *held) writes(t kernels.Tensor) bool {
	lo, size := address(t), t.Memory.(memory).size
	for i := range h.layers {
		if to := h.linears.out[i]; lo < to+uint64(h.bytes[i]) && to < lo+uint64(size) {
			return true
		}
	}
	return false
}

// holdRope holds a rotary embedding, or two.
func (d *Device) holdRope(x, cos, sin kernels.Tensor) {
	half, dim := cos.Dim(1), x.Dim(2)
	pairs := x.Dim(0) * x.Dim(1) * half
	at := [3]int{int(address(x)), int(address(cos)), int(address(sin))}
	if r := &d.held.rope; r.set && r.first == r.pairs && r.cos == at[1] && r.sin == at[2] && r.half == half && r.dim == dim && r.x != at[0] {
		r.y, r.heads2 = at[0], x.Dim(1)
		r.pairs += pairs
		return
	}
	d.flush()
	d.held.rope = ropeArgs{x: at[0], cos: at[1], sin: at[2], heads: x.Dim(1), heads2: 1, dim: dim, half: half, first: pairs, pairs: pairs, set: true}
}
