package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normalizer rewrites the text between added tokens before it is split.
type normalizer struct {
	name  string // for the fingerprint
	apply func(string) string
}

// prependNormalizer puts p before every text that is not empty.
func prependNormalizer(p string) normalizer {
	return normalizer{"prepend " + p, func(s string) string {
		if s == "" {
			return s
		}
		return p + s
	}}
}

func replaceNormalizer(old, new string) normalizer {
	return normalizer{"replace " + old + " " + new, func(s string) string { return strings.ReplaceAll(s, old, new) }}
}

// unicodeNormalizer is a Unicode normal form. Hugging Face's tokenizers have the same NFC for every character; their NFD of U+11938 and
// NFKC of U+32FF come from older tables.
func unicodeNormalizer(name string, form norm.Form) normalizer {
	return normalizer{name, func(s string) string { return normalForm(form, s) }}
}

// collapseSpaces and trimMarks are SentencePiece's remove_extra_whitespaces: before spaces become visible those at the start go and
// runs of them become one; after, what is left at the end goes, ▁ of the text itself included.
func collapseSpaces() normalizer {
	return normalizer{"collapse spaces", func(s string) string {
		s = strings.TrimLeft(s, " ")
		for strings.Contains(s, "  ") {
			s = strings.ReplaceAll(s, "  ", " ")
		}
		return s
	}}
}

func trimMarks() normalizer {
	return normalizer{"trim marks", func(s string) string { return strings.TrimRight(s, string(chunkMark)) }}
}

// maxNonStarters is where golang.org/x/text begins to insert U+034F (its Stream-Safe form), which Unicode's normal forms do not.
const maxNonStarters = 30

// normalForm returns s in a Unicode normal form.
func normalForm(form norm.Form, s string) string {
	span := form.QuickSpanString(s)
	if span == len(s) {
		return s
	}
	run := 0
	for i := span; i < len(s); {
		p := form.PropertiesString(s[i:])
		// A rune counts with what it decomposes to, of which at most a few are non-starters.
		if p.CCC() == 0 && len(p.Decomposition()) == 0 {
			run = 0
		} else if run += 1 + len(p.Decomposition())/2; run > maxNonStarters {
			return longNormalForm(form, s)
		}
		i += max(p.Size(), 1)
	}
	return form.String(s)
}

// longNormalForm is the textbook algorithm (UAX #15), for text with very long runs of combining marks: decompose, order by combining
// class, compose.
func longNormalForm(form norm.Form, s string) string {
	decompose := norm.NFD
	if form == norm.NFKC || form == norm.NFKD {
		decompose = norm.NFKD
	}
	type char struct {
		r     rune
		class uint8
	}
	var chars []char
	for _, r := range s {
		for _, d := range decompose.String(string(r)) {
			chars = append(chars, char{d, norm.NFD.PropertiesString(string(d)).CCC()})
		}
	}
	for i := 0; i < len(chars); {
		j := i + 1
		if chars[i].class != 0 {
			for j < len(chars) && chars[j].class != 0 {
				j++
			}
			slices.SortStableFunc(chars[i:j], func(a, b char) int { return int(a.class) - int(b.class) })
		}
		i = j
	}
	if form == norm.NFC || form == norm.NFKC {
		out, starter := chars[:0], -1
		for _, c := range chars {
			if starter >= 0 {
				last := out[len(out)-1]
				blocked := len(out)-1 > starter && (last.class == 0 || last.class >= c.class)
				if !blocked {
					pair := norm.NFC.String(string(out[starter].r) + string(c.r))
					if r, n := utf8.DecodeRuneInString(pair); n == len(pair) {
						out[starter].r = r
						continue
					}
				}
			}
			if c.class == 0 {
				starter = len(out)
			}
			out = append(out, c)
		}
		chars = out
	}
	var b strings.Builder
	for _, c := range chars {
		b.WriteRune(c.r)
	}
	return b.String()
}

// repairUTF8 replaces each maximal invalid part of s by U+FFFD, as the WHATWG decoder, Rust's from_utf8_lossy and Python's
// errors="replace" do. (Go's own conversions write one U+FFFD for each byte.)
func repairUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			n = invalidPart(s[i:])
		}
		if r == utf8.RuneError {
			b.WriteRune(utf8.RuneError)
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// invalidPart returns the length of the maximal invalid part at the start of s, which is not a valid encoding: the longest prefix
// that could have begun one (Unicode, table 3-7), at least 1.
func invalidPart(s string) int {
	need, low, high := 0, byte(0x80), byte(0xBF)
	switch c := s[0]; {
	case c >= 0xC2 && c <= 0xDF:
		need = 1
	case c >= 0xE0 && c <= 0xEF:
		need = 2
		if c == 0xE0 {
			low = 0xA0
		} else if c == 0xED {
			high = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		need = 3
		if c == 0xF0 {
			low = 0x90
		} else if c == 0xF4 {
			high = 0x8F
		}
	}
	n := 1
	for ; n <= need && n < len(s) && s[n] >= low && s[n] <= high; n++ {
		low, high = 0x80, 0xBF
	}
	return n
}
