package train

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/shape"
)

// Config says how a mapping is trained. The zero values of a preset's numbers
// are not defaults: start from Preset.
type Config struct {
	// Preset is the recipe: "paper", "shared" or "grouped".
	Preset string `yaml:"preset" json:"preset"`
	// Bits is the length of a key code, BlockBits the block of the residual
	// code (0: a plain linear code).
	Bits      int `yaml:"bits" json:"bits"`
	BlockBits int `yaml:"blockBits" json:"blockBits"`
	// QueryBits is the precision of query weights: 4 or 8, 1 for paper.
	QueryBits int `yaml:"queryBits" json:"queryBits"`
	// Sink and Local tokens are always read, so they are not ranked.
	Sink  int `yaml:"sink" json:"sink"`
	Local int `yaml:"local" json:"local"`
	// Candidates times the budget are reranked when the mapping is used.
	Candidates int `yaml:"candidates" json:"candidates"`
	// GroupRule is how a group agrees on its set in preset grouped: "sum"
	// trains one query map for its concatenated queries, "mass" one for each
	// head, whose softmaxes are added when the mapping is used (better, and a
	// second pass over the codes). Empty is "sum".
	GroupRule mapping.GroupRule `yaml:"groupRule" json:"groupRule,omitempty"`
	// MassPower weighs the heads of a group in the target of their joint query
	// map: each head's attention counts by its mass on past tokens to that
	// power. 1 is what attention's output asks for, 0 counts all heads alike,
	// as recall does.
	MassPower float64 `yaml:"massPower" json:"massPower,omitempty"`
	// QueryAware trains with query weights rounded to QueryBits, as scores use
	// them; gradients pass as if they were not.
	QueryAware bool `yaml:"queryAware" json:"queryAware,omitempty"`
	// KeyHidden is the width of an MLP of two layers beside the linear key map,
	// 0 for none.
	KeyHidden int `yaml:"keyHidden" json:"keyHidden,omitempty"`

	// Device is where the graph's operations run: "" for this machine's cores,
	// CUDA for a GPU. What is learnt differs by rounding.
	Device string `yaml:"device" json:"device,omitempty"`
	// Steps 0 leaves the maps where training starts: fitted to the keys, or for
	// paper random.
	Steps        int     `yaml:"steps" json:"steps"`
	LearningRate float64 `yaml:"learningRate" json:"learningRate"`
	// Decay lets the learning rate fall as a cosine. The paper's stays.
	Decay bool `yaml:"decay" json:"decay,omitempty"`
	// A step takes Documents documents, of each Queries queries of one block
	// and at most Keys of the keys before it.
	Documents int    `yaml:"documents" json:"documents"`
	Queries   int    `yaml:"queries" json:"queries"`
	Keys      int    `yaml:"keys" json:"keys"`
	Seed      uint64 `yaml:"seed" json:"seed"`

	// Layers are the layers to train, empty for all that the trace has; the
	// others stay dense. DenseLayers are left out of them; PerHeadLayers
	// select per query head where the preset selects per group.
	Layers        []int `yaml:"layers" json:"layers,omitempty"`
	DenseLayers   []int `yaml:"denseLayers" json:"denseLayers,omitempty"`
	PerHeadLayers []int `yaml:"perHeadLayers" json:"perHeadLayers,omitempty"`
}

// CUDA is the Config.Device of NVIDIA GPUs.
const CUDA = "cuda"

// What the recipes fix.
const (
	paperHidden         = 128 // width of the paper's MLPs
	paperPositives      = 32  // keys of highest logit that count as relevant
	paperPositiveWeight = 20
	warmup              = 20 // steps
	finalRate           = 0.05
	beta1, beta2        = 0.9, 0.98
	residualScale       = 0.12 // of the last layer of an MLP beside a linear map at the start
)

var presets = map[string]Config{
	"paper": {Preset: "paper", Bits: 32, QueryBits: 1, Sink: 128, Local: 128,
		Steps: 6400, LearningRate: 1e-3, Documents: 1, Queries: 64, Keys: 1024, Seed: 1},
	"shared": {Preset: "shared", Bits: 32, BlockBits: 4, QueryBits: 8, Sink: 128, Local: 128,
		Steps: 800, LearningRate: 3e-3, Decay: true, Documents: 4, Queries: 64, Keys: 4096, Seed: 1},
	"grouped": {Preset: "grouped", Bits: 32, BlockBits: 4, QueryBits: 8, Sink: 128, Local: 128, Candidates: 2, MassPower: 1,
		Steps: 800, LearningRate: 3e-3, Decay: true, Documents: 4, Queries: 64, Keys: 4096, Seed: 1},
}

// Preset gives the recipe of that name with its default numbers.
func Preset(name string) (Config, error) {
	c, ok := presets[name]
	if !ok {
		return Config{}, fmt.Errorf("preset %q is unknown, want one of %s", name, strings.Join(slices.Sorted(maps.Keys(presets)), ", "))
	}
	return c, nil
}

