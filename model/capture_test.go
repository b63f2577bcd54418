package model_test

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/trace"
)

// TestCaptureEqualsTransformers compares a trace with the one that
// scripts/capture_transformers.py wrote for the same model and text:
//
//	capture_transformers.py --model model/testdata/tiny/qwen2 --context 200 --positions tail --out model/testdata/trace lic.txt
//
// where lic.txt is the project's LICENSE.
func TestCaptureEqualsTransformers(t *testing.T) {
	m, _ := loadTiny(t, "qwen2", kernels.NewReference())
	want, err := trace.Open(filepath.Join("testdata", "trace"))
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	if err := want.Model.Fits(m.Shape()); err != nil || want.Tokenizer != m.Tokenizer.Hash() {
		t.Errorf("the script's trace does not say that it is of this model: %v, tokenizer %s", err, want.Tokenizer)
	}
	document, err := want.Document(0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.NewRunner(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Capture(context.Background(), document.Tokens, document.Positions, m.GlobalLayers(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range want.Captured {
		w, err := document.Layer(l)
		if err != nil {
			t.Fatal(err)
		}
		q, k, v, err := got.Layer(l)
		if err != nil {
			t.Fatal(err)
		}
		for name, pair := range map[string][2][]uint16{"q": {q, w.Q}, "k": {k, w.K}, "v": {v, w.V}} {
			other := 0
			for i := range pair[1] {
				a, b := float64(dtype.F32FromBF16(pair[0][i])), float64(dtype.F32FromBF16(pair[1][i]))
				if a != b {
					other++
				}
				if !(math.Abs(a-b) <= math.Abs(b)/128+1e-5) {
					t.Fatalf("layer %d %s[%d]: %v, transformers gives %v: more than bf16's rounding", l, name, i, a, b)
				}
			}
			// float32 sums in another order round differently now and then
			if share := float64(other) / float64(len(pair[1])); share > 0.01 {
				t.Errorf("layer %d %s: %.1f%% of the values differ in their last bit", l, name, 100*share)
			}
		}
	}
}
