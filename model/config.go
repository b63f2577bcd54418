package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"

	"github.com/hashattn/hashattn/kernels"
)

// Config is what the forward pass must know of a model.
type Config struct {
	Architecture string  `json:"architecture"` // as GGUF spells it: llama, qwen2, qwen3, gemma3
	Name         string  `json:"name"`
	Layers       int     `json:"layers"`
	Width        int     `json:"width"`       // of the residual stream
	FeedForward  int     `json:"feedForward"` // inner width
	QueryHeads   int     `json:"queryHeads"`
	KVHeads      int     `json:"kvHeads"`
	HeadDim      int     `json:"headDim"`
	Vocabulary   int     `json:"vocabulary"` // rows of the output matrix
	Context      int     `json:"context"`    // tokens the model was trained for
	NormEps      float32 `json:"normEps"`
	Rope         Rope    `json:"rope"`

	Activation kernels.Activation `json:"activation"`
	// QueryScale multiplies q.k, 1/sqrt(HeadDim) unless the model says otherwise.
	QueryScale float32 `json:"queryScale"`
	// EmbedScale multiplies embeddings (Gemma: sqrt(Width)).
	EmbedScale float32 `json:"embedScale"`
	// QKNorm: queries and keys are RMS-normalised per head before RoPE.
	QKNorm bool `json:"qkNorm"`
	// PostNorms: attention and feed-forward outputs are normalised before they
	// join the residual stream (Gemma).
	PostNorms bool `json:"postNorms"`

	// Window is the span of sliding-window layers, 0 without any. Every
	// GlobalEvery-th layer attends to all tokens; the others to the window,
	// with LocalRope.
	Window      int  `json:"window,omitempty"`
	GlobalEvery int  `json:"globalEvery,omitempty"`
	LocalRope   Rope `json:"localRope"`
}

// Group is the number of query heads that share a KV head.
func (c Config) Group() int { return c.QueryHeads / c.KVHeads }

// LayerWindow is layer's sliding window, 0 if it attends to all tokens.
func (c Config) LayerWindow(layer int) int {
	if c.Window == 0 || c.GlobalEvery > 0 && (layer+1)%c.GlobalEvery == 0 {
		return 0
	}
	return c.Window
}

// Check reports sizes that no model can have.
func (c Config) Check() error {
	positive := map[string]int{
		"layers": c.Layers, "width": c.Width, "feed-forward width": c.FeedForward, "query heads": c.QueryHeads,
		"KV heads": c.KVHeads, "head dimension": c.HeadDim, "vocabulary": c.Vocabulary, "context": c.Context,
	}
	for what, n := range positive {
		if n < 1 || n > 1<<24 {
			return fmt.Errorf("model config: %d %s", n, what)
		}
	}
	if c.QueryHeads%c.KVHeads != 0 {
		return fmt.Errorf("model config: %d query heads for %d KV heads", c.QueryHeads, c.KVHeads)
	}
	if c.HeadDim%2 != 0 {
		return fmt.Errorf("model config: odd head dimension %d", c.HeadDim)
	}
	if !(c.NormEps > 0) {
		return fmt.Errorf("model config: norm epsilon %v", c.NormEps)
	}
	if !(c.Rope.Base > 0) {
		return fmt.Errorf("model config: rope base %v", c.Rope.Base)
	}
	return nil
}

// hash is a stable fingerprint of the config.
func (c Config) hash() string {
	c.Name = "" // a renamed model is the same model
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // plain fields cannot fail
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Rope is how positions become angles (Su et al. 2021, arXiv 2104.09864).
type Rope struct {
	Base float64 `json:"base"`
	// Scaling is "" or "linear" or "llama3".
	Scaling string  `json:"scaling,omitempty"`
	Factor  float64 `json:"factor,omitempty"`
	// LowFreq, HighFreq and Original are llama3's low_freq_factor,
	// high_freq_factor and original_max_position_embeddings.
	LowFreq  float64 `json:"lowFreq,omitempty"`
	HighFreq float64 `json:"highFreq,omitempty"`
	Original float64 `json:"original,omitempty"`
	// Divisors divide the frequencies one by one (GGUF's rope_freqs.weight).
	Divisors []float32 `json:"divisors,omitempty"`
}

// Frequencies is the angle per position of each of the headDim/2 pairs. The
// arithmetic is float32 in the order of transformers' modeling_rope_utils, so
// that angles at large positions agree with it.
func (r Rope) Frequencies(headDim int) ([]float32, error) {
	f := make([]float32, headDim/2)
	for i := range f {
		exponent := float32(2*i) / float32(headDim)
		f[i] = 1 / float32(math.Pow(float64(float32(r.Base)), float64(exponent)))
	}
	switch r.Scaling {
	case "":
	case "linear":
		for i := range f {
			f[i] /= float32(r.Factor)
		}
	case "llama3":
		for i, v := range f {
			f[i] = r.llama3(v)
		}
	default:
		return nil, fmt.Errorf("rope scaling %q is not supported (linear and llama3 are)", r.Scaling)
	}
	if r.Divisors != nil {
		if len(r.Divisors) != len(f) {
			return nil, fmt.Errorf("rope_freqs has %d factors for %d pairs", len(r.Divisors), len(f))
		}
		for i, d := range r.Divisors {
			f[i] /= d
		}
	}
	return f, nil
}

// llama3 is transformers' _compute_llama3_parameters for one frequency.
func (r Rope) llama3(f float32) float32 {
	wavelength := 2 * math.Pi / float64(f)
	low, high := r.Original/r.LowFreq, r.Original/r.HighFreq
	switch {
	case wavelength < high:
		return f
	case wavelength > low:
		return f / float32(r.Factor)
	}
	smooth := (r.Original/wavelength - r.LowFreq) / (r.HighFreq - r.LowFreq)
	return float32((1-smooth)*float64(f)/r.Factor + smooth*float64(f))
}
