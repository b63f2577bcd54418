package result_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hashattn/hashattn/eval/result"
)

// recall is a small file with one row.
func recall(t *testing.T) *result.Recall {
	t.Helper()
	h, err := result.NewHeader(result.KindRecall, map[string]any{"contexts": []int{4096}, "bits": 32})
	if err != nil {
		t.Fatal(err)
	}
	h.Model.Name = "smollm2-135m"
	h.Device = result.Device{Kind: "cpu", Name: "test"}
	return &result.Recall{Header: h, Rows: []result.RecallRow{
		{Selector: "hash", Preset: "shared", BitsPerToken: 32, Context: 4096, Budget: "1/32", Density: .09, Recall: .7, Mass: .9, Error: .1},
	}}
}

func TestWriteRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recall.json")
	want := recall(t)
	if err := result.Write(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := result.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	// The config comes back indented as the file is.
	got.Head().Config, want.Config = nil, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestWriteRefusesNonsense(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recall.json")
	for _, v := range []float64{math.NaN(), math.Inf(1), -.1, 1.1} {
		f := recall(t)
		f.Rows[0].Recall = v
		if err := result.Write(path, f); err == nil || !strings.Contains(err.Error(), "row 0: recall is") {
			t.Errorf("recall %v: %v", v, err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a refused file was written")
	}
}

func TestParseRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recall.json")
	if err := result.Write(path, recall(t)); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"foreign", `"kind": "recall"`, `"kind": "cake"`, `kind is "cake"`},
		{"newer", `"format": 1`, `"format": 9`, "format 9"},
		{"edited config", `"bits": 32`, `"bits": 64`, "was edited"},
		{"unknown field", `"mass":`, `"mess":`, "unknown field"},
		{"truncated", `]`, ``, "not a result file"},
		{"impossible", `"recall": 0.7`, `"recall": 7`, "row 0: recall is 7"},
		{"no selector", `"selector": "hash"`, `"selector": ""`, `selector ""`},
	} {
		changed := strings.Replace(string(raw), c.old, c.new, 1)
		if changed == string(raw) {
			t.Fatalf("%s: nothing changed", c.name)
		}
		if _, err := result.Parse([]byte(changed)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"kind":"bench","format":1,"configHash":"x","rows":[{"part":"attention","selector":"hash","batch":1,"context":4096,"median_us":1e400}]}`))
	f.Add([]byte(`{"kind":"scores","format":1,"rows":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := result.Parse(raw)
		if err == nil && file.Check() != nil {
			t.Error("Parse accepted what Check refuses")
		}
	})
}
