// Package shape describes the attention of a model as traces and mappings
// record it, to tell whether they belong to the model at hand.
package shape

import "fmt"

// Model is a model's identity and the sizes of its attention.
type Model struct {
	// Name is for people, e.g. the checkpoint's file name.
	Name string `json:"name"`
	// Fingerprint identifies the weights.
	Fingerprint string `json:"fingerprint"`
	Layers      int    `json:"layers"`
	QueryHeads  int    `json:"queryHeads"`
	KVHeads     int    `json:"kvHeads"`
	HeadDim     int    `json:"headDim"`
	Rope        Rope   `json:"rope"`
}

// Rope is how positions turn queries and keys. A model that stretches its
// rope to a longer context has other keys, so its mappings differ.
type Rope struct {
	Base    float64 `json:"base"`
	Dims    int     `json:"dims"` // elements of a head that are rotated
	Scaling Scaling `json:"scaling,omitzero"`
}

// Scaling is a change of the rope frequencies; the zero value is none.
type Scaling struct {
	Kind     string  `json:"kind,omitempty"` // "linear", "llama3", "yarn"
	Factor   float64 `json:"factor,omitempty"`
	LowFreq  float64 `json:"lowFreq,omitempty"`
	HighFreq float64 `json:"highFreq,omitempty"`
	Context  int     `json:"context,omitempty"` // the context trained before the stretch
}

// Sizes that no model exceeds; they bound what a hostile file can claim.
const (
	MaxLayers  = 1 << 10
	MaxHeads   = 1 << 10
	MaxHeadDim = 1 << 12
)

// Group is the number of query heads that share a KV head.
func (m Model) Group() int { return m.QueryHeads / m.KVHeads }

// Check reports sizes that no model has.
func (m Model) Check() error {
	switch {
	case m.Fingerprint == "":
		return fmt.Errorf("the model has no fingerprint")
	case m.Layers < 1 || m.Layers > MaxLayers:
		return fmt.Errorf("the model has %d layers, want 1 to %d", m.Layers, MaxLayers)
	case m.QueryHeads < 1 || m.QueryHeads > MaxHeads || m.KVHeads < 1 || m.QueryHeads%m.KVHeads != 0:
		return fmt.Errorf("the model has %d query heads over %d KV heads, want a whole group for each KV head", m.QueryHeads, m.KVHeads)
	case m.HeadDim < 1 || m.HeadDim > MaxHeadDim:
		return fmt.Errorf("the model has headDim %d, want 1 to %d", m.HeadDim, MaxHeadDim)
	}
	return nil
}

// Fits reports how the model that a file was made for differs from the model
// at hand. The name does not count.
func (m Model) Fits(other Model) error {
	a, b := m, other
	a.Name, b.Name = "", ""
	if a == b {
		return nil
	}
	if a.Fingerprint != b.Fingerprint {
		return fmt.Errorf("made for model %s (fingerprint %.16s), not for %s (%.16s)", m.Name, m.Fingerprint, other.Name, other.Fingerprint)
	}
	if a.Rope != b.Rope {
		return fmt.Errorf("made for rope settings %+v, the model has %+v", m.Rope, other.Rope)
	}
	return fmt.Errorf("made for %d layers, %d query heads, %d KV heads, headDim %d; the model has %d, %d, %d, %d",
		m.Layers, m.QueryHeads, m.KVHeads, m.HeadDim, other.Layers, other.QueryHeads, other.KVHeads, other.HeadDim)
}
