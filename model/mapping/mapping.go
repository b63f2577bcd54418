// Package mapping holds learned hash mappings: per attention layer the map of
// keys to codes and the map of queries to the weights that rank codes.
//
// A mapping is one safetensors file. With l the layer and i the MLP layer, all
// f32, row-major:
//
//	layers.{l}.key.{i}.weight    [key heads, out, in]     layers.{l}.key.{i}.bias    [key heads, out]
//	layers.{l}.key.skip.weight   [key heads, bits, in]    layers.{l}.key.skip.bias   [key heads, bits]
//	layers.{l}.key.feedback      [key heads, bits, bits]  only with blockBits
//	layers.{l}.query....         the same for the query maps, without feedback
//
// A layer has an MLP, a linear (skip) path or both; what they compute is said
// at kernels.Projection, how codes are packed in package kernels. The metadata
// is format ("hashattn-mapping"), version, and config, the JSON of Config.
//
// To get the same bits everywhere, z is summed in float64: the products of a
// row in ascending order, then the bias; MLP and skip added; then the feedback
// of earlier bits in ascending order. A device that sums in float32 differs
// only where |z| is below its rounding error. scripts/load_mapping.py is the
// same computation with torch.
package mapping

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/safetensors"
	"github.com/hashattn/hashattn/model/shape"
)

const (
	format = "hashattn-mapping"
	// maxDepth bounds the MLP layers of one map.
	maxDepth = 16
)

// versions are the format versions that are read. A mapping is written in the
// first that has all its fields: 2 added shares.
var versions = []string{"1", "2"}

func (c Config) version() string {
	if c.Shares != nil {
		return versions[1]
	}
	return versions[0]
}

// Mapping is the learned maps of a model.
type Mapping struct {
	Config
	// Layers has an entry for every layer of the model, nil for a dense one.
	Layers []*Layer
}

// Layer is the maps of one layer.
type Layer struct {
	// Key has Config.KeyHeads heads. Query has one for each query head, or one
	// for each KV head, which takes the concatenated queries of the group.
	Key, Query kernels.Projection
}

// CheckModel reports a mapping that was made for another model.
func (m *Mapping) CheckModel(model shape.Model) error {
	if err := m.Model.Fits(model); err != nil {
		return fmt.Errorf("mapping %s: %w", m.Preset, err)
	}
	return nil
}

// HashQuery is the query side of a layer, given its loaded query map.
func (m *Mapping) HashQuery(encoder kernels.Encoder) kernels.HashQuery {
	return kernels.HashQuery{Encoder: encoder, Bits: m.QueryBits, Mass: m.GroupRule == Mass}
}

// Check reports a mapping whose parts do not fit together or whose weights are
// not finite.
func (m *Mapping) Check() error {
	if err := m.Config.Check(); err != nil {
		return err
	}
	if len(m.Layers) != m.Model.Layers {
		return fmt.Errorf("%d layers, the model has %d", len(m.Layers), m.Model.Layers)
	}
	for l, layer := range m.Layers {
		if (layer == nil) != m.Dense(l) {
			return fmt.Errorf("layer %d: denseLayers is %v, but the layer's maps say otherwise", l, m.DenseLayers)
		}
		if layer == nil {
			continue
		}
		if err := m.checkLayer(l, layer); err != nil {
			return fmt.Errorf("layer %d: %w", l, err)
		}
	}
	return nil
}

func (m *Mapping) checkLayer(l int, layer *Layer) error {
	d, group := m.Model.HeadDim, m.Model.Group()
	if layer.Key.Heads != m.KeyHeads() {
		return fmt.Errorf("the key map has %d heads, want %d for keys by %s", layer.Key.Heads, m.KeyHeads(), m.Keys)
	}
	in := d
	switch {
	case layer.Query.Heads == m.Model.QueryHeads:
	case layer.Query.Heads == m.Model.KVHeads && m.SelectionHeads(l) == m.Model.KVHeads && m.Keys == KVGroup && m.GroupRule == Sum:
		in = group * d
	default:
		return fmt.Errorf("the query map has %d heads, which a selection by %d heads with keys by %s and rule %s cannot use", layer.Query.Heads, m.SelectionHeads(l), m.Keys, m.GroupRule)
	}
	for _, part := range []struct {
		name   string
		p      *kernels.Projection
		in     int
		blocks int
	}{{"key", &layer.Key, d, m.BlockBits}, {"query", &layer.Query, in, 0}} {
		if err := part.p.Check(); err != nil {
			return err
		}
		if part.p.In() != part.in || part.p.Out() != m.Bits {
			return fmt.Errorf("the %s map goes from %d to %d, want %d to %d", part.name, part.p.In(), part.p.Out(), part.in, m.Bits)
		}
		if (part.p.Feedback != nil) != (part.blocks > 0) || part.blocks > 0 && part.p.BlockBits != part.blocks {
			return fmt.Errorf("the %s map has feedback in blocks of %d, want %d", part.name, part.p.BlockBits, part.blocks)
		}
		for _, t := range tensorsOf("", part.p) {
			if i := notFinite(t.data); i >= 0 {
				return fmt.Errorf("the %s map's %s has %v at %d", part.name, t.name, t.data[i], i)
			}
		}
	}
	return nil
}

func notFinite(x []float32) int {
	return slices.IndexFunc(x, func(v float32) bool { return !(math.Abs(float64(v)) <= math.MaxFloat32) })
}

// values is one tensor of a map.
type values struct {
	name  string
	shape []int
	data  []float32
}

