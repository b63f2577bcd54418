//go:build gpu

package cuda

import (
	"fmt"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// decodeRows is the longest segment that attention treats row by row; longer
// ones take the prefill kernel.
const decodeRows = 16

// cacheKernel is a kernel's name for the batch's cache type.
func (s *batch) cacheKernel(name string) string {
	if s.shape.mixed {
		panic("cuda: " + name + " on a batch whose caches differ in type")
	}
	if s.shape.cache == dtype.F32 {
		return name + "_f32"
	}
	return name + "_bf16"
}

// tensorCores says whether the fast attention kernels take the batch's cache.
func (d *Device) tensorCores(s *batch) bool {
	return !d.options.Precise && s.shape.cache == dtype.BF16 && !s.shape.mixed && (s.shape.dim == 64 || s.shape.dim == 128 || s.shape.dim == 256)
}

// Append implements kernels.Device.
func (d *Device) Append(layer int, k, v kernels.Tensor, b *kernels.Batch) {
	want("k", k, dtype.F32)
	s := d.use(b)
	heads, dim := k.Dim(1), k.Dim(2)
	if heads != s.shape.kvHeads || dim != s.shape.dim {
		panic(fmt.Sprintf("kernels: append of %v to a cache of %d heads of %d", k.Shape, s.shape.kvHeads, s.shape.dim))
	}
	if d.ropeHeld(layer, k, v, b, s) {
		return
	}
	d.elementwise(s.cacheKernel("append"), heads*dim, b.Tokens, k, v, s.rows, s.layers, s.shape.layers, layer, heads, dim)
}

// Attend implements kernels.Device.
func (d *Device) Attend(out, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, window int) {
	s := d.use(b)
	d.count(func() (int64, int64) { return denseReads(b, q.Dim(1), window) })
	d.attend(out, q, layer, s, scale, window, kernels.Tensor{}, kernels.Selection{Heads: s.shape.kvHeads})
}

// denseReads counts the rows that Attend reads: as many as are visible.
func denseReads(b *kernels.Batch, heads, window int) (int64, int64) {
	var n int64
	b.Row(func(_ int, s *kernels.Segment, p int) {
		seen := p + 1
		if window > 0 {
			seen = min(seen, window)
		}
		n += int64(seen * heads)
	})
	return n, n
}

// AttendSelected implements kernels.Device.
func (d *Device) AttendSelected(out, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, selected kernels.Tensor, sel kernels.Selection) {
	want("selected", selected, dtype.I32)
	s := d.useExact(b)
	d.count(func() (int64, int64) { return selectedReads(b, q.Dim(1), sel) })
	d.attend(out, q, layer, s, scale, 0, selected, sel)
}

// selectedReads counts the rows that AttendSelected reads and that are cached.
func selectedReads(b *kernels.Batch, heads int, sel kernels.Selection) (attended, cached int64) {
	b.Row(func(_ int, s *kernels.Segment, p int) {
		attended += int64(sel.Read(p+1) * heads)
		cached += int64((p + 1) * heads)
	})
	return attended, cached
}

// attend runs attention over a window or, where selected is set, over a
// selection.
func (d *Device) attend(out, q kernels.Tensor, layer int, s *batch, scale float32, window int, selected kernels.Tensor, sel kernels.Selection) {
	want("q", q, dtype.F32)
	heads, dim, tokens := q.Dim(1), q.Dim(2), s.shape.tokens
	if dim != s.shape.dim || heads%s.shape.kvHeads != 0 {
		panic(fmt.Sprintf("kernels: queries %v on a cache of %d heads of %d", q.Shape, s.shape.kvHeads, s.shape.dim))
	}
	if sel.Heads != heads && sel.Heads != s.shape.kvHeads {
		panic(fmt.Sprintf("kernels: selection of %d sets for %d query heads, %d KV heads", sel.Heads, heads, s.shape.kvHeads))
	}
	d.wrote(out)
	a := attendArgs{
		out: address(out), q: address(q), rows: s.rows, layers: s.layers, selected: address(selected),
		layerCount: int32(s.shape.layers), layer: int32(layer), queryHeads: int32(heads), kvHeads: int32(s.shape.kvHeads), sets: int32(sel.Heads),
		window: int32(window), dim: int32(dim), scale: scale, single: s.single(), s: selectionOf(sel),
	}
	read := s.shape.limit
	if !selected.None() {
		a.k = int32(selected.Dim(2))
		read = sel.Read(s.shape.limit)
	} else if window > 0 {
		read = min(read, window)
	}
	if !d.tensorCores(s) {
		d.launch(s.cacheKernel("attend_plain"), size{x: heads, y: tokens, z: 1, block: 256}, a)
		return
	}
	a.shadow = d.shadowFor(shadowAttention, out, tokens, heads*dim)
	if selected.None() && s.shape.longestSegment > decodeRows {
		d.prefill(a, s)
		return
	}
	group := heads / sel.Heads
	sets := sel.Heads * ((group + 7) / 8)
	splits := attendSplits(sets*tokens, read, d.info.Multiprocessors, dim)
	if splits > 1 {
		a.parts = d.borrow("attention parts", tokens*sets*splits*8*(dim+2)*4)
		a.arrived = d.borrow("attention arrivals", tokens*sets*4)
	}
	a.splits = int32(splits)
	extra := d.spare(splits*sets*tokens, 2) / (sets * tokens)
	a.ahead = d.upcoming(extra * sets * tokens)
	d.launch(fmt.Sprintf("attend_rows_%d", dim), size{x: splits + extra, y: sets, z: tokens, block: 256, shared: 8 * min(group, 8) * dim * 4}, a)
}

// attendSplits divides each of sets token lists so that the blocks fill the
// GPU once, none with less than one step of its 8 warps; the block that adds
// the parts has room for the weights of 4 dim of them.
func attendSplits(sets, read, multiprocessors, dim int) int {
	blocks := 2 * multiprocessors
	if dim > 128 {
		blocks = multiprocessors
	}
	return max(1, min(blocks/sets, (read+127)/128, 4*dim))
}

// prefill runs causal attention over tiles of query rows.
func (d *Device) prefill(a attendArgs, s *batch) {
	rows := tileRows(s.shape.dim)
	p := prefillArgs{
		out: a.out, shadow: a.shadow, q: a.q, tiles: s.tiles, layers: a.layers,
		layerCount: a.layerCount, layer: a.layer, queryHeads: a.queryHeads, kvHeads: a.kvHeads, window: a.window, scale: a.scale,
	}
	d.launch(fmt.Sprintf("prefill_%d", s.shape.dim), size{x: s.shape.tiles, y: int(a.queryHeads), z: 1, block: 128, shared: (rows + 256) * s.shape.dim * 2}, p)
}
