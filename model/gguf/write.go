package gguf

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/hashattn/hashattn/model/atomicfile"
)

// Write makes a version 3 file at path with the keys in alphabetical order and
// the tensors in the order given; equal input gives equal bytes. On failure
// nothing is left and what was at path stays. It is an error when a name
// occurs twice, a value has a type that Meta does not list, or a tensor's Data
// does not have the size that its shape and type say.
func Write(path string, meta Meta, tensors []Tensor) error {
	header, alignment, err := encodeHeader(meta, tensors)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, func(w io.Writer) error { return writeBody(w, header, alignment, tensors) })
}

// writeBody writes the header and the tensors' data, each padded.
func writeBody(w io.Writer, header []byte, alignment uint64, tensors []Tensor) error {
	pad := make([]byte, alignment)
	write := func(b []byte) error {
		if _, err := w.Write(b); err != nil {
			return err
		}
		n := uint64(len(b))
		_, err := w.Write(pad[:padded(n, alignment)-n])
		return err
	}
	if err := write(header); err != nil {
		return err
	}
	for _, t := range tensors {
		if err := write(t.Data); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	return nil
}

var le = binary.LittleEndian

func encodeHeader(meta Meta, tensors []Tensor) (header []byte, alignment uint64, err error) {
	if alignment, err = meta.alignment(); err != nil {
		return nil, 0, err
	}
	b := append([]byte(magic), 3, 0, 0, 0)
	b = le.AppendUint64(b, uint64(len(tensors)))
	b = le.AppendUint64(b, uint64(len(meta)))
	for _, key := range meta.Keys() {
		if len(key) >= maxName {
			return nil, 0, fmt.Errorf("metadata key %.40q...: %d bytes, at most %d are allowed", key, len(key), maxName-1)
		}
		b = appendString(b, key)
		kind, value, err := encodeValue(meta[key], 0)
		if err != nil {
			return nil, 0, fmt.Errorf("metadata key %q: %w", key, err)
		}
		b = append(le.AppendUint32(b, kind), value...)
	}
	var offset uint64
	seen := map[string]bool{}
	for _, t := range tensors {
		size, err := sizeOf(t.Type, t.Shape)
		switch {
		case err != nil:
		case seen[t.Name]:
			err = fmt.Errorf("is there twice")
		case len(t.Name) >= maxName:
			err = fmt.Errorf("its name has %d bytes, at most %d are allowed", len(t.Name), maxName-1)
		case len(t.Shape) > maxDims:
			err = fmt.Errorf("has %d dimensions, at most %d are allowed", len(t.Shape), maxDims)
		case len(t.Data) != size:
			err = fmt.Errorf("%v values of shape %v take %d bytes, its data has %d", t.Type, t.Shape, size, len(t.Data))
		}
		if err != nil {
			return nil, 0, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		seen[t.Name] = true
		b = appendString(b, t.Name)
		b = le.AppendUint32(b, uint32(len(t.Shape)))
		for i := range t.Shape {
			b = le.AppendUint64(b, uint64(t.Shape[len(t.Shape)-1-i]))
		}
		b = le.AppendUint32(b, uint32(t.Type))
		b = le.AppendUint64(b, offset)
		offset += padded(uint64(size), alignment)
	}
	return b, alignment, nil
}

func appendString(b []byte, s string) []byte {
	return append(le.AppendUint64(b, uint64(len(s))), s...)
}

// encodeValue gives a value's type id and bytes; depth is the number of arrays
// around it.
func encodeValue(v any, depth int) (kind uint32, b []byte, err error) {
	switch v := v.(type) {
	case string:
		return kindString, appendString(nil, v), nil
	case []string:
		b := arrayHeader(kindString, len(v))
		for _, s := range v {
			b = appendString(b, s)
		}
		return kindArray, b, nil
	case []any:
		if depth == maxDepth-1 && len(v) > 0 {
			return 0, nil, fmt.Errorf("more than %d arrays within each other", maxDepth)
		}
		b := arrayHeader(kindArray, len(v))
		for i, item := range v {
			kind, bytes, err := encodeValue(item, depth+1)
			if err == nil && kind != kindArray {
				err = fmt.Errorf("%T within []any: it holds arrays only", item)
			}
			if err != nil {
				return 0, nil, fmt.Errorf("item %d: %w", i, err)
			}
			b = append(b, bytes...)
		}
		return kindArray, b, nil
	}
	kind, items, isArray := scalarKind(v)
	if items < 0 {
		return 0, nil, fmt.Errorf("a value of Go type %T cannot be stored", v)
	}
	if !isArray {
		b, err := binary.Append(nil, le, v)
		return kind, b, err
	}
	b, err = binary.Append(arrayHeader(kind, items), le, v)
	return kindArray, b, err
}

func arrayHeader(kind uint32, items int) []byte {
	return le.AppendUint64(le.AppendUint32(nil, kind), uint64(items))
}

// scalarKind is the type id of a fixed-size value or of an array's items;
// items is -1 for other Go types.
func scalarKind(v any) (kind uint32, items int, isArray bool) {
	switch v := v.(type) {
	case uint8:
		return kindUint8, 1, false
	case int8:
		return kindInt8, 1, false
	case uint16:
		return kindUint16, 1, false
	case int16:
		return kindInt16, 1, false
	case uint32:
		return kindUint32, 1, false
	case int32:
		return kindInt32, 1, false
	case uint64:
		return kindUint64, 1, false
	case int64:
		return kindInt64, 1, false
	case float32:
		return kindFloat32, 1, false
	case float64:
		return kindFloat64, 1, false
	case bool:
		return kindBool, 1, false
	case []uint8:
		return kindUint8, len(v), true
	case []int8:
		return kindInt8, len(v), true
	case []uint16:
		return kindUint16, len(v), true
	case []int16:
		return kindInt16, len(v), true
	case []uint32:
		return kindUint32, len(v), true
	case []int32:
		return kindInt32, len(v), true
	case []uint64:
		return kindUint64, len(v), true
	case []int64:
		return kindInt64, len(v), true
	case []float32:
		return kindFloat32, len(v), true
	case []float64:
		return kindFloat64, len(v), true
	case []bool:
		return kindBool, len(v), true
	}
	return 0, -1, false
}
