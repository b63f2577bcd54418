package cpu

import (
	"math"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

const (
	prefillKeys   = 96 // cached tokens taken at once, whole tiles of every kernel set
	prefillPanels = 2  // panels of queries that share the widened keys and values
)

// prefillJob is causal attention of many rows (FlashAttention-2, arXiv
// 2307.08691), with the queries of a group's heads together. A query is a
// column of the scores: keys and values are a tile's A, as they lie, and the
// softmax needs no sum across a register.
type prefillJob struct {
	d      *Device
	out, q []float32
	heads  int
	width  int
	layer  int
	scale  float32
	window int
	tasks  []prefillTask
}

// prefillTask is prefillPanels panels of one KV head's queries, counted token
// by token and within a token head by head.
type prefillTask struct {
	seg   *kernels.Segment
	row   int // of the segment's first token
	kv    int
	first int // query
}

func (j *prefillJob) reset(d *Device, out, q kernels.Tensor, layer int, scale float32, window int) {
	*j = prefillJob{d, out.F32(), q.F32(), q.Dim(1), q.Dim(2), layer, scale, window, j.tasks[:0]}
}

func (j *prefillJob) addSegment(s *kernels.Segment, row int) {
	step := prefillPanels * j.d.set.tileCols
	total := s.Len * (j.heads / s.Cache.KVHeads)
	// the last queries see most: they start first
	for first := (total - 1) / step * step; first >= 0; first -= step {
		for kv := range s.Cache.KVHeads {
			j.tasks = append(j.tasks, prefillTask{s, row, kv, first})
		}
	}
}

func (j *prefillJob) run() {
	if len(j.tasks) > 0 {
		j.d.pool.run(len(j.tasks), j)
	}
}

// panel is the state of tileCols queries.
type panel struct {
	queries          []float32 // [width, tileCols]
	acc              []float32 // [width, tileCols], rows rounded up to tiles
	top, sum, shrink []float32
	count            int // of queries
	lo, hi           int // tokens that some query sees
}

func (j *prefillJob) task(worker, index int) {
	t := j.tasks[index]
	k, s := j.d.set, &j.d.scratch[worker]
	nr, mr := k.tileCols, k.tileRows
	group := j.heads / t.seg.Cache.KVHeads
	stride := j.width + 16 // room for a tile's rows behind the last
	depth := (j.width + mr - 1) / mr * mr

	panelLen := (j.width+depth)*nr + 3*nr
	buf := grow(&s.a, prefillPanels*panelLen)
	rows := grow(&s.b, (prefillKeys+mr)*stride*2)
	scores := grow(&s.c, (prefillKeys+mr)*nr)
	var panels [prefillPanels]panel
	lo, hi := math.MaxInt, 0
	for i := range panels {
		p := &panels[i]
		b := buf[i*panelLen:][:panelLen]
		p.queries, b = b[:j.width*nr], b[j.width*nr:]
		p.acc, b = b[:depth*nr], b[depth*nr:]
		p.top, p.sum, p.shrink = b[:nr], b[nr:2*nr], b[2*nr:]
		j.begin(p, t, i*nr+t.first, group, rows)
		if p.count > 0 {
			lo, hi = min(lo, p.lo), max(hi, p.hi)
		}
	}
	keys, values := rows[:(prefillKeys+mr)*stride], rows[(prefillKeys+mr)*stride:]
	for from := lo; from < hi; from += prefillKeys {
		n := min(prefillKeys, hi-from)
		j.widen(keys, t.seg.Cache.K[j.layer], t, from, n, stride)
		j.widen(values, t.seg.Cache.V[j.layer], t, from, n, stride)
		for i := range panels {
			p := &panels[i]
			n := min(n, p.hi-from)
			if p.count == 0 || n <= 0 || from+n <= p.lo {
				continue
			}
			for r := 0; r < n; r += mr {
				k.tile(j.width, &keys[r*stride], stride, 1, &p.queries[0], &scores[r*nr], nr, 0)
			}
			j.mask(scores, t, i*nr+t.first, p.count, group, from, n)
			k.softmaxColumns(n, &scores[0], j.scale, &p.top[0], &p.sum[0], &p.shrink[0])
			for _, f := range p.shrink {
				if f != 1 {
					k.scaleColumns(depth, &p.acc[0], &p.shrink[0])
					break
				}
			}
			for r := 0; r < j.width; r += mr {
				k.tile(n, &values[r], 1, stride, &scores[0], &p.acc[r*nr], nr, 1)
			}
		}
	}
	for i := range panels {
		if panels[i].count > 0 {
			j.end(&panels[i], t, i*nr+t.first, group, rows)
		}
	}
}

// query is where query number index of the task's KV head lies, and its
// token's position.
func (j *prefillJob) query(t prefillTask, index, group int) (at, position int) {
	token := index / group
	return ((t.row+token)*j.heads + t.kv*group + index%group) * j.width, t.seg.Start + token
}

// begin packs the panel's queries. buf is scratch for them as rows.
func (j *prefillJob) begin(p *panel, t prefillTask, first, group int, buf []float32) {
	nr := j.d.set.tileCols
	p.count = max(0, min(nr, t.seg.Len*group-first))
	if p.count == 0 {
		return
	}
	for i := range p.count {
		at, position := j.query(t, first+i, group)
		copy(buf[i*j.width:(i+1)*j.width], j.q[at:])
		if i == 0 {
			p.lo = 0
			if j.window > 0 {
				p.lo = max(0, position+1-j.window)
			}
		}
		p.hi = position + 1
	}
	packColumns(j.d.set, p.queries, buf, j.width, p.count, j.width)
	clear(p.acc)
	clear(p.sum)
	for i := range p.top {
		p.top[i] = -1e30 // not -Inf: the difference of two must be a number
	}
}

// widen writes rows of a cache tensor to dst as float32.
func (j *prefillJob) widen(dst []float32, cache kernels.Tensor, t prefillTask, from, n, stride int) {
	at := (t.kv*t.seg.Cache.Capacity + from) * j.width
	if cache.Type == dtype.F32 {
		src := cache.F32()[at:]
		for i := range n {
			copy(dst[i*stride:][:j.width], src[i*j.width:])
		}
		return
	}
	src := cache.BF16()[at:]
	for i := range n {
		j.d.set.widen(j.width, &dst[i*stride], &src[i*j.width])
	}
}

// mask sets the scores of tokens that a query does not see to -Inf.
func (j *prefillJob) mask(scores []float32, t prefillTask, first, count, group, from, n int) {
	nr := j.d.set.tileCols
	_, position := j.query(t, first, group)
	_, last := j.query(t, first+count-1, group)
	if position+1 >= from+n && (j.window <= 0 || last+1-j.window <= from) {
		return
	}
	for i := range count {
		_, position := j.query(t, first+i, group)
		for x := max(0, position+1-from); x < n; x++ {
			scores[x*nr+i] = float32(math.Inf(-1))
		}
		if j.window > 0 {
			for x := range max(0, min(n, position+1-j.window-from)) {
				scores[x*nr+i] = float32(math.Inf(-1))
			}
		}
	}
}

// end normalises the panel's sums and writes them out as rows.
func (j *prefillJob) end(p *panel, t prefillTask, first, group int, buf []float32) {
	k := j.d.set
	nr, square := k.tileCols, k.lanes
	for i, v := range p.sum {
		p.shrink[i] = 1 / v
	}
	k.scaleColumns(j.width, &p.acc[0], &p.shrink[0])
	for c := 0; c < nr; c += square {
		for r := 0; r < j.width; r += square {
			k.transpose(&buf[c*j.width+r], j.width, &p.acc[r*nr+c], nr)
		}
	}
	for i := range p.count {
		at, _ := j.query(t, first+i, group)
		copy(j.out[at:at+j.width], buf[i*j.width:])
	}
}
