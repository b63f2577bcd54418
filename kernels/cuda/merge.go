//go:build gpu

package cuda

import "github.com/hashattn/hashattn/kernels"

// Decode steps are many small launches. Operations are therefore held back and
// launched together: an RMS norm with the linear layers that read it, linear
// layers of the same input (q, k and v; gate and up, with the activation), two
// rotary embeddings by the same angles with storing the keys, or both of these
// with the layers that give q, k and v, and the encoding of keys and queries.
// Every other operation launches what is held first.
type held struct {
	norm    normArgs // input of the linears, or of none yet
	normed  bool
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
		d.linears(h)
	} else if h.normed {
		d.norm(h.norm)
	}
	if h.keys != nil {
		d.encodeFew([]*encoder{h.keys}, []encodeArgs{h.keyArgs})
	}
	if r := h.rope; r.set {
		d.queueKernel("rope", size{x: min((r.pairs+255)/256, 32*d.info.Multiprocessors), y: 1, z: 1, block: 256},
			r.x, r.y, r.cos, r.sin, r.heads, r.heads2, r.dim, r.half, r.first, r.pairs)
	}
}

// linears queues linear layers with the norm ahead of them.
func (d *Device) linears(h held) {
	a := h.linears
	for i := h.layers; i < 3; i++ {
		a.end[i] = a.end[h.layers-1]
	}
	l := size{x: int(a.end[2]), y: 1, z: 1, block: 256}
	name := "linear_8"
	if a.tokens > 8 {
		name = "linear_16"
	}
	if n := h.norm; h.normed {
		name = "linear_norm"
		l.shared = 2 * n.rows * padded(n.width)
		a.raw, a.gain, a.normed, a.normedCopy, a.width, a.eps = address(n.x), address(n.gain), address(n.out), n.copy, int32(n.width), n.eps
	}
	d.queueKernel(name, l, a)
}

// normValues is the most values of a norm that every block of the linear
// layers behind it computes for itself.
const normValues = 8192

// holdNorm holds the norm of few rows; false if it must be launched.
func (d *Device) holdNorm(n normArgs) bool {
	if n.copy == 0 || n.rows > 8 || n.rows*padded(n.width) > normValues || n.width%4 != 0 || overlap(n.out, n.x) {
		return false
	}
	d.flush()
	d.held.norm, d.held.normed = n, true
	return true
}

// tileBlocks is how many blocks take rows outputs, a tile of perTile by each
// split warps.
func tileBlocks(rows, perTile, split int) int {
	return ((rows+perTile-1)/perTile + 8/split - 1) / (8 / split)
}

// holdLinear adds a small linear layer to those held if it reads the same
// input and writes memory of its own.
func (d *Device) holdLinear(out kernels.Tensor, in uint64, w *weight, bias kernels.Tensor, tokens int, add bool) {
	split := linearSplit(w.stride)
	l := &d.held.linears
	n := d.held.layers
	joins := n > 0 && n < 3 && !add && l.add == 0 && l.x == in && int(l.tokens) == tokens && int(l.stride) == w.stride && !d.held.rope.set
	first := n == 0 && d.held.normed && d.held.norm.copy == in && d.held.norm.rows == tokens
	if !joins && !first || d.held.writes(out) {
		d.flush()
		n = 0
	}
	if n == 0 {
		*l = linears{x: in, tokens: int32(tokens), stride: int32(w.stride), split: int32(split), add: int32(flag(add))}
	}
	l.out[n], l.w[n], l.bias[n], l.rows[n], l.end[n] = address(out), w.ptr, address(bias), int32(w.rows), int32(tileBlocks(w.rows, 8, split))
	if n > 0 {
		l.end[n] += l.end[n-1]
	}
	d.held.bytes[n] = out.Memory.(memory).size
	d.held.layers++
}

// gateHeld launches the two held layers that give gate and up together with
// the activation; false if they are not held.
func (d *Device) gateHeld(out, gate, up kernels.Tensor, rows, cols int, act kernels.Activation) bool {
	l := &d.held.linears
	if d.held.layers != 2 || l.add != 0 || l.out[0] != address(gate) || l.out[1] != address(up) ||
		int(l.tokens) != rows || int(l.rows[0]) != cols || int(l.rows[1]) != cols || padded(cols) != cols {
		return false
	}
	l.gated, l.act = address(out), int32(act)+1
	l.shadow = d.shadowFor(shadowGate, out, rows, cols)
	blocks := int32(tileBlocks(cols, 4, int(l.split)))
	l.end = [3]int32{blocks, blocks, blocks}
	d.flush()
	return true
}

// ropeHeld launches the two held rotary embeddings together with storing the
// keys and values, and with the layers that give them if those are held; false
// if the embeddings are not held.
func (d *Device) ropeHeld(layer int, k, v kernels.Tensor, b *kernels.Batch, s *batch) bool {
	r, heads, dim := d.held.rope, k.Dim(1), k.Dim(2)
	if !r.set || r.first == r.pairs || r.y != int(address(k)) || r.heads2 != heads || r.dim != dim || 2*r.half != dim ||
		r.pairs != b.Tokens*(r.heads+heads)*r.half {
		return false
	}
	if l := &d.held.linears; d.held.layers == 3 && int(l.tokens) == b.Tokens && l.out == [3]uint64{uint64(r.x), address(k), address(v)} &&
		l.rows == [3]int32{int32(r.heads * dim), int32(heads * dim), int32(heads * dim)} && dim%8 == 0 {
		l.dim, l.cos, l.sin, l.positions, l.caches = int32(dim), uint64(r.cos), uint64(r.sin), s.rows, s.layers
		l.layerCount, l.layer = int32(s.shape.layers), int32(layer)
		d.held.rope = ropeArgs{}
		d.flush()
		return true
	}
	d.held.rope = ropeArgs{}
	d.elementwise(s.cacheKernel("rope_append"), (r.heads+2*heads)*r.half, b.Tokens,
		r.x, r.y, v, r.cos, r.sin, s.rows, s.layers, s.shape.layers, layer, r.heads, heads, dim)
	return true
}

// writes says whether a held layer writes memory of the tensor, or a held norm
// reads or writes it.
func (h *held) writes(t kernels.Tensor) bool {
	lo, size := address(t), t.Memory.(memory).size
	for i := range h.layers {
		if to := h.linears.out[i]; lo < to+uint64(h.bytes[i]) && to < lo+uint64(size) {
			return true
		}
	}
	return h.normed && (overlap(t, h.norm.x) || overlap(t, h.norm.out))
}

// overlap says whether two tensors share memory.
func overlap(a, b kernels.Tensor) bool {
	x, y := a.Memory.(memory), b.Memory.(memory)
	return x.ptr < y.ptr+uint64(y.size) && y.ptr < x.ptr+uint64(x.size)
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
	if l := &d.held.linears; d.held.rope.set || d.held.layers != 3 || l.add != 0 || l.out[0] != uint64(at[0]) {
		d.flush()
	}
	d.held.rope = ropeArgs{x: at[0], cos: at[1], sin: at[2], heads: x.Dim(1), heads2: 1, dim: dim, half: half, first: pairs, pairs: pairs, set: true}
}