// tensorsOf lists the tensors of a map, their names behind prefix.
func tensorsOf(prefix string, p *kernels.Projection) []values {
	var all []values
	affine := func(name string, a *kernels.Affine) {
		all = append(all,
			values{prefix + name + ".weight", []int{p.Heads, a.Out, a.In}, a.Weight},
			values{prefix + name + ".bias", []int{p.Heads, a.Out}, a.Bias})
	}
	for i := range p.Layers {
		affine(strconv.Itoa(i), &p.Layers[i])
	}
	if p.Skip != nil {
		affine("skip", p.Skip)
	}
	if p.Feedback != nil {
		all = append(all, values{prefix + "feedback", []int{p.Heads, p.Out(), p.Out()}, p.Feedback})
	}
	return all
}

// Save writes the mapping to path, whole or not at all. Equal mappings give
// equal files.
func (m *Mapping) Save(path string) error {
	if err := m.Check(); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	config, err := json.Marshal(m.Config)
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	var tensors []safetensors.Tensor
	for l, layer := range m.Layers {
		if layer == nil {
			continue
		}
		prefix := fmt.Sprintf("layers.%d.", l)
		for _, t := range append(tensorsOf(prefix+"key.", &layer.Key), tensorsOf(prefix+"query.", &layer.Query)...) {
			data := make([]byte, 0, 4*len(t.data))
			for _, v := range t.data {
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
			}
			tensors = append(tensors, safetensors.Tensor{Name: t.name, Type: dtype.F32, Shape: t.shape, Data: data})
		}
	}
	return safetensors.Write(path, tensors, map[string]string{"format": format, "version": m.version(), "config": string(config)})
}

// Load reads the mapping at path and checks all of it.
func Load(path string) (*Mapping, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := decode(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func decode(f *safetensors.File) (*Mapping, error) {
	if f.Metadata["format"] != format {
		return nil, fmt.Errorf("not a mapping: its format is %q, want %q", f.Metadata["format"], format)
	}
	v := f.Metadata["version"]
	if !slices.Contains(versions, v) {
		return nil, fmt.Errorf("mapping format version %q, this program reads %s: make it again or update the program", v, strings.Join(versions, ", "))
	}
	config, err := decodeConfig(f.Metadata["config"])
	if err != nil {
		return nil, err
	}
	if config.version() > v {
		return nil, fmt.Errorf("mapping format version %s has no shares", v)
	}
	r := reader{file: f, rest: map[string]bool{}}
	for _, t := range f.Tensors {
		r.rest[t.Name] = true
	}
	m := &Mapping{Config: config, Layers: make([]*Layer, config.Model.Layers)}
	for l := range m.Layers {
		if config.Dense(l) {
			continue
		}
		prefix := fmt.Sprintf("layers.%d.", l)
		key, err := r.projection(prefix+"key", config.Bits, config.BlockBits)
		if err != nil {
			return nil, err
		}
		query, err := r.projection(prefix+"query", config.Bits, 0)
		if err != nil {
			return nil, err
		}
		m.Layers[l] = &Layer{key, query}
	}
	if len(r.rest) > 0 {
		return nil, fmt.Errorf("tensor %q does not belong in this mapping", slices.Min(slices.Collect(maps.Keys(r.rest))))
	}
	return m, m.Check()
}

// reader takes tensors out of a file and remembers which are left.
type reader struct {
	file *safetensors.File
	rest map[string]bool
}

func (r *reader) has(name string) bool { return r.rest[name] }

// take reads a tensor of the given shape; -1 stands for any length.
func (r *reader) take(name string, shape ...int) (safetensors.Tensor, []float32, error) {
	t, ok := r.file.Tensor(name)
	if !ok {
		return t, nil, fmt.Errorf("tensor %q is missing", name)
	}
	delete(r.rest, name)
	if t.Type != dtype.F32 {
		return t, nil, fmt.Errorf("tensor %q is %v, want F32", name, t.Type)
	}
	fits := len(t.Shape) == len(shape)
	for i := range shape {
		fits = fits && (shape[i] == t.Shape[i] || shape[i] < 0 && t.Shape[i] > 0)
	}
	if !fits {
		return t, nil, fmt.Errorf("tensor %q has shape %v, want %v", name, t.Shape, shape)
	}
	data := make([]float32, len(t.Data)/4)
	for i := range data {
		data[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
	}
	if i := notFinite(data); i >= 0 {
		return t, nil, fmt.Errorf("tensor %q has %v at %d", name, data[i], i)
	}
	return t, data, nil
}

func (r *reader) projection(name string, bits, blockBits int) (p kernels.Projection, err error) {
	p.Name, p.Heads = name, -1
	affine := func(name string, in, out int) (a kernels.Affine, err error) {
		t, weight, err := r.take(name+".weight", p.Heads, out, in)
		if err != nil {
			return a, err
		}
		p.Heads = t.Shape[0]
		_, bias, err := r.take(name+".bias", p.Heads, t.Shape[1])
		return kernels.Affine{In: t.Shape[2], Out: t.Shape[1], Weight: weight, Bias: bias}, err
	}
	width := -1
	for i := 0; i < maxDepth && r.has(fmt.Sprintf("%s.%d.weight", name, i)); i++ {
		a, err := affine(fmt.Sprintf("%s.%d", name, i), width, -1)
		if err != nil {
			return p, err
		}
		p.Layers = append(p.Layers, a)
		width = a.Out
	}
	if r.has(name+".skip.weight") || len(p.Layers) == 0 {
		in := -1
		if len(p.Layers) > 0 {
			in = p.Layers[0].In
		}
		a, err := affine(name+".skip", in, bits)
		if err != nil {
			return p, err
		}
		p.Skip = &a
	}
	if blockBits > 0 {
		if _, p.Feedback, err = r.take(name+".feedback", p.Heads, bits, bits); err != nil {
			return p, err
		}
		p.BlockBits = blockBits
	}
	return p, nil
}
