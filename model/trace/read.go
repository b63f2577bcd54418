package trace

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/safetensors"
	"github.com/hashattn/hashattn/model/shape"
)

// Reader gives the documents of a trace. Its methods may be called from
// several goroutines.
type Reader struct {
	Header
	Shards []Shard

	dir  string
	mu   sync.Mutex
	open []*Loaded
}

// Loaded is one document's shard, mapped into memory.
type Loaded struct {
	Shard
	Tokens, Positions []int32

	model shape.Model
	file  *safetensors.File
	path  string
}

// Layer is one layer of a document as bfloat16 bits, views of the mapped file:
// Q [queryHeads, queries, headDim], K and V [kvHeads, tokens, headDim].
type Layer struct{ Q, K, V []uint16 }

// Open opens the trace in a folder. Every shard must be there in its full
// size; what they hold is checked when they are opened, their checksums by
// Verify.
func Open(dir string) (*Reader, error) {
	x, err := readIndex(dir)
	if err != nil {
		return nil, err
	}
	r := &Reader{Header: x.Header, Shards: x.Shards, dir: dir, open: make([]*Loaded, len(x.Shards))}
	for _, s := range x.Shards {
		path := filepath.Join(dir, s.File)
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("trace %s: document %s: %w: capture again to restore it", dir, s.ID, err)
		}
		if info.Size() != s.Bytes {
			return nil, fmt.Errorf("%s: %d bytes, the index says %d: capture again to restore it", path, info.Size(), s.Bytes)
		}
	}
	return r, nil
}

// CheckModel reports a trace that was captured from another model.
func (r *Reader) CheckModel(m shape.Model) error {
	if err := r.Model.Fits(m); err != nil {
		return fmt.Errorf("trace %s: %w", r.dir, err)
	}
	return nil
}

// Document opens document i, or gives it again. It stays open until Close.
func (r *Reader) Document(i int) (*Loaded, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[i] == nil {
		l, err := r.load(r.Shards[i])
		if err != nil {
			return nil, err
		}
		r.open[i] = l
	}
	return r.open[i], nil
}

// Close unmaps all documents.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first error
	for i, l := range r.open {
		if l == nil {
			continue
		}
		if err := l.file.Close(); err != nil && first == nil {
			first = err
		}
		r.open[i] = nil
	}
	return first
}

func (r *Reader) load(s Shard) (*Loaded, error) {
	path := filepath.Join(r.dir, s.File)
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	l := &Loaded{Shard: s, model: r.Model, file: f, path: path}
	if err := l.check(r.Header); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

func (l *Loaded) check(h Header) (err error) {
	if got := l.file.Metadata["format"]; got != format {
		return fmt.Errorf("not a trace's shard: its format is %q, want %q", got, format)
	}
	if got := l.file.Metadata["model"]; got != h.Model.Fingerprint {
		return fmt.Errorf("captured from a model with fingerprint %.16s, the index says %.16s", got, h.Model.Fingerprint)
	}
	if l.Metadata("hash") != l.Hash || l.Metadata("document") != l.ID {
		return fmt.Errorf("holds document %q, the index says %q", l.Metadata("document"), l.ID)
	}
	if l.Tokens, err = l.ints("tokens", l.Shard.Tokens); err != nil {
		return err
	}
	if l.Positions, err = l.ints("positions", l.Queries); err != nil {
		return err
	}
	if err := checkPositions(l.Positions, len(l.Tokens)); err != nil {
		return err
	}
	if got, want := len(l.file.Tensors), 2+3*len(h.Captured); got != want {
		return fmt.Errorf("%d tensors, want %d for %d layers", got, want, len(h.Captured))
	}
	for _, layer := range h.Captured {
		if _, err := l.Layer(layer); err != nil {
			return err
		}
	}
	return nil
}

func checkPositions(positions []int32, tokens int) error {
	for i, p := range positions {
		if p < 0 || int(p) >= tokens || i > 0 && p <= positions[i-1] {
			return fmt.Errorf("query position %d at %d: want ascending ones below %d", p, i, tokens)
		}
	}
	return nil
}

// Metadata is a text of the shard's header.
func (l *Loaded) Metadata(key string) string { return l.file.Metadata[key] }

func (l *Loaded) ints(name string, n int) ([]int32, error) {
	t, ok := l.file.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("tensor %q is missing", name)
	}
	if t.Type != dtype.I32 || len(t.Shape) != 1 || t.Shape[0] != n {
		return nil, fmt.Errorf("tensor %q is %v %v, want I32 [%d]", name, t.Type, t.Shape, n)
	}
	x := make([]int32, n)
	for i := range x {
		x[i] = int32(binary.LittleEndian.Uint32(t.Data[4*i:]))
	}
	return x, nil
}

// Layer gives a captured layer's views.
func (l *Loaded) Layer(layer int) (v Layer, err error) {
	m := l.model
	if v.Q, err = l.bf16(layer, "q", m.QueryHeads, l.Queries, m.HeadDim); err != nil {
		return v, err
	}
	if v.K, err = l.bf16(layer, "k", m.KVHeads, len(l.Tokens), m.HeadDim); err != nil {
		return v, err
	}
	v.V, err = l.bf16(layer, "v", m.KVHeads, len(l.Tokens), m.HeadDim)
	return v, err
}

func (l *Loaded) bf16(layer int, part string, heads, rows, dim int) ([]uint16, error) {
	name := tensorName(layer, part)
	t, ok := l.file.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("tensor %q is missing: layer %d was not captured", name, layer)
	}
	if t.Type != dtype.BF16 || len(t.Shape) != 3 || t.Shape[0] != heads || t.Shape[1] != rows || t.Shape[2] != dim {
		return nil, fmt.Errorf("tensor %q is %v %v, the index and the model's config say BF16 [%d %d %d]", name, t.Type, t.Shape, heads, rows, dim)
	}
	return uint16s(t.Data), nil
}

// uint16s views bytes of a file as 16-bit numbers, or copies them where memory
// order or alignment forbids a view.
func uint16s(b []byte) []uint16 {
	if len(b) == 0 {
		return nil
	}
	if p := unsafe.Pointer(unsafe.SliceData(b)); littleEndian && uintptr(p)%2 == 0 {
		return unsafe.Slice((*uint16)(p), len(b)/2)
	}
	x := make([]uint16, len(b)/2)
	for i := range x {
		x[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return x
}

// Verify reads every shard and reports one whose checksum or shapes are wrong
// or that has values that are not finite.
func (r *Reader) Verify(ctx context.Context) error {
	for i, s := range r.Shards {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(r.dir, s.File)
		n, hash, err := sum(path)
		if err != nil {
			return err
		}
		if n != s.Bytes || hash != s.SHA256 {
			return fmt.Errorf("%s: %d bytes with SHA-256 %.16s, the index says %d and %.16s: capture again", path, n, hash, s.Bytes, s.SHA256)
		}
		l, err := r.Document(i)
		if err != nil {
			return err
		}
		for _, layer := range r.Captured {
			if err := ctx.Err(); err != nil {
				return err
			}
			v, err := l.Layer(layer)
			if err != nil {
				return err
			}
			for part, x := range map[string][]uint16{"q": v.Q, "k": v.K, "v": v.V} {
				if i := notFinite(x); i >= 0 {
					return fmt.Errorf("%s: tensor %q has %v at %d", path, tensorName(layer, part), dtype.F32FromBF16(x[i]), i)
				}
			}
		}
	}
	return nil
}
