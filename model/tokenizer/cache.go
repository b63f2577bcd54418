package tokenizer

import (
	"hash/maphash"
	"sync/atomic"
)

// wordCache remembers the tokens of the words met lately: text repeats its words, and a look-up costs a tenth of the merges. It is a
// table of fixed size in which a word evicts the one before it in its slot, so memory stays bounded and no lock is needed.
type wordCache struct {
	seed  maphash.Seed
	slots [cacheSlots]atomic.Pointer[cachedWord]
}

const (
	cacheSlots = 1 << 15
	maxCached  = 48 // bytes; longer words seldom come back
)

type cachedWord struct {
	word string
	ids  []int32
}

func newWordCache() *wordCache { return &wordCache{seed: maphash.MakeSeed()} }

// get returns the tokens of word if they are known, and the slot where put may leave them (nil for a word too long to keep).
func (c *wordCache) get(word string) (ids []int32, slot *atomic.Pointer[cachedWord]) {
	if len(word) > maxCached {
		return nil, nil
	}
	slot = &c.slots[maphash.String(c.seed, word)%cacheSlots]
	if w := slot.Load(); w != nil && w.word == word {
		return w.ids, slot
	}
	return nil, slot
}

// put keeps copies of word and ids.
func (c *wordCache) put(slot *atomic.Pointer[cachedWord], word string, ids []int32) {
	slot.Store(&cachedWord{string([]byte(word)), append(make([]int32, 0, len(ids)), ids...)})
}
