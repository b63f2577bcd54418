package cpu

import (
	"math"
	"runtime"
	"sync/atomic"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// hashState is AttendHash's memory from call to call.
type hashState struct {
	weights  []int8
	scales   []float32
	scans    hashScans
	selected []int32 // to be reranked, [tokens, sets, count]
	steps    hashJob
}

// AttendHash implements kernels.Device. Scores are cut as they are computed:
// only the candidates near the cut are ever stored.
func (d *Device) AttendHash(out, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, h kernels.HashQuery, s kernels.Selection) {
	if q.Dim(2)%d.set.lanes != 0 || s.Mass > 0 {
		kernels.ComposeAttendHash(d, out, q, layer, b, scale, h, s)
		return
	}
	e, state := h.Encoder.(*encoder), &d.hash
	maps, bits := e.p.Heads, e.p.Out()
	state.weights = resize(state.weights, b.Tokens*maps*bits)
	state.scales = resize(state.scales, b.Tokens*maps)
	encoding := 0 // maps that are encoded set by set; for many tokens, all at once before
	if b.Tokens > 1 {
		d.encodeQueries(state.weights, state.scales, e, q, h.Bits)
	} else {
		d.queries.begin(d, state.weights, state.scales, e, q, h.Bits)
		encoding = maps
	}
	sets := s.Heads
	if h.Mass {
		sets = maps
	}
	state.scans.prepare(state.weights, maps, bits, sets, layer, b)

	scored := 0
	for i := range b.Segments {
		// it grows with the context
		last := b.Segments[i].Start + b.Segments[i].Len
		for n := b.Segments[i].Start + 1; n <= last; n++ {
			scored = max(scored, s.Scored(n))
		}
	}
	d.top.begin(d, b.Tokens*s.Heads)
	d.decode.reset(d, out, q, layer, scale)
	d.decode.reserve(b, s)
	if s.Reranks() {
		state.selected = resize(state.selected, b.Tokens*s.Heads*scored)
		d.rerank.begin(d, q, layer, scale, s, b.Tokens*s.Heads)
	}
	row := 0
	for i := range b.Segments {
		seg := &b.Segments[i]
		for t := range seg.Len {
			n := seg.Start + t + 1
			lo, hi := s.Range(n)
			for set := range s.Heads {
				at := row*s.Heads + set
				chosen := d.decode.addSelected(seg, row, set, q.Dim(1)/s.Heads, n, s.ChosenOf(set, n), s)
				list := chosen
				if s.Reranks() {
					list = state.selected[at*scored:][:s.ScoredOf(set, n)]
					d.rerank.rows[at] = rerankRow{seg, row, set, n, list, chosen}
				}
				r := topRow{lo: lo, hi: hi, count: len(list), selected: list}
				if h.Mass {
					first := row*maps + set*maps/s.Heads
					r.mass = state.scans.sets[first : first+maps/s.Heads]
					r.scales = state.scales[first : first+maps/s.Heads]
				} else {
					r.scan = &state.scans.sets[at]
				}
				d.top.rows[at] = r
			}
			row++
		}
	}
	state.steps.run(d, encoding, s.Reranks())
}

// hashJob is the choice of tokens and the attention to them, of all rows and
// sets. Encoding and scanning read memory as one stream or compute, attention
// waits for rows from anywhere: threads that do the one and the other at a time
// get more out of the memory than threads that do the same.
type hashJob struct {
	d      *Device
	maps   int // that the choices encode first, each those of its set
	rerank bool
	order  []hashStep
	chosen []atomic.Bool // of a row
}

// hashStep is a row's choice or, if part is not negative, a part of its
// attention.
type hashStep struct{ row, part int32 }

// run orders the steps so that every choice comes before what waits for it.
func (j *hashJob) run(d *Device, maps int, rerank bool) {
	j.d, j.maps, j.rerank = d, maps, rerank
	rows := len(d.top.rows)
	j.order, j.chosen = j.order[:0], resize(j.chosen, rows)
	for i := range j.chosen {
		j.chosen[i].Store(false)
	}
	ahead := d.pool.threads
	for row := range rows + ahead {
		if row < rows {
			j.order = append(j.order, hashStep{int32(row), -1})
		}
		if row >= ahead {
			for part := d.decode.rows[row-ahead].lo; part < d.decode.rows[row-ahead].hi; part++ {
				j.order = append(j.order, hashStep{int32(row - ahead), int32(part)})
			}
		}
	}
	d.decode.begin()
	d.pool.run(len(j.order), j)
}

func (j *hashJob) task(worker, index int) {
	step := j.order[index]
	row := int(step.row)
	if step.part < 0 {
		sets := len(j.chosen)
		for m := row * j.maps / sets; m < (row+1)*j.maps/sets; m++ {
			j.d.queries.task(worker, m)
		}
		j.d.top.task(worker, row)
		if j.rerank {
			j.d.rerank.task(worker, row)
		}
		j.chosen[row].Store(true)
		return
	}
	// another thread took the choice before
	for i := 0; !j.chosen[row].Load(); i++ {
		pause(10)
		if i > spins {
			runtime.Gosched()
		}
	}
	j.d.decode.task(worker, int(step.part))
}

// addMass adds to out the softmax of scores * scale. scores has room for whole
// registers and is overwritten.
func (s *kernelSet) addMass(out, scores []float32, n int, scale float32) {
	lanes := s.lanes
	rounded := (n + lanes - 1) / lanes * lanes
	if scale != 1 {
		for i := range scores[:n] {
			scores[i] *= scale
		}
	}
	for i := n; i < rounded; i++ {
		scores[i] = float32(math.Inf(-1))
	}
	top := s.maximum(rounded, &scores[0])
	inverse := 1 / s.expSum(rounded, &scores[0], 1, top)
	for i, v := range scores[:n] {
		out[i] += v * inverse
	}
}

// sumMass sets r.floats to the summed softmaxes of the group's scans, in the
// thread's scratch.
func (r *topRow) sumMass(set *kernelSet, s *scratch) {
	n := r.hi - r.lo
	out := grow(&s.a, r.hi+64)
	clear(out[r.lo:r.hi])
	scores := grow(&s.b, n+64)
	s.cut.block = resize(s.cut.block, n+64)
	for i := range r.mass {
		ints := s.cut.block[:n]
		r.mass[i].build(set)
		r.mass[i].scores(set, &s.words, r.lo, ints)
		set.toFloat((n+set.lanes-1)/set.lanes*set.lanes, &scores[0], &s.cut.block[0])
		set.addMass(out[r.lo:], scores, n, r.scales[i])
	}
	r.floats = out
}

// GroupMass implements kernels.Device.
func (d *Device) GroupMass(out, scores, scales kernels.Tensor, b *kernels.Batch, s kernels.Selection) {
	heads, stride, groups, width := scores.Dim(1), scores.Dim(2), out.Dim(1), out.Dim(2)
	positions := make([]int, 0, b.Tokens)
	b.Row(func(_ int, _ *kernels.Segment, p int) { positions = append(positions, p) })
	o := out.F32()
	d.ranges(b.Tokens*groups, 1, func(worker, from, to int) {
		buf := &d.scratch[worker].b
		for i := from; i < to; i++ {
			row, g := i/groups, i%groups
			lo, hi := s.Range(positions[row] + 1)
			if lo == hi {
				continue
			}
			sum := o[i*width+lo : i*width+hi]
			clear(sum)
			logits := grow(buf, hi-lo+64)
			for h := g * heads / groups; h < (g+1)*heads/groups; h++ {
				at := (row*heads + h) * stride
				if scores.Type == dtype.I32 {
					for x, v := range scores.I32()[at+lo : at+hi] {
						logits[x] = float32(v)
					}
				} else {
					copy(logits, scores.F32()[at+lo:at+hi])
				}
				scale := float32(1)
				if !scales.None() {
					scale = scales.F32()[row*heads+h]
				}
				d.set.addMass(sum, logits, hi-lo, scale)
			}
		}
	})
}
