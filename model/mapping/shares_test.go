package mapping

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model/safetensors"
)

// Whatever the shares, their budgets keep the mean: exactly where the tokens
// are whole, and never above it.
func TestSharesKeepTheMean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sets := rapid.IntRange(1, 12).Draw(t, "sets")
		parts := make([]int, sets)
		left := sets * ShareUnit
		for i := range parts {
			parts[i] = rapid.IntRange(0, left).Draw(t, "parts")
			if i == sets-1 {
				parts[i] = left
			}
			left -= parts[i]
		}
		s := Shares{Layers: [][]int{nil, parts}}
		b := kernels.Budget{Num: 1, Den: rapid.IntRange(1, 200).Draw(t, "den")}
		if rapid.Bool().Draw(t, "count") {
			b = kernels.Budget{Count: rapid.IntRange(0, 5000).Draw(t, "count")}
		}
		n := rapid.IntRange(1, 200000).Draw(t, "tokens")
		if s.Budgets(0, b) != nil || s.Budgets(7, b) != nil {
			t.Fatal("a layer without shares has budgets")
		}
		sum, clipped := 0, false
		for i, own := range s.Budgets(1, b) {
			at := own.At(n)
			exact := float64(parts[i]) / ShareUnit * float64(b.Count)
			if b.Den > 0 {
				exact = float64(parts[i]) / ShareUnit * float64(n) / float64(b.Den)
				if exact >= float64(n) {
					exact, clipped = float64(n), true
				}
			}
			if float64(at) > exact+1e-6 || float64(at) < exact-1-1e-6 {
				t.Fatalf("set %d of %d parts: %d tokens, want %v rounded down", i, parts[i], at, exact)
			}
			sum += at
		}
		mean := sets * b.At(n)
		whole := b.Den == 0 && b.Count%ShareUnit == 0 || b.Den > 0 && n%(b.Den*ShareUnit) == 0
		if !clipped && whole && sum != mean {
			t.Fatalf("%v of %v at %d: %d tokens, want %d", parts, b, n, sum, mean)
		}
		if sum > mean+sets { // b.At itself is rounded down
			t.Fatalf("%v of %v at %d: %d tokens, the mean allows %d", parts, b, n, sum, mean)
		}
	})
}

func shared(layers ...[]int) *Mapping {
	m := random("shared", 32)
	m.Shares = &Shares{Layers: layers, Measured: Measured{Objective: "mass", Per: "set", Budget: "1/32", Context: 64, Queries: 8, Documents: []string{"aa"}}}
	return m
}

func TestSharesTravel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.safetensors")
	m := named(shared([]int{8, 16, 32, 40}, nil, []int{0, 96, 32, 32}))
	if err := m.Save(path); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if v := f.Metadata["version"]; v != "2" {
		t.Errorf("a mapping with shares has format version %s, want 2", v)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Error("read back another mapping")
	}
	f.Metadata["version"] = "1"
	old := filepath.Join(filepath.Dir(path), "old.safetensors")
	if err := safetensors.Write(old, f.Tensors, f.Metadata); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(old); err == nil || !strings.Contains(err.Error(), "version 1 has no shares") {
		t.Errorf("shares in format 1: error %v", err)
	}
}

func TestSharesRefused(t *testing.T) {
	for want, layers := range map[string][][]int{
		"shares of 2 layers":               {{32, 32, 32, 32}, nil},
		"shares of layer 0: 2, want one":   {{32, 32}, nil, {32, 32, 32, 32}},
		"shares of layer 1: 4, want one":   {{32, 32, 32, 32}, {32, 32, 32, 32}, {32, 32, 32, 32}},
		"shares of layer 2: -1 at 1":       {{32, 32, 32, 32}, nil, {32, -1, 32, 65}},
		"sum to 255, want 256":             {{31, 32, 32, 32}, nil, {32, 32, 32, 32}},
		"shares of layer 0: 9999999 at 0,": {{9999999, 32, 32, 32}, nil, {32, 32, 32, 32}},
	} {
		if err := shared(layers...).Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
