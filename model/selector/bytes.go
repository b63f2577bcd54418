package selector

import "github.com/hashattn/hashattn/kernels"

// direct is a Scorer whose index is the keys themselves.
type direct interface{ scansKeys() }

// StepRead is what a decode step that sees n tokens reads of a layer, but for
// the layer's selection.
func (a *Sparse) StepRead(n int) kernels.StepRead {
	_, keys := a.Scorer.(direct)
	return kernels.StepRead{KVHeads: a.shape.KVHeads, HeadDim: a.shape.HeadDim, Bits: a.Bits(), Keys: keys, Cached: n}
}

// StepBytes is the bytes that a decode step must read in one of the layers, a
// mean over the layers, those left dense among them. n is the tokens cached,
// the step's own included. Sets that are cut at a share of the attention mass
// have sizes that no rule gives: density, unused otherwise, is the share of
// cached tokens that attention was seen to read in the whole model. Where that
// says nothing of the sets, as some layers are dense or have a window, it is 0.
func (a *Sparse) StepBytes(layers []int, n int, density float64) float64 {
	read, cut := a.StepRead(n), a.selection.Mass > 0
	if cut && len(a.Layers()) < a.shape.Layers {
		return 0
	}
	sum := 0.0
	for _, l := range layers {
		if !a.Covers(l) {
			sum += read.Dense()
			continue
		}
		s := a.Selection(l)
		var chosen []float64
		if cut {
			lo, hi := s.Range(n)
			for range s.Heads {
				chosen = append(chosen, max(0, density*float64(n)-float64(n-hi+lo)))
			}
		}
		sum += read.Sparse(s, chosen)
	}
	return sum / float64(len(layers))
}
