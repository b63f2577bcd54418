package model_test

import (
	"context"
	"encoding/binary"
	"math"
	"path/filepath"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/safetensors"
)

// golden is a file made by scripts/goldens/tiny_models.py or parity.py.
type golden struct{ *safetensors.File }

func openGolden(t *testing.T, path string) golden {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return golden{f}
}

func (g golden) data(t *testing.T, name string) []byte {
	t.Helper()
	x, ok := g.Tensor(name)
	if !ok {
		t.Fatalf("golden has no tensor %s", name)
	}
	return x.Data
}

func (g golden) ints(t *testing.T, name string) []int32 {
	t.Helper()
	raw := g.data(t, name)
	v := make([]int32, len(raw)/4)
	for i := range v {
		v[i] = int32(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return v
}

func (g golden) floats(t *testing.T, name string) []float32 {
	t.Helper()
	raw := g.data(t, name)
	v := make([]float32, len(raw)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return v
}

func (g golden) bf16(t *testing.T, name string) []uint16 {
	t.Helper()
	raw := g.data(t, name)
	v := make([]uint16, len(raw)/2)
	for i := range v {
		v[i] = binary.LittleEndian.Uint16(raw[2*i:])
	}
	return v
}

// difference is |got - want| / |want| by Euclidean norms.
func difference(got, want []float32) float64 {
	diff, norm := 0.0, 0.0
	for i, w := range want {
		e := float64(got[i]) - float64(w)
		diff += e * e
		norm += float64(w) * float64(w)
	}
	return math.Sqrt(diff / norm)
}

var tiny = []string{"llama3-rope", "mistral", "mistral-window", "qwen2", "qwen3", "gemma3"}

func loadTiny(t *testing.T, name string, d kernels.Device) (*model.Model, golden) {
	t.Helper()
	folder := filepath.Join("testdata", "tiny", name)
	m, err := model.Load(context.Background(), folder, d, model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, openGolden(t, filepath.Join(folder, "golden.safetensors"))
}

// TestTinyLogits compares every architecture's logits with transformers', in
// passes of uneven sizes over a float32 cache.
func TestTinyLogits(t *testing.T) {
	for _, name := range tiny {
		t.Run(name, func(t *testing.T) {
			m, g := loadTiny(t, name, kernels.NewReference())
			tokens, want := g.ints(t, "tokens"), g.floats(t, "logits")
			r, err := m.NewRunner(33, 33)
			if err != nil {
				t.Fatal(err)
			}
			s, err := m.NewSequence(len(tokens), dtype.F32)
			if err != nil {
				t.Fatal(err)
			}
			for from := 0; from < len(tokens); {
				n := min(33, len(tokens)-from)
				if err := r.Extend(s, tokens[from:from+n], model.Dense{Model: m}); err != nil {
					t.Fatal(err)
				}
				for i := range n {
					got, err := r.Logits(i)
					if err != nil {
						t.Fatal(err)
					}
					if e := difference(got, want[(from+i)*m.Vocabulary:][:m.Vocabulary]); !(e <= 2e-5) {
						t.Fatalf("position %d: logits differ by %.2g", from+i, e)
					}
				}
				from += n
			}
		})
	}
}

// TestTinyGreedy compares 32 greedy tokens with transformers'.
func TestTinyGreedy(t *testing.T) {
	for _, name := range tiny {
		t.Run(name, func(t *testing.T) {
			m, g := loadTiny(t, name, kernels.NewReference())
			want := g.ints(t, "greedy")
			got := greedy(t, m, g.ints(t, "tokens")[:16], len(want), model.Dense{Model: m})
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("token %d is %d, transformers gives %d", i, got[i], want[i])
				}
			}
		})
	}
}

// greedy continues a prompt by n tokens, end tokens included.
func greedy(t *testing.T, m *model.Model, prompt []int32, n int, a model.Attention) []int32 {
	t.Helper()
	r, err := m.NewRunner(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.NewSequence(len(prompt)+n, dtype.F32)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Prefill(context.Background(), s, prompt, a, true); err != nil {
		t.Fatal(err)
	}
	var tokens []int32
	for {
		logits, err := r.Logits(0)
		if err != nil {
			t.Fatal(err)
		}
		best := 0
		for i, v := range logits {
			if v > logits[best] {
				best = i
			}
		}
		if tokens = append(tokens, int32(best)); len(tokens) == n {
			return tokens
		}
		if err := r.Decode([]*model.Sequence{s}, tokens[len(tokens)-1:], a); err != nil {
			t.Fatal(err)
		}
	}
}
