package gguf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// Value types of the metadata, as the format numbers them.
const (
	kindUint8 = iota
	kindInt8
	kindUint16
	kindInt16
	kindUint32
	kindInt32
	kindFloat32
	kindBool
	kindString
	kindArray
	kindUint64
	kindInt64
	kindFloat64
)

// The least bytes that a key with its value and a tensor's description take;
// they bound the counts in the header.
const (
	minKeyBytes    = 8 + 4 + 1
	minTensorBytes = 8 + 4 + 4 + 8
)

// parse reads a file's header. Whatever it allocates is bounded by a small
// multiple of len(data): each count and length is checked against the bytes
// left before it is believed.
func parse(data []byte) (*File, error) {
	c := &cursor{data: data}
	if head, err := c.take(uint64(len(magic))); err != nil || string(head) != magic {
		return nil, fmt.Errorf("not a GGUF file: it does not begin with %q", magic)
	}
	version, err := c.uint32()
	if err != nil {
		return nil, err
	}
	switch version {
	case 2, 3:
	case bits.ReverseBytes32(2), bits.ReverseBytes32(3):
		return nil, fmt.Errorf("big-endian GGUF files are not supported: convert it with gguf_convert_endian.py")
	default:
		return nil, fmt.Errorf("GGUF version %d is not supported: this program reads versions 2 and 3", version)
	}
	tensorCount, err := c.uint64()
	if err != nil {
		return nil, err
	}
	keyCount, err := c.uint64()
	if err != nil {
		return nil, err
	}
	if keyCount > c.left()/minKeyBytes {
		return nil, fmt.Errorf("%d metadata keys do not fit in the file's %d bytes", keyCount, len(data))
	}
	f := &File{Version: version, Meta: Meta{}, index: map[string]int{}}
	for i := range keyCount {
		key, err := c.name()
		if err != nil {
			return nil, fmt.Errorf("name of metadata key %d: %w", i, err)
		}
		if f.Meta.Has(key) {
			return nil, fmt.Errorf("metadata key %q is there twice", key)
		}
		if f.Meta[key], err = c.value(); err != nil {
			return nil, fmt.Errorf("metadata key %q: %w", key, err)
		}
	}
	if tensorCount > c.left()/minTensorBytes {
		return nil, fmt.Errorf("%d tensors do not fit in the file's %d bytes", tensorCount, len(data))
	}
	spans := make([]span, tensorCount)
	f.Tensors = make([]Tensor, tensorCount)
	for i := range f.Tensors {
		name, err := c.name()
		if err != nil {
			return nil, fmt.Errorf("name of tensor %d: %w", i, err)
		}
		if _, ok := f.index[name]; ok {
			return nil, fmt.Errorf("tensor %q is there twice", name)
		}
		f.index[name] = i
		f.Tensors[i].Name = name
		if spans[i], err = c.tensor(&f.Tensors[i]); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
	}
	return f, f.locate(data, uint64(c.at), spans)
}

// span is where a tensor lies, counted from the start of the tensor data.
type span struct{ offset, size uint64 }

// locate checks the tensors' places and cuts their data out of the file, whose
// header ends at headerEnd.
func (f *File) locate(data []byte, headerEnd uint64, spans []span) error {
	alignment, err := f.Meta.alignment()
	if err != nil {
		return err
	}
	start := padded(headerEnd, alignment)
	size := uint64(len(data))
	order := make([]int, len(spans))
	for i, s := range spans {
		order[i] = i
		name := f.Tensors[i].Name
		if s.offset%alignment != 0 {
			return fmt.Errorf("tensor %q: offset %d is not a multiple of the alignment %d", name, s.offset, alignment)
		}
		if start > size || s.offset > size-start || s.size > size-start-s.offset {
			return fmt.Errorf("tensor %q: its %d bytes at offset %d of the tensor data end beyond the file's %d bytes: the file is truncated or damaged, get it again", name, s.size, s.offset, size)
		}
		begin := start + s.offset
		f.Tensors[i].Data = data[begin : begin+s.size : begin+s.size]
	}
	slices.SortStableFunc(order, func(a, b int) int { // empty tensors before what begins where they lie
		return cmp.Or(cmp.Compare(spans[a].offset, spans[b].offset), cmp.Compare(spans[a].size, spans[b].size))
	})
	for i := 1; i < len(order); i++ {
		before, after := order[i-1], order[i]
		if spans[after].offset < spans[before].offset+spans[before].size {
			return fmt.Errorf("tensors %q and %q overlap", f.Tensors[before].Name, f.Tensors[after].Name)
		}
	}
	return nil
}

