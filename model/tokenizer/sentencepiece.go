package tokenizer

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// pieceType is the type of a SentencePiece piece, in tokenizer.model and in GGUF alike.
type pieceType int32

const (
	pieceNormal pieceType = 1 + iota
	pieceUnknown
	pieceControl
	pieceUserDefined
	pieceUnused
	pieceByte
)

// piece is one entry of a SentencePiece vocabulary; its id is its place.
type piece struct {
	text  string
	score float32
	kind  pieceType
}

// sentencePiece is SentencePiece's BPE model (src/bpe_model.cc): any two neighbours whose concatenation is a piece may merge, the best
// score first. Its symbols are piece ids, and two kinds of stand-ins: a character that is no piece is ^rune, and a user-defined symbol,
// which never merges, is frozen + id.
type sentencePiece struct {
	pieces  []piece
	ids     map[string]int32 // of normal, user-defined and unused pieces
	ascii   [utf8.RuneSelf]int32
	pairs   *pairTable
	cache   *wordCache
	chunk   chunker
	user    matcher // user-defined symbols
	unk     int32
	byteID  [256]int32
	byBytes bool // unknown characters are spelt in bytes
	unused  bool // some pieces are unused: a merge into one is undone
}

const frozen = int32(1 << 29)

// maxPiece bounds the length of a piece, as all ways to cut it are listed; real ones stay below 200 bytes.
const maxPiece = 1024

func newSentencePiece(source string, pieces []piece, byteFallback bool) (*sentencePiece, error) {
	m := &sentencePiece{
		pieces: pieces, ids: make(map[string]int32, len(pieces)), cache: newWordCache(), chunk: newChunker(),
		unk: absent, byBytes: byteFallback,
	}
	if len(pieces) >= int(frozen) {
		return nil, fmt.Errorf("%s: %d pieces", source, len(pieces))
	}
	for b := range m.byteID {
		m.byteID[b] = absent
	}
	scores := make([]float32, 0, len(pieces))
	for i, p := range pieces {
		id := int32(i)
		switch p.kind {
		case pieceNormal, pieceUserDefined, pieceUnused:
			if !utf8.ValidString(p.text) {
				return nil, fmt.Errorf("%s: piece %d is not valid UTF-8: %q", source, i, p.text)
			}
			if p.text == "" || len(p.text) > maxPiece {
				return nil, fmt.Errorf("%s: piece %d has %d bytes, want 1 to %d", source, i, len(p.text), maxPiece)
			}
			if p.score != p.score {
				return nil, fmt.Errorf("%s: piece %d (%q) has no number for a score", source, i, p.text)
			}
			if _, dup := m.ids[p.text]; dup {
				return nil, fmt.Errorf("%s: piece %d (%q) is there twice", source, i, p.text)
			}
			m.ids[p.text] = id
			scores = append(scores, p.score)
			m.chunk.learn(p.text)
			if p.kind == pieceUserDefined {
				m.user.add(p.text, &addedToken{ID: id})
			}
			m.unused = m.unused || p.kind == pieceUnused
		case pieceUnknown:
			if m.unk != absent {
				return nil, fmt.Errorf("%s: pieces %d and %d are both the unknown one", source, m.unk, i)
			}
			m.unk = id
		case pieceByte:
			b, ok := byteToken(p.text)
			if !ok {
				return nil, fmt.Errorf("%s: piece %d is a byte but spelt %q", source, i, p.text)
			}
			m.byteID[b] = id
		case pieceControl:
		default:
			return nil, fmt.Errorf("%s: piece %d (%q) has the unknown type %d", source, i, p.text, p.kind)
		}
	}
	if m.unk == absent && !m.byBytes {
		return nil, fmt.Errorf("%s: there is neither an unknown piece nor byte fallback", source)
	}
	if m.byBytes {
		for b, id := range m.byteID {
			if id == absent {
				return nil, fmt.Errorf("%s: byte fallback is on, but the piece <0x%02X> is missing", source, b)
			}
		}
	}
	for b := range m.ascii {
		m.ascii[b] = m.char(string(rune(b)))
	}
	// Undoing looks at the last merges of the whole text; an unknown ▁ would fuse with its neighbours.
	_, known := m.ids[string(chunkMark)]
	m.chunk.off = m.unused || !known
	m.setPairs(scores)
	return m, nil
}

