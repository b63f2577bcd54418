package tokenizer

import (
	"slices"
	"unicode"
	"unicode/utf8"
)

// addedToken is a token that is looked for in the text before anything else, with the flags of Hugging Face's AddedToken.
type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // only where no word character touches it
	LStrip     bool   `json:"lstrip"`      // takes the white space before it along
	RStrip     bool   `json:"rstrip"`      // and after it
	Normalized bool   `json:"normalized"`  // looked for in the normalised text
	Special    bool   `json:"special"`
}

// addedTokens finds a tokenizer's added tokens in two passes: in the raw text, and in the normalised text between those.
type addedTokens struct {
	list            []addedToken
	special         map[int32]bool
	raw, normalized matcher
}

// setAdded builds the matchers. The content of a normalised token is itself normalised, as the text it is looked for in, and that is
// also what the token decodes to.
func (t *Tokenizer) setAdded(list []addedToken) {
	a := addedTokens{list: slices.Clone(list), special: map[int32]bool{}}
	slices.SortStableFunc(a.list, func(x, y addedToken) int { return int(x.ID) - int(y.ID) })
	for i := range a.list {
		tok := &a.list[i]
		if tok.Special {
			a.special[tok.ID] = true
		}
		if !tok.Normalized {
			a.raw.add(tok.Content, tok)
			continue
		}
		content := tok.Content
		for _, n := range t.normalize {
			content = n.apply(content)
		}
		a.normalized.add(content, tok)
		t.tokens[tok.ID] = content
	}
	t.added = a
}

// matcher finds the leftmost longest of a set of strings with a trie of bytes.
type matcher struct {
	root  [256]int32       // node after the first byte, 0 if no string begins with it
	edges map[uint64]int32 // node<<8 | byte -> node
	token []*addedToken    // the token that ends at a node
}

func (m *matcher) add(content string, tok *addedToken) {
	if content == "" {
		return
	}
	if m.edges == nil {
		m.edges, m.token = map[uint64]int32{}, []*addedToken{nil}
	}
	node := int32(0)
	for i := range len(content) {
		next := m.step(node, content[i])
		if next == 0 {
			next = int32(len(m.token))
			m.token = append(m.token, nil)
			if i == 0 {
				m.root[content[0]] = next
			} else {
				m.edges[uint64(node)<<8|uint64(content[i])] = next
			}
		}
		node = next
	}
	m.token[node] = tok
}

func (m *matcher) step(node int32, b byte) int32 {
	if node == 0 {
		return m.root[b]
	}
	return m.edges[uint64(node)<<8|uint64(b)]
}

// longest returns the longest string of the set that begins at text[i].
func (m *matcher) longest(text string, i int) (tok *addedToken, end int) {
	node := m.root[text[i]]
	for j := i + 1; node != 0; j++ {
		if m.token[node] != nil {
			tok, end = m.token[node], j
		}
		if j == len(text) {
			break
		}
		node = m.step(node, text[j])
	}
	return tok, end
}

// split calls emit for each added token in text (its id) and each stretch between them (id -1), in order. Special tokens are left in
// the text when special is false. It follows AddedVocabulary::find_matches of Hugging Face's tokenizers, where a match that is turned
// down (not a single word, or special) still covers its bytes.
func (m *matcher) split(text string, special bool, emit func(id int32, start, end int)) {
	from := 0
	if m.edges != nil {
		for i := 0; i < len(text); {
			if m.root[text[i]] == 0 {
				i++
				continue
			}
			tok, end := m.longest(text, i)
			if tok == nil {
				i++
				continue
			}
			start, stop := i, end
			i = end
			if tok.Special && !special {
				continue
			}
			if tok.SingleWord && (wordBefore(text[:start]) || wordAfter(text[stop:])) {
				continue
			}
			if tok.LStrip {
				start = max(trimSpaceRight(text[:start]), from)
			}
			if tok.RStrip {
				stop += spacesAtStart(text[stop:])
			}
			if from < start {
				emit(-1, from, start)
			}
			emit(tok.ID, start, stop)
			from = stop
		}
	}
	if from < len(text) {
		emit(-1, from, len(text))
	}
}

// isWord is \w of Rust's regex: letters, marks, decimal digits, connector punctuation and joiners.
func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}

func wordBefore(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func wordAfter(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}

// trimSpaceRight returns the length of s without the white space at its end.
func trimSpaceRight(s string) int {
	for len(s) > 0 {
		r, n := utf8.DecodeLastRuneInString(s)
		if !unicode.IsSpace(r) {
			break
		}
		s = s[:len(s)-n]
	}
	return len(s)
}

// spacesAtStart returns the length of the white space at the start of s.
func spacesAtStart(s string) int {
	for i, r := range s {
		if !unicode.IsSpace(r) {
			return i
		}
	}
	return len(s)
}
