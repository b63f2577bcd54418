package safetensors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// entry is what the header says about one tensor; begin and end count from the
// end of the header and are not checked yet.
type entry struct {
	name       string
	typ        dtype.Type
	shape      []int
	begin, end uint64
}

// parseHeader reads the JSON object that describes the file, token by token:
// encoding/json alone would let repeated and misspelt names pass.
func parseHeader(header []byte) (map[string]string, []entry, error) {
	if len(header) == 0 || header[0] != '{' {
		return nil, nil, errors.New("not a safetensors file: its header is not a JSON object")
	}
	if !utf8.Valid(header) {
		return nil, nil, errors.New("header is not UTF-8")
	}
	p := parser{json.NewDecoder(bytes.NewReader(header))}
	p.UseNumber()
	metadata := map[string]string{}
	var entries []entry
	err := p.object(func(name string) (err error) {
		if name == metadataKey {
			if err = p.object(func(key string) (err error) { metadata[key], err = p.text(); return err }); err != nil {
				err = fmt.Errorf("%s: %w", metadataKey, err)
			}
			return err
		}
		e := entry{name: name}
		if err := p.tensor(&e); err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		entries = append(entries, e)
		return nil
	})
	if err == nil {
		if _, end := p.Token(); end != io.EOF {
			err = errors.New("something follows the JSON object")
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	return metadata, entries, nil
}

type parser struct{ *json.Decoder }

// next is the next token; io.EOF would read as success further up.
func (p parser) next() (json.Token, error) {
	t, err := p.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}

func (p parser) delim(want json.Delim) error {
	t, err := p.next()
	if err == nil && t != want {
		err = fmt.Errorf("found %v where %q belongs", t, want)
	}
	return err
}

// object reads an object and calls value at each key's value. A key that is
// there twice is an error.
func (p parser) object(value func(key string) error) error {
	if err := p.delim('{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for p.More() {
		t, err := p.next()
		if err != nil {
			return err
		}
		key := t.(string) // the decoder accepts nothing else as a key
		if seen[key] {
			return fmt.Errorf("%q is there twice", key)
		}
		seen[key] = true
		if err := value(key); err != nil {
			return err
		}
	}
	return p.delim('}')
}

// array reads an array of natural numbers.
func (p parser) array() ([]uint64, error) {
	if err := p.delim('['); err != nil {
		return nil, err
	}
	var all []uint64
	for p.More() {
		t, err := p.next()
		if err != nil {
			return nil, err
		}
		n, ok := t.(json.Number)
		if !ok {
			return nil, fmt.Errorf("found %v where a number belongs", t)
		}
		v, err := strconv.ParseUint(n.String(), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is not a natural number of 64 bits", n)
		}
		all = append(all, v)
	}
	return all, p.delim(']')
}

func (p parser) text() (string, error) {
	t, err := p.next()
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("found %v where a string belongs", t)
	}
	return s, nil
}

func (p parser) tensor(e *entry) error {
	missing := map[string]bool{"dtype": true, "shape": true, "data_offsets": true}
	err := p.object(func(key string) error {
		delete(missing, key)
		switch key {
		case "dtype":
			name, err := p.text()
			if err != nil {
				return fmt.Errorf("dtype: %w", err)
			}
			var ok bool
			if e.typ, ok = types[name]; !ok {
				return fmt.Errorf("dtype %q is not supported: convert the model to BF16, F16 or F32", name)
			}
		case "shape":
			dims, err := p.array()
			if err != nil {
				return fmt.Errorf("shape: %w", err)
			}
			e.shape = make([]int, len(dims))
			for i, d := range dims {
				if d > math.MaxInt {
					return fmt.Errorf("dimension %d is too large", d)
				}
				e.shape[i] = int(d)
			}
		case "data_offsets":
			offsets, err := p.array()
			if err != nil {
				return fmt.Errorf("data_offsets: %w", err)
			}
			if len(offsets) != 2 {
				return fmt.Errorf("data_offsets has %d numbers, want 2", len(offsets))
			}
			e.begin, e.end = offsets[0], offsets[1]
		default:
			return fmt.Errorf("field %q is unknown", key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range []string{"dtype", "shape", "data_offsets"} {
		if missing[key] {
			return fmt.Errorf("lacks %s", key)
		}
	}
	return nil
}
