package cpu

import (
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

const (
	attendBlock = 256 // tokens whose logits are computed before their values are read
	manyRows    = 8   // rows of a segment from which on they attend together
	rowsAhead   = 64  // rows that the gathering kernels ask for before they read them
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
					d.decode.addRow(s, row+t, kv, heads/s.Cache.KVHeads, positions{n: n - lo, first: lo})
				}
			}
			d.CountReads(int64((n-lo)*heads), int64((n-lo)*heads))
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
	d.decode.reserve(b, s)
	k, chosen := selected.Dim(2), selected.I32()
	row := 0
	for i := range b.Segments {
		seg := &b.Segments[i]
		for t := range seg.Len {
			n := seg.Start + t + 1
			for set := range s.Heads {
				list := s.List(chosen[((row+t)*s.Heads+set)*k:], s.ChosenOf(set, n))
				copy(d.decode.addSelected(seg, row+t, set, heads/s.Heads, n, len(list), s), list)
			}
		}
		row += seg.Len
	}
	d.decode.run()
}

// reserve makes room for the lists of all sets of a batch.
func (j *decodeJob) reserve(b *kernels.Batch, s kernels.Selection) {
	total := 0
	for i := range b.Segments {
		seg := &b.Segments[i]
		for t := range seg.Len {
			total += s.Read(seg.Start + t + 1)
		}
	}
	j.lists = resize(j.lists, total*s.Heads)
	j.listed = 0
}

// addSelected adds the queries of a row's set, which sees n tokens, and gives
// the list of the count chosen ones for the caller to fill in before run. It lies in
// the list of all that are read: the first and last tokens are so few that to
// begin with them anew would cost more than to name them.
func (j *decodeJob) addSelected(seg *kernels.Segment, row, set, queries, n, count int, s kernels.Selection) []int32 {
	lo, hi := s.Range(n)
	list := j.lists[j.listed:][:lo+count+n-hi]
	j.listed += len(list)
	for i := range lo {
		list[i] = int32(i)
	}
	local := list[len(list)-(n-hi):]
	for i := range local {
		local[i] = int32(hi + i)
	}
	j.addRow(seg, row, set, queries, positions{list: list, n: len(list)})
	j.d.CountReads(int64(len(list)*queries), int64(n*queries))
	return list[lo : lo+count]
}

// positions is which n cached tokens a row reads: those from first on, or those
// of list.
type positions struct {
	n, first int
	list     []int32
}

// decodeJob is attention of single rows: a task reads a part of the tokens of
// a row for the queries that share a KV head, and leaves a partial softmax. The
// last part of a row to be done puts them together.
type decodeJob struct {
	d          *Device
	out, q     []float32
	heads      int
	width      int
	layer      int
	scale      float32
	parts      []part
	rows       []rowParts
	lists      []int32 // of positions
	listed     int     // of lists
	partialLen int
	partial    []float32 // per part and query: top, sum, then width values
}

// rowParts is a row's queries from head on and their parts.
type rowParts struct {
	row, head, queries int
	lo, hi             int
	left               atomic.Int32 // parts that are not done
}

type part struct {
	seg                *kernels.Segment
	row, head, queries int // of the activations
	parts              int // index of its row's rowParts
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
	n := p.n
	// Parts depend on the context only, not on the threads. Each gathering
	// starts with rows that nobody has asked for: few and long ones are best.
	share := 32
	if p.list != nil {
		share = 4
	}
	size := min(2048, max(256, (n/share+attendBlock-1)/attendBlock*attendBlock))
	first := len(j.parts)
	for lo := 0; lo < n; lo += size {
		j.parts = append(j.parts, part{seg, row, set * queries, queries, len(j.rows), p, lo, min(n, lo+size), j.partialLen})
		j.partialLen += queries * (partialHeader + j.width)
	}
	j.rows = resize(j.rows, len(j.rows)+1)
	r := &j.rows[len(j.rows)-1]
	r.row, r.head, r.queries, r.lo, r.hi = row, set*queries, queries, first, len(j.parts)
	r.left.Store(int32(r.hi - r.lo))
}

func (j *decodeJob) run() {
	if len(j.rows) == 0 {
		return
	}
	j.begin()
	j.d.pool.run(len(j.parts), j)
}

