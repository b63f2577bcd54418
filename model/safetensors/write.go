package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/hashattn/hashattn/model/atomicfile"
)

// Write makes a file at path; equal input gives equal bytes, whatever the
// tensors' order. On failure nothing is left and what was at path stays. It is
// an error when a name occurs twice or is not UTF-8, a type is one that
// safetensors lacks, or a tensor's Data does not have the size that its shape
// and type say.
//
// The tensor data begin at a multiple of 8 in the file, and so does every
// tensor whose size is a multiple of 8; the others, which the format allows no
// padding for, come behind them, aligned for their type.
func Write(path string, tensors []Tensor, metadata map[string]string) error {
	tensors = ordered(tensors)
	header, err := encodeHeader(tensors, metadata)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, func(w io.Writer) error { return writeBody(w, header, tensors) })
}

func writeBody(w io.Writer, header []byte, tensors []Tensor) error {
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, t := range tensors {
		if _, err := w.Write(t.Data); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	return nil
}

// ordered puts what is a multiple of 8 bytes long first, then longer types
// before shorter ones, then goes by name.
func ordered(tensors []Tensor) []Tensor {
	odd := func(t Tensor) int { return min(1, len(t.Data)%8) }
	return slices.SortedStableFunc(slices.Values(tensors), func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(odd(a), odd(b)), cmp.Compare(b.Type.BlockBytes(), a.Type.BlockBytes()), cmp.Compare(a.Name, b.Name))
	})
}

// encodeHeader gives the header's length and the header, padded with spaces to
// a multiple of 8.
func encodeHeader(tensors []Tensor, metadata map[string]string) ([]byte, error) {
	b := append(make([]byte, 8), '{')
	if len(metadata) > 0 {
		b = append(b, `"`+metadataKey+`":{`...)
		for i, key := range slices.Sorted(maps.Keys(metadata)) {
			if !utf8.ValidString(key) || !utf8.ValidString(metadata[key]) {
				return nil, fmt.Errorf("metadata %q is not UTF-8", key)
			}
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(append(b, quoted(key)...), ':'), quoted(metadata[key])...)
		}
		b = append(b, '}')
	}
	seen := map[string]bool{metadataKey: true}
	offset := 0
	for _, t := range tensors {
		size, err := checked(t)
		switch {
		case err != nil:
		case seen[t.Name]:
			err = fmt.Errorf("is there twice, or its name is reserved")
		case !utf8.ValidString(t.Name):
			err = fmt.Errorf("its name is not UTF-8")
		}
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		seen[t.Name] = true
		if len(b) > 9 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `%s:{"dtype":%q,"shape":[`, quoted(t.Name), t.Type.String())
		for i, d := range t.Shape {
			if i > 0 {
				b = append(b, ',')
			}
			b = fmt.Append(b, d)
		}
		b = fmt.Appendf(b, `],"data_offsets":[%d,%d]}`, offset, offset+size)
		offset += size
	}
	b = append(b, '}')
	for len(b)%8 != 0 {
		b = append(b, ' ')
	}
	if len(b)-8 > maxHeader {
		return nil, fmt.Errorf("the header would have %d bytes, at most %d are allowed: use fewer tensors or less metadata", len(b)-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(b, uint64(len(b)-8))
	return b, nil
}

func checked(t Tensor) (size int, err error) {
	if _, ok := types[t.Type.String()]; !ok {
		return 0, fmt.Errorf("safetensors files cannot hold %v", t.Type)
	}
	if size, err = sizeOf(t.Type, t.Shape); err == nil && size != len(t.Data) {
		err = fmt.Errorf("%v values of shape %v take %d bytes, its data has %d", t.Type, t.Shape, size, len(t.Data))
	}
	return size, err
}

// quoted is s as JSON, without json.Marshal's escapes for HTML.
func quoted(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a string always encodes
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
