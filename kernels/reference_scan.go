package kernels

import (
	"math"
	"slices"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// project is z = phi(x) of head h, sums in float64.
func (p Projection) project(h int, x []float64) []float64 {
	z := make([]float64, p.Out())
	if len(p.Layers) > 0 {
		y := x
		for i, a := range p.Layers {
			if i > 0 {
				for j := range y {
					y[j] = silu(y[j])
				}
			}
			y = a.apply(h, y)
		}
		copy(z, y)
	}
	if p.Skip != nil {
		for i, v := range p.Skip.apply(h, x) {
			z[i] += v
		}
	}
	if p.Feedback != nil {
		bits := p.Out()
		for i := range z {
			block := i / p.BlockBits * p.BlockBits
			for j := range block { // earlier bits are final: their z is
				f := float64(p.Feedback[(h*bits+i)*bits+j])
				if z[j] > 0 {
					z[i] += f
				} else {
					z[i] -= f
				}
			}
		}
	}
	return z
}

func (a Affine) apply(h int, x []float64) []float64 {
	y := make([]float64, a.Out)
	for o := range y {
		s := 0.0
		for i, v := range x {
			s += float64(a.Weight[(h*a.Out+o)*a.In+i]) * v
		}
		y[o] = s + float64(a.Bias[h*a.Out+o])
	}
	return y
}

func widen(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// EncodeKeys implements Device.
func (r *Reference) EncodeKeys(enc Encoder, layer int, b *Batch) {
	p := enc.Projection()
	b.Row(func(_ int, s *Segment, position int) {
		codes, words := s.Index.Layers[layer][0], p.Words()
		buf := make([]float32, s.Cache.HeadDim)
		for h := range p.Heads {
			kv := h / (p.Heads / s.Cache.KVHeads)
			z := p.project(h, widen(row(s.Cache.K[layer], kv, position, buf)))
			code := codes.U32()[(h*codes.Dim(1)+position)*words:][:words]
			clear(code)
			for i, v := range z {
				if v > 0 {
					code[i/32] |= 1 << (i % 32)
				}
			}
		}
	})
}

// EncodeQueries implements Device.
func (r *Reference) EncodeQueries(weights, scales Tensor, enc Encoder, q Tensor, queryBits int) {
	p := enc.Projection()
	bits, in := p.Out(), q.Dim(1)*q.Dim(2)/p.Heads
	for t := range q.Dim(0) {
		for h := range p.Heads {
			at := t*p.Heads + h
			w := weights.I8()[at*bits : (at+1)*bits]
			scale := QuantizeQuery(w, p.project(h, widen(q.F32()[at*in:(at+1)*in])), queryBits)
			if !scales.None() {
				scales.F32()[at] = scale
			}
		}
	}
}

// QuantizeQuery turns a query map's values into integer weights of queryBits
// bits (1: their signs) and gives the value of a weight of 1.
func QuantizeQuery(weights []int8, z []float64, queryBits int) (scale float32) {
	if queryBits == 1 {
		for i, v := range z {
			weights[i] = -1
			if v > 0 {
				weights[i] = 1
			}
		}
		return 1
	}
	limit := float64(int(1)<<(queryBits-1) - 1)
	top := 0.0
	for _, v := range z {
		top = math.Max(top, math.Abs(v))
	}
	if top == 0 {
		clear(weights)
		return 0
	}
	for i, v := range z {
		weights[i] = int8(math.RoundToEven(v / top * limit))
	}
	return float32(top / limit)
}

// ScanHash implements Device.
func (r *Reference) ScanHash(scores, weights Tensor, layer int, b *Batch) {
	maps, bits := weights.Dim(1), weights.Dim(2)
	sets, stride := scores.Dim(1), scores.Dim(2)
	b.Row(func(row int, s *Segment, position int) {
		codes := s.Index.Layers[layer][0]
		keyHeads, words := codes.Dim(0), codes.Dim(2)
		for set := range sets {
			out := scores.I32()[(row*sets+set)*stride:][:position+1]
			clear(out)
			for m := set * maps / sets; m < (set+1)*maps/sets; m++ {
				w := weights.I8()[(row*maps+m)*bits:][:bits]
				// a map reads the codes of its own head or of its group's
				key := m * keyHeads / maps
				for p := range out {
					code := codes.U32()[(key*codes.Dim(1)+p)*words:]
					for i, v := range w {
						if code[i/32]>>(i%32)&1 == 1 {
							out[p] += int32(v)
						} else {
							out[p] -= int32(v)
						}
					}
				}
			}
		}
	})
}

// ScanDot implements Device.
func (r *Reference) ScanDot(scores, q Tensor, layer, slot int, b *Batch, scale float32) {
	heads, width, stride := q.Dim(1), q.Dim(2), scores.Dim(2)
	buf := make([]float32, width)
	b.Row(func(rowIndex int, s *Segment, position int) {
		keys := s.Cache.K[layer]
		if slot >= 0 {
			keys = s.Index.Layers[layer][slot]
		}
		for h := range heads {
			query := q.F32()[(rowIndex*heads+h)*width:][:width]
			kv := h / (heads / keys.Dim(0))
			for p := range position + 1 {
				scores.F32()[(rowIndex*heads+h)*stride+p] = float32(dot(query, row(keys, kv, p, buf)) * float64(scale))
			}
		}
	})
}

// ScanPages implements Device (Quest, arXiv 2406.10774, section 3.3).
func (r *Reference) ScanPages(scores, q Tensor, layer, pageLen int, b *Batch) {
	heads, d, stride := q.Dim(1), q.Dim(2), scores.Dim(2)
	loBuf, hiBuf := make([]float32, d), make([]float32, d)
	b.Row(func(rowIndex int, s *Segment, position int) {
		lows, highs := s.Index.Layers[layer][0], s.Index.Layers[layer][1]
		for h := range heads {
			query := q.F32()[(rowIndex*heads+h)*d:][:d]
			kv := h / (heads / lows.Dim(0))
			for p := range position + 1 {
				bound := 0.0
				lo, hi := row(lows, kv, p/pageLen, loBuf), row(highs, kv, p/pageLen, hiBuf)
				for i, v := range query {
					bound += math.Max(float64(v)*float64(lo[i]), float64(v)*float64(hi[i]))
				}
				scores.F32()[(rowIndex*heads+h)*stride+p] = float32(bound)
			}
		}
	})
}

// ScanTables implements Device (product quantisation, Jegou et al. 2011).
func (r *Reference) ScanTables(scores, tables Tensor, layer int, b *Batch) {
	heads, parts, entries, stride := tables.Dim(1), tables.Dim(2), tables.Dim(3), scores.Dim(2)
	b.Row(func(row int, s *Segment, position int) {
		codes := s.Index.Layers[layer][0]
		for h := range heads {
			kv := h / (heads / codes.Dim(0))
			table := tables.F32()[(row*heads+h)*parts*entries:]
			for p := range position + 1 {
				sum := 0.0
				for i, c := range codes.U8()[(kv*codes.Dim(1)+p)*parts:][:parts] {
					sum += float64(table[i*entries+int(c)])
				}
				scores.F32()[(row*heads+h)*stride+p] = float32(sum)
			}
		}
	})
}

// score is element i of scores of either type.
func score(scores Tensor, i int) float64 {
	if scores.Type == dtype.I32 {
		return float64(scores.I32()[i])
	}
	return float64(scores.F32()[i])
}

// GroupMass implements Device.
func (r *Reference) GroupMass(out, scores, scales Tensor, b *Batch, s Selection) {
	heads, stride, groups := scores.Dim(1), scores.Dim(2), out.Dim(1)
	b.Row(func(row int, _ *Segment, position int) {
		lo, hi := s.Range(position + 1)
		for g := range groups {
			sum := make([]float64, hi-lo)
			for h := g * heads / groups; h < (g+1)*heads/groups; h++ {
				at := (row*heads + h) * stride
				scale := 1.0
				if !scales.None() {
					scale = float64(scales.F32()[row*heads+h])
				}
				logits := make([]float64, hi-lo)
				for i := range logits {
					logits[i] = score(scores, at+lo+i) * scale
				}
				for i, v := range softmax(logits) {
					sum[i] += v
				}
			}
			for i, v := range sum {
				out.F32()[(row*groups+g)*out.Dim(2)+lo+i] = float32(v)
			}
		}
	})
}

func softmax(x []float64) []float64 {
	top, sum := math.Inf(-1), 0.0
	for _, v := range x {
		top = math.Max(top, v)
	}
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = math.Exp(v - top)
		sum += y[i]
	}
	for i := range y {
		y[i] /= sum
	}
	return y
}

// TopK implements Device.
func (r *Reference) TopK(selected, scores Tensor, b *Batch, s Selection) {
	sets, stride, k := scores.Dim(1), scores.Dim(2), selected.Dim(2)
	b.Row(func(row int, _ *Segment, position int) {
		lo, hi := s.Range(position + 1)
		for set := range sets {
			at := (row*sets + set) * stride
			candidates := make([]int, 0, hi-lo)
			for p := lo; p < hi; p++ {
				candidates = append(candidates, p)
			}
			keep(selected.I32()[(row*sets+set)*k:][:k], candidates, s.ScoredOf(set, position+1),
				func(p int) float64 { return score(scores, at+p) })
		}
	})
}

// keep writes to dst the count positions of highest score, ascending, and -1
// behind them. Of equal scores the larger position wins; NaN ranks last.
func keep(dst []int32, positions []int, count int, score func(p int) float64) {
	slices.SortFunc(positions, func(p, q int) int {
		a, b := score(p), score(q)
		switch {
		case a > b || b != b && a == a:
			return -1
		case a < b || a != a && b == b:
			return 1
		}
		return q - p
	})
	best := positions[:count]
	slices.Sort(best)
	for i := range dst {
		dst[i] = -1
		if i < count {
			dst[i] = int32(best[i])
		}
	}
}

// Rerank implements Device.
func (r *Reference) Rerank(selected, candidates, q Tensor, layer int, b *Batch, scale float32, s Selection) {
	heads, d, k := q.Dim(1), q.Dim(2), candidates.Dim(2)
	buf := make([]float32, d)
	b.Row(func(rowIndex int, seg *Segment, position int) {
		n := position + 1
		lo, hi := s.Range(n)
		for set := range s.Heads {
			var pool []int
			for _, c := range s.List(candidates.I32()[(rowIndex*s.Heads+set)*k:], s.ScoredOf(set, n)) {
				pool = append(pool, int(c))
			}
			read := append([]int(nil), pool...)
			for p := range n {
				if p < lo || p >= hi {
					read = append(read, p)
				}
			}
			value := map[int]float64{}
			perSet := heads / s.Heads
			for h := set * perSet; h < (set+1)*perSet; h++ {
				query := q.F32()[(rowIndex*heads+h)*d:][:d]
				kv := h / (heads / seg.Cache.KVHeads)
				logits := make([]float64, len(read))
				for i, p := range read {
					logits[i] = dot(query, row(seg.Cache.K[layer], kv, p, buf)) * float64(scale)
				}
				if perSet > 1 {
					logits = softmax(logits)
				}
				for i, p := range pool {
					value[p] += logits[i]
				}
			}
			keep(selected.I32()[(rowIndex*s.Heads+set)*selected.Dim(2):][:selected.Dim(2)], pool, s.Kept(set, n, len(pool)),
				func(p int) float64 { return value[p] })
		}
	})
}