// alignment is the step at which tensor data begin.
func (m Meta) alignment() (uint64, error) {
	if !m.Has(alignmentKey) {
		return defaultAlignment, nil
	}
	a, err := m.Uint(alignmentKey)
	if err != nil {
		return 0, err
	}
	if a == 0 || a&(a-1) != 0 || a > maxAlignment {
		return 0, fmt.Errorf("key %q is %d: an alignment is a power of two up to %d", alignmentKey, a, maxAlignment)
	}
	return a, nil
}

func padded(n, alignment uint64) uint64 { return (n + alignment - 1) &^ (alignment - 1) }

// cursor walks over a file's header.
type cursor struct {
	data []byte
	at   int
}

func (c *cursor) left() uint64 { return uint64(len(c.data) - c.at) }

func (c *cursor) take(n uint64) ([]byte, error) {
	if n > c.left() {
		return nil, fmt.Errorf("needs %d bytes at offset %d, but the file ends after %d: it is truncated or damaged, get it again", n, c.at, len(c.data))
	}
	b := c.data[c.at : c.at+int(n)]
	c.at += int(n)
	return b, nil
}

func (c *cursor) uint32() (uint32, error) {
	b, err := c.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (c *cursor) uint64() (uint64, error) {
	b, err := c.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (c *cursor) string() (string, error) {
	n, err := c.uint64()
	if err != nil {
		return "", err
	}
	b, err := c.take(n)
	return string(b), err
}

// name reads a key or a tensor's name.
func (c *cursor) name() (string, error) {
	name, err := c.string()
	if err == nil && len(name) >= maxName {
		err = fmt.Errorf("has %d bytes, at most %d are allowed", len(name), maxName-1)
	}
	return name, err
}

// value reads one metadata value with its type.
func (c *cursor) value() (any, error) {
	kind, err := c.uint32()
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindString:
		return c.string()
	case kindArray:
		return c.array(1)
	}
	read, ok := scalars[kind]
	if !ok {
		return nil, fmt.Errorf("value type %d is unknown", kind)
	}
	b, err := c.take(read.size)
	if err != nil {
		return nil, err
	}
	return read.one(b)
}

// array reads an array, which is the depth-th around its items.
func (c *cursor) array(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("more than %d arrays within each other", maxDepth)
	}
	kind, err := c.uint32()
	if err != nil {
		return nil, err
	}
	n, err := c.uint64()
	if err != nil {
		return nil, err
	}
	least := uint64(12) // an empty array's type and count
	if read, ok := scalars[kind]; ok {
		least = read.size
	} else if kind == kindString {
		least = 8
	} else if kind != kindArray {
		return nil, fmt.Errorf("array of unknown value type %d", kind)
	}
	if n > c.left()/least {
		return nil, fmt.Errorf("array of %d items does not fit in the file's %d bytes: it is truncated or damaged, get it again", n, len(c.data))
	}
	switch kind {
	case kindString:
		items := make([]string, n)
		for i := range items {
			if items[i], err = c.string(); err != nil {
				return nil, fmt.Errorf("item %d: %w", i, err)
			}
		}
		return items, nil
	case kindArray:
		items := make([]any, n)
		for i := range items {
			if items[i], err = c.array(depth + 1); err != nil {
				return nil, fmt.Errorf("item %d: %w", i, err)
			}
		}
		return items, nil
	}
	b, err := c.take(n * least)
	if err != nil {
		return nil, err
	}
	return scalars[kind].many(b)
}

// scalar reads values of one fixed size.
type scalar struct {
	size uint64
	one  func(b []byte) (any, error)
	many func(b []byte) (any, error)
}

