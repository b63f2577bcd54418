//go:build gpu

package cuda

import (
	"fmt"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// EncodeKeys implements kernels.Device.
func (d *Device) EncodeKeys(enc kernels.Encoder, layer int, b *kernels.Batch) {
	e, s := enc.(*encoder), d.use(b)
	if i := s.indexed(layer, 0); i.heads != e.p.Heads || i.width != e.p.Words() {
		panic(fmt.Sprintf("kernels: %s has %d heads of %d words, the index %d of %d", e.p.Name, e.p.Heads, e.p.Words(), i.heads, i.width))
	}
	if d.encoded == nil {
		d.encoded = s
	} else if d.encoded != s {
		d.encoded = &batch{} // several
	}
	a := e.args
	a.rows, a.caches, a.layerCount, a.layer, a.group = s.rows, s.layers, int32(s.shape.layers), int32(layer), int32(max(1, e.p.Heads/s.shape.kvHeads))
	if few(b.Tokens) {
		d.flush()
		d.held.keys, d.held.keyArgs = e, a
		d.held.keyArgs.tokens = int32(b.Tokens)
		return
	}
	d.encodeMany(e, a, b.Tokens)
}

// EncodeQueries implements kernels.Device.
func (d *Device) EncodeQueries(weights, scales kernels.Tensor, enc kernels.Encoder, q kernels.Tensor, queryBits int) {
	want("weights", weights, dtype.I8)
	want("q", q, dtype.F32)
	e := enc.(*encoder)
	if in := q.Dim(1) * q.Dim(2) / e.p.Heads; in != e.p.In() {
		panic(fmt.Sprintf("kernels: %s takes %d inputs, queries %v give %d", e.p.Name, e.p.In(), q.Shape, in))
	}
	a := e.args
	a.q, a.queryBits, a.weights, a.scales = address(q), int32(queryBits), address(weights), address(scales)
	if !few(q.Dim(0)) {
		d.encodeMany(e, a, q.Dim(0))
		return
	}
	a.tokens = int32(q.Dim(0))
	if keys := d.held.keys; keys != nil && d.held.keyArgs.tokens == a.tokens {
		d.held.keys = nil
		d.encodeFew([]*encoder{keys, e}, []encodeArgs{d.held.keyArgs, a})
		return
	}
	d.encodeFew([]*encoder{e}, []encodeArgs{a})
}

// few says whether rows are a decode step's: their keys and queries are
// encoded in one launch, slices of a map on the blocks of a cluster.
func few(rows int) bool { return rows <= 32 }

// encodeMany runs an encoder over tiles of rows.
func (d *Device) encodeMany(e *encoder, a encodeArgs, rows int) {
	a.tokens = int32(rows)
	if many := e.manyShared(); many <= 220<<10 {
		d.launch("encode_many", size{x: (rows + 15) / 16, y: e.p.Heads, z: 1, block: 128, shared: many}, a)
		return
	}
	d.encodeFew([]*encoder{e}, []encodeArgs{a})
}

// encodeRows is how many rows a cluster takes of several.
const encodeRows = 8

// A block of encode_few takes about encodeShare bytes of a map's weights;
// clusters have up to encodeMost blocks.
const encodeShare, encodeMost = 28 << 10, 16

// encodeFew runs one or two encoders over the same number of rows.
func (d *Device) encodeFew(es []*encoder, args []encodeArgs) {
	tokens, heads := int(args[0].tokens), 0
	rows, blocks := 1, 1
	if tokens > 1 {
		rows = encodeRows
	}
	for _, e := range es {
		heads += e.p.Heads
		for blocks < encodeMost && e.perHead() > encodeShare*blocks {
			blocks *= 2
		}
	}
	l := size{y: heads, block: 256, early: true}
	name := "encode_few_1"
	if d.options.NoClusters || es[0].shared(rows, blocks, false) > 200<<10 || es[len(es)-1].shared(rows, blocks, false) > 200<<10 {
		name, rows, blocks = "encode_wide", 1, 1
		l.block = 1024
	} else if rows > 1 {
		name = "encode_few_8"
	}
	var step encodeStep
	for i, e := range es {
		step.maps[i] = args[i]
		bytes := e.shared(rows, blocks, true)
		if bytes <= 96<<10 { // two blocks a multiprocessor; one before sm_90
			step.maps[i].staged = 1
		} else {
			bytes = e.shared(rows, blocks, false)
		}
		l.shared = max(l.shared, bytes)
	}
	l.x, l.z = blocks, (tokens+rows-1)/rows
	if blocks > 1 {
		l.cluster = blocks
	}
	d.launch(name, l, step)
}

// ScanHash implements kernels.Device.
func (d *Device) ScanHash(scores, weights kernels.Tensor, layer int, b *kernels.Batch) {
	want("scores", scores, dtype.I32)
	d.scanHash(address(scores), address(weights), weights.Dim(1), weights.Dim(2), scores.Dim(1), scores.Dim(2), layer, d.useExact(b))
}

func (d *Device) scanHash(scores, weights uint64, maps, bits, sets, stride, layer int, s *batch) {
	i := s.indexed(layer, 0)
	words := (bits + 31) / 32
	if words != i.width {
		panic(fmt.Sprintf("kernels: queries of %d bits on codes of %d words", bits, i.width))
	}
	if words > 4 && words != 8 || words == 0 {
		panic(fmt.Sprintf("cuda: codes of %d words, the scan takes 1 to 4 and 8", words))
	}
	d.launch(fmt.Sprintf("scan_hash_%d", words), size{x: (s.shape.limit + 1023) / 1024, y: sets, z: s.shape.tokens, block: 256},
		scores, weights, s.rows, s.layers, s.shape.layers, layer, maps, bits, sets, stride, i.heads)
}

// ScanDot implements kernels.Device.
func (d *Device) ScanDot(scores, q kernels.Tensor, layer, slot int, b *kernels.Batch, scale float32) {
	want("scores", scores, dtype.F32)
	s := d.useExact(b)
	name, keyHeads := s.cacheKernel("scan_dot"), s.shape.kvHeads
	if slot >= 0 {
		name, keyHeads = "scan_dot_f32", s.indexed(layer, slot).heads
		b.Row(func(_ int, seg *kernels.Segment, _ int) {
			want("index", seg.Index.Layers[layer][slot], dtype.F32, dtype.BF16)
		})
		if b.Segments[0].Index.Layers[layer][slot].Type == dtype.BF16 {
			name = "scan_dot_bf16"
		}
	}
	heads, width := q.Dim(1), q.Dim(2)
	d.launch(name, size{x: (s.shape.limit + 63) / 64, y: keyHeads, z: b.Tokens, block: 256, shared: heads / keyHeads * width * 4},
		scores, q, s.rows, s.layers, s.shape.layers, layer, slot, heads, keyHeads, width, scores.Dim(2), scale)
}

// ScanPages implements kernels.Device.
func (d *Device) ScanPages(scores, q kernels.Tensor, layer, pageLen int, b *kernels.Batch) {
	s := d.useExact(b)
	pages := (s.shape.limit + pageLen - 1) / pageLen
	d.launch("scan_pages", size{x: (pages + 7) / 8, y: q.Dim(1), z: b.Tokens, block: 256},
		scores, q, s.rows, s.layers, s.shape.layers, layer, q.Dim(1), s.indexed(layer, 0).heads, q.Dim(2), scores.Dim(2), pageLen)
}

// ScanTables implements kernels.Device.
func (d *Device) ScanTables(scores, tables kernels.Tensor, layer int, b *kernels.Batch) {
	s := d.useExact(b)
	heads, parts, entries := tables.Dim(1), tables.Dim(2), tables.Dim(3)
	d.launch("scan_tables", size{x: (s.shape.limit + 1023) / 1024, y: heads, z: b.Tokens, block: 256, shared: parts * entries * 4},
		scores, tables, s.rows, s.layers, s.shape.layers, layer, heads, s.indexed(layer, 0).heads, parts, entries, scores.Dim(2))
}

// IndexPages implements kernels.Device.
func (d *Device) IndexPages(layer, pageLen int, b *kernels.Batch) {
	s := d.use(b)
	d.launch(s.cacheKernel("index_pages"), size{x: s.shape.longestSegment/pageLen + 2, y: s.indexed(layer, 0).heads, z: s.shape.segments, block: min(256, (s.shape.dim+31)/32*32)},
		s.segments, s.layers, s.shape.layers, layer, s.shape.dim, pageLen)
}

// IndexChannels implements kernels.Device.
func (d *Device) IndexChannels(channels kernels.Tensor, bits, layer int, b *kernels.Batch) {
	s := d.use(b)
	d.launch(s.cacheKernel("index_channels"), size{x: channels.Dim(0), y: b.Tokens, z: 1, block: 32},
		channels, s.rows, s.layers, s.shape.layers, layer, s.shape.dim, channels.Dim(1), bits)
}

// GatherChannels implements kernels.Device.
func (d *Device) GatherChannels(out, q, channels kernels.Tensor) {
	d.wrote(out)
	d.flat("gather_channels", out.Len(), out, q, channels, q.Dim(1), channels.Dim(0), q.Dim(2), channels.Dim(1), out.Len())
}

// IndexParts implements kernels.Device.
func (d *Device) IndexParts(codebooks kernels.Tensor, layer int, b *kernels.Batch) {
	s := d.use(b)
	parts := codebooks.Dim(1)
	d.launch(s.cacheKernel("index_parts"), size{x: codebooks.Dim(0), y: b.Tokens, z: 1, block: 32 * min(parts, 8)},
		codebooks, s.rows, s.layers, s.shape.layers, layer, s.shape.dim, parts, codebooks.Dim(2))
}

// PartTables implements kernels.Device.
func (d *Device) PartTables(tables, q, codebooks kernels.Tensor) {
	d.wrote(tables)
	d.flat("part_tables", tables.Len(), tables, q, codebooks, q.Dim(1), codebooks.Dim(0), q.Dim(2), codebooks.Dim(1), codebooks.Dim(2), tables.Len())
}

// massChunk is how many scores a block of GroupMass takes.
const massChunk = 2048

// GroupMass implements kernels.Device.
func (d *Device) GroupMass(out, scores, scales kernels.Tensor, b *kernels.Batch, sel kernels.Selection) {
	want("scores", scores, dtype.F32, dtype.I32)
	d.groupMass(address(out), out.Dim(2), address(scores), scores.Type == dtype.I32, scores.Dim(1), scores.Dim(2), address(scales), out.Dim(1), d.useExact(b), sel)
}

func (d *Device) groupMass(out uint64, outStride int, scores uint64, integer bool, heads, stride int, scales uint64, groups int, s *batch, sel kernels.Selection) {
	if heads > 64*groups {
		panic(fmt.Sprintf("cuda: group of %d heads, 64 at most", heads/groups))
	}
	chunks := (s.shape.limit + massChunk - 1) / massChunk
	parts := d.borrow("mass parts", s.shape.tokens*heads*chunks*8)
	d.launch("mass_parts", size{x: chunks, y: heads, z: s.shape.tokens, block: 256}, parts, scores, integer, scales, s.rows, heads, stride, massChunk, selectionOf(sel))
	d.launch("mass_sum", size{x: chunks, y: groups, z: s.shape.tokens, block: 256}, out, parts, scores, integer, scales, s.rows, heads, groups, stride, outStride, massChunk, selectionOf(sel))
}

// TopK implements kernels.Device.
func (d *Device) TopK(selected, scores kernels.Tensor, b *kernels.Batch, sel kernels.Selection) {
	want("scores", scores, dtype.F32, dtype.I32)
	want("selected", selected, dtype.I32)
	s := d.useExact(b)
	a := topKArgs{out: address(selected), scores: address(scores), rows: s.rows, sets: int32(scores.Dim(1)), stride: int32(scores.Dim(2)), k: int32(selected.Dim(2)), s: selectionOf(sel)}
	d.topK(a, scores.Type == dtype.I32, s.shape.tokens, s.shape.limit)
}

// topK launches a radix select over up to n scores of each of the sets.
func (d *Device) topK(a topKArgs, integer bool, tokens, n int) {
	name := "topk_f32"
	if integer {
		name = "topk_i32"
	}
	blocks := 1
	if !d.options.NoClusters {
		for blocks < 8 && 2*blocks*int(a.sets)*tokens <= d.info.Multiprocessors && n/blocks > 4096 {
			blocks *= 2
		}
	}
	s := size{x: blocks, y: int(a.sets), z: tokens, block: 1024}
	if blocks > 1 {
		s.cluster = blocks
	}
	d.launch(name, s, a)
}

// Rerank implements kernels.Device.
func (d *Device) Rerank(selected, candidates, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, sel kernels.Selection) {
	want("selected", selected, dtype.I32)
	want("candidates", candidates, dtype.I32)
	d.rerank(address(selected), selected.Dim(2), address(candidates), candidates.Dim(2), q, layer, d.useExact(b), scale, sel)
}

func (d *Device) rerank(selected uint64, k int, candidates uint64, candidatesK int, q kernels.Tensor, layer int, s *batch, scale float32, sel kernels.Selection) {
	heads, dim := q.Dim(1), q.Dim(2)
	group := heads / sel.Heads
	length := candidatesK
	if group > 1 {
		length += sel.Sink + sel.Local
	}
	length = max(length, 1)
	tokens := s.shape.tokens
	a := rerankArgs{
		logits: d.borrow("rerank logits", tokens*heads*length*4), q: address(q), candidates: candidates, rows: s.rows, layers: s.layers,
		layerCount: int32(s.shape.layers), layer: int32(layer), queryHeads: int32(heads), kvHeads: int32(s.shape.kvHeads), sets: int32(sel.Heads),
		k: int32(candidatesK), length: int32(length), dim: int32(dim), scale: scale, s: selectionOf(sel),
	}
	values := a.logits
	if group > 1 {
		a.values = d.borrow("rerank values", tokens*sel.Heads*length*4)
		values = a.values
	}
	if d.tensorCores(s) && group <= 8 {
		a.blocks = int32((length + 127) / 128)
		if group > 1 {
			a.parts = d.borrow("rerank parts", tokens*sel.Heads*8*int(a.blocks)*8)
		}
		d.launch(fmt.Sprintf("rerank_tiles_%d", dim), size{x: int(a.blocks), y: sel.Heads, z: tokens, block: 256}, a)
		if group > 1 {
			d.launch("rerank_values", size{x: (candidatesK + 255) / 256, y: sel.Heads, z: tokens, block: 256}, a)
		}
	} else {
		d.launch(s.cacheKernel("rerank_logits"), size{x: (length + 63) / 64, y: sel.Heads, z: tokens, block: 512, shared: group * dim * 4}, a)
		if group > 1 {
			d.launch("rerank_mass", size{x: sel.Heads, y: tokens, z: 1, block: 1024}, a)
		}
	}
	t := topKArgs{out: selected, scores: values, rows: s.rows, list: candidates, sets: int32(sel.Heads), stride: int32(length), k: int32(k), listK: int32(candidatesK), s: selectionOf(sel)}
	d.topK(t, false, tokens, candidatesK)
}