// setPairs lists every way to put a piece together from two symbols. The rank of a merge is the place of its score, best first.
func (m *sentencePiece) setPairs(scores []float32) {
	slices.SortFunc(scores, func(a, b float32) int {
		switch {
		case a > b:
			return -1
		case a < b:
			return 1
		}
		return 0
	})
	scores = slices.Compact(scores)
	ranks := make(map[float32]int32, len(scores))
	for i, s := range scores {
		ranks[s] = int32(i)
	}
	m.pairs = newPairTable(2 * len(m.ids))
	part := func(s string) (int32, bool) {
		if id, ok := m.ids[s]; ok {
			return id, true
		}
		// A single character may lack a piece of its own and yet be part of one.
		r, n := utf8.DecodeRuneInString(s)
		return ^r, n == len(s)
	}
	for text, id := range m.ids {
		for i := range text {
			if i == 0 {
				continue
			}
			left, ok := part(text[:i])
			if !ok {
				continue
			}
			if right, ok := part(text[i:]); ok {
				m.pairs.put(left, right, ranks[m.pieces[id].score], id)
			}
		}
	}
}

// char returns the symbol of one character.
func (m *sentencePiece) char(c string) int32 {
	if id, ok := m.ids[c]; ok {
		return id
	}
	r, _ := utf8.DecodeRuneInString(c)
	return ^r
}

func (m *sentencePiece) appendIDs(ids []int32, text string) []int32 {
	return m.chunk.each(text, m.word, ids)
}

func (m *sentencePiece) word(ids []int32, word string) []int32 {
	known, slot := m.cache.get(word)
	if known != nil {
		return append(ids, known...)
	}
	g := mergers.Get().(*merger)
	defer g.release()
	g.symbols = g.symbols[:0]
	for i := 0; i < len(word); {
		if m.user.root[word[i]] != 0 {
			if tok, end := m.user.longest(word, i); tok != nil {
				g.symbols = append(g.symbols, frozen+tok.ID)
				i = end
				continue
			}
		}
		if word[i] < utf8.RuneSelf {
			g.symbols = append(g.symbols, m.ascii[word[i]])
			i++
			continue
		}
		_, n := utf8.DecodeRuneInString(word[i:])
		g.symbols = append(g.symbols, m.char(word[i:i+n]))
		i += n
	}
	from := len(ids)
	if m.unused {
		parts := map[int32][2]int32{}
		g.run(m.pairs, func(id, left, right int32) {
			if m.pieces[id].kind == pieceUnused {
				parts[id] = [2]int32{left, right}
			}
		})
		for _, s := range g.symbols {
			ids = m.undo(ids, from, s, parts)
		}
	} else {
		g.run(m.pairs, nil)
		for _, s := range g.symbols {
			ids = m.appendSymbol(ids, from, s)
		}
	}
	if slot != nil {
		m.cache.put(slot, word, ids[from:])
	}
	return ids
}

// undo takes an unused piece apart again into what it was merged from.
func (m *sentencePiece) undo(ids []int32, from int, s int32, parts map[int32][2]int32) []int32 {
	if s >= 0 && s < frozen && m.pieces[s].kind == pieceUnused {
		if p, ok := parts[s]; ok {
			return m.undo(m.undo(ids, from, p[0], parts), from, p[1], parts)
		}
	}
	return m.appendSymbol(ids, from, s)
}

// appendSymbol appends the ids of one symbol. A run of unknown characters is one unknown token.
func (m *sentencePiece) appendSymbol(ids []int32, from int, s int32) []int32 {
	switch {
	case s >= frozen:
		return append(ids, s-frozen)
	case s >= 0:
		return append(ids, s)
	case m.byBytes:
		var buf [utf8.UTFMax]byte
		for _, b := range buf[:utf8.EncodeRune(buf[:], ^s)] {
			ids = append(ids, m.byteID[b])
		}
		return ids
	case len(ids) > from && ids[len(ids)-1] == m.unk:
		return ids
	}
	return append(ids, m.unk)
}

func (m *sentencePiece) fingerprint(h *fingerprint) {
	h.text("sentencepiece")
	h.ints(m.unk, bit(m.byBytes), int32(len(m.pieces)))
	for _, p := range m.pieces {
		h.text(fmt.Sprint(p.text, p.score))
		h.ints(int32(p.kind))
	}
}

// byteToken reads the spelling of a byte, <0xE4>.
func byteToken(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	digit := func(c byte) int {
		switch {
		case c >= '0' && c <= '9':
			return int(c - '0')
		case c >= 'A' && c <= 'F':
			return int(c-'A') + 10
		case c >= 'a' && c <= 'f':
			return int(c-'a') + 10
		}
		return -1
	}
	hi, lo := digit(s[3]), digit(s[4])
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0
}
