package pystr

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"
)

// The golden files are made by scripts/goldens/longbench.py with Python itself.
func golden[T any](t *testing.T, name string) []T {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var v []T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if len(v) == 0 {
		t.Fatalf("%s is empty", name)
	}
	return v
}

func number(t *testing.T, hex string) float64 {
	t.Helper()
	x, err := strconv.ParseFloat(hex, 64)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestStrings(t *testing.T) {
	for _, g := range golden[struct {
		S, Lower        string
		Fields, Numbers []string
	}](t, "strings.json") {
		if got := Lower(g.S); got != g.Lower {
			t.Errorf("Lower(%q) = %q, Python %q", g.S, got, g.Lower)
		}
		if got := Fields(g.S); !slices.Equal(got, g.Fields) {
			t.Errorf("Fields(%q) = %q, Python %q", g.S, got, g.Fields)
		}
		if got := Numbers(g.S); !slices.Equal(got, g.Numbers) {
			t.Errorf("Numbers(%q) = %q, Python %q", g.S, got, g.Numbers)
		}
	}
}

func TestIsWord(t *testing.T) {
	for c, want := range map[rune]bool{'a': true, '_': true, '²': true, '中': true, '٣': true, 'Ⅷ': true, '\u0301': false, '-': false, ' ': false} {
		if IsWord(c) != want {
			t.Errorf("IsWord(%q) = %v", c, !want)
		}
	}
}

func TestRound(t *testing.T) {
	differ := 0
	for _, g := range golden[struct{ X, Python, Numpy string }](t, "round.json") {
		x, py, np := number(t, g.X), number(t, g.Python), number(t, g.Numpy)
		if got := Round2(x); got != py {
			t.Errorf("Round2(%v) = %v, Python %v", x, got, py)
		}
		if got := NumpyRound2(x); got != np {
			t.Errorf("NumpyRound2(%v) = %v, numpy %v", x, got, np)
		}
		if py != np {
			differ++
		}
	}
	if differ == 0 {
		t.Error("no case tells the two roundings apart")
	}
	if !math.IsNaN(Round2(math.NaN())) || !math.IsInf(Round2(math.Inf(-1)), -1) {
		t.Error("Round2 changes NaN or an infinity")
	}
}

func TestNumpyMean(t *testing.T) {
	differ := 0
	for _, g := range golden[struct {
		N    int
		Mean string
	}](t, "mean.json") {
		x, sum := make([]float64, g.N), 0.0
		for i := range x {
			x[i] = float64(i*7919%1009) / 1009
			sum += x[i]
		}
		want := number(t, g.Mean)
		if got := NumpyMean(x); got != want {
			t.Errorf("mean of %d: %v, numpy %v", g.N, got, want)
		}
		if sum/float64(g.N) != want {
			differ++
		}
	}
	if differ == 0 {
		t.Error("no case tells pairwise summation from a plain sum")
	}
	if !math.IsNaN(NumpyMean(nil)) {
		t.Error("the mean of nothing is not NaN")
	}
}
