package cpu

import (
	"math"
	"unsafe"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

const (
	attendBlock = 256 // tokens whose logits are computed before their values are read
	manyRows    = 8   // rows of a segment from which on they attend together
)

// Attend implements kernels.Device.
func (d *Device) Attend(out, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, window int) {
	heads, width := q.Dim(1), q.Dim(2)
	if width%d.set.lanes != 0 {
		d.Reference.Attend(out, q, layer, b, scale, window)
		return
	}
	d.decode.reset(d, out, q, layer, scale)
	d.prefill.reset(d, out, q, layer, scale, window)
	row := 0
	for i := range b.Segments {
		s := &b.Segments[i]
		if s.Len >= manyRows {
			d.prefill.addSegment(s, row)
		}
		for t := range s.Len {
			n := s.Start + t + 1
			lo := 0
			if window > 0 {
				lo = max(0, n-window)
			}
			if s.Len < manyRows {
				for kv := range s.Cache.KVHeads {
					d.decode.addRow(s, row+t, kv, heads/s.Cache.KVHeads, positions{sink: n - lo, first: lo})
				}
			}
			d.CountReads(int64((n-lo)*s.Cache.KVHeads), int64((n-lo)*s.Cache.KVHeads))
		}
		row += s.Len
	}
	d.prefill.run()
	d.decode.run()
}

// AttendSelected implements kernels.Device.
func (d *Device) AttendSelected(out, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, selected kernels.Tensor, s kernels.Selection) {
	heads, width := q.Dim(1), q.Dim(2)
	if width%d.set.lanes != 0 {
		d.Reference.AttendSelected(out, q, layer, b, scale, selected, s)
		return
	}
	d.decode.reset(d, out, q, layer, scale)
	k, chosen := selected.Dim(2), selected.I32()
	row := 0
	for i := range b.Segments {
		seg := &b.Segments[i]
		for t := range seg.Len {
			n := seg.Start + t + 1
			for set := range s.Heads {
				list := s.List(chosen[((row+t)*s.Heads+set)*k:], s.ChosenOf(set, n))
				d.decode.addSelected(seg, row+t, set, heads/s.Heads, n, list, s)
			}
		}
		row += seg.Len
	}
	d.decode.run()
}

func (j *decodeJob) addSelected(seg *kernels.Segment, row, set, queries, n int, list []int32, s kernels.Selection) {
	lo, hi := s.Range(n)
	j.addRow(seg, row, set, queries, positions{sink: lo, selected: list, local: n - hi, localFrom: hi})
	j.d.CountReads(int64((lo+len(list)+n-hi)*seg.Cache.KVHeads), int64(n*seg.Cache.KVHeads))
}

// positions is which cached tokens a row reads: sink from first on, then the
// selected, then local.
type positions struct {
	first, sink      int
	selected         []int32
	localFrom, local int
}

func (p *positions) count() int { return p.sink + len(p.selected) + p.local }

// decodeJob is attention of single rows: a task reads a part of the tokens of
// a row for the queries that share a KV head, and leaves a partial softmax;
// mergeJob puts the parts together.
type decodeJob struct {
	d          *Device
	out, q     []float32
	heads      int
	width      int
	layer      int
	scale      float32
	parts      []part
	rows       []rowParts
	partialLen int
	partial    []float32 // per part and query: top, sum, then width values
}

// rowParts is a row's queries from head on and their parts.
type rowParts struct {
	row, head, queries int
	lo, hi             int
}

type part struct {
	seg                *kernels.Segment
	row, head, queries int // of the activations
	positions          positions
	lo, hi             int // of positions
	partial            int
}

func (j *decodeJob) reset(d *Device, out, q kernels.Tensor, layer int, scale float32) {
	j.d, j.out, j.q, j.heads, j.width, j.layer, j.scale = d, out.F32(), q.F32(), q.Dim(1), q.Dim(2), layer, scale
	j.parts, j.rows, j.partialLen = j.parts[:0], j.rows[:0], 0
}

// partialHeader is the floats before a partial sum's values: top and sum,
// padded to keep the values aligned.
const partialHeader = 16

// addRow adds the queries of set, the set-th run of queries heads.
func (j *decodeJob) addRow(seg *kernels.Segment, row, set, queries int, p positions) {
	n := p.count()
	// parts depend on the context only, not on the threads
	size := min(2048, max(256, (n/32+attendBlock-1)/attendBlock*attendBlock))
	first := len(j.parts)
	for lo := 0; lo < n; lo += size {
		j.parts = append(j.parts, part{seg, row, set * queries, queries, p, lo, min(n, lo+size), j.partialLen})
		j.partialLen += queries * (partialHeader + j.width)
	}
	j.rows = append(j.rows, rowParts{row, set * queries, queries, first, len(j.parts)})
}

func (j *decodeJob) run() {
	if len(j.rows) == 0 {
		return
	}
	grow(&j.partial, j.partialLen)
	j.d.pool.run(len(j.parts), j)
	j.d.merge.decodeJob = j
	if len(j.parts) > 64 {
		j.d.pool.run(len(j.rows), &j.d.merge)
		return
	}
	for i := range j.rows {
		j.d.merge.task(0, i)
	}
}

func (j *decodeJob) task(worker, index int) {
	p := &j.parts[index]
	k, width, s := j.d.set, j.width, &j.d.scratch[worker]
	stride := partialHeader + width
	partial := j.partial[p.partial:][:p.queries*stride]
	for i := range p.queries {
		partial[i*stride], partial[i*stride+1] = float32(math.Inf(-1)), 0
		clear(partial[i*stride+partialHeader:][:width])
	}
	queries := &j.q[(p.row*j.heads+p.head)*width]
	qs := unsafe.Slice(queries, p.queries*width)
	scores := grow(&s.a, p.queries*attendBlock)
	rows := newCacheRows(p.seg.Cache, j.layer, p.head/(j.heads/p.seg.Cache.KVHeads))
	for lo := p.lo; lo < p.hi; {
		b := rows.block(&p.positions, lo, p.hi)
		n := b.n
		lo += n
		k.logits(&rows, &b, &rows.v[0], qs, p.queries, scores, attendBlock)
		for i := range p.queries {
			row := scores[i*attendBlock:][:attendBlock]
			rounded := j.d.fill(row, n)
			header := partial[i*stride:][:stride]
			if top := k.maximum(rounded, &row[0]) * j.scale; top > header[0] {
				if header[1] != 0 {
					shrink := exp32(header[0] - top)
					header[1] *= shrink
					for x := range header[partialHeader:] {
						header[partialHeader+x] *= shrink
					}
				}
				header[0] = top
			}
			header[1] += k.expSum(rounded, &row[0], j.scale, header[0])
		}
		for i := 0; i < p.queries; i += 4 {
			some := min(4, p.queries-i)
			weights, sums := &scores[i*attendBlock], &partial[i*stride+partialHeader]
			values := &rows.v[b.from*rows.rowBytes]
			switch {
			case b.list == nil && rows.wide:
				k.mixF32[some-1](width, n, values, width, weights, attendBlock, sums, stride)
			case b.list == nil:
				k.mixBF16[some-1](width, n, values, width, weights, attendBlock, sums, stride)
			case rows.wide:
				k.mixAtF32[some-1](width, n, &b.list[0], values, width, weights, attendBlock, sums, stride)
			default:
				k.mixAtBF16[some-1](width, n, &b.list[0], values, width, weights, attendBlock, sums, stride)
			}
		}
	}
}

// cacheRows is a KV head's keys and values.
type cacheRows struct {
	k, v     []byte
	width    int
	rowBytes int
	wide     bool // float32, not bfloat16
}

func newCacheRows(c *kernels.Cache, layer, kv int) cacheRows {
	row := c.HeadDim * c.Type.BlockBytes()
	lo, hi := kv*c.Capacity*row, (kv+1)*c.Capacity*row
	return cacheRows{c.K[layer].Bytes()[lo:hi], c.V[layer].Bytes()[lo:hi], c.HeadDim, row, c.Type == dtype.F32}
}

// rowBlock is n rows: neighbours from row from on, or those of list.
type rowBlock struct {
	n, from int
	list    []int32
}

// block is the next at most attendBlock rows of the positions from index lo on.
func (r *cacheRows) block(p *positions, lo, hi int) rowBlock {
	n := min(attendBlock, hi-lo)
	switch in := lo - p.sink; {
	case in < 0:
		return rowBlock{n: min(n, -in), from: p.first + lo}
	case in < len(p.selected):
		n = min(n, len(p.selected)-in)
		return rowBlock{n: n, list: p.selected[in : in+n]}
	default:
		return rowBlock{n: n, from: p.localFrom + in - len(p.selected)}
	}
}

// logits sets out[j*stride+i] to the dot product of query j and the block's
// row i. Some values behind the block's are overwritten. The same rows of
// values, the head's, are asked for.
func (k *kernelSet) logits(r *cacheRows, b *rowBlock, values *byte, queries []float32, count int, out []float32, stride int) {
	keys := &r.k[b.from*r.rowBytes]
	ahead := 0 // from the keys to the values that are read next
	if values != nil {
		ahead = int(uintptr(unsafe.Pointer(values)) - uintptr(unsafe.Pointer(&r.k[0])))
	}
	for i := 0; i < count; i += 4 {
		some := min(4, count-i)
		q, to := &queries[i*r.width], &out[i*stride]
		switch {
		case b.list == nil && r.wide:
			k.dotF32[some-1](r.width, b.n, ahead, keys, r.width, q, r.width, to, stride)
		case b.list == nil:
			k.dotBF16[some-1](r.width, b.n, ahead, keys, r.width, q, r.width, to, stride)
		case r.wide:
			k.dotAtF32[some-1](r.width, b.n, &b.list[0], values, keys, r.width, q, r.width, to, stride)
		default:
			k.dotAtBF16[some-1](r.width, b.n, &b.list[0], values, keys, r.width, q, r.width, to, stride)
		}
	}
}

// mergeJob adds up the parts of a row's partial softmax.
type mergeJob struct{ *decodeJob }

func (j *mergeJob) task(_, index int) {
	r := j.rows[index]
	stride := partialHeader + j.width
	for i := range r.queries {
		out := j.out[(r.row*j.heads+r.head+i)*j.width:][:j.width]
		top := float32(math.Inf(-1))
		for _, p := range j.parts[r.lo:r.hi] {
			top = max(top, j.partial[p.partial+i*stride])
		}
		sum := float32(0)
		clear(out)
		for _, p := range j.parts[r.lo:r.hi] {
			header := j.partial[p.partial+i*stride:][:stride]
			shrink := exp32(header[0] - top)
			sum += header[1] * shrink
			for x, v := range header[partialHeader:] {
				out[x] += v * shrink
			}
		}
		inverse := 1 / sum
		for x := range out {
			out[x] *= inverse
		}
	}
}

// Append implements kernels.Device.
func (d *Device) Append(layer int, k, v kernels.Tensor, b *kernels.Batch) {
	if k.Len() <= small {
		appendRows(layer, k, v, b, 0, b.Tokens)
		return
	}
	d.ranges(b.Tokens, small*b.Tokens/k.Len(), func(_, lo, hi int) { appendRows(layer, k, v, b, lo, hi) })
}

// appendRows stores rows lo to hi of the batch.
func appendRows(layer int, k, v kernels.Tensor, b *kernels.Batch, lo, hi int) {
	heads, width := k.Dim(1), k.Dim(2)
	ks, vs := k.F32(), v.F32()
	row := 0
	for i := range b.Segments {
		s := &b.Segments[i]
		c := s.Cache
		for t := max(0, lo-row); t < min(s.Len, hi-row); t++ {
			for h := range heads {
				from := ((row+t)*heads + h) * width
				to := (h*c.Capacity + s.Start + t) * width
				if c.Type == dtype.F32 {
					copy(c.K[layer].F32()[to:to+width], ks[from:])
					copy(c.V[layer].F32()[to:to+width], vs[from:])
				} else {
					dtype.BF16FromF32s(c.K[layer].BF16()[to:to+width], ks[from:from+width])
					dtype.BF16FromF32s(c.V[layer].BF16()[to:to+width], vs[from:from+width])
				}
			}
		}
		row += s.Len
	}
}
