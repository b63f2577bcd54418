package difflib

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// Values of Python's difflib and python-Levenshtein; longbench's golden files
// compare more of them.
func TestRatio(t *testing.T) {
	for _, c := range []struct {
		a, b              string
		ratio, indelRatio float64
	}{
		{"", "", 1, 1},
		{"a", "", 0, 0},
		{"abcd", "bcde", 0.75, 0.75},
		{"private Thread currentThread;", "private volatile Thread currentThread;", 0.8656716417910447, 0.8656716417910448},
		{"é😀", "e😀", 0.5, 0.5},      // characters, not bytes
		{"tide", "diet", 0.25, 0.5}, // not symmetric, and less than the common subsequence
		{"diet", "tide", 0.5, 0.5},
	} {
		if got := Ratio(c.a, c.b); math.Abs(got-c.ratio) > 1e-15 || math.IsNaN(got) {
			t.Errorf("Ratio(%q, %q) = %v, want %v", c.a, c.b, got, c.ratio)
		}
		if got := IndelRatio(c.a, c.b); math.Abs(got-c.indelRatio) > 1e-15 || math.IsNaN(got) {
			t.Errorf("IndelRatio(%q, %q) = %v, want %v", c.a, c.b, got, c.indelRatio)
		}
	}
}

func TestAutojunk(t *testing.T) {
	// 200 equal characters are popular and start no match; 199 are not.
	if got := Ratio("x"+strings.Repeat("a", 199), strings.Repeat("a", 199)); got < 0.99 {
		t.Errorf("199 characters: %v", got)
	}
	if got := Ratio("x"+strings.Repeat("a", 200), strings.Repeat("a", 200)); got != 0 {
		t.Errorf("200 characters: %v, want 0", got)
	}
}

// TestBounds: matching blocks are a common subsequence, so never more than the
// longest one, and all of it for equal strings.
func TestBounds(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		a, b := random(rng), random(rng)
		r, indel := Ratio(a, b), IndelRatio(a, b)
		if !(r >= 0 && r <= indel+1e-12 && indel <= 1) {
			t.Fatalf("%q, %q: ratio %v, indel ratio %v", a, b, r, indel)
		}
		if len(a) < 200 && (Ratio(a, a) != 1 || IndelRatio(a, a) != 1) {
			t.Fatalf("%q is not like itself", a)
		}
	}
}

func random(rng *rand.Rand) string {
	b := make([]byte, rng.IntN(260))
	for i := range b {
		b[i] = "abcde ("[rng.IntN(7)]
	}
	return string(b)
}
