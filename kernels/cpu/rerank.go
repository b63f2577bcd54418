package cpu

import (
	"math"

	"github.com/hashattn/hashattn/kernels"
)

// rerankJob is Rerank: a task computes the exact logits of one row and set.
type rerankJob struct {
	d         *Device
	q         []float32
	heads     int
	width     int
	layer     int
	scale     float32
	selection kernels.Selection
	rows      []rerankRow
}

type rerankRow struct {
	seg        *kernels.Segment
	row, set   int
	n          int // tokens the row sees
	candidates []int32
	kept       []int32 // the chosen, then -1
}

func (j *rerankJob) task(worker, index int) {
	r := &j.rows[index]
	k, s := j.d.set, &j.d.scratch[worker]
	count := j.selection.Kept(r.set, r.n, len(r.candidates))
	for i := count; i < len(r.kept); i++ {
		r.kept[i] = -1
	}
	if count == 0 {
		return
	}
	queries := j.heads / j.selection.Heads
	lo, hi := j.selection.Range(r.n)
	list := r.candidates
	if queries == 1 { // the softmax does not change the order
		lo = 0
	} else {
		s.list = allRead(s.list[:0], lo, r.candidates, hi, r.n)
		list = s.list
	}
	total := len(list)
	read := positions{n: total, list: list}
	stride := total + 2*attendBlock
	logits := grow(&s.a, queries*stride)
	first := (r.row*j.heads + r.set*queries) * j.width
	rows := newCacheRows(r.seg.Cache, j.layer, r.set*queries/(j.heads/r.seg.Cache.KVHeads))
	k.ask(min(rowsAhead, total), &list[0], &rows.k[0], rows.rowBytes)
	for at := 0; at < total; {
		b := rows.block(&read, at, total)
		k.logits(&rows, &b, false, j.q[first:], queries, logits[at:], stride)
		at += b.n
	}
	values := logits[lo : lo+len(r.candidates)]
	if queries > 1 {
		for i := range queries {
			row := logits[i*stride : (i+1)*stride]
			rounded := j.d.fill(row, total)
			top := k.maximum(rounded, &row[0]) * j.scale
			inverse := 1 / k.expSum(rounded, &row[0], j.scale, top)
			for x, v := range row[lo : lo+len(r.candidates)] {
				if i == 0 {
					values[x] = v * inverse
				} else {
					values[x] += v * inverse
				}
			}
		}
	}
	s.cut.keys = resize(s.cut.keys, len(values)+maxLanes)
	keys := s.cut.keys[:len(values)]
	for i, v := range values {
		if queries == 1 {
			v *= j.scale
		}
		keys[i] = floatKey(math.Float32bits(v))
	}
	s.cut.positions = resize(s.cut.positions, len(values)+maxLanes)
	copy(s.cut.positions, r.candidates)
	best(k, keys, s.cut.positions, r.kept[:count], math.MinInt32, math.MaxInt32)
}

// allRead appends the first lo tokens, the candidates, and the tokens hi to n.
func allRead(list []int32, lo int, candidates []int32, hi, n int) []int32 {
	for i := range lo {
		list = append(list, int32(i))
	}
	list = append(list, candidates...)
	for i := hi; i < n; i++ {
		list = append(list, int32(i))
	}
	return list
}

func (j *rerankJob) begin(d *Device, q kernels.Tensor, layer int, scale float32, s kernels.Selection, rows int) {
	j.d, j.q, j.heads, j.width, j.layer, j.scale, j.selection = d, q.F32(), q.Dim(1), q.Dim(2), layer, scale, s
	j.rows = resize(j.rows, rows)
}

// Rerank implements kernels.Device.
func (d *Device) Rerank(selected, candidates, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, s kernels.Selection) {
	if q.Dim(2)%d.set.lanes != 0 {
		d.Reference.Rerank(selected, candidates, q, layer, b, scale, s)
		return
	}
	d.rerank.begin(d, q, layer, scale, s, b.Tokens*s.Heads)
	from, to := candidates.I32(), selected.I32()
	k, kept := candidates.Dim(2), selected.Dim(2)
	row := 0
	for i := range b.Segments {
		seg := &b.Segments[i]
		for t := range seg.Len {
			n := seg.Start + t + 1
			for set := range s.Heads {
				at := row*s.Heads + set
				d.rerank.rows[at] = rerankRow{seg, row, set, n, s.List(from[at*k:], s.ScoredOf(set, n)), to[at*kept:][:kept]}
			}
			row++
		}
	}
	d.pool.run(len(d.rerank.rows), &d.rerank)
}
