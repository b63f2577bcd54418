package model_test

import (
	"context"
	"math"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
)

// TestRealCapture compares queries, keys and values of every layer of a real
// model with those of scripts/capture_transformers.py, whose trace also names
// the model as ours do.
func TestRealCapture(t *testing.T) {
	const captured = "smollm2-135m"
	realModels(t, func(t *testing.T, m *model.Model, _ golden) {
		if filepath.Base(t.Name()) != captured {
			t.Skipf("the trace to compare with is of %s", captured)
		}
		g := openGolden(t, filepath.Join("testdata", "capture", captured+".safetensors"))
		if got := g.Metadata["fingerprint"]; got != m.Fingerprint {
			t.Errorf("the script's fingerprint is %s, the model's %s", got, m.Fingerprint)
		}
		tokens, positions := g.ints(t, "tokens"), g.ints(t, "positions")
		r, err := m.NewRunner(256, 1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Capture(context.Background(), tokens, positions, m.GlobalLayers(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for l := range m.Layers {
			q, k, v, err := got.Layer(l)
			if err != nil {
				t.Fatal(err)
			}
			name := "layers." + strconv.Itoa(l) + "."
			sameBF16(t, name+"q", q, g.bf16(t, name+"q"))
			sameBF16(t, name+"k", rowsOf(k, m.KVHeads, len(tokens), m.HeadDim, positions), g.bf16(t, name+"k"))
			sameBF16(t, name+"v", rowsOf(v, m.KVHeads, len(tokens), m.HeadDim, positions), g.bf16(t, name+"v"))
		}
	})
}

// rowsOf takes some tokens of a tensor [heads, n, headDim].
func rowsOf(all []uint16, heads, n, headDim int, at []int32) []uint16 {
	var out []uint16
	for h := range heads {
		for _, p := range at {
			out = append(out, all[(h*n+int(p))*headDim:][:headDim]...)
		}
	}
	return out
}

// sameBF16 wants values that differ by bfloat16's rounding and, near zero, by
// what float32 sums in another order leave of the tensor's size.
func sameBF16(t *testing.T, name string, got, want []uint16) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s has %d values, transformers' %d", name, len(got), len(want))
	}
	size := 0.0
	for _, w := range want {
		size += math.Pow(float64(dtype.F32FromBF16(w)), 2)
	}
	size = math.Sqrt(size / float64(len(want)))
	other := 0
	for i := range want {
		a, b := float64(dtype.F32FromBF16(got[i])), float64(dtype.F32FromBF16(want[i]))
		if a != b {
			other++
		}
		if !(math.Abs(a-b) <= math.Abs(b)/128+2e-4*size) {
			t.Fatalf("%s[%d]: %v, transformers gives %v: more than bf16's rounding", name, i, a, b)
		}
	}
	// float32 sums in another order round differently now and then
	if share := float64(other) / float64(len(want)); share > 0.02 {
		t.Errorf("%s: %.1f%% of the values differ in their last bit", name, 100*share)
	}
}
