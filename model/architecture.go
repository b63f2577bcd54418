package model

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/kernels"
)

// architecture is one row of the table of supported models. Its name is the
// one that GGUF files give; hf lists the classes of config.json.
type architecture struct {
	hf []string
	// set completes the config with what the architecture implies.
	set func(c *Config)
	// interleaved: GGUF files keep rows of q and k in the order of interleaved
	// RoPE pairs; loading puts them back into the half-split order.
	interleaved bool
	// normOffset: Hugging Face checkpoints store RMSNorm gains minus 1.
	normOffset float32
}

var architectures = map[string]architecture{
	"llama": {
		hf:          []string{"LlamaForCausalLM", "MistralForCausalLM"},
		interleaved: true,
	},
	"qwen2": {
		hf: []string{"Qwen2ForCausalLM"},
	},
	"qwen3": {
		hf:  []string{"Qwen3ForCausalLM"},
		set: func(c *Config) { c.QKNorm = true },
	},
	"gemma3": {
		hf: []string{"Gemma3ForCausalLM"},
		set: func(c *Config) {
			c.Activation = kernels.GELUTanh
			c.EmbedScale = float32(math.Sqrt(float64(c.Width)))
			c.QKNorm, c.PostNorms = true, true
			if c.GlobalEvery == 0 {
				c.GlobalEvery = 6
			}
			if c.LocalRope.Base == 0 {
				c.LocalRope.Base = 10000
			}
		},
		normOffset: 1,
	},
}

// lookup finds an architecture by GGUF name.
func lookup(name string) (architecture, error) {
	a, ok := architectures[name]
	if !ok {
		return a, fmt.Errorf("architecture %q is not supported (%s are)", name, strings.Join(slices.Sorted(maps.Keys(architectures)), ", "))
	}
	return a, nil
}

// lookupHF finds an architecture by the class in config.json.
func lookupHF(class string) (name string, a architecture, err error) {
	var known []string
	for name, a := range architectures {
		if slices.Contains(a.hf, class) {
			return name, a, nil
		}
		known = append(known, a.hf...)
	}
	slices.Sort(known)
	return "", a, fmt.Errorf("model class %q is not supported (%s are)", class, strings.Join(known, ", "))
}

// complete fills what the architecture implies and checks the result.
func (a architecture) complete(c *Config) error {
	if c.EmbedScale == 0 {
		c.EmbedScale = 1
	}
	if a.set != nil {
		a.set(c)
	}
	if c.QueryScale == 0 {
		c.QueryScale = float32(1 / math.Sqrt(float64(c.HeadDim)))
	}
	return c.Check()
}
