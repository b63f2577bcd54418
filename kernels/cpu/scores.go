package cpu

import (
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// tokensPart is the tokens that one task of a scan scores.
const tokensPart = 4 << 10

// scanRows calls score for every row, KV head and part [lo, hi) of the tokens
// that the row sees, on all threads.
func (d *Device) scanRows(b *kernels.Batch, kvHeads int, score func(worker, row int, s *kernels.Segment, kv, lo, hi int)) {
	type rowOf struct {
		s *kernels.Segment
		n int
	}
	rows := make([]rowOf, 0, b.Tokens)
	b.Row(func(_ int, s *kernels.Segment, p int) { rows = append(rows, rowOf{s, p + 1}) })
	parts := (b.Longest + tokensPart - 1) / tokensPart
	d.ranges(b.Tokens*kvHeads*parts, 1, func(worker, from, to int) {
		for i := from; i < to; i++ {
			row, kv, lo := i/parts/kvHeads, i/parts%kvHeads, i%parts*tokensPart
			if hi := min(rows[row].n, lo+tokensPart); lo < hi {
				score(worker, row, rows[row].s, kv, lo, hi)
			}
		}
	})
}

// ScanDot implements kernels.Device.
func (d *Device) ScanDot(scores, q kernels.Tensor, layer, slot int, b *kernels.Batch, scale float32) {
	heads, width, stride := q.Dim(1), q.Dim(2), scores.Dim(2)
	if width%d.set.lanes != 0 || len(b.Segments) == 0 {
		d.Reference.ScanDot(scores, q, layer, slot, b, scale)
		return
	}
	keysOf := func(s *kernels.Segment) kernels.Tensor {
		if slot >= 0 {
			return s.Index.Layers[layer][slot]
		}
		return s.Cache.K[layer]
	}
	kvHeads := keysOf(&b.Segments[0]).Dim(0)
	group := heads / kvHeads
	out, qs := scores.F32(), q.F32()
	d.scanRows(b, kvHeads, func(worker, row int, s *kernels.Segment, kv, lo, hi int) {
		keys := keysOf(s)
		size := keys.Type.BlockBytes()
		from := keys.Bytes()[(kv*keys.Dim(1)+lo)*width*size:]
		first := row*heads + kv*group
		d.dots(worker, keys.Type, width, from, hi-lo, qs[first*width:], group, out[first*stride+lo:], stride, scale)
	})
}

// dots sets out[j*stride+i] to scale times the dot product of row i and query j.
func (d *Device) dots(worker int, t dtype.Type, width int, rows []byte, n int, queries []float32, count int, out []float32, stride int, scale float32) {
	const block = 256
	k := d.set
	kernel := &k.dotF32
	if t == dtype.BF16 {
		kernel = &k.dotBF16
	}
	buf := grow(&d.scratch[worker].a, 4*block)
	rowBytes := width * t.BlockBytes()
	for at := 0; at < n; at += block {
		some := min(block, n-at)
		for j := 0; j < count; j += 4 {
			few := min(4, count-j)
			kernel[few-1](width, some, 0, &rows[at*rowBytes], width, &queries[j*width], width, &buf[0], block)
			for x := range few {
				to := out[(j+x)*stride+at:][:some]
				for i, v := range buf[x*block:][:some] {
					to[i] = v * scale
				}
			}
		}
	}
}

// ScanPages implements kernels.Device. The bound sum_i max(q_i lo_i, q_i hi_i)
// is the dot product of q's positive part with hi and its negative with lo.
func (d *Device) ScanPages(scores, q kernels.Tensor, layer, pageLen int, b *kernels.Batch) {
	heads, width, stride := q.Dim(1), q.Dim(2), scores.Dim(2)
	if width%d.set.lanes != 0 || len(b.Segments) == 0 {
		d.Reference.ScanPages(scores, q, layer, pageLen, b)
		return
	}
	kvHeads := b.Segments[0].Index.Layers[layer][0].Dim(0)
	group := heads / kvHeads
	out := scores.F32()
	signed := make([][]float32, 2)
	for side := range signed {
		signed[side] = make([]float32, q.Len())
		for i, v := range q.F32() {
			if v < 0 == (side == 0) {
				signed[side][i] = v
			}
		}
	}
	d.scanRows(b, kvHeads, func(worker, row int, s *kernels.Segment, kv, lo, hi int) {
		first := row*heads + kv*group
		page, last := lo/pageLen, (hi-1)/pageLen
		pages := last - page + 1
		bounds := grow(&d.scratch[worker].b, 2*group*pages)
		for side := range signed {
			t := s.Index.Layers[layer][side]
			rows := t.Bytes()[(kv*t.Dim(1)+page)*width*4:]
			d.dots(worker, dtype.F32, width, rows, pages, signed[side][first*width:], group, bounds[side*group*pages:], pages, 1)
		}
		for j := range group {
			to := out[(first+j)*stride:]
			for p := range pages {
				bound := bounds[j*pages+p] + bounds[(group+j)*pages+p]
				for i := max(lo, (page+p)*pageLen); i < min(hi, (page+p+1)*pageLen); i++ {
					to[i] = bound
				}
			}
		}
	})
}

// ScanTables implements kernels.Device.
func (d *Device) ScanTables(scores, tables kernels.Tensor, layer int, b *kernels.Batch) {
	heads, parts, entries, stride := tables.Dim(1), tables.Dim(2), tables.Dim(3), scores.Dim(2)
	if len(b.Segments) == 0 {
		return
	}
	kvHeads := b.Segments[0].Index.Layers[layer][0].Dim(0)
	group := heads / kvHeads
	out, all := scores.F32(), tables.F32()
	d.scanRows(b, kvHeads, func(_, row int, s *kernels.Segment, kv, lo, hi int) {
		t := s.Index.Layers[layer][0]
		codes := t.U8()[(kv*t.Dim(1)+lo)*parts : (kv*t.Dim(1)+hi)*parts]
		for h := row*heads + kv*group; h < row*heads+(kv+1)*group; h++ {
			table := all[h*parts*entries : (h+1)*parts*entries]
			to := out[h*stride+lo : h*stride+hi]
			for i := range to {
				sum := float32(0)
				for x, c := range codes[i*parts : (i+1)*parts] {
					sum += table[x*entries+int(c)]
				}
				to[i] = sum
			}
		}
	})
}

// IndexParts implements kernels.Device. Distances are compared in float32 and
// near ties again as the reference does.
func (d *Device) IndexParts(codebooks kernels.Tensor, layer int, b *kernels.Batch) {
	kvHeads, parts, entries, width := codebooks.Dim(0), codebooks.Dim(1), codebooks.Dim(2), codebooks.Dim(3)
	books := codebooks.F32()
	norms := make([]float32, kvHeads*parts*entries)
	for i := range norms {
		for _, v := range books[i*width : (i+1)*width] {
			norms[i] += v * v / 2
		}
	}
	type part struct {
		s        *kernels.Segment
		kv       int
		first, n int
	}
	var work []part
	for i := range b.Segments {
		s := &b.Segments[i]
		for t := 0; t < s.Len; t += encodeTokens {
			for kv := range kvHeads {
				work = append(work, part{s, kv, s.Start + t, min(encodeTokens, s.Len-t)})
			}
		}
	}
	d.ranges(len(work), 1, func(worker, from, to int) {
		s := &d.scratch[worker]
		for _, w := range work[from:to] {
			c := w.s.Cache
			x := grow(&s.encode.x, w.n*c.HeadDim)[:w.n*c.HeadDim]
			readRows(x, c.K[layer], (w.kv*c.Capacity+w.first)*c.HeadDim)
			codes := w.s.Index.Layers[layer][0]
			z := grow(&s.encode.z, w.n*entries)
			for p := range parts {
				book := books[(w.kv*parts+p)*entries*width:][:entries*width]
				g := gemm{d.set, 1, Strided{x[p*width:], w.n, width, c.HeadDim, 1}, RowMajor(book, entries, width).T(), 0, RowMajor(z[:w.n*entries], w.n, entries)}
				if g.few() {
					g.runFew(&s.encode.gemm)
				} else {
					g.run(&s.encode.gemm)
				}
				for i := range w.n {
					best := nearest(z[i*entries:(i+1)*entries], norms[(w.kv*parts+p)*entries:], x[i*c.HeadDim+p*width:][:width], book)
					codes.U8()[(w.kv*codes.Dim(1)+w.first+i)*parts+p] = uint8(best)
				}
			}
		}
	})
}

// readRows widens len(dst) elements of a cache tensor from element at on.
func readRows(dst []float32, t kernels.Tensor, at int) {
	if t.Type == dtype.F32 {
		copy(dst, t.F32()[at:])
		return
	}
	dtype.F32FromBF16s(dst, t.BF16()[at:at+len(dst)])
}

// nearest is the entry of least |x-entry|^2/2 = |x|^2/2 - products + norms.
func nearest(products, norms, x, book []float32) int {
	best, value, second := 0, norms[0]-products[0], float32(0)
	secondSet := false
	for e := 1; e < len(products); e++ {
		v := norms[e] - products[e]
		if v < value {
			second, secondSet = value, true
			best, value = e, v
		} else if !secondSet || v < second {
			second, secondSet = v, true
		}
	}
	size := float32(0)
	for _, v := range x {
		size += v * v
	}
	if secondSet && second-value > 1e-5*(size+norms[best]) {
		return best
	}
	exact := 0.0
	for e := range products {
		distance := 0.0
		for i, v := range book[e*len(x) : (e+1)*len(x)] {
			y := float64(x[i]) - float64(v)
			distance += y * y
		}
		if e == 0 || distance < exact {
			best, exact = e, distance
		}
	}
	return best
}

// PartTables implements kernels.Device.
func (d *Device) PartTables(tables, q, codebooks kernels.Tensor) {
	heads, headDim := q.Dim(1), q.Dim(2)
	kvHeads, parts, entries, width := codebooks.Dim(0), codebooks.Dim(1), codebooks.Dim(2), codebooks.Dim(3)
	if width%d.set.lanes != 0 {
		d.Reference.PartTables(tables, q, codebooks)
		return
	}
	books, qs, out := codebooks.Bytes(), q.F32(), tables.F32()
	d.ranges(q.Dim(0)*heads, 8, func(worker, lo, hi int) {
		for i := lo; i < hi; i++ {
			kv := i % heads / (heads / kvHeads)
			for p := range parts {
				book := books[(kv*parts+p)*entries*width*4:]
				d.dots(worker, dtype.F32, width, book, entries, qs[i*headDim+p*width:], 1, out[(i*parts+p)*entries:], entries, 1)
			}
		}
	})
}

// ArgMax implements kernels.Device.
func (d *Device) ArgMax(out, x kernels.Tensor) {
	const block = 1024
	width, k := x.Dim(-1), d.set
	for t := range out.I32() {
		row := x.F32()[t*width : (t+1)*width]
		best := 0
		for at := 0; at < width; at += block {
			part := row[at:min(width, at+block)]
			if len(part) == block && !(k.maximum(block, &part[0]) > row[best]) {
				continue
			}
			for i, v := range part {
				if v > row[best] {
					best = at + i
				}
			}
		}
		out.I32()[t] = int32(best)
	}
}
