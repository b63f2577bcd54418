package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// absent marks a byte or character that the vocabulary lacks.
const absent = int32(-1 << 30)

// bpe is byte pair encoding as Hugging Face's BPE model does it: a word is cut into bytes or characters, and the pairs of the merge
// list merge, the earliest in the list first.
type bpe struct {
	pairs *pairTable
	cache *wordCache
	unk   int32 // or absent: what the vocabulary lacks is then dropped
	fuse  bool  // one unk for a run of unknown characters

	// Byte-level: the symbols are bytes.
	byteLevel bool
	byteID    [256]int32

	// Else the symbols are characters, and an unknown one is spelt in byte tokens if there are any.
	ascii        [utf8.RuneSelf]int32
	runes        map[rune]int32
	byteFallback bool
	chunk        chunker

	// whole maps words that are tokens as they stand (ignore_merges); nil if the merges must lead there.
	whole map[string]int32

	merges []int32 // left, right, ... in order, for the fingerprint
}

// bpeConfig is what a source knows of its BPE model.
type bpeConfig struct {
	vocab        map[string]int32
	merges       int                       // number of merges
	merge        func(i int) (a, b string) // one of them
	unknown      string                    // "" for none
	fuse         bool                      // fuse_unk
	byteFallback bool                      // byte_fallback
	byteLevel    bool                      // the words come as bytes
	ignoreMerges bool                      // ignore_merges
}

func newBPE(source string, c bpeConfig) (*bpe, error) {
	m := &bpe{
		pairs: newPairTable(c.merges), cache: newWordCache(), unk: absent, fuse: c.fuse,
		byteLevel: c.byteLevel, byteFallback: c.byteFallback,
		merges: make([]int32, 0, 2*c.merges),
	}
	if c.unknown != "" {
		id, ok := c.vocab[c.unknown]
		if !ok {
			return nil, fmt.Errorf("%s: the unknown token %q is not in the vocabulary", source, c.unknown)
		}
		m.unk = id
	}
	find := func(s string) int32 {
		if id, ok := c.vocab[s]; ok {
			return id
		}
		return absent
	}
	if c.byteLevel {
		for b := range m.byteID {
			m.byteID[b] = find(string(byteRunes[b]))
		}
	} else {
		m.runes = map[rune]int32{}
		for b := range m.ascii {
			m.ascii[b] = find(string(rune(b)))
		}
		for token, id := range c.vocab {
			if r, n := utf8.DecodeRuneInString(token); n == len(token) && n > 1 {
				m.runes[r] = id
			}
		}
		for b := range m.byteID {
			m.byteID[b] = find(fmt.Sprintf("<0x%02X>", b))
		}
	}
	fallback := map[int32]bool{}
	if !c.byteLevel && c.byteFallback {
		for _, id := range m.byteID {
			fallback[id] = true
		}
	}
	m.chunk = newChunker()
	if m.char(chunkMark) == absent {
		m.chunk.off = true // it would be unknown, and fuse with its neighbours
	}
	for i := range c.merges {
		a, b := c.merge(i)
		left, right, id := find(a), find(b), find(a+b)
		if left == absent || right == absent || id == absent {
			return nil, fmt.Errorf("%s: merge %d (%q %q): a part or the result is not in the vocabulary", source, i, a, b)
		}
		m.pairs.put(left, right, int32(i), id)
		m.merges = append(m.merges, left, right)
		if !c.byteLevel {
			if fallback[left] || fallback[right] {
				m.chunk.off = true // byte tokens merge: their spelling says nothing of the characters beside them
			}
			m.chunk.learn(a + b)
		}
	}
	if c.ignoreMerges {
		m.whole = make(map[string]int32, len(c.vocab))
		var buf []byte
		for token, id := range c.vocab {
			if c.byteLevel {
				buf = bytesOf(buf[:0], token)
				token = string(buf)
			}
			m.whole[token] = id
		}
	}
	return m, nil
}

func (m *bpe) char(r rune) int32 {
	if r < utf8.RuneSelf {
		return m.ascii[r]
	}
	if id, ok := m.runes[r]; ok {
		return id
	}
	return absent
}

