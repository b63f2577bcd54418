package model

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/kernels"
)

// named are the shapes of published models, by their config.json on the
// Hugging Face hub.
var named = map[string]Config{
	"llama-3.1-8b": {Architecture: "llama", Layers: 32, Width: 4096, FeedForward: 14336, QueryHeads: 32, KVHeads: 8, HeadDim: 128,
		Vocabulary: 128256, Context: 131072, NormEps: 1e-5, Rope: llama3Rope(8)},
	"llama-3.2-1b": {Architecture: "llama", Layers: 16, Width: 2048, FeedForward: 8192, QueryHeads: 32, KVHeads: 8, HeadDim: 64,
		Vocabulary: 128256, Context: 131072, NormEps: 1e-5, Rope: llama3Rope(32)},
	"mistral-7b": {Architecture: "llama", Layers: 32, Width: 4096, FeedForward: 14336, QueryHeads: 32, KVHeads: 8, HeadDim: 128,
		Vocabulary: 32768, Context: 32768, NormEps: 1e-5, Rope: Rope{Base: 1e6}},
	"qwen2.5-7b":         qwen25(28, 3584, 18944, 28, 4, 128, 152064),
	"qwen2.5-coder-1.5b": qwen25(28, 1536, 8960, 12, 2, 128, 151936),
	"qwen2.5-coder-0.5b": qwen25(24, 896, 4864, 14, 2, 64, 151936),
	"smollm2-135m": {Architecture: "llama", Layers: 30, Width: 576, FeedForward: 1536, QueryHeads: 9, KVHeads: 3, HeadDim: 64,
		Vocabulary: 49152, Context: 8192, NormEps: 1e-5, Rope: Rope{Base: 1e5}},
	"gemma-3-270m": {Architecture: "gemma3", Layers: 18, Width: 640, FeedForward: 2048, QueryHeads: 4, KVHeads: 1, HeadDim: 256,
		Vocabulary: 262144, Context: 32768, NormEps: 1e-6, Rope: Rope{Base: 1e6}, LocalRope: Rope{Base: 1e4}, Window: 512, GlobalEvery: 6,
		Activation: kernels.GELUTanh, QKNorm: true, PostNorms: true, EmbedScale: float32(math.Sqrt(640))},
}

// untied are the named models whose output matrix is not their embedding's.
var untied = []string{"llama-3.1-8b", "mistral-7b", "qwen2.5-7b"}

func llama3Rope(factor float64) Rope {
	return Rope{Base: 5e5, Scaling: "llama3", Factor: factor, LowFreq: 1, HighFreq: 4, Original: 8192}
}

func qwen25(layers, width, feedForward, queryHeads, kvHeads, headDim, vocabulary int) Config {
	return Config{Architecture: "qwen2", Layers: layers, Width: width, FeedForward: feedForward, QueryHeads: queryHeads, KVHeads: kvHeads, HeadDim: headDim,
		Vocabulary: vocabulary, Context: 32768, NormEps: 1e-6, Rope: Rope{Base: 1e6}}
}

// Shapes are the names that Named knows.
func Shapes() []string { return slices.Sorted(maps.Keys(named)) }

// Named is the configuration of a published model.
func Named(name string) (Config, error) {
	c, ok := named[name]
	if !ok {
		return c, fmt.Errorf("shape %q is unknown (%s are known)", name, strings.Join(Shapes(), ", "))
	}
	c.Name = name
	c.QueryScale = float32(1 / math.Sqrt(float64(c.HeadDim)))
	if c.EmbedScale == 0 {
		c.EmbedScale = 1
	}
	return c, nil
}
