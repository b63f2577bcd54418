package mapping

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model/shape"
)

// Sharing says what has its own codes or its own token set.
type Sharing string

// The ways of sharing keys and selections.
const (
	QueryHead Sharing = "query-head"
	KVGroup   Sharing = "kv-group"
)

// Score is how a query ranks key codes.
type Score string

// The scores: signs against signs, or integer weights against signs.
const (
	Hamming    Score = "hamming"
	Asymmetric Score = "asymmetric"
)

// GroupRule is how a group's heads agree on one set.
type GroupRule string

// The rules: the sum of scores, or of each head's softmax over its scores.
const (
	Sum  GroupRule = "sum"
	Mass GroupRule = "mass"
)

// MaxBits bounds the length of a code.
const MaxBits = 1024

// Config says what a mapping is and how it is used.
type Config struct {
	Preset string `json:"preset"` // "paper", "shared", "grouped"
	Bits   int    `json:"bits"`
	// Keys is who has key codes of its own, Selection who has a token set.
	Keys      Sharing `json:"keys"`
	Selection Sharing `json:"selection"`
	Score     Score   `json:"score"`
	// QueryBits is 1 for Hamming, 4 or 8 for asymmetric scores.
	QueryBits int `json:"queryBits"`
	// BlockBits is the block length of residual codes, 0 without feedback.
	BlockBits int       `json:"blockBits,omitempty"`
	GroupRule GroupRule `json:"groupRule"`
	// Sink first and Local last tokens are always read.
	Sink  int `json:"sink"`
	Local int `json:"local"`
	// Candidates times the budget are reranked by exact logits if above 1.
	Candidates int         `json:"candidates,omitempty"`
	Model      shape.Model `json:"model"`
	// DenseLayers have no maps and attend to everything.
	DenseLayers []int `json:"denseLayers,omitempty"`
	// PerHeadLayers select per query head where the others select per group.
	PerHeadLayers []int `json:"perHeadLayers,omitempty"`
	// Shares, if any, divide the budget among the token sets (format 2).
	Shares *Shares `json:"shares,omitempty"`
	// Training is the training configuration and the hash of it.
	Training     json.RawMessage `json:"training,omitempty"`
	TrainingHash string          `json:"trainingHash,omitempty"`
}

// KeyHeads is the number of code sets of a layer.
func (c Config) KeyHeads() int {
	if c.Keys == QueryHead {
		return c.Model.QueryHeads
	}
	return c.Model.KVHeads
}

// SelectionHeads is the number of token sets of a layer.
func (c Config) SelectionHeads(layer int) int {
	if c.Selection == QueryHead || slices.Contains(c.PerHeadLayers, layer) {
		return c.Model.QueryHeads
	}
	return c.Model.KVHeads
}

// BitsPerToken is what the codes of one token of one KV head take.
func (c Config) BitsPerToken() int { return c.KeyHeads() / c.Model.KVHeads * c.Bits }

// Dense says whether a layer has no maps.
func (c Config) Dense(layer int) bool { return slices.Contains(c.DenseLayers, layer) }

// SelectionFor is the rule by which a layer chooses its tokens.
func (c Config) SelectionFor(layer int, budget kernels.Budget) kernels.Selection {
	return kernels.Selection{Heads: c.SelectionHeads(layer), Sink: c.Sink, Local: c.Local, Budget: budget, Candidates: c.Candidates}
}

// Check reports settings that do not fit together.
func (c Config) Check() error {
	if err := c.Model.Check(); err != nil {
		return err
	}
	if c.Preset == "" {
		return fmt.Errorf("preset is empty")
	}
	if c.Bits < 1 || c.Bits > MaxBits {
		return fmt.Errorf("bits is %d, want 1 to %d", c.Bits, MaxBits)
	}
	for name, s := range map[string]Sharing{"keys": c.Keys, "selection": c.Selection} {
		if s != QueryHead && s != KVGroup {
			return fmt.Errorf("%s is %q, want %q or %q", name, s, QueryHead, KVGroup)
		}
	}
	switch {
	case c.Score == Hamming && c.QueryBits == 1:
	case c.Score == Asymmetric && (c.QueryBits == 4 || c.QueryBits == 8):
	default:
		return fmt.Errorf("score is %q with %d query bits, want %q with 1 or %q with 4 or 8", c.Score, c.QueryBits, Hamming, Asymmetric)
	}
	if c.BlockBits < 0 || c.BlockBits > 0 && c.Bits%c.BlockBits != 0 {
		return fmt.Errorf("blockBits is %d, want a divisor of %d bits or 0", c.BlockBits, c.Bits)
	}
	if c.GroupRule != Sum && c.GroupRule != Mass {
		return fmt.Errorf("groupRule is %q, want %q or %q", c.GroupRule, Sum, Mass)
	}
	const most = 1 << 24
	if c.Sink < 0 || c.Sink > most || c.Local < 0 || c.Local > most {
		return fmt.Errorf("sink %d and local %d, want 0 to %d", c.Sink, c.Local, most)
	}
	if c.Candidates < 0 || c.Candidates > 1024 {
		return fmt.Errorf("candidates is %d, want 0 to 1024", c.Candidates)
	}
	for name, layers := range map[string][]int{"denseLayers": c.DenseLayers, "perHeadLayers": c.PerHeadLayers} {
		for i, l := range layers {
			if l < 0 || l >= c.Model.Layers || i > 0 && l <= layers[i-1] {
				return fmt.Errorf("%s %v: want layers of 0 to %d in ascending order", name, layers, c.Model.Layers-1)
			}
		}
	}
	if c.Shares != nil {
		return c.Shares.check(c)
	}
	return nil
}

// decodeConfig reads a configuration strictly: unknown keys are errors.
func decodeConfig(text string) (c Config, err error) {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	return c, c.Check()
}
