package configs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model/selector"
)

// Budget is how many tokens may be chosen by score: a share "1/32" of the
// cached tokens, or a count "512".
type Budget struct{ kernels.Budget }

func fraction(num, den int) Budget { return Budget{kernels.Budget{Num: num, Den: den}} }

// UnmarshalText reads "1/32" or "512".
func (b *Budget) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	bad := func() error {
		return fmt.Errorf("%q is not a budget; give a share of the cached tokens above 0 and at most 1, such as 1/32, or a count, such as 512", s)
	}
	num, den, share := strings.Cut(s, "/")
	n, err := strconv.ParseUint(strings.TrimSpace(num), 10, 31)
	if err != nil || n == 0 {
		return bad()
	}
	if !share {
		*b = Budget{kernels.Budget{Count: int(n)}}
		return nil
	}
	d, err := strconv.ParseUint(strings.TrimSpace(den), 10, 31)
	if err != nil || d < n {
		return bad()
	}
	*b = fraction(int(n), int(d))
	return nil
}

// MarshalText gives "1/32" or "512".
func (b Budget) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// JSONSchema implements jsonschema's interface.
func (Budget) JSONSchema() *jsonschema.Schema {
	return either(`^[1-9][0-9]*(/[1-9][0-9]*)?$`, "1/32", "512")
}

// Tokens is a number of tokens: "4K" is 4096.
type Tokens int

// UnmarshalText reads "4096", "4K" or "1M".
func (t *Tokens) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	digits, unit := s, uint64(1)
	switch {
	case strings.HasSuffix(s, "K"), strings.HasSuffix(s, "k"):
		digits, unit = s[:len(s)-1], 1<<10
	case strings.HasSuffix(s, "M"):
		digits, unit = s[:len(s)-1], 1<<20
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || n*unit > 1<<31-1 {
		return fmt.Errorf("%q is not a number of tokens, such as 4096 or 4K", s)
	}
	*t = Tokens(n * unit)
	return nil
}

// String is "4K" or "4000".
func (t Tokens) String() string {
	if t >= 1024 && t%1024 == 0 {
		return strconv.Itoa(int(t)/1024) + "K"
	}
	return strconv.Itoa(int(t))
}

// MarshalText gives "4K" or "4000".
func (t Tokens) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// JSONSchema implements jsonschema's interface.
func (Tokens) JSONSchema() *jsonschema.Schema { return either(`^[0-9]+[KkM]?$`, "4K", "4096") }

// Bytes is an amount of memory: "8GiB".
type Bytes int64

var byteUnits = []struct {
	name string
	size int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}}

// UnmarshalText reads "8GiB", "500MB" or "1024".
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	digits, unit := s, int64(1)
	for _, u := range byteUnits {
		if d, ok := strings.CutSuffix(s, u.name); ok {
			digits, unit = strings.TrimSpace(d), u.size
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return fmt.Errorf("%q is not an amount of memory, such as 8GiB", s)
	}
	*b = Bytes(n * unit)
	return nil
}

// String is the amount in the largest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if b > 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText gives String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// JSONSchema implements jsonschema's interface.
func (Bytes) JSONSchema() *jsonschema.Schema {
	return either(`^[0-9]+ ?([KMGT]i?B|B)?$`, "8GiB", "500MB")
}

// Selector is what chooses tokens: "hash:preset=shared,rerank=2", "quest:page=16".
type Selector struct {
	Name   string
	Preset string // of hash: which mapping; empty for every trained one
	// Rerank is how many candidates, in budgets, are reranked by exact logits;
	// 0 leaves it to the mapping.
	Rerank int
	// P above 0 cuts a token set where the scores estimate that it holds this
	// share of the attention mass; the budget is its most.
	P float64
	// Uniform leaves out the shares of the budget that a calibrated mapping has.
	Uniform bool
	Options string // the other options, for package selector
}

// UnmarshalText reads name[:option=value,...].
func (s *Selector) UnmarshalText(text []byte) error {
	name, rest, _ := strings.Cut(strings.TrimSpace(string(text)), ":")
	names := append([]string{"hash"}, selector.Methods()...)
	if !slices.Contains(names, name) {
		return fmt.Errorf("%q is not one of %s%s", name, strings.Join(names, ", "), didYouMean(name, names))
	}
	out := Selector{Name: name}
	var options []string
	for option := range strings.SplitSeq(rest, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(option), "=")
		switch {
		case option == "" && rest == "":
		case !ok || key == "" || value == "":
			return fmt.Errorf("%s: option %q, want option=value", name, option)
		case key == "rerank":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > 16 {
				return fmt.Errorf("%s: rerank=%s, want a whole number from 1 to 16", name, value)
			}
			out.Rerank = n
		case key == "p":
			p, err := strconv.ParseFloat(value, 64)
			if err != nil || !(p > 0 && p <= 1) {
				return fmt.Errorf("%s: p=%s, want a share of the attention mass above 0 and at most 1", name, value)
			}
			out.P = p
		case name == "hash" && key == "budgets":
			if value != "uniform" && value != "calibrated" {
				return fmt.Errorf("hash: budgets=%s, want uniform or calibrated", value)
			}
			out.Uniform = value == "uniform"
		case name == "hash" && key == "preset":
			if !slices.Contains(Presets, value) {
				return fmt.Errorf("hash: preset %q is not one of %s%s", value, strings.Join(Presets, ", "), didYouMean(value, Presets))
			}
			out.Preset = value
		case name == "hash":
			return fmt.Errorf("hash: option %q is not one of preset, rerank, p, budgets", key)
		default:
			options = append(options, key+"="+value)
		}
	}
	out.Options = strings.Join(options, ",")
	if name != "hash" {
		if err := selector.Check(out.Description()); err != nil {
			return err
		}
	}
	*s = out
	return nil
}

// Description is the selector without reranking, as selector.New takes it.
func (s Selector) Description() string {
	if s.Options == "" {
		return s.Name
	}
	return s.Name + ":" + s.Options
}

// String is the text that UnmarshalText reads.
func (s Selector) String() string {
	var options []string
	if s.Preset != "" {
		options = append(options, "preset="+s.Preset)
	}
	if s.Rerank > 0 {
		options = append(options, "rerank="+strconv.Itoa(s.Rerank))
	}
	if s.P > 0 {
		options = append(options, "p="+strconv.FormatFloat(s.P, 'g', -1, 64))
	}
	if s.Uniform {
		options = append(options, "budgets=uniform")
	}
	if s.Options != "" {
		options = append(options, s.Options)
	}
	if len(options) == 0 {
		return s.Name
	}
	return s.Name + ":" + strings.Join(options, ",")
}

// MarshalText gives String.
func (s Selector) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// JSONSchema implements jsonschema's interface.
func (Selector) JSONSchema() *jsonschema.Schema {
	names := append([]string{"hash"}, selector.Methods()...)
	return &jsonschema.Schema{Type: "string", Pattern: `^(` + strings.Join(names, "|") + `)(:[a-z]+=[^,=]+(,[a-z]+=[^,=]+)*)?$`, Examples: []any{"hash:preset=shared,rerank=2", "hash:p=0.95", "quest:page=16"}}
}

// Presets are the mappings that can be trained.
var Presets = []string{"paper", "shared", "grouped"}

// either is the schema of a value written as a whole number or as text.
func either(pattern string, examples ...any) *jsonschema.Schema {
	return &jsonschema.Schema{
		OneOf:    []*jsonschema.Schema{{Type: "integer"}, {Type: "string", Pattern: pattern}},
		Examples: examples,
	}
}
