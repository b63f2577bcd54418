package kernels

import (
	"math"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// Append implements Device.
func (r *Reference) Append(layer int, k, v Tensor, b *Batch) {
	heads, d := k.Dim(1), k.Dim(2)
	b.Row(func(row int, s *Segment, p int) {
		for h := range heads {
			from := (row*heads + h) * d
			to := (h*s.Cache.Capacity + p) * d
			store(s.Cache.K[layer], to, k.F32()[from:from+d])
			store(s.Cache.V[layer], to, v.F32()[from:from+d])
		}
	})
}

// store writes values from element at on, rounded to t's type.
func store(t Tensor, at int, values []float32) {
	if t.Type == dtype.F32 {
		copy(t.F32()[at:], values)
		return
	}
	for i, v := range values {
		t.BF16()[at+i] = dtype.BF16FromF32(v)
	}
}

// Attend implements Device.
func (r *Reference) Attend(out, q Tensor, layer int, b *Batch, scale float32, window int) {
	heads := q.Dim(1)
	b.Row(func(row int, s *Segment, p int) {
		lo := 0
		if window > 0 {
			lo = max(0, p+1-window)
		}
		positions := make([]int, 0, p+1-lo)
		for i := lo; i <= p; i++ {
			positions = append(positions, i)
		}
		for h := range heads {
			attendRow(out, q, s.Cache, layer, row, h, positions, scale)
		}
		n := int64(len(positions) * heads)
		r.CountReads(n, n)
	})
}

// AttendSelected implements Device.
func (r *Reference) AttendSelected(out, q Tensor, layer int, b *Batch, scale float32, selected Tensor, s Selection) {
	heads, k := q.Dim(1), selected.Dim(2)
	b.Row(func(row int, seg *Segment, p int) {
		n := p + 1
		lo, hi := s.Range(n)
		perSet := heads / s.Heads
		for h := range heads {
			set := h / perSet
			chosen := s.List(selected.I32()[(row*s.Heads+set)*k:], s.ChosenOf(set, n))
			positions := make([]int, 0, s.Read(n))
			for i := range lo {
				positions = append(positions, i)
			}
			for _, c := range chosen {
				positions = append(positions, int(c))
			}
			for i := hi; i < n; i++ {
				positions = append(positions, i)
			}
			attendRow(out, q, seg.Cache, layer, row, h, positions, scale)
			r.CountReads(int64(len(positions)), int64(n))
		}
	})
}

// attendRow sets head h of row to softmax attention over the positions
// (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).
func attendRow(out, q Tensor, c *Cache, layer, rowIndex, h int, positions []int, scale float32) {
	heads, d := q.Dim(1), q.Dim(2)
	kv := h / (heads / c.KVHeads)
	query := q.F32()[(rowIndex*heads+h)*d:][:d]
	buf := make([]float32, d)
	logits := make([]float64, len(positions))
	top, sum := math.Inf(-1), 0.0
	for i, p := range positions {
		logits[i] = dot(query, row(c.K[layer], kv, p, buf)) * float64(scale)
		top = math.Max(top, logits[i])
	}
	acc := make([]float64, d)
	for i, p := range positions {
		w := math.Exp(logits[i] - top)
		sum += w
		for j, v := range row(c.V[layer], kv, p, buf) {
			acc[j] += w * float64(v)
		}
	}
	for j := range acc {
		out.F32()[(rowIndex*heads+h)*d+j] = float32(acc[j] / sum)
	}
}

// AttendHash implements Device.
func (r *Reference) AttendHash(out, q Tensor, layer int, b *Batch, scale float32, h HashQuery, s Selection) {
	ComposeAttendHash(r, out, q, layer, b, scale, h, s)
}

// ComposeAttendHash is AttendHash out of d's single operations, for devices
// without a fused form. It allocates its scratch.
func ComposeAttendHash(d Device, out, q Tensor, layer int, b *Batch, scale float32, h HashQuery, s Selection) {
	alloc := func(t dtype.Type, shape ...int) Tensor {
		x, err := d.Alloc(t, shape...)
		if err != nil {
			panic(err)
		}
		return x
	}
	p := h.Encoder.Projection()
	scored, chosen := 1, 1
	b.Row(func(_ int, _ *Segment, position int) {
		scored, chosen = max(scored, s.Scored(position+1)), max(chosen, s.Chosen(position+1))
	})
	weights, scales := alloc(dtype.I8, b.Tokens, p.Heads, p.Out()), alloc(dtype.F32, b.Tokens, p.Heads)
	d.EncodeQueries(weights, scales, h.Encoder, q, h.Bits)
	var scores Tensor
	if h.Mass {
		perHead := alloc(dtype.I32, b.Tokens, p.Heads, b.Longest)
		d.ScanHash(perHead, weights, layer, b)
		scores = alloc(dtype.F32, b.Tokens, s.Heads, b.Longest)
		d.GroupMass(scores, perHead, scales, b, s)
	} else {
		scores = alloc(dtype.I32, b.Tokens, s.Heads, b.Longest)
		d.ScanHash(scores, weights, layer, b)
	}
	selected := alloc(dtype.I32, b.Tokens, s.Heads, scored)
	d.TopK(selected, scores, b, s)
	if s.Mass > 0 {
		d.(Uneven).CutMass(selected, scores, MassUnit{Scales: scales, Linear: h.Mass}, b, s)
	}
	if s.Reranks() {
		kept := alloc(dtype.I32, b.Tokens, s.Heads, chosen)
		d.Rerank(kept, selected, q, layer, b, scale, s)
		selected = kept
	}
	d.AttendSelected(out, q, layer, b, scale, selected, s)
}
