package latency

import (
	"slices"

	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/mapping"
)

// RandomMapping is a mapping of a preset's shape with random weights, for a
// model whose weights are random too: what it chooses means nothing, but it
// takes the time that a trained one takes.
func RandomMapping(h HashShape, m *model.Model) (*mapping.Mapping, error) {
	c := mapping.Config{
		Preset: h.Preset, Bits: h.Bits, Keys: mapping.KVGroup, Selection: mapping.QueryHead, Score: mapping.Asymmetric, QueryBits: h.QueryBits, BlockBits: 4,
		GroupRule: mapping.Sum, Sink: h.Sink, Local: h.Local, Candidates: h.Candidates, Model: m.Shape(),
	}
	switch h.Preset {
	case "paper":
		c.Keys, c.Score, c.QueryBits, c.BlockBits = mapping.QueryHead, mapping.Hamming, 1, 0
	case "grouped":
		c.Selection = mapping.KVGroup
	}
	key, query, _, err := h.projections(Shape{QueryHeads: m.QueryHeads, KVHeads: m.KVHeads, HeadDim: m.HeadDim})
	if err != nil {
		return nil, err
	}
	out := &mapping.Mapping{Layers: make([]*mapping.Layer, m.Layers)}
	global := m.GlobalLayers()
	for l := range m.Layers {
		if slices.Contains(global, l) {
			out.Layers[l] = &mapping.Layer{Key: key, Query: query}
		} else {
			c.DenseLayers = append(c.DenseLayers, l)
		}
	}
	out.Config = c
	return out, out.Check()
}
