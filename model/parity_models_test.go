package model_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels/cpu"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/hub"
)

// realModels loads the real checkpoints that HASHATTN_TEST_MODELS names
// ("all", or aliases of package hub with commas) and that have a golden file.
func realModels(t *testing.T, test func(t *testing.T, m *model.Model, g golden)) {
	wanted := os.Getenv("HASHATTN_TEST_MODELS")
	if wanted == "" {
		t.Skip("real models are not tested: set HASHATTN_TEST_MODELS=all, or to aliases such as smollm2-135m")
	}
	for _, name := range []string{"smollm2-135m", "qwen2.5-coder-0.5b", "gemma-3-270m"} {
		if wanted != "all" && !strings.Contains(","+wanted+",", ","+name+",") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			path, err := hub.Resolve(context.Background(), name, hub.Options{})
			if err != nil {
				t.Fatal(err)
			}
			d, err := cpu.New(cpu.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			m, err := model.Load(context.Background(), path, d, model.LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			test(t, m, openGolden(t, filepath.Join("testdata", "parity", name+".safetensors")))
		})
	}
}

// TestRealLogits compares logits and most likely tokens at 4,000 positions
// with transformers' on the same dequantised weights.
func TestRealLogits(t *testing.T) {
	realModels(t, func(t *testing.T, m *model.Model, g golden) {
		tokens, top := g.ints(t, "tokens"), g.ints(t, "top")
		rows, columns, want := g.ints(t, "rows"), g.ints(t, "columns"), g.floats(t, "logits")
		const pass = 250
		r, err := m.NewRunner(pass, pass)
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.NewSequence(len(tokens), dtype.F32)
		if err != nil {
			t.Fatal(err)
		}
		worst, equal, next := 0.0, 0, 0
		for from := 0; from < len(tokens); from += pass {
			if err := r.Extend(s, tokens[from:from+pass], model.Dense{Model: m}); err != nil {
				t.Fatal(err)
			}
			best, err := r.ArgMax(pass)
			if err != nil {
				t.Fatal(err)
			}
			for i, id := range best {
				if id == top[from+i] {
					equal++
				}
				if next < len(rows) && int(rows[next]) == from+i {
					logits, err := r.Logits(i)
					if err != nil {
						t.Fatal(err)
					}
					got := make([]float32, len(columns))
					for j, c := range columns {
						got[j] = logits[c]
					}
					worst = max(worst, difference(got, want[next*len(columns):][:len(columns)]))
					next++
				}
			}
		}
		share := float64(equal) / float64(len(tokens))
		t.Logf("%d positions: most likely token equal at %.3f%%, logits of %d of them within %.2g", len(tokens), 100*share, next, worst)
		if !(worst < 1e-4) {
			t.Errorf("logits differ by %.2g, at most 1e-4 is allowed", worst)
		}
		if share < 0.999 {
			t.Errorf("the most likely token is equal at %.3f%% of the positions, at least 99.9%% is asked", 100*share)
		}
	})
}

// TestRealGreedy compares 64 greedy tokens of 5 prompts with transformers'.
func TestRealGreedy(t *testing.T) {
	realModels(t, func(t *testing.T, m *model.Model, g golden) {
		for _, n := range []string{"0", "1", "2", "3", "4"} {
			want := g.ints(t, "greedy."+n)
			got := greedy(t, m, g.ints(t, "prompt."+n), len(want), model.Dense{Model: m})
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("prompt %s: token %d is %d, transformers gives %d", n, i, got[i], want[i])
					break
				}
			}
		}
	})
}