// Check reports settings that cannot be trained. The error begins with the
// setting's key.
func (c Config) Check() error {
	if _, err := Preset(c.Preset); err != nil {
		return fmt.Errorf("preset: %w", err)
	}
	for _, r := range []struct {
		key      string
		v, lo, h int
	}{
		{"bits", c.Bits, 1, mapping.MaxBits}, {"blockBits", c.BlockBits, 0, c.Bits}, {"sink", c.Sink, 0, 1 << 20}, {"local", c.Local, 0, 1 << 20},
		{"keyHidden", c.KeyHidden, 0, 1 << 14}, {"candidates", c.Candidates, 0, 1024}, {"steps", c.Steps, 0, 1 << 24},
		{"documents", c.Documents, 1, 1024}, {"queries", c.Queries, 1, 128}, {"keys", c.Keys, 16, 1 << 20},
	} {
		if r.v < r.lo || r.v > r.h {
			return fmt.Errorf("%s: %d, want %d to %d", r.key, r.v, r.lo, r.h)
		}
	}
	if !(c.LearningRate > 0 && c.LearningRate < 1) {
		return fmt.Errorf("learningRate: %v, want above 0 and below 1", c.LearningRate)
	}
	if c.BlockBits > 0 && c.Bits%c.BlockBits != 0 {
		return fmt.Errorf("blockBits: %d does not divide %d bits", c.BlockBits, c.Bits)
	}
	if !(c.MassPower >= 0 && c.MassPower <= 4) {
		return fmt.Errorf("massPower: %v, want 0 to 4", c.MassPower)
	}
	paper := c.Preset == "paper"
	switch {
	case paper && c.QueryAware:
		return fmt.Errorf("queryAware: the queries of paper are hard anyhow")
	case paper && c.KeyHidden > 0:
		return fmt.Errorf("keyHidden: paper has MLPs of its own")
	}
	if paper && (c.BlockBits != 0 || c.QueryBits != 1 || len(c.PerHeadLayers) > 0) {
		return fmt.Errorf("preset: paper has hard queries and plain codes per query head: want queryBits 1, blockBits 0, no perHeadLayers")
	}
	switch c.GroupRule {
	case "", mapping.Sum:
	case mapping.Mass:
		if c.Preset != "grouped" {
			return fmt.Errorf("groupRule: %q is for preset grouped", c.GroupRule)
		}
	default:
		return fmt.Errorf("groupRule: %q, want %q or %q", c.GroupRule, mapping.Sum, mapping.Mass)
	}
	if c.Device != "" && c.Device != CUDA {
		return fmt.Errorf("device: %q, want none or %q", c.Device, CUDA)
	}
	if !paper && c.QueryBits != 4 && c.QueryBits != 8 {
		return fmt.Errorf("queryBits: %d, want 4 or 8", c.QueryBits)
	}
	return nil
}

// mapping is the configuration of the mapping that c trains for a model, with
// maps in the given layers.
func (c Config) mapping(model shape.Model, layers []int) mapping.Config {
	m := mapping.Config{
		Preset: c.Preset, Bits: c.Bits, Keys: mapping.KVGroup, Selection: mapping.QueryHead, Score: mapping.Asymmetric,
		QueryBits: c.QueryBits, BlockBits: c.BlockBits, GroupRule: mapping.Sum, Sink: c.Sink, Local: c.Local, Candidates: c.Candidates, Model: model,
	}
	switch c.Preset {
	case "paper":
		m.Keys, m.Score = mapping.QueryHead, mapping.Hamming
	case "grouped":
		m.Selection = mapping.KVGroup
		if c.GroupRule == mapping.Mass {
			m.GroupRule = mapping.Mass
		}
		for _, l := range layers {
			if slices.Contains(c.PerHeadLayers, l) {
				m.PerHeadLayers = append(m.PerHeadLayers, l)
			}
		}
	}
	for l := range model.Layers {
		if !slices.Contains(layers, l) {
			m.DenseLayers = append(m.DenseLayers, l)
		}
	}
	m.Training, _ = json.Marshal(c) // numbers and strings always encode
	return m
}

// layers is the layers to train of those captured.
func (c Config) layers(captured []int) ([]int, error) {
	want := c.Layers
	if len(want) == 0 {
		want = captured
	}
	var layers []int
	for _, l := range slices.Compact(slices.Sorted(slices.Values(want))) {
		if slices.Contains(c.DenseLayers, l) {
			continue
		}
		if !slices.Contains(captured, l) {
			return nil, fmt.Errorf("layers: layer %d is not in the trace, which has %v", l, captured)
		}
		layers = append(layers, l)
	}
	if len(layers) == 0 {
		return nil, fmt.Errorf("layers: none is left to train")
	}
	return layers, nil
}
