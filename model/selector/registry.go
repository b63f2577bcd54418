package selector

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/hashattn/hashattn/kernels"
)

// Env is what a selector is made from.
type Env struct {
	Device kernels.Device
	Shape  Shape
	// Samples is calibration queries and keys, nil without a trace.
	Samples Samples
	// Dense are the layers that attend to everything: they need no samples.
	Dense []int
}

// Samples gives queries and keys of calibration texts.
type Samples interface {
	// Layer gives rows of headDim values after RoPE: queries per query head,
	// keys per KV head.
	Layer(layer int) (q, k [][]float32, err error)
}

// methods is the table of selectors that need no learned mapping.
var methods = map[string]func(Env, options) (Scorer, error){
	"oracle":         newOracle,
	"streaming":      newStreaming,
	"lsh":            newLSH,
	"quest":          newQuest,
	"doublesparsity": newDoubleSparsity,
	"pq":             newPQ,
}

// Methods is the names New knows.
func Methods() []string { return slices.Sorted(maps.Keys(methods)) }

// New makes a selector from its description: a name, or a name with options
// as in "quest:page=16" or "pq:parts=8,bits=4".
func New(e Env, description string) (Scorer, error) {
	name, rest, _ := strings.Cut(description, ":")
	method, ok := methods[name]
	if !ok {
		return nil, fmt.Errorf("selector %q is unknown (%s are known)", name, strings.Join(Methods(), ", "))
	}
	o, err := parseOptions(rest)
	if err != nil {
		return nil, fmt.Errorf("selector %q: %w", description, err)
	}
	s, err := method(e, o)
	if err != nil {
		return nil, fmt.Errorf("selector %q: %w", description, err)
	}
	return s, nil
}

// Check reports a description that New would refuse for its name.
func Check(description string) error {
	name, rest, _ := strings.Cut(description, ":")
	if _, ok := methods[name]; !ok {
		return fmt.Errorf("selector %q is unknown (%s are known)", name, strings.Join(Methods(), ", "))
	}
	_, err := parseOptions(rest)
	return err
}

// options is the key=value pairs of a description; reading one takes it out.
type options struct {
	values  map[string]string
	failed  *error
	changed *[]string // what differs from the default, as "page32"
}

func parseOptions(text string) (options, error) {
	o := options{values: map[string]string{}, failed: new(error), changed: new([]string)}
	for pair := range strings.SplitSeq(text, ",") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return o, fmt.Errorf("option %q: want key=value", pair)
		}
		o.values[key] = value
	}
	return o, nil
}

func (o options) integer(key string, otherwise, least, most int) int {
	text, ok := o.values[key]
	if !ok {
		return otherwise
	}
	delete(o.values, key)
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		*o.failed = fmt.Errorf("%s=%s: want a whole number from %d to %d", key, text, least, most)
		return otherwise
	}
	if n != otherwise {
		*o.changed = append(*o.changed, key+strconv.Itoa(n))
	}
	return n
}

// name is the method's name in results: options other than the defaults stand
// behind it, so that two sizes of one method are told apart.
func (o options) name(method string) string {
	return strings.Join(append([]string{method}, *o.changed...), "-")
}

// choice is the value of key, the first of the words if absent.
func (o options) choice(key string, words ...string) string {
	text, ok := o.values[key]
	if !ok {
		return words[0]
	}
	delete(o.values, key)
	if !slices.Contains(words, text) {
		*o.failed = fmt.Errorf("%s=%s: want one of %s", key, text, strings.Join(words, ", "))
		return words[0]
	}
	return text
}

// unknown is the first bad option, or one that nobody read.
func (o options) unknown() error {
	if *o.failed != nil {
		return *o.failed
	}
	for _, key := range slices.Sorted(maps.Keys(o.values)) {
		return fmt.Errorf("option %q is unknown", key)
	}
	return nil
}

func bytesOf(v []float32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}
