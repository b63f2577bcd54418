package rouge

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// Hand-counted cases; longbench's golden files compare with the Python package.
func TestL(t *testing.T) {
	f := func(common, ref, hyp float64) float64 {
		p, r := common/hyp, common/ref
		return 2 * ((p * r) / (p + r + 1e-8))
	}
	for _, c := range []struct {
		hyp, ref string
		want     float64
	}{
		{"a b c", "a b c", f(3, 3, 3)},
		{"a a a", "a", f(1, 1, 1)},       // words are a set
		{"c b a", "a b c", f(1, 3, 3)},   // one word in order
		{"c. b. a", "a b c", f(3, 3, 3)}, // any sentence may give it
		{"A", "a", 0},                    // case counts
		{" ", " ", f(1, 1, 1)},           // the empty word
		{"a b", "a. . b", f(2, 3, 2)},    // a blank sentence is a word
		{"x\u00a0y", "x\ty", f(2, 2, 2)}, // white space as Python has it
		{"3.5", "3. 5", f(2, 2, 2)},      // a point ends a sentence
		{"你好 世界", "你好 世界 。", f(2, 3, 2)}, // "。" does not
	} {
		got, err := L(c.hyp, c.ref, 0)
		if err != nil || got != c.want {
			t.Errorf("L(%q, %q) = %v, %v; want %v", c.hyp, c.ref, got, err, c.want)
		}
	}
	for _, c := range [][2]string{{"", "a"}, {"a", ""}, {"..", "a"}} {
		if _, err := L(c[0], c[1], 0); !errors.Is(err, ErrEmpty) {
			t.Errorf("L(%q, %q): %v, want ErrEmpty", c[0], c[1], err)
		}
	}
}

// TestTraceBack compares the windowed trace-back with the plain definition, on
// sequences with many ties, at every limit around the depth it needs.
func TestTraceBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		x, y := sequence(rng), sequence(rng)
		want, depth := plain(x, y)
		for _, frames := range []int{0, depth - 1, depth, depth + 1, 1, len(x), 1000} {
			if frames < 0 {
				continue
			}
			got, err := commonSubsequence(x, y, frames)
			if frames > 0 && frames < depth {
				if !errors.Is(err, ErrRecursion) {
					t.Fatalf("%v, %v with %d of %d frames: %v, want ErrRecursion", x, y, frames, depth, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%v, %v with %d of %d frames: %v", x, y, frames, depth, err)
			}
			if len(got) != len(want) {
				t.Fatalf("%v, %v: %v, want %v", x, y, got, want)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("%v, %v: %v, want %v", x, y, got, want)
				}
			}
		}
	}
}

func sequence(rng *rand.Rand) []int32 {
	s := make([]int32, 1+rng.IntN(20))
	for i := range s {
		s[i] = rng.Int32N(4)
	}
	return s
}

// plain is the definition: a whole table and a recursive walk.
func plain(x, y []int32) (lcs []int32, depth int) {
	table := make([][]int, len(x)+1)
	for i := range table {
		table[i] = make([]int, len(y)+1)
		for j := range table[i] {
			switch {
			case i == 0 || j == 0:
			case x[i-1] == y[j-1]:
				table[i][j] = table[i-1][j-1] + 1
			default:
				table[i][j] = max(table[i-1][j], table[i][j-1])
			}
		}
	}
	var walk func(i, j int)
	walk = func(i, j int) {
		depth++
		switch {
		case i == 0 || j == 0:
		case x[i-1] == y[j-1]:
			lcs = append(lcs, x[i-1])
			walk(i-1, j-1)
		case table[i-1][j] > table[i][j-1]:
			walk(i-1, j)
		default:
			walk(i, j-1)
		}
	}
	walk(len(x), len(y))
	return lcs, depth
}

// TestHuge: hostile lengths cost neither memory nor much time.
func TestHuge(t *testing.T) {
	text := strings.Repeat("w ", 1_000_000)
	if _, err := L(text, text, 991); !errors.Is(err, ErrRecursion) {
		t.Errorf("a million words: %v", err)
	}
}
