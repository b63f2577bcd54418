package model

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

func TestNamedShapes(t *testing.T) {
	for _, name := range Shapes() {
		c, err := Named(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.Rope.Frequencies(c.HeadDim); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, billions := range map[string]float64{
		"llama-3.1-8b": 8.03, "llama-3.2-1b": 1.24, "mistral-7b": 7.25, "qwen2.5-7b": 7.62, "qwen2.5-coder-1.5b": 1.54, "qwen2.5-coder-0.5b": 0.494, "smollm2-135m": 0.1345, "gemma-3-270m": 0.268,
	} {
		c, err := Named(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := float64(c.weightBytes(dtype.BF16, slices.Contains(untied, name))) / 2e9; got < 0.99*billions || got > 1.01*billions {
			t.Errorf("%s has %.4g billion weights, published are %.4g", name, got, billions)
		}
	}
	if _, err := Named("gpt-9"); err == nil || !strings.Contains(err.Error(), "smollm2-135m") {
		t.Errorf("an unknown shape: error %v", err)
	}
}

// TestRandomRuns: random weights of each format give finite logits that depend
// on the text, the same each time; the layers are those of a small shape.
func TestRandomRuns(t *testing.T) {
	for _, kind := range []dtype.Type{dtype.BF16, dtype.Q8_0} {
		for _, name := range []string{"smollm2-135m", "qwen2.5-coder-0.5b", "gemma-3-270m"} {
			c, err := Named(name)
			if err != nil {
				t.Fatal(err)
			}
			c.Layers, c.Width, c.FeedForward, c.Vocabulary, c.HeadDim = 2, 64, 96, 200, 32
			var rows [][]float32
			for _, token := range []int32{3, 3, 4} {
				m := &Model{Device: kernels.NewReference(), checkpoint: &random{shape: c, kind: kind}}
				if err := m.load(context.Background(), LoadOptions{}); err != nil {
					t.Fatal(err)
				}
				r, err := m.NewRunner(4, 1)
				if err != nil {
					t.Fatal(err)
				}
				s, err := m.NewSequence(8, dtype.BF16)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Prefill(context.Background(), s, []int32{1, 2, token}, Dense{Model: m}, true); err != nil {
					t.Fatal(err)
				}
				row, err := r.Logits(0)
				if err != nil {
					t.Fatal(err)
				}
				for i, v := range row {
					if !(v > -1e3 && v < 1e3) {
						t.Fatalf("%s %v: logit %d is %v", name, kind, i, v)
					}
				}
				rows = append(rows, slices.Clone(row))
			}
			if !slices.Equal(rows[0], rows[1]) || slices.Equal(rows[0], rows[2]) {
				t.Errorf("%s %v: logits do not follow from the text", name, kind)
			}
		}
	}
	if _, err := Random(context.Background(), "smollm2-135m", kernels.NewReference(), RandomOptions{Type: dtype.F32}); err == nil || !strings.Contains(err.Error(), "BF16 or Q8_0") {
		t.Errorf("weights in F32: error %v", err)
	}
	small := limited{kernels.NewReference()}
	if _, err := Random(context.Background(), "llama-3.1-8b", small, RandomOptions{Type: dtype.BF16}); err == nil || !strings.Contains(err.Error(), "15316 MiB") {
		t.Errorf("weights larger than the device: error %v", err)
	}
}

// limited is a device of 1 GiB.
type limited struct{ kernels.Device }

func (l limited) Info() kernels.Info { return kernels.Info{Kind: "limited", Memory: 1 << 30} }

// TestNamedEqualsCheckpoints: the shapes are those of the tiny checkpoints'
// architectures.
func TestNamedEqualsCheckpoints(t *testing.T) {
	for name, dir := range map[string]string{"qwen2.5-coder-0.5b": "qwen2", "gemma-3-270m": "gemma3"} {
		want, _, _, err := Inspect(filepath.Join("testdata", "tiny", dir))
		if err != nil {
			t.Fatal(err)
		}
		c, err := Named(name)
		if err != nil {
			t.Fatal(err)
		}
		if c.Architecture != want.Architecture || c.QKNorm != want.QKNorm || c.PostNorms != want.PostNorms || c.Activation != want.Activation {
			t.Errorf("%s: %+v, a checkpoint has %+v", name, c, want)
		}
	}
}