var scalars = map[uint32]scalar{
	kindUint8:   numbers(1, func(b []byte) uint8 { return b[0] }),
	kindInt8:    numbers(1, func(b []byte) int8 { return int8(b[0]) }),
	kindUint16:  numbers(2, binary.LittleEndian.Uint16),
	kindInt16:   numbers(2, func(b []byte) int16 { return int16(binary.LittleEndian.Uint16(b)) }),
	kindUint32:  numbers(4, binary.LittleEndian.Uint32),
	kindInt32:   numbers(4, func(b []byte) int32 { return int32(binary.LittleEndian.Uint32(b)) }),
	kindUint64:  numbers(8, binary.LittleEndian.Uint64),
	kindInt64:   numbers(8, func(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b)) }),
	kindFloat32: numbers(4, func(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) }),
	kindFloat64: numbers(8, func(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) }),
	kindBool:    bools,
}

func numbers[T any](size int, read func(b []byte) T) scalar {
	return scalar{uint64(size),
		func(b []byte) (any, error) { return read(b), nil },
		func(b []byte) (any, error) {
			items := make([]T, len(b)/size)
			for i := range items {
				items[i] = read(b[i*size:])
			}
			return items, nil
		}}
}

var bools = scalar{1,
	func(b []byte) (any, error) { return readBool(b[0]) },
	func(b []byte) (any, error) {
		items := make([]bool, len(b))
		for i := range items {
			var err error
			if items[i], err = readBool(b[i]); err != nil {
				return nil, fmt.Errorf("item %d: %w", i, err)
			}
		}
		return items, nil
	}}

func readBool(b byte) (bool, error) {
	if b > 1 {
		return false, fmt.Errorf("a truth value is 0 or 1, not %d", b)
	}
	return b == 1, nil
}

// tensor reads a tensor's shape, type and place.
func (c *cursor) tensor(t *Tensor) (span, error) {
	dims, err := c.uint32()
	if err != nil {
		return span{}, err
	}
	if dims > maxDims {
		return span{}, fmt.Errorf("has %d dimensions, at most %d are allowed", dims, maxDims)
	}
	t.Shape = make([]int, dims)
	for i := range t.Shape { // the file counts from the innermost dimension
		d, err := c.uint64()
		if err != nil {
			return span{}, err
		}
		if d > math.MaxInt {
			return span{}, fmt.Errorf("dimension %d is too large", d)
		}
		t.Shape[len(t.Shape)-1-i] = int(d)
	}
	id, err := c.uint32()
	if err != nil {
		return span{}, err
	}
	t.Type = dtype.Type(id)
	offset, err := c.uint64()
	if err != nil {
		return span{}, err
	}
	size, err := sizeOf(t.Type, t.Shape)
	return span{offset, uint64(size)}, err
}

// sizeOf is the number of bytes of a tensor.
func sizeOf(t dtype.Type, shape []int) (int, error) {
	if !storable(t) {
		return 0, fmt.Errorf("number format %d is not supported (supported: %s): convert or requantise the model", uint32(t), strings.Join(formats(), ", "))
	}
	values := 1
	empty := false
	for _, d := range shape { // zeros are put off so that they hide no overflow
		if d < 0 {
			return 0, fmt.Errorf("shape %v has a negative dimension", shape)
		}
		empty = empty || d == 0
		high, low := bits.Mul64(uint64(values), uint64(max(d, 1)))
		if high != 0 || low > uint64(math.MaxInt/t.BlockBytes()) {
			return 0, fmt.Errorf("shape %v is too large", shape)
		}
		values = int(low)
	}
	if row := innermost(shape); row%t.BlockLen() != 0 {
		return 0, fmt.Errorf("shape %v: rows of %d are not a whole number of %v blocks of %d", shape, row, t, t.BlockLen())
	}
	if empty {
		values = 0
	}
	return t.Bytes(values)
}

func innermost(shape []int) int {
	if len(shape) == 0 {
		return 1
	}
	return shape[len(shape)-1]
}

// storable says whether GGUF files can have tensors of type t and this package
// knows its size.
func storable(t dtype.Type) bool { return t.Known() && t < dtype.U8 }

func formats() []string {
	var names []string
	for t := dtype.Type(0); t < 64; t++ {
		if storable(t) {
			names = append(names, t.String())
		}
	}
	return names
}
