package mapping

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/safetensors"
	"github.com/hashattn/hashattn/model/shape"
)

var tiny = shape.Model{Name: "tiny", Fingerprint: "f00d", Layers: 3, QueryHeads: 4, KVHeads: 2, HeadDim: 8, Rope: shape.Rope{Base: 1e4, Dims: 8}}

// random makes a mapping of a preset with layer 1 dense.
func random(preset string, bits int) *Mapping {
	rng := rand.New(rand.NewPCG(1, uint64(bits)))
	normal := func(n int, scale float64) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64() * scale)
		}
		return x
	}
	affine := func(heads, in, out int) kernels.Affine {
		return kernels.Affine{In: in, Out: out, Weight: normal(heads*in*out, 1/math.Sqrt(float64(in))), Bias: normal(heads*out, 0.1)}
	}
	c := Config{Preset: preset, Bits: bits, Keys: KVGroup, Selection: QueryHead, Score: Asymmetric, QueryBits: 8, BlockBits: 4, GroupRule: Sum,
		Sink: 2, Local: 3, Model: tiny, DenseLayers: []int{1}, Training: json.RawMessage(`{"steps":3}`), TrainingHash: "aa"}
	d, queryHeads, queryIn := tiny.HeadDim, tiny.QueryHeads, tiny.HeadDim
	switch preset {
	case "paper":
		c.Keys, c.Score, c.QueryBits, c.BlockBits = QueryHead, Hamming, 1, 0
	case "grouped":
		c.Selection, c.Candidates, c.QueryBits = KVGroup, 2, 4
		queryHeads, queryIn = tiny.KVHeads, d*tiny.Group()
	}
	m := &Mapping{Config: c, Layers: make([]*Layer, tiny.Layers)}
	for _, l := range []int{0, 2} {
		key := kernels.Projection{Name: "key", Heads: c.KeyHeads(), BlockBits: c.BlockBits}
		query := kernels.Projection{Name: "query", Heads: queryHeads}
		mlp := func(p *kernels.Projection, in int) {
			p.Layers = []kernels.Affine{affine(p.Heads, in, 16), affine(p.Heads, 16, 16), affine(p.Heads, 16, bits)}
		}
		skip := func(p *kernels.Projection, in int) {
			a := affine(p.Heads, in, bits)
			p.Skip = &a
		}
		if preset == "paper" {
			mlp(&key, d)
			mlp(&query, d)
		} else {
			skip(&key, d)
			key.Feedback = normal(key.Heads*bits*bits, 0.1)
			skip(&query, queryIn)
		}
		if preset == "grouped" {
			mlp(&query, queryIn)
		}
		m.Layers[l] = &Layer{key, query}
	}
	return m
}

var presets = map[string]int{"paper": 32, "shared": 32, "grouped": 36}

func named(m *Mapping) *Mapping {
	for l, layer := range m.Layers {
		if layer != nil {
			prefix := "layers." + string(rune('0'+l))
			layer.Key.Name, layer.Query.Name = prefix+".key", prefix+".query"
		}
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	for preset, bits := range presets {
		path := filepath.Join(t.TempDir(), "m.safetensors")
		m := named(random(preset, bits))
		if err := m.Save(path); err != nil {
			t.Fatal(err)
		}
		got, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("%s: read back another mapping", preset)
		}
		first, _ := os.ReadFile(path)
		if err := got.Save(path); err != nil {
			t.Fatal(err)
		}
		if second, _ := os.ReadFile(path); string(first) != string(second) {
			t.Errorf("%s: the same mapping gives another file", preset)
		}
	}
}

func TestCheckModel(t *testing.T) {
	m := random("shared", 32)
	if err := m.CheckModel(tiny); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*shape.Model){
		"fingerprint": func(s *shape.Model) { s.Fingerprint = "beef" },
		"layers":      func(s *shape.Model) { s.Layers = 4 },
		"rope":        func(s *shape.Model) { s.Rope.Base = 5e5 },
	} {
		other := tiny
		change(&other)
		if err := m.CheckModel(other); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rewrite changes the tensors and metadata of a saved mapping.
func rewrite(t *testing.T, change func(tensors map[string]*safetensors.Tensor, meta map[string]string)) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.safetensors")
	if err := random("grouped", 36).Save(path); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	byName := map[string]*safetensors.Tensor{}
	for _, x := range f.Tensors {
		x.Data = append([]byte(nil), x.Data...)
		byName[x.Name] = &x
	}
	change(byName, f.Metadata)
	var all []safetensors.Tensor
	for _, x := range byName {
		all = append(all, *x)
	}
	bad := filepath.Join(filepath.Dir(path), "bad.safetensors")
	if err := safetensors.Write(bad, all, f.Metadata); err != nil {
		t.Fatal(err)
	}
	_, err = Load(bad)
	return err
}

