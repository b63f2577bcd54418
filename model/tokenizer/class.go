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

// Hugging Face's tokenizers match with the Unicode tables of Oniguruma (Unicode 16), and Digits with those of Rust (17), while Go
// has 15. These are the letters and numbers added since; TestClasses compares every code point.
var (
	newLetters = &unicode.RangeTable{
		R16: []unicode.Range16{{Lo: 0x1C89, Hi: 0x1C8A, Stride: 1}, {Lo: 0xA7CB, Hi: 0xA7CD, Stride: 1}, {Lo: 0xA7DA, Hi: 0xA7DC, Stride: 1}},
		R32: []unicode.Range32{
			{Lo: 0x105C0, Hi: 0x105F3, Stride: 1}, {Lo: 0x10D4A, Hi: 0x10D65, Stride: 1}, {Lo: 0x10D6F, Hi: 0x10D85, Stride: 1},
			{Lo: 0x10EC2, Hi: 0x10EC4, Stride: 1}, {Lo: 0x11380, Hi: 0x11389, Stride: 1}, {Lo: 0x1138B, Hi: 0x1138B, Stride: 1},
			{Lo: 0x1138E, Hi: 0x1138E, Stride: 1}, {Lo: 0x11390, Hi: 0x113B5, Stride: 1}, {Lo: 0x113B7, Hi: 0x113B7, Stride: 1},
			{Lo: 0x113D1, Hi: 0x113D1, Stride: 1}, {Lo: 0x113D3, Hi: 0x113D3, Stride: 1}, {Lo: 0x11BC0, Hi: 0x11BE0, Stride: 1},
			{Lo: 0x13460, Hi: 0x143FA, Stride: 1}, {Lo: 0x16100, Hi: 0x1611D, Stride: 1}, {Lo: 0x16D40, Hi: 0x16D6C, Stride: 1},
			{Lo: 0x18CFF, Hi: 0x18CFF, Stride: 1}, {Lo: 0x1E5D0, Hi: 0x1E5ED, Stride: 1}, {Lo: 0x1E5F0, Hi: 0x1E5F0, Stride: 1},
			{Lo: 0x2EBF0, Hi: 0x2EE5D, Stride: 1},
		},
	}
	newNumbers = &unicode.RangeTable{R32: []unicode.Range32{
		{Lo: 0x10D40, Hi: 0x10D49, Stride: 1}, {Lo: 0x116D0, Hi: 0x116E3, Stride: 1}, {Lo: 0x11BF0, Hi: 0x11BF9, Stride: 1},
		{Lo: 0x16130, Hi: 0x16139, Stride: 1}, {Lo: 0x16D70, Hi: 0x16D79, Stride: 1}, {Lo: 0x1CCF0, Hi: 0x1CCF9, Stride: 1},
		{Lo: 0x1E5F1, Hi: 0x1E5FA, Stride: 1},
	}}
	newerNumbers = &unicode.RangeTable{R32: []unicode.Range32{{Lo: 0x11DE0, Hi: 0x11DE9, Stride: 1}, {Lo: 0x16FF4, Hi: 0x16FF6, Stride: 1}}}
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
	case unicode.In(r, unicode.L, newLetters):
		return letter
	case unicode.In(r, unicode.N, newNumbers):
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

// isDigit is Rust's char::is_numeric, which the Digits pre-tokenizer uses.
func isDigit(r rune) bool {
	return classOf(r) == number || unicode.Is(newerNumbers, r)
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

// isSpace is White_Space.
func isSpace(r rune) bool { return classOf(r) == space }

func isNumber(r rune) bool { return classOf(r) == number }
