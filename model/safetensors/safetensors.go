// Package safetensors reads and writes safetensors files, the tensor format of
// the Hugging Face hub (github.com/huggingface/safetensors), and opens model
// folders whose tensors lie in one file or in several with an index.
//
// A file is mapped, not read: Open checks the whole header with the rules of
// the Rust implementation and hands out tensors whose data are windows of the
// mapping. The package has its own parser because github.com/nlpodyssey/safetensors
// lets the last of two equal names win, takes the header through generic maps
// and does not say in its errors which tensor is wrong.
package safetensors

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/mappedfile"
)

const (
	maxHeader   = 100_000_000 // bytes, as in the Rust implementation
	metadataKey = "__metadata__"
)

// File is an open safetensors file.
type File struct {
	Metadata map[string]string // the header's __metadata__, empty if there is none
	Tensors  []Tensor          // sorted by name

	mapped *mappedfile.File
}

// Tensor is one tensor of a file.
type Tensor struct {
	Name  string
	Type  dtype.Type
	Shape []int  // row-major, outermost first; empty for one number
	Data  []byte // valid until the file is closed
}

// types are the number formats that a file can have and this package reads.
var types = func() map[string]dtype.Type {
	byName := map[string]dtype.Type{}
	for _, t := range []dtype.Type{dtype.F64, dtype.F32, dtype.F16, dtype.BF16, dtype.I64, dtype.I32, dtype.I16, dtype.I8,
		dtype.U64, dtype.U32, dtype.U16, dtype.U8, dtype.Bool} {
		byName[t.String()] = t
	}
	return byName
}()

// Open maps the file at path and reads its header. The error names the file,
// the tensor, and what is wrong with it. What the numbers are, NaN included,
// is the caller's business.
func Open(path string) (*File, error) {
	m, err := mappedfile.Open(path)
	if err != nil {
		return nil, err
	}
	f, err := parse(m.Bytes())
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f.mapped = m
	return f, nil
}

// Close unmaps the file: the Data of its tensors must not be touched any more.
func (f *File) Close() error { return f.mapped.Close() }

// Tensor finds a tensor by name.
func (f *File) Tensor(name string) (Tensor, bool) { return find(f.Tensors, name) }

func find(sorted []Tensor, name string) (Tensor, bool) {
	i, ok := slices.BinarySearchFunc(sorted, name, func(t Tensor, name string) int { return cmp.Compare(t.Name, name) })
	if !ok {
		return Tensor{}, false
	}
	return sorted[i], true
}

// parse reads a whole file. What it allocates is bounded by a small multiple
// of the header, which is checked against len(data) first.
func parse(data []byte) (*File, error) {
	if len(data) < 8 {
		return nil, fmt.Errorf("not a safetensors file: it has %d bytes, the header's length alone takes 8", len(data))
	}
	size := binary.LittleEndian.Uint64(data)
	if size > maxHeader {
		return nil, fmt.Errorf("not a safetensors file: its header would have %d bytes, at most %d are allowed", size, maxHeader)
	}
	if size > uint64(len(data)-8) {
		return nil, fmt.Errorf("its header has %d bytes, but the file ends after %d: it is truncated, get it again", size, len(data))
	}
	header, body := data[8:8+size], data[8+size:]
	metadata, entries, err := parseHeader(header)
	if err != nil {
		return nil, err
	}
	f := &File{Metadata: metadata, Tensors: make([]Tensor, len(entries))}

	// As in the Rust implementation, the tensors must fill the body without
	// holes or overlaps, so that nothing hides between them.
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end))
	})
	var at uint64
	for i, e := range entries {
		size, err := sizeOf(e.typ, e.shape)
		switch {
		case err != nil:
		case e.end < e.begin:
			err = fmt.Errorf("its data_offsets [%d, %d] run backwards", e.begin, e.end)
		case e.end-e.begin != uint64(size):
			err = fmt.Errorf("%v values of shape %v take %d bytes, its data_offsets [%d, %d] give %d", e.typ, e.shape, size, e.begin, e.end, e.end-e.begin)
		case e.begin < at:
			err = fmt.Errorf("begins at %d and overlaps tensor %q, which ends at %d", e.begin, entries[i-1].name, at)
		case e.begin > at:
			err = fmt.Errorf("begins at %d, leaving a hole after %d", e.begin, at)
		case e.end > uint64(len(body)):
			err = fmt.Errorf("ends at %d of %d bytes of tensor data: the file is truncated, get it again", e.end, len(body))
		}
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", e.name, err)
		}
		f.Tensors[i] = Tensor{e.name, e.typ, e.shape, body[e.begin:e.end:e.end]}
		at = e.end
	}
	if at != uint64(len(body)) {
		return nil, fmt.Errorf("%d bytes follow the last tensor", uint64(len(body))-at)
	}
	slices.SortFunc(f.Tensors, func(a, b Tensor) int { return cmp.Compare(a.Name, b.Name) })
	return f, nil
}

// sizeOf is the number of bytes of a tensor.
func sizeOf(t dtype.Type, shape []int) (int, error) {
	values, empty := uint64(1), false
	for _, d := range shape { // zeros are put off so that they hide no overflow
		if d < 0 {
			return 0, fmt.Errorf("shape %v has a negative dimension", shape)
		}
		empty = empty || d == 0
		high, low := bits.Mul64(values, uint64(max(d, 1)))
		if high != 0 || low > uint64(math.MaxInt/t.BlockBytes()) {
			return 0, fmt.Errorf("shape %v is too large", shape)
		}
		values = low
	}
	if empty {
		return 0, nil
	}
	return int(values) * t.BlockBytes(), nil
}
