// Package pystr has the parts of Python's str, re and round whose results differ
// from Go's nearest function, because the official scorers are written in Python
// and a score must agree with theirs to the last digit.
package pystr

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// IsSpace is str.isspace, \s of re and the separator of str.split: Unicode's
// White_Space and the four ASCII information separators.
func IsSpace(c rune) bool { return 0x1c <= c && c <= 0x1f || unicode.IsSpace(c) }

// IsDigit is \d of re.
func IsDigit(c rune) bool { return unicode.Is(unicode.Nd, c) }

// IsWord is \w of re. Unlike Unicode's own definition it leaves out marks.
func IsWord(c rune) bool { return c == '_' || unicode.IsLetter(c) || unicode.IsNumber(c) }

// Fields is str.split().
func Fields(s string) []string { return strings.FieldsFunc(s, IsSpace) }

// Numbers is re.findall(r"\d+", s).
func Numbers(s string) []string {
	return strings.FieldsFunc(s, func(c rune) bool { return !IsDigit(c) })
}

// Lower is str.lower: full case mapping, so that U+0130 becomes two characters
// and a capital sigma at the end of a word the final one.
func Lower(s string) string {
	if ascii(s) {
		return strings.ToLower(s)
	}
	var b strings.Builder
	b.Grow(len(s))
	for i, c := range s {
		switch c {
		case 'İ':
			b.WriteString("i̇")
		case 'Σ':
			if finalSigma(s[:i], s[i+len("Σ"):]) {
				b.WriteRune('ς')
			} else {
				b.WriteRune('σ')
			}
		default:
			b.WriteRune(unicode.ToLower(c))
		}
	}
	return b.String()
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// finalSigma is the Final_Sigma condition of Unicode's SpecialCasing: a cased
// letter before and none after, case-ignorable characters passed over.
func finalSigma(before, after string) bool {
	for {
		c, n := utf8.DecodeLastRuneInString(before)
		if n == 0 {
			return false
		}
		if before = before[:len(before)-n]; !caseIgnorable(c) {
			if !cased(c) {
				return false
			}
			break
		}
	}
	for _, c := range after {
		if !caseIgnorable(c) {
			return !cased(c)
		}
	}
	return true
}

func cased(c rune) bool {
	return unicode.IsUpper(c) || unicode.IsLower(c) || unicode.IsTitle(c) ||
		unicode.In(c, unicode.Other_Uppercase, unicode.Other_Lowercase)
}

// caseIgnorable is Unicode's derived property Case_Ignorable: marks, format
// characters, modifiers, and punctuation that may stand inside a word.
func caseIgnorable(c rune) bool {
	return strings.ContainsRune("'.:·‘’․‧·՟״︓﹒﹕＇．：", c) ||
		unicode.In(c, unicode.Mn, unicode.Me, unicode.Cf, unicode.Lm, unicode.Sk)
}

// Round2 is round(x, 2) of a Python float: the decimal number of two places that
// is nearest to the exact value of x, ties (possible only where x is exact in
// binary, as 0.125) to the even digit.
func Round2(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return x
	}
	r, err := strconv.ParseFloat(strconv.FormatFloat(x, 'f', 2, 64), 64)
	if err != nil {
		return x // out of range: x is an integer already
	}
	return r
}

// NumpyRound2 is round(x, 2) of a numpy.float64, which scales, rounds to even and
// scales back, and so differs from Round2 where the product is inexact.
func NumpyRound2(x float64) float64 { return math.RoundToEven(x*100) / 100 }

// NumpyMean is numpy.mean of float64 values: pairwise summation in blocks of 128.
// The mean of nothing is NaN.
func NumpyMean(x []float64) float64 { return pairwise(x) / float64(len(x)) }

func pairwise(x []float64) float64 {
	n := len(x)
	if n > 128 {
		half := n / 2
		half -= half % 8
		return pairwise(x[:half]) + pairwise(x[half:])
	}
	if n < 8 {
		sum := 0.0
		for _, v := range x {
			sum += v
		}
		return sum
	}
	r := [8]float64(x[:8])
	i := 8
	for ; i+8 <= n; i += 8 {
		for k := range r {
			r[k] += x[i+k]
		}
	}
	sum := ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
	for ; i < n; i++ {
		sum += x[i]
	}
	return sum
}
