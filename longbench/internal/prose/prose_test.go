package prose

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSentences(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                nil,
		"One. Two!  Three?\nFour":         {"One. ", "Two!  ", "Three?\n", "Four"},
		"It is 3.5 percent. Yes.":         {"It is 3.5 percent. ", "Yes."},
		"Mr. Aske and J. Wren left.":      {"Mr. Aske and J. Wren left."},
		"So do I. He went.":               {"So do I. ", "He went."},
		"\"Go!\" he said. (Really.) And?": {"\"Go!\" he said. ", "(Really.) ", "And?"},
		"Wait... what? Oh... No.":         {"Wait... what? ", "Oh... ", "No."},
		"end.Start is one":                {"end.Start is one"},
		"He said “no.” Then he left":      {"He said “no.” ", "Then he left"},
		"   ":                             {"   "},
	} {
		if got := Sentences(text); !slices.Equal(got, want) {
			t.Errorf("Sentences(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestSentencesKeepText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.RuneFrom([]rune("ab.A!? \n\"'(é。"))).Draw(t, "text")
		sentences := Sentences(text)
		if got := strings.Join(sentences, ""); got != text || slices.Contains(sentences, "") {
			t.Fatalf("Sentences(%q) = %q", text, sentences)
		}
	})
}
