package configs

import (
	"strconv"
	"strings"

	"github.com/invopop/jsonschema"
	"go.yaml.in/yaml/v3"
)

// Layers is a list of layers. In a file an item is a number, a span such as
// "4-7", or "first 4".
type Layers []int

// JSONSchema implements jsonschema's interface.
func (Layers) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "array", Items: &jsonschema.Schema{
		OneOf:    []*jsonschema.Schema{{Type: "integer"}, {Type: "string", Pattern: `^([0-9]+-[0-9]+|first [0-9]+)$`}},
		Examples: []any{0, "4-7", "first 4"},
	}}
}

// spans replaces the spans in a list of layers by their numbers.
func (d decoder) spans(n *yaml.Node, key string, tag limits) (*yaml.Node, error) {
	out := *n
	out.Content = nil
	for i, item := range n.Content {
		from, to, ok := span(item.Value)
		if item.Kind != yaml.ScalarNode || !ok {
			out.Content = append(out.Content, item)
			continue
		}
		if from > to || int64(to) > tag.maximum {
			return nil, d.errorf(item, key+"["+strconv.Itoa(i)+"]", "%q is not a span of layers of 0 to %d", item.Value, tag.maximum)
		}
		for l := from; l <= to; l++ {
			out.Content = append(out.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(l), Line: item.Line, Column: item.Column})
		}
	}
	return &out, nil
}

// span reads "4-7" or "first 4".
func span(text string) (from, to int, ok bool) {
	if count, found := strings.CutPrefix(text, "first "); found {
		n, err := strconv.Atoi(strings.TrimSpace(count))
		return 0, n - 1, err == nil
	}
	lo, hi, found := strings.Cut(text, "-")
	from, err := strconv.Atoi(lo)
	if !found || err != nil {
		return 0, 0, false
	}
	to, err = strconv.Atoi(hi)
	return from, to, err == nil
}