// begin makes room for what the tasks leave, once all rows are added.
func (j *decodeJob) begin() { grow(&j.partial, j.partialLen) }

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
	rows.begin(k, &p.positions, p.lo, p.hi)
	for lo := p.lo; lo < p.hi; {
		b := rows.block(&p.positions, lo, p.hi)
		n := b.n
		lo += n
		k.logits(&rows, &b, true, qs, p.queries, scores, attendBlock)
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
			k.mix(&rows, &b, some, scores[i*attendBlock:], partial[i*stride+partialHeader:], stride)
		}
	}
	if r := &j.rows[p.parts]; r.left.Add(-1) == 0 {
		j.merge(s, r)
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

// rowBlock is n rows: neighbours from row from on, or the first of list.
type rowBlock struct {
	n, from int
	list    []int32
}

// block is the next at most attendBlock rows of the positions from index lo on.
func (r *cacheRows) block(p *positions, lo, hi int) rowBlock {
	n := min(attendBlock, hi-lo)
	if p.list == nil {
		return rowBlock{n: n, from: p.first + lo}
	}
	return rowBlock{n: n, list: p.list[lo:hi]}
}

// begin asks for the first rows between index lo and hi, if they are a list's.
func (r *cacheRows) begin(k *kernelSet, p *positions, lo, hi int) {
	if p.list != nil {
		n := min(rowsAhead, hi-lo)
		k.ask(n, &p.list[lo], &r.k[0], r.rowBytes)
		k.ask(n, &p.list[lo], &r.v[0], r.rowBytes)
	}
}

// logits sets out[j*stride+i] to the dot product of query j and the block's
// row i. Some values behind the block's are overwritten. If values are read
// next, the same rows of them are asked for.
func (k *kernelSet) logits(r *cacheRows, b *rowBlock, values bool, queries []float32, count int, out []float32, stride int) {
	keys := &r.k[b.from*r.rowBytes]
	ahead := 0 // from the keys to the values that are read next
	if values {
		ahead = int(uintptr(unsafe.Pointer(&r.v[0])) - uintptr(unsafe.Pointer(&r.k[0])))
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
			k.dotAtF32[some-1](r.width, b.n, len(b.list), &b.list[0], keys, r.width, q, r.width, to, stride)
		default:
			k.dotAtBF16[some-1](r.width, b.n, len(b.list), &b.list[0], keys, r.width, q, r.width, to, stride)
		}
	}
}

// mix adds to count sums, stride apart, the block's rows of values weighted by
// weights[j*attendBlock+i].
func (k *kernelSet) mix(r *cacheRows, b *rowBlock, count int, weights, sums []float32, stride int) {
	values := &r.v[b.from*r.rowBytes]
	if b.list == nil {
		kernel := k.mixBF16[count-1]
		if r.wide {
			kernel = k.mixF32[count-1]
		}
		kernel(r.width, b.n, values, r.width, &weights[0], attendBlock, &sums[0], stride)
		return
	}
	kernel := k.mixAtBF16[count-1]
	if r.wide {
		kernel = k.mixAtF32[count-1]
	}
	// The kernel goes through its rows once for each chunk of their columns. Of
	// few rows at once, every chunk's requests reach into the next ones.
	for at := 0; at < b.n; at += rowsAhead {
		n := min(rowsAhead, b.n-at)
		kernel(r.width, n, len(b.list)-at, &b.list[at], values, r.width, &weights[at], attendBlock, &sums[0], stride)
	}
}

// merge adds up the parts of a row's softmax.
func (j *decodeJob) merge(s *scratch, r *rowParts) {
	stride, n := partialHeader+j.width, r.hi-r.lo
	first := j.parts[r.lo].partial
	weights := grow(&s.a, n)
	for i := range r.queries {
		header := func(part int) []float32 { return j.partial[first+(part*r.queries+i)*stride:] }
		top := float32(math.Inf(-1))
		for part := range n {
			top = max(top, header(part)[0])
		}
		sum := float32(0)
		for part := range n {
			weights[part] = exp32(header(part)[0] - top)
			sum += header(part)[1] * weights[part]
		}
		for part := range n {
			weights[part] /= sum
		}
		out := j.out[(r.row*j.heads+r.head+i)*j.width:][:j.width]
		clear(out)
		values := (*byte)(unsafe.Pointer(&header(0)[partialHeader]))
		j.d.set.mixF32[0](j.width, n, values, r.queries*stride, &weights[0], n, &out[0], j.width)
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
