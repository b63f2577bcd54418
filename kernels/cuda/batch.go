//go:build gpu

package cuda

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"
	"runtime"
	"sync"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// batch is the device copy of a kernels.Batch: rows, segments, prefill tiles
// and the addresses of every layer's cache and index (device.cuh).
type batch struct {
	memory *buffer
	host   []byte

	// where the parts start
	rows, segments, tiles, layers uint64

	shape batchShape
	index [][3]indexShape // per layer
}

// batchShape is what launches depend on: a recorded step is good for batches
// of an equal shape.
type batchShape struct {
	address                                                uint64
	tokens, segments, longestSegment, tiles, layers, limit int
	cache                                                  dtype.Type // of the first segment
	mixed, shared                                          bool       // another segment's differs; two are of one cache
	kvHeads, dim                                           int
	index                                                  uint64 // hash of the index tensors' shapes
}

type indexShape struct{ heads, width int }

// tileRows is how many query rows a prefill block takes.
func tileRows(dim int) int {
	if dim > 128 {
		return 64
	}
	return 128
}

// limitOf rounds a context length up to the bucket that launches are sized
// for: quarters of a power of two, 1024 at least.
func limitOf(n int) int {
	if n <= 1024 {
		return 1024
	}
	step := 1 << (bits.Len(uint(n-1)) - 3)
	return (n + step - 1) / step * step
}

// SetBatch implements kernels.Device.
func (d *Device) SetBatch(b *kernels.Batch, segments []kernels.Segment) error {
	tokens, longest := 0, 0
	for i, s := range segments {
		if s.Cache == nil {
			return fmt.Errorf("segment %d has no cache", i)
		}
		if s.Start < 0 || s.Len < 1 || s.Start+s.Len > s.Cache.Capacity {
			return fmt.Errorf("segment %d: tokens %d to %d of a cache for %d", i, s.Start, s.Start+s.Len, s.Cache.Capacity)
		}
		tokens += s.Len
		longest = max(longest, s.Start+s.Len)
	}
	state, _ := b.Device.(*batch)
	if state == nil {
		state = &batch{memory: &buffer{}}
		// batches are made and dropped freely: their memory goes to the next
		runtime.AddCleanup(state, d.batches.give, state.memory)
	}
	if d.recording != nil {
		d.recording.plain = true // a replay could not set the batch
	}
	*b = kernels.Batch{Segments: segments, Tokens: tokens, Longest: longest, Device: state}
	if len(segments) == 0 {
		return nil
	}
	host, err := state.lay(b)
	if err != nil {
		return err
	}
	if len(host) > state.memory.bytes {
		d.batches.give(state.memory)
		if *state.memory, err = d.batches.take(d, len(host)*5/4); err != nil {
			return fmt.Errorf("batch of %d tokens: %w", tokens, err)
		}
	}
	state.place()
	return d.copyIn(uint64(state.memory.ptr), host)
}

// lay fills the host copy and the shape.
func (s *batch) lay(b *kernels.Batch) ([]byte, error) {
	first := b.Segments[0].Cache
	shape := batchShape{
		tokens: b.Tokens, segments: len(b.Segments), layers: first.Layers, limit: limitOf(b.Longest),
		cache: first.Type, kvHeads: first.KVHeads, dim: first.HeadDim,
	}
	for i := range b.Segments {
		seg := &b.Segments[i]
		shape.longestSegment = max(shape.longestSegment, seg.Len)
		shape.tiles += (seg.Len + tileRows(first.HeadDim) - 1) / tileRows(first.HeadDim)
		c := seg.Cache
		for _, other := range b.Segments[:i] {
			shape.shared = shape.shared || other.Cache == c
		}
		shape.mixed = shape.mixed || c.Type != first.Type
		if c.Layers != first.Layers || c.KVHeads != first.KVHeads || c.HeadDim != first.HeadDim {
			return nil, fmt.Errorf("segment %d: a cache of %d layers, %d heads of %d beside one of %d, %d of %d",
				i, c.Layers, c.KVHeads, c.HeadDim, first.Layers, first.KVHeads, first.HeadDim)
		}
		if seg.Index != nil && len(seg.Index.Layers) > first.Layers {
			return nil, fmt.Errorf("segment %d: an index of %d layers for a cache of %d", i, len(seg.Index.Layers), first.Layers)
		}
	}
	s.shape = shape
	s.index = make([][3]indexShape, first.Layers)
	le := binary.LittleEndian
	w := s.host[:0]
	b.Row(func(_ int, seg *kernels.Segment, position int) {
		w = le.AppendUint32(le.AppendUint32(w, 0), uint32(position))
	})
	row := 0
	for i := range b.Segments {
		seg := &b.Segments[i]
		for r := range seg.Len {
			le.PutUint32(w[8*(row+r):], uint32(i))
		}
		row += seg.Len
	}
	if b.Tokens%2 == 1 {
		w = le.AppendUint64(w, 0) // the next part starts at 16 bytes
	}
	row = 0
	for _, seg := range b.Segments {
		for _, v := range []int{seg.Start, seg.Len, row, 0} {
			w = le.AppendUint32(w, uint32(v))
		}
		row += seg.Len
	}
	row = 0
	for i, seg := range b.Segments {
		for r := 0; r < seg.Len; r += tileRows(first.HeadDim) {
			for _, v := range []int{i, row + r, min(seg.Len-r, tileRows(first.HeadDim)), seg.Start + r} {
				w = le.AppendUint32(w, uint32(v))
			}
		}
		row += seg.Len
	}
	for i := range b.Segments {
		for l := range first.Layers {
			var err error
			if w, err = s.appendLayer(w, &b.Segments[i], l); err != nil {
				return nil, fmt.Errorf("segment %d, layer %d: %w", i, l, err)
			}
		}
	}
	h := fnv.New64a()
	for _, l := range s.index {
		for _, i := range l {
			fmt.Fprintln(h, i)
		}
	}
	s.shape.index = h.Sum64()
	s.host = w
	return w, nil
}

