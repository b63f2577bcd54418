package tokenizer

import (
	"math/bits"
	"sync"
)

// pairTable maps a pair of adjacent symbols to the symbol they merge into and the merge's rank (lower merges first). It is an open
// hash table: lookups are most of the cost of encoding.
type pairTable struct {
	slots []pairSlot
	shift int
	used  int
}

type pairSlot struct {
	key      uint64 // left<<32 | right; emptyPair if the slot is free
	rank, id int32
}

const emptyPair = ^uint64(0)

func pairKey(left, right int32) uint64 { return uint64(uint32(left))<<32 | uint64(uint32(right)) }

// newPairTable returns a table for n pairs.
func newPairTable(n int) *pairTable {
	size := max(bits.Len(uint(n)), 3) + 1
	t := &pairTable{slots: make([]pairSlot, 1<<size), shift: 64 - size}
	for i := range t.slots {
		t.slots[i].key = emptyPair
	}
	return t
}

func (t *pairTable) slot(key uint64) *pairSlot {
	i := (key * 0x9E3779B97F4A7C15) >> t.shift
	for {
		s := &t.slots[i&uint64(len(t.slots)-1)]
		if s.key == key || s.key == emptyPair {
			return s
		}
		i++
	}
}

// put sets a pair; the last one put stands, as in Hugging Face's BPE builder.
func (t *pairTable) put(left, right, rank, id int32) {
	s := t.slot(pairKey(left, right))
	if s.key == emptyPair {
		if t.used++; 2*t.used > len(t.slots) {
			t.grow()
			s = t.slot(pairKey(left, right))
		}
	}
	*s = pairSlot{pairKey(left, right), rank, id}
}

func (t *pairTable) grow() {
	old := t.slots
	t.slots, t.shift = make([]pairSlot, 2*len(old)), t.shift-1
	for i := range t.slots {
		t.slots[i].key = emptyPair
	}
	for _, s := range old {
		if s.key != emptyPair {
			*t.slot(s.key) = s
		}
	}
}

func (t *pairTable) get(left, right int32) (rank, id int32, ok bool) {
	s := t.slot(pairKey(left, right))
	return s.rank, s.id, s.key != emptyPair
}

// merger merges adjacent symbols by rank, the leftmost of equal rank first, until no pair of the table is left.
type merger struct {
	symbols []int32 // in, and out
	best    []pairSlot
	next    []int32
	prev    []int32
	heap    []candidate
}

var mergers = sync.Pool{New: func() any { return new(merger) }}

// maxKeep is the largest scratch that goes back to the pool.
const maxKeep = 1 << 16

func (m *merger) release() {
	if cap(m.symbols) <= maxKeep {
		mergers.Put(m)
	}
}

// fewSymbols is where the heap begins to pay.
const fewSymbols = 48

// run merges m.symbols in place. merged, if not nil, hears of every pair that came up with its merge.
func (m *merger) run(t *pairTable, merged func(id, left, right int32)) {
	if len(m.symbols) < 2 {
		return
	}
	if len(m.symbols) <= fewSymbols && merged == nil {
		m.runFew(t)
		return
	}
	m.runHeap(t, merged)
}

// runFew looks for the best pair by going through all of them.
func (m *merger) runFew(t *pairTable) {
	const none = int32(1<<31 - 1)
	syms := m.symbols
	if cap(m.best) < fewSymbols {
		m.best = make([]pairSlot, fewSymbols)
	}
	best := m.best[:len(syms)-1] // best[i] is the merge of syms[i] and syms[i+1]
	look := func(i int) {
		best[i].rank = none
		if rank, id, ok := t.get(syms[i], syms[i+1]); ok {
			best[i].rank, best[i].id = rank, id
		}
	}
	for i := range best {
		look(i)
	}
	for {
		at, low := -1, none
		for i := range best {
			if best[i].rank < low {
				at, low = i, best[i].rank
			}
		}
		if at < 0 {
			break
		}
		syms[at] = best[at].id
		syms = append(syms[:at+1], syms[at+2:]...)
		copy(best[at:], best[at+1:])
		best = best[:len(best)-1]
		if at < len(best) {
			look(at)
		}
		if at > 0 {
			look(at - 1)
		}
	}
	m.symbols = syms
}

// candidate is a merge that was possible when it entered the heap.
type candidate struct {
	rank, at, id int32
}

func (a candidate) before(b candidate) bool {
	return a.rank < b.rank || a.rank == b.rank && a.at < b.at
}

// dead marks a symbol that was merged into its left neighbour.
const dead = int32(-1 << 31)

// runHeap keeps the possible merges in a heap and the symbols in a linked list: n log n for a word of n symbols. An entry whose
// symbols have changed since is dropped when it comes up, which shows in the merge having another result.
func (m *merger) runHeap(t *pairTable, merged func(id, left, right int32)) {
	syms := m.symbols
	n := int32(len(syms))
	if cap(m.next) < len(syms) {
		m.next, m.prev = make([]int32, n), make([]int32, n)
	}
	next, prev := m.next[:n], m.prev[:n]
	for i := range n {
		next[i], prev[i] = i+1, i-1
	}
	h := m.heap[:0]
	push := func(i int32) {
		if i < 0 || next[i] >= n {
			return
		}
		left, right := syms[i], syms[next[i]]
		rank, id, ok := t.get(left, right)
		if !ok {
			return
		}
		if merged != nil {
			merged(id, left, right)
		}
		c := candidate{rank, i, id}
		h = append(h, c)
		k := len(h) - 1
		for k > 0 {
			up := (k - 1) / 2
			if !c.before(h[up]) {
				break
			}
			h[k] = h[up]
			k = up
		}
		h[k] = c
	}
	for i := range n - 1 {
		push(i)
	}
	for len(h) > 0 {
		top := h[0]
		last := h[len(h)-1]
		h = h[:len(h)-1]
		if len(h) > 0 {
			k := 0
			for {
				c := 2*k + 1
				if c >= len(h) {
					break
				}
				if c+1 < len(h) && h[c+1].before(h[c]) {
					c++
				}
				if !h[c].before(last) {
					break
				}
				h[k] = h[c]
				k = c
			}
			h[k] = last
		}
		i := top.at
		j := next[i]
		if syms[i] == dead || j >= n {
			continue
		}
		if _, id, ok := t.get(syms[i], syms[j]); !ok || id != top.id {
			continue
		}
		syms[i], syms[j] = top.id, dead
		next[i] = next[j]
		if next[j] < n {
			prev[next[j]] = i
		}
		push(prev[i])
		push(i)
	}
	m.heap = h
	out := syms[:0]
	for i := int32(0); i < n; i = next[i] {
		out = append(out, syms[i])
	}
	m.symbols = out
}
