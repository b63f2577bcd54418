package kernels

import (
	"fmt"
	"math"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// Reference is the slow, plain device that specifies the others: one
// goroutine, loops in the order of the formulas, sums in float64.
type Reference struct {
	reads Reads
}

var _ Device = (*Reference)(nil)

// NewReference is a ready reference device.
func NewReference() *Reference { return &Reference{} }

// Info implements Device.
func (r *Reference) Info() Info {
	return Info{Kind: "reference", Name: "reference", Threads: 1, Pass: 512}
}

// Synchronize implements Device. The reference does each operation at once.
func (r *Reference) Synchronize() error { return nil }

// Record implements Device by running step.
func (r *Reference) Record(_ any, step func()) { step() }

// Reads implements Device.
func (r *Reference) Reads() Reads { return r.reads }

// ResetReads implements Device.
func (r *Reference) ResetReads() { r.reads = Reads{} }

// CountReads adds to what Reads reports; for devices that embed Reference.
func (r *Reference) CountReads(attended, cached int64) {
	r.reads.Attended += attended
	r.reads.Cached += cached
}

// Close implements Device.
func (r *Reference) Close() error { return nil }

// maxHostBytes bounds one allocation, so that a hostile shape is an error and
// not a crash of the process.
const maxHostBytes = 1 << 40

// Alloc implements Device.
func (r *Reference) Alloc(t dtype.Type, shape ...int) (Tensor, error) {
	n := 1
	for _, d := range shape {
		if d < 0 || d > 0 && n > maxHostBytes/d {
			return Tensor{}, fmt.Errorf("tensor of shape %v is too large", shape)
		}
		n *= d
	}
	size, err := t.Bytes(n)
	if err != nil {
		return Tensor{}, err
	}
	if size > maxHostBytes {
		return Tensor{}, fmt.Errorf("tensor of shape %v is too large", shape)
	}
	return Tensor{t, append([]int(nil), shape...), NewHostMemory(size)}, nil
}

// Free implements Device; the garbage collector does the work.
func (r *Reference) Free(Tensor) {}

// Upload implements Device.
func (r *Reference) Upload(dst Tensor, src []byte) error {
	if len(dst.Bytes()) != len(src) {
		return fmt.Errorf("upload of %d bytes to a tensor of %d", len(src), len(dst.Bytes()))
	}
	copy(dst.Bytes(), src)
	return nil
}

// Copy implements Device.
func (r *Reference) Copy(dst, src Tensor) {
	CheckCopy(dst, src)
	copy(dst.Bytes(), src.Bytes())
}

// Download implements Device.
func (r *Reference) Download(dst []byte, src Tensor) error {
	if len(src.Bytes()) != len(dst) {
		return fmt.Errorf("download of a tensor of %d bytes to %d", len(src.Bytes()), len(dst))
	}
	copy(dst, src.Bytes())
	return nil
}

type referenceWeight struct {
	rows, cols int
	values     []float32 // [rows, cols]
}

func (w *referenceWeight) Shape() (rows, cols int) { return w.rows, w.cols }

// LoadMatrix implements Device: the matrix as float32.
func (r *Reference) LoadMatrix(m Matrix) (Weight, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	w := &referenceWeight{m.Rows, m.Cols, make([]float32, m.Rows*m.Cols)}
	if err := dtype.ToF32(w.values, m.Type, m.Data); err != nil {
		return nil, fmt.Errorf("weight %s: %w", m.Name, err)
	}
	return w, nil
}

type referenceEncoder struct{ p Projection }

func (e referenceEncoder) Projection() Projection { return e.p }

// LoadProjection implements Device.
func (r *Reference) LoadProjection(p Projection) (Encoder, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	return referenceEncoder{p}, nil
}

// NewCache implements Device.
func (r *Reference) NewCache(s CacheSpec) (*Cache, error) { return AllocCache(r, s) }

// AllocCache makes a cache out of d.Alloc, layer by layer.
func AllocCache(d Memories, s CacheSpec) (*Cache, error) {
	if s.Type != dtype.BF16 && s.Type != dtype.F32 {
		return nil, fmt.Errorf("cache type %v, want BF16 or F32", s.Type)
	}
	c := &Cache{CacheSpec: s}
	for range s.Layers {
		for _, into := range []*[]Tensor{&c.K, &c.V} {
			t, err := d.Alloc(s.Type, s.KVHeads, s.Capacity, s.HeadDim)
			if err != nil {
				return nil, fmt.Errorf("cache of %d tokens (%d MiB): %w", s.Capacity, s.Bytes()>>20, err)
			}
			*into = append(*into, t)
		}
	}
	return c, nil
}

// SetBatch implements Device.
func (r *Reference) SetBatch(b *Batch, segments []Segment) error {
	tokens, longest := 0, 0
	for i, s := range segments {
		if s.Start < 0 || s.Len < 1 || s.Start+s.Len > s.Cache.Capacity {
			return fmt.Errorf("segment %d: tokens %d to %d of a cache for %d", i, s.Start, s.Start+s.Len, s.Cache.Capacity)
		}
		tokens += s.Len
		longest = max(longest, s.Start+s.Len)
	}
	*b = Batch{Segments: segments, Tokens: tokens, Longest: longest, Device: b.Device}
	return nil
}

// row reads row (head h, position p) of a cache tensor [heads, capacity, width].
func row(t Tensor, h, p int, dst []float32) []float32 {
	capacity, width := t.Dim(1), t.Dim(2)
	at := (h*capacity + p) * width
	if t.Type == dtype.F32 {
		return t.F32()[at : at+width]
	}
	for i, v := range t.BF16()[at : at+width] {
		dst[i] = math.Float32frombits(uint32(v) << 16)
	}
	return dst[:width]
}

func dot(a, b []float32) float64 {
	s := 0.0
	for i := range a {
		s += float64(a[i]) * float64(b[i])
	}
	return s
}
