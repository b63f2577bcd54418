package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// splitter is one stage of a pre-tokenizer: it calls emit for each piece of s, in order. first says that s stands at the very start
// of the text (SentencePiece's prefix space goes there).
type splitter struct {
	name  string // for the fingerprint
	split func(s string, first bool, emit func(s string, first bool))
}

// scanSplitter splits by a scanner of scan.go.
func scanSplitter(name string, scan func(s string, i int) int) splitter {
	return splitter{name, func(s string, first bool, emit func(string, bool)) {
		for i := 0; i < len(s); {
			e := scan(s, i)
			emit(s[i:e], first && i == 0)
			i = e
		}
	}}
}

// prefixSpaceSplitter puts a space before a piece that has none (ByteLevel's add_prefix_space).
func prefixSpaceSplitter() splitter {
	return splitter{"prefix space", func(s string, first bool, emit func(string, bool)) {
		if !strings.HasPrefix(s, " ") {
			s = " " + s
		}
		emit(s, first)
	}}
}

// runSplitter cuts out the runs of runes that match, of at most limit runes (0: of any length).
func runSplitter(name string, match func(rune) bool, limit int) splitter {
	return splitter{fmt.Sprint(name, " ", limit), func(s string, first bool, emit func(string, bool)) {
		start, count := 0, 0 // s[start:] is not emitted yet; count > 0: its runes match
		for i, r := range s {
			if match(r) {
				if i > start && (count == 0 || count == limit) {
					emit(s[start:i], first && start == 0)
					start, count = i, 0
				}
				count++
			} else if count > 0 {
				emit(s[start:i], first && start == 0)
				start, count = i, 0
			}
		}
		if start < len(s) {
			emit(s[start:], first && start == 0)
		}
	}}
}

// threeDigits cuts s into threes of ASCII digits, `[0-9][0-9][0-9]` of llama.cpp's default; one or two digits stay with what
// surrounds them.
func threeDigits(s string, first bool, emit func(string, bool)) {
	digit := func(i int) bool { return s[i] >= '0' && s[i] <= '9' }
	start := 0
	for i := 0; i+3 <= len(s); {
		if !digit(i) || !digit(i+1) || !digit(i+2) {
			i++
			continue
		}
		if start < i {
			emit(s[start:i], first && start == 0)
		}
		emit(s[i:i+3], first && i == 0)
		i += 3
		start = i
	}
	if start < len(s) {
		emit(s[start:], first && start == 0)
	}
}

// literalSplitter splits at a literal string: sep is dropped, stands alone, or ends or begins a piece.
func literalSplitter(sep, behavior string) splitter {
	return splitter{"at " + sep + " " + behavior, func(s string, first bool, emit func(string, bool)) {
		start := 0
		put := func(end int) {
			if start < end {
				emit(s[start:end], first && start == 0)
			}
			start = end
		}
		for i := 0; ; {
			k := strings.Index(s[i:], sep)
			if k < 0 {
				break
			}
			k += i
			i = k + len(sep)
			switch behavior {
			case "Removed":
				put(k)
				start = i
			case "Isolated":
				put(k)
				put(i)
			case "MergedWithPrevious":
				put(i)
			case "MergedWithNext":
				put(k)
			}
		}
		put(len(s))
	}}
}

// metaspace writes spaces as a visible character, as SentencePiece does, and may put one before the text.
type metaspace struct {
	replacement string
	prepend     string // "always", "first" or "never"
	split       bool
}

func (m metaspace) splitter() splitter {
	return splitter{fmt.Sprint("metaspace ", m.replacement, " ", m.prepend, " ", m.split), m.apply}
}

func (m metaspace) apply(s string, first bool, emit func(string, bool)) {
	s = strings.ReplaceAll(s, " ", m.replacement)
	if (m.prepend == "always" || m.prepend == "first" && first) && !strings.HasPrefix(s, m.replacement) {
		s = m.replacement + s
	}
	if !m.split {
		emit(s, first)
		return
	}
	literalSplitter(m.replacement, "MergedWithNext").split(s, first, emit)
}

// byteRunes is GPT-2's table of visible characters for the 256 bytes, and runeBytes its inverse.
var byteRunes, runeBytes = func() (runes [256]rune, bytes map[rune]byte) {
	bytes = make(map[rune]byte, 256)
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if visible := b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE; !visible {
			r = next
			next++
		}
		runes[b], bytes[r] = r, byte(b)
	}
	return runes, bytes
}()

// bytesOf appends the bytes that a byte-level token stands for; a token with a character outside GPT-2's table stands for itself.
func bytesOf(dst []byte, token string) []byte {
	from := len(dst)
	for _, r := range token {
		b, ok := byte(0), false
		if r < utf8.RuneSelf {
			b, ok = byte(r), byteRunes[r] == r
		} else {
			b, ok = runeBytes[r]
		}
		if !ok {
			return append(dst[:from], token...)
		}
		dst = append(dst, b)
	}
	return dst
}
