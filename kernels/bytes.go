package kernels

// StepRead is what one layer's attention must read of memory in a decode step:
// this says how bytes are counted wherever they are reported.
//
// Keys and values count as bf16, 2 bytes a number, and only what grows with the
// context counts: not maps, queries or the step's own scratch. Dense attention
// reads every key and value once for each KV head, whose query heads share
// them. A selector reads
//
//   - its index of all cached tokens, once for each KV head, in the width that
//     the method asks for (Bits), however a device stores it; where that is
//     the keys themselves (Keys), none is read a second time,
//   - the key and the value of the first and last tokens, once for each KV
//     head: all its sets read the same,
//   - the key and the value of every token chosen, once for each set that chose
//     it: query heads that choose for themselves share nothing, as no kernel
//     knows beforehand where they agree, and together read no more than all,
//   - with reranking, the key of every other candidate, counted alike.
type StepRead struct {
	KVHeads, HeadDim int
	Bits             float64 // of index per KV-head token
	Keys             bool    // the index is the keys, whatever Bits says
	Cached           int     // tokens, the step's own included
}

// Dense is the bytes of dense attention.
func (r StepRead) Dense() float64 {
	return float64(r.KVHeads) * float64(r.Cached) * 2 * r.row()
}

// Sparse is the bytes of a selection. chosen are the tokens that each of its
// sets chose; nil stands for as many as their budgets allow.
func (r StepRead) Sparse(s Selection, chosen []float64) float64 {
	lo, hi := s.Range(r.Cached)
	candidates, perHead := float64(hi-lo), s.Heads/r.KVHeads
	index, rows := float64(r.KVHeads)*float64(r.Cached)*r.Bits/8, 0.0
	for kv := range r.KVHeads {
		keys, values := 0.0, 0.0
		for set := kv * perHead; set < (kv+1)*perHead; set++ {
			scored, kept := float64(s.ScoredOf(set, r.Cached)), float64(s.ChosenOf(set, r.Cached))
			if chosen != nil {
				// Cut short, a set had as many times its tokens as candidates.
				scored, kept = min(scored, chosen[set]*float64(max(1, s.Candidates))), chosen[set]
			}
			keys, values = keys+scored, values+kept
		}
		if r.Keys {
			index, keys = 0, candidates
		}
		rows += 2*(float64(r.Cached)-candidates) + min(keys, candidates) + min(values, candidates)
	}
	return index + rows*r.row()
}

// row is the bytes of a head's key or value.
func (r StepRead) row() float64 { return 2 * float64(r.HeadDim) }
