package kernels

import "math"

// IndexPages implements Device.
func (r *Reference) IndexPages(layer, pageLen int, b *Batch) {
	b.Row(func(_ int, s *Segment, position int) {
		lows, highs := s.Index.Layers[layer][0], s.Index.Layers[layer][1]
		d := s.Cache.HeadDim
		buf := make([]float32, d)
		for h := range lows.Dim(0) {
			at := (h*lows.Dim(1) + position/pageLen) * d
			lo, hi := lows.F32()[at:at+d], highs.F32()[at:at+d]
			for i, v := range row(s.Cache.K[layer], h, position, buf) {
				if position%pageLen == 0 {
					lo[i], hi[i] = v, v
				}
				lo[i], hi[i] = min(lo[i], v), max(hi[i], v)
			}
		}
	})
}

// IndexChannels implements Device (Double Sparsity, arXiv 2408.07092).
func (r *Reference) IndexChannels(channels Tensor, bits, layer int, b *Batch) {
	c := channels.Dim(1)
	levels := float64(int(1)<<bits - 1)
	b.Row(func(_ int, s *Segment, position int) {
		labels := s.Index.Layers[layer][0]
		buf := make([]float32, s.Cache.HeadDim)
		for h := range channels.Dim(0) {
			key := row(s.Cache.K[layer], h, position, buf)
			out := labels.F32()[(h*labels.Dim(1)+position)*c:][:c]
			lo, hi := math.Inf(1), math.Inf(-1)
			for i, ch := range channels.I32()[h*c : (h+1)*c] {
				out[i] = key[ch]
				lo, hi = min(lo, float64(out[i])), max(hi, float64(out[i]))
			}
			step := (hi - lo) / levels
			for i, v := range out {
				if step > 0 {
					out[i] = float32(lo + math.RoundToEven((float64(v)-lo)/step)*step)
				}
			}
		}
	})
}

// GatherChannels implements Device.
func (r *Reference) GatherChannels(out, q, channels Tensor) {
	heads, d, c := q.Dim(1), q.Dim(2), channels.Dim(1)
	for t := range q.Dim(0) {
		for h := range heads {
			kv := h / (heads / channels.Dim(0))
			for i, ch := range channels.I32()[kv*c : (kv+1)*c] {
				out.F32()[(t*heads+h)*c+i] = q.F32()[(t*heads+h)*d+int(ch)]
			}
		}
	}
}

// IndexParts implements Device.
func (r *Reference) IndexParts(codebooks Tensor, layer int, b *Batch) {
	parts, entries, width := codebooks.Dim(1), codebooks.Dim(2), codebooks.Dim(3)
	b.Row(func(_ int, s *Segment, position int) {
		codes := s.Index.Layers[layer][0]
		buf := make([]float32, s.Cache.HeadDim)
		for h := range codebooks.Dim(0) {
			key := row(s.Cache.K[layer], h, position, buf)
			for part := range parts {
				best, nearest := 0, math.Inf(1)
				for e := range entries {
					entry := codebooks.F32()[((h*parts+part)*entries+e)*width:][:width]
					distance := 0.0
					for i, v := range entry {
						x := float64(key[part*width+i]) - float64(v)
						distance += x * x
					}
					if distance < nearest {
						best, nearest = e, distance
					}
				}
				codes.U8()[(h*codes.Dim(1)+position)*parts+part] = uint8(best)
			}
		}
	})
}

// PartTables implements Device.
func (r *Reference) PartTables(tables, q, codebooks Tensor) {
	heads, d := q.Dim(1), q.Dim(2)
	parts, entries, width := codebooks.Dim(1), codebooks.Dim(2), codebooks.Dim(3)
	for t := range q.Dim(0) {
		for h := range heads {
			kv := h / (heads / codebooks.Dim(0))
			query := q.F32()[(t*heads+h)*d:][:d]
			for part := range parts {
				for e := range entries {
					entry := codebooks.F32()[((kv*parts+part)*entries+e)*width:][:width]
					tables.F32()[((t*heads+h)*parts+part)*entries+e] = float32(dot(query[part*width:][:width], entry))
				}
			}
		}
	}
}
