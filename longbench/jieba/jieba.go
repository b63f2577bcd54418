// Package jieba cuts Chinese text into words exactly as Python's jieba 0.42.1
// does in its default mode, jieba.cut(text, cut_all=False, HMM=True).
//
// A run of Chinese characters, ASCII letters, digits and "+#&._%-" is cut along
// the most probable path through the dictionary words it contains; the single
// characters that this leaves are joined to words unknown to the dictionary by a
// hidden Markov model. White space and everything else stay single characters.
//
// The dictionary and the model's tables are jieba's own (see LICENSE.jieba),
// embedded; they are unpacked at the first call.
package jieba

import (
	"unicode"
)

// Cut returns the words of text in order; joined, they give text again. text
// must be valid UTF-8.
func Cut(text string) []string {
	t := load()
	var words []string
	runes := []rune(text)
	for i := 0; i < len(runes); {
		from, word := i, inWord(runes[i])
		for i < len(runes) && inWord(runes[i]) == word {
			i++
		}
		if word {
			words = newBlock(t, runes[from:i]).cut(words)
		} else {
			words = cutOther(runes[from:i], words)
		}
	}
	return words
}

// inWord is jieba's re_han_default.
func inWord(c rune) bool {
	if c < unicode.MaxASCII {
		switch c {
		case '+', '#', '&', '.', '_', '%', '-':
			return true
		}
		return alphanumeric(c)
	}
	return han(c)
}

func han(c rune) bool { return c >= hanFirst && c <= hanLast }

func alphanumeric(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || digit(c)
}

func digit(c rune) bool { return '0' <= c && c <= '9' }

// cutOther cuts between all characters but those of "\r\n", which jieba's
// re_skip_default takes as one.
func cutOther(runes []rune, words []string) []string {
	for i := 0; i < len(runes); i++ {
		if runes[i] == '\r' && i+1 < len(runes) && runes[i+1] == '\n' {
			words = append(words, "\r\n")
			i++
			continue
		}
		words = append(words, string(runes[i]))
	}
	return words
}

// block is a run of characters that dictionary words may cover.
type block struct {
	*tables
	runes []rune
	text  string
	at    []int // [i] is the byte offset of runes[i] in text; at[len(runes)] its end
}

func newBlock(t *tables, runes []rune) *block {
	b := &block{tables: t, runes: runes, text: string(runes), at: make([]int, len(runes)+1)}
	i := 0
	for offset := range b.text {
		b.at[i] = offset
		i++
	}
	b.at[i] = len(b.text)
	return b
}

func (b *block) slice(from, to int) string { return b.text[b.at[from]:b.at[to]] }

// cut is jieba's __cut_DAG.
func (b *block) cut(words []string) []string {
	ends := b.route()
	pending := 0 // runes[pending:i] are single characters not yet given out
	for i := 0; i < len(b.runes); {
		to := ends[i]
		if to-i > 1 {
			words = b.flush(pending, i, words)
			words = append(words, b.slice(i, to))
			pending = to
		}
		i = to
	}
	return b.flush(pending, len(b.runes), words)
}

// route returns, for every character, where the first word of the most probable
// path from there on ends (exclusive): jieba's get_DAG and calc.
func (b *block) route() []int {
	n := len(b.runes)
	best := make([]float64, n+1) // log probability of the best path from i to the end
	ends := make([]int, n)
	for i := n - 1; i >= 0; i-- {
		s := b.startingWith(b.runes[i])
		for to := i + 1; s.lo < s.hi; to++ {
			if w, ok := b.whole(s); ok {
				// Python takes the greatest (log probability, end): the longer
				// word wins a tie.
				if p := w + best[to]; ends[i] == 0 || p >= best[i] {
					best[i], ends[i] = p, to
				}
			}
			if to == n {
				break
			}
			s = b.extend(s, b.slice(to, to+1))
		}
		if ends[i] == 0 {
			best[i], ends[i] = b.unknown+best[i+1], i+1
		}
	}
	return ends
}

