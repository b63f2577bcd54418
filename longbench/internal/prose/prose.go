// Package prose cuts long English text at the ends of its sentences, where the
// haystack tests hide their needles.
package prose

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// abbreviations end with a point that ends no sentence.
var abbreviations = map[string]bool{
	"mr": true, "mrs": true, "ms": true, "dr": true, "st": true, "jr": true, "sr": true, "prof": true,
	"vs": true, "e.g": true, "i.e": true, "cf": true, "etc": true, "fig": true, "no": true, "vol": true,
}

// Sentences cuts text into sentences, each with the white space after it:
// joined they are text again. A sentence ends at ".", "!" or "?", with any
// closing quotes or brackets, before white space, unless a small letter follows
// or the word before the point is an abbreviation or an initial.
func Sentences(text string) []string {
	var out []string
	start := 0
	for i := 0; i < len(text); {
		if c := text[i]; c != '.' && c != '!' && c != '?' {
			i++
			continue
		}
		mark := i
		for i < len(text) && strings.IndexByte(".!?", text[i]) >= 0 {
			i++
		}
		i = skip(text, i, closing)
		end := skip(text, i, unicode.IsSpace)
		if end == i && end < len(text) {
			continue // inside a word or number
		}
		next, _ := utf8.DecodeRuneInString(text[end:])
		if end < len(text) && (unicode.IsLower(next) || text[mark] == '.' && abbreviated(text[start:mark])) {
			i = end
			continue
		}
		out = append(out, text[start:end])
		start, i = end, end
	}
	if start < len(text) {
		out = append(out, text[start:])
	}
	return out
}

func skip(text string, i int, ok func(rune) bool) int {
	for i < len(text) {
		c, n := utf8.DecodeRuneInString(text[i:])
		if !ok(c) {
			break
		}
		i += n
	}
	return i
}

func closing(c rune) bool { return strings.ContainsRune("\"')]}”’»", c) }

// abbreviated reports whether the last word before a point is one that is
// written with a point.
func abbreviated(before string) bool {
	word := strings.ToLower(before[1+strings.LastIndexFunc(before, func(c rune) bool { return unicode.IsSpace(c) || c == '(' }):])
	return abbreviations[word] || utf8.RuneCountInString(word) == 1 && word != "i"
}
