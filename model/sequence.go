package model

import (
	"fmt"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// Sequence is one text in work: the cache of its tokens' keys and values, and
// what a selector keeps of them.
type Sequence struct {
	Cache *kernels.Cache
	Index *kernels.Index // nil while attention is dense
}

// NewSequence allocates an empty sequence for up to capacity tokens. cacheType
// is BF16 or F32.
func (m *Model) NewSequence(capacity int, cacheType dtype.Type) (*Sequence, error) {
	c, err := m.Device.NewCache(kernels.CacheSpec{
		Layers: m.Layers, KVHeads: m.KVHeads, HeadDim: m.HeadDim, Capacity: capacity, Type: cacheType,
	})
	if err != nil {
		return nil, err
	}
	return &Sequence{Cache: c}, nil
}

// Len is the number of tokens held.
func (s *Sequence) Len() int { return s.Cache.Len }

// Rewind forgets all but the first n tokens.
func (s *Sequence) Rewind(n int) error {
	if n < 0 || n > s.Cache.Len {
		return fmt.Errorf("rewind to %d tokens of %d", n, s.Cache.Len)
	}
	s.Cache.Len = n
	return nil
}

// Fork is a copy of the sequence's tokens and index that goes its own way:
// several continuations of one text can then be decoded together.
func (m *Model) Fork(s *Sequence) (*Sequence, error) {
	f, err := m.NewSequence(s.Cache.Capacity, s.Cache.Type)
	if err != nil {
		return nil, err
	}
	copyHeads := func(dst, src kernels.Tensor) { // of [kvHeads, capacity, headDim]
		for h := range m.KVHeads {
			tokens := func(t kernels.Tensor) kernels.Tensor {
				return t.Rows(h, h+1).Reshape(t.Shape[1:]...).Rows(0, s.Len())
			}
			m.Device.Copy(tokens(dst), tokens(src))
		}
	}
	for l := range s.Cache.K {
		copyHeads(f.Cache.K[l], s.Cache.K[l])
		copyHeads(f.Cache.V[l], s.Cache.V[l])
	}
	f.Cache.Len = s.Len()
	if s.Index == nil {
		return f, nil
	}
	f.Index = &kernels.Index{}
	for _, tensors := range s.Index.Layers {
		var copies []kernels.Tensor
		for _, t := range tensors {
			c, err := m.Device.Alloc(t.Type, t.Shape...)
			if err != nil {
				f.Index.Layers = append(f.Index.Layers, copies)
				f.Free(m.Device)
				return nil, err
			}
			m.Device.Copy(c, t)
			copies = append(copies, c)
		}
		f.Index.Layers = append(f.Index.Layers, copies)
	}
	return f, nil
}

// segment is the next n tokens.
func (s *Sequence) segment(n int) kernels.Segment {
	return kernels.Segment{Cache: s.Cache, Index: s.Index, Start: s.Cache.Len, Len: n}
}

// All is the segment of all tokens held, for building an index over them.
func (s *Sequence) All() kernels.Segment {
	return kernels.Segment{Cache: s.Cache, Index: s.Index, Start: 0, Len: s.Cache.Len}
}

// DropIndex frees what a selector kept.
func (s *Sequence) DropIndex(d kernels.Device) {
	if s.Index == nil {
		return
	}
	for _, tensors := range s.Index.Layers {
		for _, t := range tensors {
			d.Free(t)
		}
	}
	s.Index = nil
}

// Free gives the sequence's memory back to its device.
func (s *Sequence) Free(d kernels.Device) {
	s.DropIndex(d)
	for l := range s.Cache.K {
		d.Free(s.Cache.K[l])
		d.Free(s.Cache.V[l])
	}
	s.Cache.K, s.Cache.V, s.Cache.Len = nil, nil, 0
}
