package jieba

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// packed is made by scripts/goldens/jieba_tables.py, which documents the layout.
//
//go:embed tables.bin.zst
var packed []byte

const (
	magic    = "jieba\x00\x00\x01"
	minFloat = -3.14e100 // finalseg.MIN_FLOAT: the log probability of what the HMM never saw
	hanFirst = 0x4E00    // the characters that jieba takes for Chinese
	hanLast  = 0x9FD5
)

// States of the HMM: a word's first, last and middle character, and a word of
// one character.
const (
	begin = iota
	end
	middle
	single
	states
)

type tables struct {
	unknown float64 // weight of a character that is no word
	weights []float64

	// The words in byte order, end to end in text; word i is
	// text[offset[i]:offset[i+1]] and weighs weights[weight[i]].
	text   []byte
	offset []uint32
	weight []uint16
	first  []uint32 // [rune] is the first word that starts with rune or a later one

	start [states]float64
	trans [states][states]float64 // [from][to]
	emit  [][states]float64       // [rune - hanFirst][state]
}

// load unpacks the tables once, at the first Cut.
var load = sync.OnceValue(func() *tables {
	t, err := unpack(packed)
	if err != nil {
		panic("jieba: embedded tables: " + err.Error()) // the build is broken, not the input
	}
	return t
})

func unpack(packed []byte) (*tables, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	raw, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, err
	}
	r := &reader{data: raw}
	if string(r.bytes(len(magic))) != magic {
		return nil, fmt.Errorf("bad magic")
	}
	t := &tables{unknown: r.float(), first: make([]uint32, math.MaxUint16+2)}
	t.weights = r.floats(r.count(8))
	if err := t.words(r); err != nil {
		return nil, err
	}
	copy(t.start[:], r.floats(states))
	for i := range t.trans {
		copy(t.trans[i][:], r.floats(states))
	}
	t.emit = make([][states]float64, hanLast-hanFirst+1)
	for i := range t.emit {
		t.emit[i] = [states]float64{minFloat, minFloat, minFloat, minFloat}
	}
	for state := range states {
		n := r.count(10)
		runes := r.bytes(2 * n)
		for i, p := range r.floats(n) {
			c := int(binary.LittleEndian.Uint16(runes[2*i:])) - hanFirst
			if c < 0 || c >= len(t.emit) {
				return nil, fmt.Errorf("emission of character U+%04X", c+hanFirst)
			}
			t.emit[c][state] = p
		}
	}
	if r.short || len(r.data) != 0 {
		return nil, fmt.Errorf("wrong length")
	}
	return t, nil
}

func (t *tables) words(r *reader) error {
	n := r.count(4)
	t.offset = make([]uint32, 1, n+1)
	t.weight = make([]uint16, 0, n)
	t.text = make([]byte, 0, 10*n)
	before := 0   // start of the word before
	var next rune // first[:next] is set
	for i := range n {
		head := r.bytes(2)
		if head == nil {
			break
		}
		from := len(t.text)
		if before+int(head[0]) > from {
			return fmt.Errorf("word %d: prefix longer than the word before", i)
		}
		t.text = append(t.text, t.text[before:before+int(head[0])]...)
		t.text = append(t.text, r.bytes(int(head[1]))...)
		w := r.bytes(2)
		if w == nil {
			break
		}
		weight := binary.LittleEndian.Uint16(w)
		if int(weight) >= len(t.weights) {
			return fmt.Errorf("word %d: weight %d of %d", i, weight, len(t.weights))
		}
		t.offset = append(t.offset, uint32(len(t.text)))
		t.weight = append(t.weight, weight)
		c, _ := utf8.DecodeRune(t.text[from:])
		for ; next <= min(c, math.MaxUint16); next++ {
			t.first[next] = uint32(i)
		}
		before = from
	}
	for ; int(next) < len(t.first); next++ {
		t.first[next] = uint32(len(t.weight))
	}
	return nil
}

// span is the run of words lo <= i < hi that begin with a prefix of size bytes.
type span struct{ lo, hi, size int }

// startingWith returns the words that begin with character c.
func (t *tables) startingWith(c rune) span {
	if c > math.MaxUint16 {
		return span{}
	}
	return span{int(t.first[c]), int(t.first[c+1]), utf8.RuneLen(c)}
}

// extend narrows s to the words whose prefix goes on with next.
func (t *tables) extend(s span, next string) span {
	lo := t.search(s.lo, s.hi, s.size, next, false)
	hi := t.search(lo, s.hi, s.size, next, true)
	return span{lo, hi, s.size + len(next)}
}

// search returns the first word in [lo, hi) whose bytes from skip on are not
// before next (or, with after, neither before next nor begun by it).
func (t *tables) search(lo, hi, skip int, next string, after bool) int {
	for lo < hi {
		m := (lo + hi) / 2
		tail := t.text[t.offset[m]+uint32(skip) : t.offset[m+1]]
		less := string(tail[:min(len(tail), len(next))]) < next
		if !less && after {
			less = len(tail) >= len(next) && string(tail[:len(next)]) == next
		}
		if less {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// whole reports whether the prefix of s is a word itself, and its weight.
func (t *tables) whole(s span) (weight float64, ok bool) {
	if s.lo == s.hi || int(t.offset[s.lo+1]-t.offset[s.lo]) != s.size {
		return 0, false
	}
	return t.weights[t.weight[s.lo]], true
}

// reader takes little-endian values off data; past its end it turns short and
// gives zeros.
type reader struct {
	data  []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.data) {
		r.short = true
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

// count reads a number of elements that take at least size bytes each.
func (r *reader) count(size int) int {
	b := r.bytes(4)
	if b == nil {
		return 0
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n > len(r.data)/size {
		r.short = true
		return 0
	}
	return n
}

func (r *reader) floats(n int) []float64 {
	b := r.bytes(8 * n)
	if b == nil {
		return nil
	}
	f := make([]float64, n)
	for i := range f {
		f[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
	}
	return f
}

func (r *reader) float() float64 {
	if f := r.floats(1); f != nil {
		return f[0]
	}
	return 0
}
