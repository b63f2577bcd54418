package tokenizer

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// class is what the split patterns tell apart: \p{L}, \p{N}, \s and the rest.
type class uint8

const (
	other class = iota
	letter
	number
	space
)

// ranges is a set of code points, ascending.
type ranges [][2]rune

func (t ranges) has(r rune) bool {
	if len(t) == 0 || r < t[0][0] {
		return false
	}
	for _, p := range t {
		if r <= p[1] {
			return r >= p[0]
		}
	}
	return false
}

// Hugging Face's tokenizers match with the Unicode tables of Oniguruma (Unicode 16), Digits with those of Rust (17), while Go has
// those of Unicode 15. These are the characters added since; TestClasses compares every code point.
var (
	newUpper  = ranges{{0x1C89, 0x1C89}, {0xA7CB, 0xA7CC}, {0xA7DA, 0xA7DA}, {0xA7DC, 0xA7DC}, {0x10D50, 0x10D65}}
	newLower  = ranges{{0x1C8A, 0x1C8A}, {0xA7CD, 0xA7CD}, {0xA7DB, 0xA7DB}, {0x10D70, 0x10D85}}
	newLetter = ranges{ // without case
		{0x105C0, 0x105F3}, {0x10D4A, 0x10D4F}, {0x10D6F, 0x10D6F}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
		{0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
		{0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0},
		{0x2EBF0, 0x2EE5D},
	}
	newMark = ranges{
		{0x897, 0x897}, {0x10D69, 0x10D6D}, {0x10EFC, 0x10EFC}, {0x113B8, 0x113C0}, {0x113C2, 0x113C2}, {0x113C5, 0x113C5},
		{0x113C7, 0x113CA}, {0x113CC, 0x113D0}, {0x113D2, 0x113D2}, {0x113E1, 0x113E2}, {0x11F5A, 0x11F5A}, {0x1611E, 0x1612F},
		{0x1E5EE, 0x1E5EF},
	}
	newNumber = ranges{
		{0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139}, {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9},
		{0x1E5F1, 0x1E5FA},
	}
	newPunctuation = ranges{
		{0x1B4E, 0x1B4F}, {0x1B7F, 0x1B7F}, {0x10D6E, 0x10D6E}, {0x113D4, 0x113D5}, {0x113D7, 0x113D8}, {0x11BE1, 0x11BE1},
		{0x16D6D, 0x16D6F}, {0x1E5FF, 0x1E5FF},
	}
	newerNumber = ranges{{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}} // Unicode 17
)

var asciiClass = func() (t [utf8.RuneSelf]class) {
	for c := range t {
		t[c] = lookUpClass(rune(c))
	}
	return t
}()

// planeClass holds the classes of the basic plane, where nearly all text lies.
var planeClass = sync.OnceValue(func() *[1 << 16]class {
	t := new([1 << 16]class)
	for r := range rune(1 << 16) {
		t[r] = lookUpClass(r)
	}
	return t
})

func lookUpClass(r rune) class {
	switch {
	case unicode.IsLetter(r), newLetter.has(r), newUpper.has(r), newLower.has(r):
		return letter
	case unicode.IsNumber(r), newNumber.has(r):
		return number
	case unicode.IsSpace(r):
		return space
	}
	return other
}

func classOf(r rune) class {
	if r < 1<<16 {
		return planeClass()[r]
	}
	return lookUpClass(r)
}

// classAt returns the class and the length of the rune at s[i].
func classAt(s string, i int) (class, int) {
	if c := s[i]; c < utf8.RuneSelf {
		return asciiClass[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return classOf(r), n
}

// runOf returns the end of the run of class c that begins at s[i], i itself if there is none.
func runOf(s string, i int, c class) int {
	for i < len(s) {
		k, n := classAt(s, i)
		if k != c {
			break
		}
		i += n
	}
	return i
}

func isSpace(r rune) bool { return classOf(r) == space }

func isNumber(r rune) bool { return classOf(r) == number }

// isDigit is Rust's char::is_numeric, which the Digits pre-tokenizer uses.
func isDigit(r rune) bool { return isNumber(r) || newerNumber.has(r) }

// isPunctuation is `[\p{P}\$\+<=>\^~\|]` of llama.cpp's default.
func isPunctuation(r rune) bool {
	switch r {
	case '$', '+', '<', '=', '>', '^', '~', '|':
		return true
	}
	return unicode.IsPunct(r) || newPunctuation.has(r)
}

// letterCase says whether r is in [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and in [\p{Ll}\p{Lm}\p{Lo}\p{M}].
func letterCase(r rune) (upper, lower bool) {
	switch {
	case r < utf8.RuneSelf:
		return r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z'
	case unicode.Is(unicode.Lu, r), unicode.Is(unicode.Lt, r), newUpper.has(r):
		return true, false
	case unicode.Is(unicode.Ll, r), newLower.has(r):
		return false, true
	case unicode.IsLetter(r), unicode.IsMark(r), newLetter.has(r), newMark.has(r):
		return true, true
	}
	return false, false
}