func (m *bpe) appendIDs(ids []int32, word string) []int32 {
	known, slot := m.cache.get(word)
	if known != nil {
		return append(ids, known...)
	}
	from := len(ids)
	if id, ok := m.whole[word]; ok {
		ids = append(ids, id)
	} else if m.byteLevel {
		ids = m.mergeBytes(ids, word)
	} else if slot != nil {
		ids = m.mergeChars(ids, word)
	} else {
		return m.chunk.each(word, func(ids []int32, part string) []int32 {
			known, slot := m.cache.get(part)
			if known != nil && m.whole == nil {
				return append(ids, known...)
			}
			from := len(ids)
			ids = m.mergeChars(ids, part)
			if slot != nil && m.whole == nil && len(ids) > from {
				m.cache.put(slot, part, ids[from:])
			}
			return ids
		}, ids)
	}
	if slot != nil && len(ids) > from {
		m.cache.put(slot, word, ids[from:])
	}
	return ids
}

func (m *bpe) mergeBytes(ids []int32, word string) []int32 {
	g := mergers.Get().(*merger)
	defer g.release()
	g.symbols = g.symbols[:0]
	unknown := false
	for i := range len(word) {
		id := m.byteID[word[i]]
		if id != absent {
			unknown = false
			g.symbols = append(g.symbols, id)
		} else if m.unk != absent && !(unknown && m.fuse) {
			unknown = true
			g.symbols = append(g.symbols, m.unk)
		}
	}
	g.run(m.pairs, nil)
	return append(ids, g.symbols...)
}

func (m *bpe) mergeChars(ids []int32, word string) []int32 {
	g := mergers.Get().(*merger)
	defer g.release()
	g.symbols = g.symbols[:0]
	unknown := false
	for i, r := range word {
		if id := m.char(r); id != absent {
			unknown = false
			g.symbols = append(g.symbols, id)
			continue
		}
		bytes := word[i : i+utf8.RuneLen(r)]
		if m.byteFallback && m.spelt(bytes) {
			for k := range len(bytes) {
				g.symbols = append(g.symbols, m.byteID[bytes[k]])
			}
			unknown = false
		} else if m.unk != absent && !(unknown && m.fuse) {
			unknown = true
			g.symbols = append(g.symbols, m.unk)
		}
	}
	g.run(m.pairs, nil)
	return append(ids, g.symbols...)
}

// spelt says whether there is a byte token for each byte.
func (m *bpe) spelt(bytes string) bool {
	for i := range len(bytes) {
		if m.byteID[bytes[i]] == absent {
			return false
		}
	}
	return true
}

func (m *bpe) fingerprint(h *fingerprint) {
	h.text("bpe")
	h.ints(m.unk, bit(m.fuse), bit(m.byteLevel), bit(m.byteFallback), bit(m.whole != nil), int32(len(m.merges)))
	h.ints(m.merges...)
}

// chunkMark is SentencePiece's visible space.
const chunkMark = '▁'

// chunker cuts text without pre-tokenizer into words that cannot merge with each other: before a ▁ whose left neighbour never stands
// before a ▁ within a token. Merging the parts one by one then gives the same tokens as merging the whole, and words can be cached.
type chunker struct {
	off    bool
	joined map[rune]bool // the characters that stand before a ▁ in some token
}

func newChunker() chunker { return chunker{joined: map[rune]bool{}} }

// learn notes the characters that stand before a ▁ in token.
func (c *chunker) learn(token string) {
	for i := 0; ; {
		k := strings.Index(token[i:], string(chunkMark))
		if k < 0 {
			return
		}
		if k += i; k > 0 {
			r, _ := utf8.DecodeLastRuneInString(token[:k])
			c.joined[r] = true
		}
		i = k + len(string(chunkMark))
	}
}

// each calls f for each part of s.
func (c *chunker) each(s string, f func(ids []int32, part string) []int32, ids []int32) []int32 {
	if c.off {
		return f(ids, s)
	}
	const mark = string(chunkMark)
	start := 0
	for i := 0; ; {
		k := strings.Index(s[i:], mark)
		if k < 0 {
			break
		}
		k += i
		i = k + len(mark)
		if k == start {
			continue
		}
		if r, _ := utf8.DecodeLastRuneInString(s[:k]); c.joined[r] {
			continue
		}
		ids = f(ids, s[start:k])
		start = k
	}
	return f(ids, s[start:])
}