func TestLoadRefuses(t *testing.T) {
	type tensors = map[string]*safetensors.Tensor
	for want, change := range map[string]func(tensors, map[string]string){
		"format is":                             func(_ tensors, meta map[string]string) { meta["format"] = "pt" },
		"version \"3\"":                         func(_ tensors, meta map[string]string) { meta["version"] = "3" },
		"unknown field \"bytes\"":               func(_ tensors, meta map[string]string) { meta["config"] = `{"bytes":1}` },
		"bits is 5000":                          func(_ tensors, meta map[string]string) { set(meta, `"bits":36`, `"bits":5000`) },
		"blockBits is 5":                        func(_ tensors, meta map[string]string) { set(meta, `"blockBits":4`, `"blockBits":5`) },
		"score is \"hamming\" with 4":           func(_ tensors, meta map[string]string) { set(meta, "asymmetric", "hamming") },
		"denseLayers [9]":                       func(_ tensors, meta map[string]string) { set(meta, `"denseLayers":[1]`, `"denseLayers":[9]`) },
		"\"layers.0.key.feedback\" is missing":  func(x tensors, _ map[string]string) { delete(x, "layers.0.key.feedback") },
		"\"layers.2.query.1.weight\" has shape": func(x tensors, _ map[string]string) { x["layers.2.query.1.weight"].Shape = []int{2, 8, 32} },
		"\"layers.0.query.skip.bias\" has NaN":  func(x tensors, _ map[string]string) { copy(x["layers.0.query.skip.bias"].Data[8:], "\x00\x00\xc0\x7f") },
		"\"layers.0.key.skip.weight\" is I32":   func(x tensors, _ map[string]string) { x["layers.0.key.skip.weight"].Type = dtype.I32 },
		"\"extra\" does not belong": func(x tensors, _ map[string]string) {
			x["extra"] = &safetensors.Tensor{Name: "extra", Type: dtype.F32, Shape: []int{1}, Data: make([]byte, 4)}
		},
		"layer 0: the query map goes from 16 to 36, want 32 to 36": func(_ tensors, meta map[string]string) {
			set(meta, `"queryHeads":4,"kvHeads":2`, `"queryHeads":8,"kvHeads":2`)
		},
		"\"layers.0.key.feedback\" does not belong": func(_ tensors, meta map[string]string) { set(meta, `"denseLayers":[1]`, `"denseLayers":[0,1]`) },
	} {
		err := rewrite(t, change)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "bad.safetensors") {
			t.Errorf("want %s, got %v", want, err)
		}
	}
}

func set(meta map[string]string, old, new string) {
	meta["config"] = strings.Replace(meta["config"], old, new, 1)
}

func TestSaveRefuses(t *testing.T) {
	m := random("shared", 32)
	m.Layers[2].Key.Skip.Weight[7] = float32(math.Inf(1))
	path := filepath.Join(t.TempDir(), "m.safetensors")
	if err := m.Save(path); err == nil || !strings.Contains(err.Error(), "layer 2: the key map's skip.weight has +Inf at 7") {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a file was left")
	}
}

func FuzzLoad(f *testing.F) {
	dir := f.TempDir()
	for preset := range presets {
		path := filepath.Join(dir, preset)
		if err := random(preset, 4).Save(path); err != nil {
			f.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add([]byte(strings.Replace(string(data), `\"layers\":3`, `\"layers\":9`, 1)))
		f.Add(data[:len(data)-3])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "m")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		m, err := Load(path)
		if err != nil {
			return
		}
		if err := m.Save(path); err != nil {
			t.Errorf("loaded, but: %v", err)
		} else if _, err := Load(path); err != nil {
			t.Errorf("loaded and saved, but: %v", err)
		}
	})
}
