//go:build gpu

package cuda

import (
	"fmt"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// AttendHash implements kernels.Device: behind the encoding one cluster launch
// does it all where fusable says so, or chooses the candidates of reranking;
// elsewhere the single operations.
func (d *Device) AttendHash(out, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, h kernels.HashQuery, sel kernels.Selection) {
	want("q", q, dtype.F32)
	s := d.use(b)
	e := h.Encoder.(*encoder)
	tokens, maps, bits, limit := s.shape.tokens, e.p.Heads, e.p.Out(), s.shape.limit
	d.count(func() (int64, int64) { return selectedReads(b, q.Dim(1), sel) })
	plan, fused := d.fusable(q, layer, s, e, h, sel)
	weights, scales := d.encodeQueries(e, q, h.Bits)
	if fused && (!sel.Reranks() || plan.reranks) {
		d.attendFused(plan, out, q, weights, 0, 0, layer, s, scale, e, sel)
		return
	}
	scored, chosen := max(1, sel.Scored(limit)), max(1, sel.Chosen(limit))
	selected, k := d.borrow("hash selected", tokens*sel.Heads*scored*4), scored
	if fused {
		d.attendFused(plan, kernels.Tensor{}, q, weights, selected, scored, layer, s, scale, e, sel)
	} else {
		scores := d.borrow("hash scores", tokens*sel.Heads*limit*4)
		if h.Mass {
			perHead := d.borrow("hash scores per head", tokens*maps*limit*4)
			d.scanHash(perHead, weights, maps, bits, maps, limit, layer, s)
			d.groupMass(scores, limit, perHead, true, maps, limit, scales, sel.Heads, s, sel)
		} else {
			d.scanHash(scores, weights, maps, bits, sel.Heads, limit, layer, s)
		}
		d.topK(topKArgs{out: selected, scores: scores, rows: s.rows, sets: int32(sel.Heads), stride: int32(limit), k: int32(scored), s: selectionOf(sel)}, !h.Mass, tokens, limit)
	}
	if sel.Reranks() {
		kept := d.borrow("hash kept", tokens*sel.Heads*chosen*4)
		d.rerank(kept, chosen, selected, scored, q, layer, s, scale, sel)
		selected, k = kept, chosen
	}
	list := kernels.Tensor{Type: dtype.I32, Shape: []int{tokens, sel.Heads, k}, Memory: memory{selected, tokens * sel.Heads * k * 4}}
	d.attend(out, q, layer, s, scale, 0, list, sel)
}

// encodeQueries gives the addresses of the quantised query map and its scales.
func (d *Device) encodeQueries(e *encoder, q kernels.Tensor, bits int) (weights, scales uint64) {
	tokens, maps := q.Dim(0), e.p.Heads
	w := kernels.Tensor{Type: dtype.I8, Shape: []int{tokens, maps, e.p.Out()}, Memory: memory{d.borrow("query weights", tokens*maps*e.p.Out()), tokens * maps * e.p.Out()}}
	s := kernels.Tensor{Type: dtype.F32, Shape: []int{tokens, maps}, Memory: memory{d.borrow("query scales", tokens*maps*4), tokens * maps * 4}}
	d.EncodeQueries(w, s, e, q, bits)
	return address(w), address(s)
}

// fusedPlan is a launch of the fused kernel.
type fusedPlan struct {
	blocks, warps  int  // of a cluster, of a block
	bins           int  // of levels
	levels, listed int  // room of a block
	ring           int  // steps of codes that a warp has room for
	shared         int  // bytes
	reranks        bool // candidates, in the same launch
}

// The fused kernel's statically declared shared memory, and what a block can
// have.
const (
	fusedStatic          = 14 << 10
	sharedMemory         = 227 << 10
	multiprocessorMemory = 228 << 10
	codeRing             = 4 // steps of 512 bytes of codes that a warp has on their way
)

// fusedShape is what the plan depends on: sets reads tokens of limit cached
// ones; codes of words words, levels up to most; heads query heads of dim.
type fusedShape struct {
	limit, reads, words, most, heads, dim int
	rerank                                bool
}

// plan sizes the fused kernel for a cluster of blocks blocks of warps warps.
func (s fusedShape) plan(blocks, warps int) fusedPlan {
	chunk := 128 / s.words
	chunks := (s.limit + chunk - 1) / chunk
	perWarp := (chunks + blocks*warps - 1) / (blocks * warps)
	if s.words == 4 {
		perWarp += perWarp & 1
	}
	p := fusedPlan{
		blocks: blocks, warps: warps, bins: min(1024, s.most/8*8+8),
		ring: min(codeRing, perWarp), levels: warps * 32 * (perWarp*chunk/32 + 4), listed: ((s.reads+blocks-1)/blocks + 7) / 4 * 4,
	}
	front := max((p.bins+blocks*p.bins/2)*4+2*p.levels+warps*p.ring*512, warps*s.heads*s.dim*4)
	if p.reranks = s.rerank; s.rerank { // counts of 1024 bins twice; logits, levels and what is kept
		front = max(front, 4<<10*(1+blocks)) + 4*p.listed*(s.heads+2)
	}
	p.shared = front + s.heads*s.dim*4 + p.listed*4
	return p
}

// Shared memory of which a multiprocessor holds no more than one or three
// blocks, and the most of which two leave enough memory for loads on their way.
const (
	oneBlock    = 108 << 10
	twoBlocks   = 88 << 10
	threeBlocks = 50 << 10
)

// spread raises the plan's shared memory where a multiprocessor would hold more
// blocks than is good. Small clusters that fit the GPU twice would share some
// multiprocessors by fours and leave others idle. Two blocks with the logits of
// reranking would leave next to no memory for loads on their way, which is worse
// than one, if all clusters run at once so.
func (p fusedPlan) spread(sets, multiprocessors int) fusedPlan {
	all := sets * p.blocks
	switch {
	case p.warps == 4 && all <= 2*multiprocessors:
		p.shared = max(p.shared, threeBlocks)
	case p.reranks && p.shared > twoBlocks && (2*all <= multiprocessors || p.blocks == 2 && all <= multiprocessors):
		p.shared = max(p.shared, oneBlock)
	}
	return p
}

// fits says whether a block can hold the plan's data; levels are counted in 16
// bits.
func (p fusedPlan) fits() bool { return p.levels < 1<<16 && p.shared+fusedStatic <= sharedMemory }

// fusable decides whether the fused kernel computes a step exactly: the query
// maps of a set share a code, a score fits 15 bits, no mass.
func (d *Device) fusable(q kernels.Tensor, layer int, s *batch, e *encoder, h kernels.HashQuery, sel kernels.Selection) (fusedPlan, bool) {
	bits, index := e.p.Out(), s.indexed(layer, 0)
	most := 1
	if h.Bits > 1 {
		most = 1<<(h.Bits-1) - 1
	}
	if d.options.NoClusters || h.Mass || !d.tensorCores(s) ||
		sel.Heads%s.shape.kvHeads != 0 || q.Dim(1)%sel.Heads != 0 || q.Dim(1)/sel.Heads > 8 ||
		sel.Heads%index.heads != 0 || e.p.Heads%sel.Heads != 0 ||
		(index.width != 1 && index.width != 2 && index.width != 4) || bits*most*(e.p.Heads/sel.Heads) > 32766 {
		return fusedPlan{}, false
	}
	limit := s.shape.limit
	reads := sel.Read(limit) - sel.Chosen(limit) + sel.Scored(limit)
	shape := fusedShape{limit, reads, index.width, bits * most * (e.p.Heads / sel.Heads), q.Dim(1) / sel.Heads, s.shape.dim, sel.Reranks()}
	blocks, warps := fusedBlocks(shape, s.shape.tokens*sel.Heads, d.info.Multiprocessors)
	for {
		for blocks := blocks; blocks <= 16; blocks *= 2 {
			if p := shape.plan(blocks, warps); p.fits() {
				return p.spread(s.shape.tokens*sel.Heads, d.info.Multiprocessors), true
			}
		}
		if !shape.rerank {
			return fusedPlan{}, false
		}
		shape.rerank = false // by itself
	}
}

// fusedBlocks chooses the cluster: about 1024 tokens a block, but no more blocks
// than multiprocessors, unless a block would get more than 16384 tokens.
func fusedBlocks(s fusedShape, sets, multiprocessors int) (blocks, warps int) {
	blocks = 2
	for blocks < 16 && s.limit > 1024*blocks && (2*sets*blocks <= multiprocessors || s.limit > 16384*blocks) {
		blocks *= 2
	}
	// Fewer warps read single heads' rows faster, where scoring is light.
	if blocks >= 8 && s.heads == 1 && s.words == 1 && s.most <= 32 && s.dim <= 128 {
		return blocks, 4
	}
	return blocks, 8
}

// magic is what multiplied with a small number n gives n / by in the high word;
// 0 for 1.
func magic(by int) uint32 {
	if by == 1 {
		return 0
	}
	return uint32(1<<32/by + 1)
}

// fresh is 1 if of all cached codes only a row's newest may still be on its way
// when the fused kernel starts, written by the encoding ahead of it.
func (d *Device) fresh(s *batch) int32 {
	if s.shape.shared || d.encoded != nil && d.encoded != s {
		return 0
	}
	return s.single()
}

// attendFused launches the fused kernel on a quantised query map. selected, if
// not 0, gets the chosen positions (of reranking: the candidates), rows of k;
// without out that is all.
func (d *Device) attendFused(p fusedPlan, out, q kernels.Tensor, weights, selected uint64, k, layer int, s *batch, scale float32, e *encoder, sel kernels.Selection) {
	heads, dim := q.Dim(1), q.Dim(2)
	var shadow uint64
	if !out.None() {
		d.wrote(out)
		shadow = d.shadowFor(shadowAttention, out, s.shape.tokens, heads*dim)
	}
	a := fusedArgs{
		out: address(out), shadow: shadow, q: address(q), weights: weights,
		rows: s.rows, layers: s.layers, selected: selected,
		layerCount: int32(s.shape.layers), layer: int32(layer), queryHeads: int32(heads),
		sets: int32(sel.Heads), single: d.fresh(s), maps: int32(e.p.Heads), bits: int32(e.p.Out()),
		heads: int32(heads / sel.Heads), perSet: int32(e.p.Heads / sel.Heads),
		keyMagic: magic(sel.Heads / s.indexed(layer, 0).heads), kvMagic: magic(sel.Heads / s.shape.kvHeads), rerank: int32(flag(p.reranks && !out.None())),
		k: int32(k), bins: int32(p.bins), levels: int32(p.levels), listed: int32(p.listed), ring: int32(p.ring), scale: scale, s: selectionOf(sel),
	}
	extra := d.spare(p.blocks*sel.Heads*s.shape.tokens, min(2, multiprocessorMemory/(p.shared+fusedStatic))) / (p.blocks * s.shape.tokens)
	a.ahead = d.upcoming(extra * p.blocks * s.shape.tokens)
	d.launch(fmt.Sprintf("fused_%d_%d_%d", dim, s.indexed(layer, 0).width, p.warps), size{x: p.blocks, y: sel.Heads + extra, z: s.shape.tokens, block: 32 * p.warps, shared: p.shared, cluster: p.blocks, early: true}, a)
}