// appendLayer writes one struct Layer.
func (s *batch) appendLayer(w []byte, seg *kernels.Segment, layer int) ([]byte, error) {
	le := binary.LittleEndian
	w = le.AppendUint64(w, address(seg.Cache.K[layer]))
	w = le.AppendUint64(w, address(seg.Cache.V[layer]))
	var slots []kernels.Tensor
	if seg.Index != nil && layer < len(seg.Index.Layers) {
		slots = seg.Index.Layers[layer]
	}
	if len(slots) > 3 {
		return nil, fmt.Errorf("%d index tensors, the device takes 3", len(slots))
	}
	capacity := [4]uint32{uint32(seg.Cache.Capacity)}
	for i := range 3 {
		if i >= len(slots) || slots[i].None() {
			w = le.AppendUint64(w, 0)
			continue
		}
		t := slots[i]
		if len(t.Shape) != 3 {
			return nil, fmt.Errorf("index tensor %d of shape %v, want [heads, capacity, width]", i, t.Shape)
		}
		w = le.AppendUint64(w, address(t))
		capacity[i+1] = uint32(t.Dim(1))
		s.index[layer][i] = indexShape{t.Dim(0), t.Dim(2)}
	}
	for _, c := range capacity {
		w = le.AppendUint32(w, c)
	}
	wide := uint64(0)
	if seg.Cache.Type == dtype.F32 {
		wide = 1
	}
	return le.AppendUint64(w, wide), nil
}

// place sets the addresses of the parts.
func (s *batch) place() {
	s.shape.address = uint64(s.memory.ptr)
	s.rows = s.shape.address
	s.segments = s.rows + uint64((8*s.shape.tokens+15)/16*16)
	s.tiles = s.segments + uint64(16*s.shape.segments)
	s.layers = s.tiles + uint64(16*s.shape.tiles)
}

// use gives the device copy of a batch and ties a step being recorded to it.
func (d *Device) use(b *kernels.Batch) *batch {
	s, ok := b.Device.(*batch)
	if !ok {
		panic("kernels: a batch without SetBatch on this device")
	}
	if d.recording != nil {
		d.recording.shapes[b] = s.shape
	}
	return s
}

// indexed gives the shape of a layer's index tensor, which must be there.
func (s *batch) indexed(layer, slot int) indexShape {
	if layer >= len(s.index) || s.index[layer][slot].heads == 0 {
		panic(fmt.Sprintf("kernels: the batch's segments have no index tensor %d in layer %d", slot, layer))
	}
	return s.index[layer][slot]
}

// single is 1 where every segment is one row, so that row i is segment i.
func (s *batch) single() int32 {
	if s.shape.tokens == s.shape.segments {
		return 1
	}
	return 0
}

// batchPool is the memory of batches that are no longer used. A batch's
// cleanup runs on its own goroutine.
type batchPool struct {
	mu   sync.Mutex
	free []buffer
}

// give takes back a batch's memory; b is empty afterwards.
func (p *batchPool) give(b *buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.ptr != 0 {
		p.free = append(p.free, *b)
	}
	*b = buffer{}
}

// take finds or allocates at least bytes.
func (p *batchPool) take(d *Device, bytes int) (buffer, error) {
	p.mu.Lock()
	for i, b := range p.free {
		if b.bytes >= bytes {
			p.free = append(p.free[:i], p.free[i+1:]...)
			p.mu.Unlock()
			return b, nil
		}
	}
	p.mu.Unlock()
	ptr, err := d.alloc(bytes)
	if err != nil {
		return buffer{}, err
	}
	return buffer{ptr, bytes}, nil
}
