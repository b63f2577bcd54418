package tokenizer

import (
	"unicode/utf8"
)

// The split patterns of tokenizer.json need look-ahead, which Go's regexp lacks, so each known pattern has a scanner by hand: a
// function that returns where the match that begins at s[i] ends (every pattern here matches at every position).

// scanPatterns are the split patterns by their text in tokenizer.json.
var scanPatterns = map[string]splitter{
	// GPT-2, also what ByteLevel with use_regex splits by.
	gpt2Pattern: scanSplitter("gpt2", scanGPT2),
	// Llama 3.
	llama3Pattern: scanSplitter("llama3", func(s string, i int) int { return scanWords(s, i, 3) }),
	// Qwen 2, 2.5 and 3.
	qwen2Pattern: scanSplitter("qwen2", func(s string, i int) int { return scanWords(s, i, 1) }),
	// Mistral Nemo and later.
	tekkenPattern: scanSplitter("tekken", scanTekken),
}

// runPatterns are split patterns that match runs of a set of characters and leave the rest as it is.
var runPatterns = map[string]splitter{
	`[\p{P}\$\+<=>\^~\|]+`: runSplitter("punctuation", isPunctuation, 0),
	`\p{N}+`:               runSplitter("numbers", isNumber, 0),
	`\p{N}`:                runSplitter("numbers", isNumber, 1),
	`\p{N}{1,3}`:           runSplitter("numbers", isNumber, 3),
	`[0-9][0-9][0-9]`:      {"three digits", threeDigits},
}

const (
	gpt2Pattern   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Pattern  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	tekkenPattern = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// contraction returns the length of 's, 't, 're, 've, 'm, 'll or 'd at s[i], or 0. With fold it ignores case, where Unicode's case
// folding lets the long s (U+017F) stand for s.
func contraction(s string, i int, fold bool) int {
	if s[i] != '\'' || i+1 == len(s) {
		return 0
	}
	lower := func(c byte) byte {
		if fold && c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		return c
	}
	second := byte(0)
	if i+2 < len(s) {
		second = lower(s[i+2])
	}
	switch lower(s[i+1]) {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if second == 'e' {
			return 3
		}
	case 'l':
		if second == 'l' {
			return 3
		}
	case 0xC5: // ſ is C5 BF
		if fold && i+2 < len(s) && s[i+2] == 0xBF {
			return 3
		}
	}
	return 0
}

// scanGPT2 matches gpt2Pattern.
func scanGPT2(s string, i int) int {
	if k := contraction(s, i, false); k > 0 {
		return i + k
	}
	j := i
	if s[i] == ' ' {
		j++
	}
	if j < len(s) {
		if c, n := classAt(s, j); c != space {
			return runOf(s, j+n, c)
		}
	}
	return scanSpace(s, i, runOf(s, i, space))
}

// scanWords matches llama3Pattern (digits 3) and qwen2Pattern (digits 1).
func scanWords(s string, i, digits int) int {
	if k := contraction(s, i, true); k > 0 {
		return i + k
	}
	c, n := classAt(s, i)
	if c == letter {
		return runOf(s, i+n, letter)
	}
	if c == number {
		return scanDigits(s, i+n, digits-1)
	}
	if s[i] != '\r' && s[i] != '\n' {
		if e := runOf(s, i+n, letter); e > i+n {
			return e
		}
	}
	return scanRest(s, i, c, "\r\n")
}

// scanDigits extends a match of numbers by up to n more.
func scanDigits(s string, i, n int) int {
	for ; n > 0 && i < len(s); n-- {
		c, k := classAt(s, i)
		if c != number {
			break
		}
		i += k
	}
	return i
}

// scanRest matches ` ?[^\s\p{L}\p{N}]+[tail]*|\s*[\r\n]+|\s+(?!\S)|\s+` at s[i], which has class c.
func scanRest(s string, i int, c class, tail string) int {
	j := i
	if s[i] == ' ' && i+1 < len(s) {
		j++
		c, _ = classAt(s, j)
	}
	if c == other {
		e := runOf(s, j, other)
		for e < len(s) && (s[e] == tail[0] || s[e] == tail[1] || len(tail) > 2 && s[e] == tail[2]) {
			e++
		}
		return e
	}
	end := runOf(s, i, space)
	for e := end; e > i; e-- {
		if s[e-1] == '\r' || s[e-1] == '\n' {
			return e
		}
	}
	return scanSpace(s, i, end)
}

// scanSpace matches `\s+(?!\S)|\s+` on the white space s[i:end]: all of it at the end of the text, else all but its last rune.
func scanSpace(s string, i, end int) int {
	if end == len(s) {
		return end
	}
	_, n := utf8.DecodeLastRuneInString(s[i:end])
	if end-n > i {
		return end - n
	}
	return end
}

// scanTekken matches tekkenPattern.
func scanTekken(s string, i int) int {
	c, n := classAt(s, i)
	if s[i] != '\r' && s[i] != '\n' && c != letter && c != number {
		// The optional first character is taken if the rest of the alternative matches after it, else the alternative is tried without.
		if e := casedWord(s, i+n, true); e > 0 {
			return e
		}
		if e := casedWord(s, i, true); e > 0 {
			return e
		}
		if e := casedWord(s, i+n, false); e > 0 {
			return e
		}
		if e := casedWord(s, i, false); e > 0 {
			return e
		}
	} else if c == letter {
		if e := casedWord(s, i, true); e > 0 {
			return e
		}
		return casedWord(s, i, false)
	}
	if c == number {
		return i + n
	}
	return scanRest(s, i, c, "\r\n/")
}

// casedWord matches `upper*lower+` (needLower) or `upper+lower*` at s[i] and returns the end, or -1. upper is
// [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], lower [\p{Ll}\p{Lm}\p{Lo}\p{M}]; what is in both (Lm, Lo, M) makes the first backtrack.
func casedWord(s string, i int, needLower bool) int {
	upperEnd, both := i, -1 // both: the last position within the upper run whose rune is in lower too
	for upperEnd < len(s) {
		r, n := utf8.DecodeRuneInString(s[upperEnd:])
		up, low := letterCase(r)
		if !up {
			break
		}
		if low {
			both = upperEnd
		}
		upperEnd += n
	}
	end := upperEnd
	for end < len(s) {
		r, n := utf8.DecodeRuneInString(s[end:])
		if _, low := letterCase(r); !low {
			break
		}
		end += n
	}
	switch {
	case !needLower && upperEnd == i, needLower && end == upperEnd && both < 0:
		return -1
	case needLower && end == upperEnd:
		// lower+ takes the last rune that is in both sets; what follows it in the upper run is in upper only.
		_, n := utf8.DecodeRuneInString(s[both:])
		return both + n
	}
	return end
}
