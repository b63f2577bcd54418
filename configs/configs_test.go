package configs_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hashattn/hashattn/configs"
)

func TestShippedFilesLoad(t *testing.T) {
	for _, name := range configs.Shipped() {
		raw, err := configs.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		e, err := configs.Load(name, raw, nil)
		if err != nil {
			t.Error(err)
			continue
		}
		if s := configs.Summary(name); !strings.HasSuffix(s, ".") || len(s) > 80 {
			t.Errorf("%s begins with %q, want one line that says what it is for", name, s)
		}
		if e.Name+".yaml" != name {
			t.Errorf("%s is named %q", name, e.Name)
		}
	}
}

func TestYAMLRoundTrip(t *testing.T) {
	raw, err := configs.ReadFile("qwen2.5-coder-0.5b")
	if err != nil {
		t.Fatal(err)
	}
	want, err := configs.Load("qwen2.5-coder-0.5b.yaml", raw, nil, configs.Source{Name: "--set", Key: "longbench.memory", Value: "3GiB"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := want.YAML()
	if err != nil {
		t.Fatal(err)
	}
	got, err := configs.Load("printed", text, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if diff := cmp.Diff(want, got, cmp.Transformer("empty", func(s []string) []string { return append([]string{}, s...) }),
		cmp.Transformer("emptyTokens", func(s []configs.Tokens) []configs.Tokens { return append([]configs.Tokens{}, s...) }),
		cmp.Transformer("emptyInts", func(s []int) []int { return append([]int{}, s...) })); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(text), "memory: 3GiB # Memory for samples") {
		t.Errorf("comments are missing:\n%s", text)
	}
}

func TestPrecedence(t *testing.T) {
	file := []byte("train: {steps: 1, paperSteps: 1, bits: 64, seed: 1}\n")
	env := []string{"HASHATTN_TRAIN_PAPERSTEPS=2", "HASHATTN_TRAIN_BITS=32", "HASHATTN_SPARSITIES=1/4,512", "HASHATTN_SHARED_DATA=/x", "PATH=/bin"}
	e, err := configs.Load("f.yaml", file, env, configs.Source{Name: "--bits", Key: "train.bits", Value: "8"}, configs.Source{Name: "--set", Key: "selectors", Value: `quest, hash:preset=shared, "lsh:bits=64,rerank=2", "hash:p=0.95,budgets=uniform"`})
	if err != nil {
		t.Fatal(err)
	}
	if e.Train.Steps != 1 || e.Train.PaperSteps != 2 || e.Train.Bits != 8 || e.Train.QueryBits != 8 {
		t.Errorf("merged into %+v", e.Train)
	}
	if len(e.Sparsities) != 2 || e.Sparsities[0].String() != "1/4" || e.Sparsities[1].String() != "512" {
		t.Errorf("sparsities %v", e.Sparsities)
	}
	want := []configs.Selector{{Name: "quest"}, {Name: "hash", Preset: "shared"}, {Name: "lsh", Options: "bits=64", Rerank: 2}, {Name: "hash", P: 0.95, Uniform: true}}
	if diff := cmp.Diff(want, e.Selectors); diff != "" {
		t.Error(diff)
	}
}

func TestLayers(t *testing.T) {
	file := []byte("train: {denseLayers: [first 2, 5, 7-9], perHeadLayers: [3]}\n")
	e, err := configs.Load("f.yaml", file, []string{"HASHATTN_TRAIN_PERHEADLAYERS=first 3, 12"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(configs.Layers{0, 1, 5, 7, 8, 9}, e.Train.DenseLayers); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(configs.Layers{0, 1, 2, 12}, e.Train.PerHeadLayers); diff != "" {
		t.Error(diff)
	}
}

func TestFileErrors(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"train:\n  stepz: 3\n", "f.yaml:2: train.stepz: unknown key, did you mean train.steps?"},
		{"steps: 3\n", "f.yaml:1: steps: unknown key, did you mean train.steps?"},
		{"zebra: 3\n", "f.yaml:1: zebra: unknown key"},
		{"train:\n  steps: many\n", `f.yaml:2: train.steps: "many" is not a whole number`},
		{"train:\n  steps: '400'\n", `f.yaml:2: train.steps: "400" is not a whole number`},
		{"train: {steps: 1.5}", `train.steps: "1.5" is not a whole number`},
		{"train: {steps: -1}", "train.steps: -1 is out of range, want 0 to 1000000"},
		{"train: {steps: 99999999999999999999}", "is not a whole number"},
		{"train: 3\n", "train: is one value, want a table of keys"},
		{"[a]\n", "the file: is a list, want a table of keys"},
		{"model: 7\n", `model: "7" is int, want text; put it in quotes`},
		{"model: ''\n", "model: is empty"},
		{"model:\n", "model: "},
		{"train: {presets: shared}", "train.presets: is one value, want a list"},
		{"train: {presets: [shard]}", `train.presets[0]: "shard" is not one of paper, shared, grouped, did you mean shared?`},
		{"train: {queryBits: 5}", `train.queryBits: "5" is not one of 4, 8`},
		{"train: {bits: 30}", "f.yaml: train.bits: 30 is not a multiple of 4"},
		{"sparsities: []", "sparsities: is empty"},
		{"sparsities: [2/1]", `sparsities[0]: "2/1" is not a budget`},
		{"sparsities: [0.03]", `sparsities[0]: "0.03" is not a budget`},
		{"sparsities: [1/0]", `sparsities[0]: "1/0" is not a budget`},
		{"sparsities: [0/8]", `sparsities[0]: "0/8" is not a budget`},
		{"sparsities: [-5]", `sparsities[0]: "-5" is not a budget`},
		{"sparsities: [{a: 1}]", "sparsities[0]: is a table, want one value"},
		{"capture: {context: 4 K}", `capture.context: "4 K" is not a number of tokens`},
		{"capture: {context: 10}", "capture.context: 10 is out of range"},
		{"capture: {context: 1K}\neval: {recall: {contexts: [2K]}}", "eval.recall.contexts[0]: 2K is more than capture.context 1K"},
		{"selectors: [quests]", `selectors[0]: "quests" is not one of`},
		{"selectors: [{name: quest}]", "selectors[0]: is a table, want one value"},
		{"selectors: ['lsh:bits']", `selectors[0]: lsh: option "bits", want option=value`},
		{"selectors: ['hash:page=3']", `selectors[0]: hash: option "page" is not one of preset, rerank`},
		{"selectors: ['hash:p=1.5']", "p=1.5, want a share of the attention mass above 0 and at most 1"},
		{"selectors: ['hash:budgets=even']", "budgets=even, want uniform or calibrated"},
		{"selectors: ['quest:rerank=99']", "rerank=99, want a whole number from 1 to 16"},
		{"selectors: ['hash:preset=papre']", `"papre" is not one of paper, shared, grouped, did you mean paper?`},
		{"train: {denseLayers: [7-4]}", `train.denseLayers[0]: "7-4" is not a span of layers of 0 to 1023`},
		{"train: {denseLayers: [first 5000]}", `"first 5000" is not a span of layers`},
		{"train: {denseLayers: [last 2]}", `train.denseLayers[0]: "last 2" is not a whole number`},
		{"train: {calibration: {least: 2}}", "train.calibration.least: 2 is out of range, want 0 to 1"},
		{"train: {calibration: {most: 0.5}}", "train.calibration.most: 0.5 is out of range, want 1 to 1024"},
		{"train: {learningRate: 3}", "train.learningRate: 3 is out of range"},
		{"train: {learningRate: .nan}", `".nan" is not a number`},
		{"capture: {layers: [-1]}", "capture.layers[0]: -1 is out of range"},
		{"name: ../x\n", "name: "},
		{"name: a\nname: b\n", "is given twice"},
		{"a: [\n", "f.yaml: line"},
		{"name: a\n---\nname: b\n", "holds more than one document"},
		{"longbench: {memory: lots}", `longbench.memory: "lots" is not an amount of memory`},
		{"longbench: {levenshtein: 1}", `longbench.levenshtein: "1" is not true or false`},
		{"bench: {kvHeads: 5}", "bench.kvHeads: 5 does not divide bench.queryHeads 32"},
		{"bench: {shape: llama-9}", `bench.shape: shape "llama-9" is unknown (gemma-3-270m, `},
		{"bench: {project: [l5]}", `bench.project[0]: "l5" is not one of `},
		{"x: &a [1]\ny: *a\n", "x: unknown key"},
	} {
		_, err := configs.Load("f.yaml", []byte(c.yaml), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want %q", c.yaml, err, c.want)
		}
		var key *configs.KeyError
		if err != nil && strings.Contains(c.want, ".yaml:") && !strings.Contains(c.want, "line") && !errors.As(err, &key) {
			t.Errorf("%q: %v is no KeyError", c.yaml, err)
		}
	}
}

func TestOtherSourcesErrors(t *testing.T) {
	for _, c := range []struct {
		env    string
		set    string
		prefix string
	}{
		{"HASHATTN_TRAIN_STEPSS=3", "", "environment: HASHATTN_TRAIN_STEPSS: sets no key, did you mean HASHATTN_TRAIN_STEPS?"},
		{"HASHATTN_TRAIN_STEPS=x", "", `HASHATTN_TRAIN_STEPS: train.steps: "x" is not a whole number`},
		{"", "train.stepz=3", "--set: train.stepz: unknown key, did you mean train.steps?"},
		{"", "train=3", "--set: train: is a section; set one of its keys, such as train.presets"},
		{"", "sparsities=5/4", `--set: sparsities[0]: "5/4" is not a budget`},
		{"", "train.steps", "--set: train.steps: want key=value"},
	} {
		var sources []configs.Source
		var err error
		if c.set != "" {
			var s configs.Source
			if s, err = configs.SetFlag(c.set); err == nil {
				sources = append(sources, s)
			}
		}
		if err == nil {
			_, err = configs.Load("f.yaml", nil, []string{c.env}, sources...)
		}
		if err == nil || !strings.HasPrefix(err.Error(), c.prefix) {
			t.Errorf("%s %s: error %v, want %q", c.env, c.set, err, c.prefix)
		}
	}
}

func TestReadFile(t *testing.T) {
	own := filepath.Join(t.TempDir(), "own.yaml")
	if err := os.WriteFile(own, []byte("name: own\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if raw, err := configs.ReadFile(own); err != nil || string(raw) != "name: own\n" {
		t.Errorf("own file: %q, %v", raw, err)
	}
	if raw, err := configs.ReadFile("configs/quickstart.yaml"); err != nil || !strings.Contains(string(raw), "name: quickstart") {
		t.Errorf("shipped file: %v", err)
	}
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("quickstart", 0o755); err != nil {
		t.Fatal(err)
	}
	if raw, err := configs.ReadFile("quickstart"); err != nil || !strings.Contains(string(raw), "name: quickstart") {
		t.Errorf("shipped file beside a folder of its name: %v", err)
	}
	if _, err := configs.ReadFile("missing.yaml"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "quickstart.yaml") {
		t.Errorf("missing file: %v", err)
	}
}

func TestSchema(t *testing.T) {
	raw, err := configs.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Properties           map[string]any
		AdditionalProperties *bool
		Required             []string
		Defs                 map[string]struct {
			Properties map[string]struct {
				Type    string
				Minimum *float64
				Enum    []any
				Items   *struct{ Enum []any }
			}
		} `json:"$defs"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	if s.AdditionalProperties == nil || *s.AdditionalProperties || len(s.Required) > 0 {
		t.Errorf("unknown keys must be refused and none required: %v %v", s.AdditionalProperties, s.Required)
	}
	for _, k := range configs.Keys() {
		top, _, _ := strings.Cut(k.Path, ".")
		if _, ok := s.Properties[top]; !ok {
			t.Errorf("the schema lacks %s", top)
		}
		if k.Description == "" {
			t.Errorf("%s has no description", k.Path)
		}
	}
	train := s.Defs["Train"].Properties
	if train["steps"].Minimum == nil || train["steps"].Type != "integer" || len(train["queryBits"].Enum) != 2 || len(train["presets"].Items.Enum) != 3 {
		t.Errorf("limits are missing: %+v", train)
	}
}

func FuzzLoad(f *testing.F) {
	for _, name := range configs.Shipped() {
		raw, err := configs.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("train: &t {steps: 3}\ncapture: *t\n"))
	f.Add([]byte("selectors: ['hash:rerank=99999999999999999999']"))
	f.Add([]byte("? [a, b]\n: c\n"))
	f.Add([]byte("train:\n  ? {x: 1}\n  : 2\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := configs.Load("f.yaml", raw, nil)
		if err != nil {
			return
		}
		text, err := e.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := configs.Load("printed", text, nil); err != nil {
			t.Errorf("what was printed does not load: %v\n%s", err, text)
		}
	})
}