// flush gives out the single characters runes[from:to]: to the HMM, unless they
// are a dictionary word, which the most probable path has split on purpose.
func (b *block) flush(from, to int, words []string) []string {
	if to-from < 2 {
		if from < to {
			words = append(words, b.slice(from, to))
		}
		return words
	}
	s := b.startingWith(b.runes[from])
	for i := from + 1; i < to && s.lo < s.hi; i++ {
		s = b.extend(s, b.slice(i, i+1))
	}
	if _, ok := b.whole(s); !ok || s.size != b.at[to]-b.at[from] {
		return b.cutUnknown(from, to, words)
	}
	for i := from; i < to; i++ {
		words = append(words, b.slice(i, i+1))
	}
	return words
}

// cutUnknown is jieba.finalseg.cut: Chinese by the HMM, the rest by the
// expression [a-zA-Z0-9]+(?:\.\d+)?%?, whose matches and gaps are words.
func (b *block) cutUnknown(from, to int, words []string) []string {
	for i := from; i < to; {
		at, chinese := i, han(b.runes[i])
		for i < to && han(b.runes[i]) == chinese {
			i++
		}
		if chinese {
			words = b.viterbi(at, i, words)
		} else {
			words = b.cutLatin(at, i, words)
		}
	}
	return words
}

func (b *block) cutLatin(from, to int, words []string) []string {
	gap := from
	for i := from; i < to; {
		if !alphanumeric(b.runes[i]) {
			i++
			continue
		}
		if gap < i {
			words = append(words, b.slice(gap, i))
		}
		at := i
		for i < to && alphanumeric(b.runes[i]) {
			i++
		}
		if i+1 < to && b.runes[i] == '.' && digit(b.runes[i+1]) {
			for i++; i < to && digit(b.runes[i]); {
				i++
			}
		}
		if i < to && b.runes[i] == '%' {
			i++
		}
		words = append(words, b.slice(at, i))
		gap = i
	}
	if gap < to {
		words = append(words, b.slice(gap, to))
	}
	return words
}

// before holds the two states that can come before each state (PrevStatus), the
// one whose letter is the greater first: Python's max breaks a tie of
// probabilities by the letter.
var before = [states][2]int{
	begin:  {single, end},
	end:    {middle, begin},
	middle: {middle, begin},
	single: {single, end},
}

// viterbi cuts the Chinese characters runes[from:to] along the HMM's most
// probable state sequence (finalseg.viterbi and __cut).
func (b *block) viterbi(from, to int, words []string) []string {
	n := to - from
	back := make([][states]uint8, n)
	var p [states]float64
	for s := range p {
		p[s] = b.start[s] + b.emit[b.runes[from]-hanFirst][s]
	}
	for i := 1; i < n; i++ {
		emit := &b.emit[b.runes[from+i]-hanFirst]
		var next [states]float64
		for s := range next {
			x, y := before[s][0], before[s][1]
			px, py := p[x]+b.trans[x][s]+emit[s], p[y]+b.trans[y][s]+emit[s]
			if px >= py {
				next[s], back[i][s] = px, uint8(x)
			} else {
				next[s], back[i][s] = py, uint8(y)
			}
		}
		p = next
	}
	path := make([]uint8, n)
	state := uint8(end)
	if p[single] >= p[end] {
		state = single
	}
	for i := n - 1; i >= 0; i-- {
		path[i] = state
		state = back[i][state]
	}
	// A sequence that never ends a word it began gives the rest as one word, as
	// upstream does.
	wordAt, given := from, from
	for i, state := range path {
		switch state {
		case begin:
			wordAt = from + i
		case end:
			words = append(words, b.slice(wordAt, from+i+1))
			given = from + i + 1
		case single:
			words = append(words, b.slice(from+i, from+i+1))
			given = from + i + 1
		}
	}
	if given < to {
		words = append(words, b.slice(given, to))
	}
	return words
}
