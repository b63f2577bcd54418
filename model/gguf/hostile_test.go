package gguf

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// raw builds files by hand, piece by piece.
type raw []byte

func header(tensors, keys uint64) raw { return raw("GGUF").u32(3).u64(tensors).u64(keys) }

func (r raw) u32(v uint32) raw   { return binary.LittleEndian.AppendUint32(r, v) }
func (r raw) u64(v uint64) raw   { return binary.LittleEndian.AppendUint64(r, v) }
func (r raw) str(s string) raw   { return append(r.u64(uint64(len(s))), s...) }
func (r raw) zeros(n int) raw    { return append(r, make([]byte, n)...) }
func (r raw) key(s string) raw   { return r.str(s) }
func (r raw) align(v uint32) raw { return r.str(alignmentKey).u32(kindUint32).u32(v) }
func (r raw) pad(n int) raw      { return r.zeros((n - len(r)%n) % n) }

func (r raw) tensor(name string, t dtype.Type, offset uint64, dims ...uint64) raw {
	r = r.str(name).u32(uint32(len(dims)))
	for _, d := range dims {
		r = r.u64(d)
	}
	return r.u32(uint32(t)).u64(offset)
}

// hostile are broken files and what the error must say.
func hostile() map[string]struct {
	data []byte
	want string
} {
	type c = struct {
		data []byte
		want string
	}
	huge := uint64(1) << 62
	array := func(kind uint32, n uint64) raw { return header(0, 1).key("a").u32(kindArray).u32(kind).u64(n) }
	deep := header(0, 1).key("a").u32(kindArray)
	for range 1000 {
		deep = deep.u32(kindArray).u64(1)
	}
	return map[string]c{
		"empty":                     {nil, "not a GGUF file"},
		"magic only":                {raw("GGUF"), "truncated"},
		"other magic":               {raw("GGML").u32(3).u64(0).u64(0), "not a GGUF file"},
		"version 1":                 {raw("GGUF").u32(1).u64(0).u64(0), "version 1"},
		"version 4":                 {raw("GGUF").u32(4).u64(0).u64(0), "version 4"},
		"big endian":                {raw("GGUF\x00\x00\x00\x03").u64(0).u64(0), "big-endian"},
		"keys":                      {header(0, huge).zeros(100), "metadata keys do not fit"},
		"keys beyond":               {header(0, 3).key("a").u32(kindUint8).zeros(1).u64(99).zeros(18), "name of metadata key 1"},
		"tensors":                   {header(huge, 0).zeros(100), "tensors do not fit"},
		"key length":                {header(0, 1).u64(huge).zeros(100), "name of metadata key 0"},
		"key length overflow":       {header(0, 1).u64(1<<64 - 1).zeros(100), "name of metadata key 0"},
		"long key":                  {header(0, 1).str(strings.Repeat("k", maxName)).u32(kindUint8).zeros(1), "at most 65535"},
		"string length":             {header(0, 1).key("a").u32(kindString).u64(huge), `key "a": needs`},
		"value cut":                 {header(0, 1).key("a").u32(kindUint64).u32(0), `key "a": needs`},
		"value type":                {header(0, 1).key("a").u32(13).u64(0), "value type 13"},
		"truth value":               {append(header(0, 1).key("a").u32(kindBool), 2), "0 or 1"},
		"truth values":              {append(array(kindBool, 2), 1, 7), "item 1"},
		"array of strings":          {array(kindString, huge).zeros(100), "items does not fit"},
		"array of bytes":            {array(kindUint8, huge).zeros(100), "items does not fit"},
		"array of float64":          {array(kindFloat64, 1<<61+1).zeros(8), "items does not fit"},
		"array of arrays":           {array(kindArray, huge).zeros(100), "items does not fit"},
		"array of what":             {array(99, 1).zeros(100), "unknown value type 99"},
		"string in array":           {array(kindString, 2).str("x").u64(99), "item 1"},
		"arrays in arrays":          {deep.u32(kindUint8).u64(0), "within each other"},
		"key twice":                 {header(0, 2).key("a").u32(kindUint32).u32(0).key("a").u32(kindUint32).u32(0), `"a" is there twice`},
		"alignment 0":               {header(0, 1).align(0).zeros(64), "power of two"},
		"alignment 3":               {header(0, 1).align(3).zeros(64), "power of two"},
		"alignment huge":            {header(0, 1).align(1 << 31).zeros(64), "power of two"},
		"alignment text":            {header(0, 1).key(alignmentKey).u32(kindString).str("32"), alignmentKey},
		"tensor cut":                {header(1, 0).str("w").u32(2).u64(2), `tensors do not fit`},
		"dimensions":                {header(1, 0).tensor("w", dtype.F32, 0, 1, 1, 1, 1, 1).pad(32).zeros(64), "5 dimensions"},
		"dimensions huge":           {header(1, 0).str("w").u32(1<<32 - 1).zeros(99), "dimensions, at most"},
		"dimension over int64":      {header(1, 0).tensor("w", dtype.F32, 0, 1<<63).pad(32).zeros(64), "too large"},
		"values overflow":           {header(1, 0).tensor("w", dtype.F32, 0, 1<<32, 1<<32).pad(32).zeros(64), "too large"},
		"bytes overflow":            {header(1, 0).tensor("w", dtype.F32, 0, 1<<62).pad(32).zeros(64), "too large"},
		"zero hides overflow":       {header(1, 0).tensor("w", dtype.F32, 0, 1<<62, 1<<62, 0).pad(32).zeros(64), "too large"},
		"format":                    {header(1, 0).tensor("w", 19, 0, 1).pad(32).zeros(64), `tensor "w": number format 19`},
		"format of others":          {header(1, 0).tensor("w", dtype.U8, 0, 1).pad(32).zeros(64), "number format 1000"},
		"part of a block":           {header(1, 0).tensor("w", dtype.Q4_0, 0, 16, 2).pad(32).zeros(64), "whole number of Q4_0 blocks"},
		"offset unaligned":          {header(1, 0).tensor("w", dtype.F32, 4, 1).pad(32).zeros(64), "multiple of the alignment"},
		"offset beyond":             {header(1, 0).tensor("w", dtype.F32, 64, 1).pad(32).zeros(64), `tensor "w": its 4 bytes`},
		"offset overflow":           {header(1, 0).tensor("w", dtype.F32, 1<<64-32, 16).pad(32).zeros(64), "truncated"},
		"data cut":                  {header(1, 0).tensor("w", dtype.F32, 0, 17).pad(32).zeros(64), "truncated"},
		"no data":                   {header(1, 0).tensor("w", dtype.F32, 0, 1), "truncated"},
		"tensor twice":              {header(2, 0).tensor("w", dtype.F32, 0, 1).tensor("w", dtype.F32, 32, 1).pad(32).zeros(64), "there twice"},
		"tensors overlap":           {header(2, 0).tensor("v", dtype.F32, 0, 16).tensor("w", dtype.F32, 32, 1).pad(32).zeros(64), "overlap"},
		"tensors in the same place": {header(2, 0).tensor("v", dtype.F32, 0, 1).tensor("w", dtype.F32, 0, 1).pad(32).zeros(64), "overlap"},
	}
}

func TestHostileFiles(t *testing.T) {
	for name, c := range hostile() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.gguf")
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Open(path)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), "bad.gguf") {
				t.Fatalf("got %v, want an error that names the file", err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
				t.Errorf("allocated %d bytes for a file of %d", got, len(c.data))
			}
		})
	}
}

// Every cut of a good file is an error, never a crash, until only the padding
// behind the last tensor is missing.
func TestTruncated(t *testing.T) {
	whole, err := os.ReadFile(python)
	if err != nil {
		t.Fatal(err)
	}
	last := open(t, python).Tensors
	needed := len(whole) - (32-len(last[len(last)-1].Data)%32)%32
	for n := range whole {
		if _, err := parse(whole[:n:n]); (err == nil) != (n >= needed) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func TestReadsVersion2(t *testing.T) {
	data, err := os.ReadFile(python)
	if err != nil {
		t.Fatal(err)
	}
	data[4] = 2
	f, err := parse(data)
	if err != nil || f.Version != 2 || len(f.Tensors) == 0 {
		t.Errorf("got %+v, %v", f, err)
	}
}

// FuzzOpen reads arbitrary bytes: no crash, no large allocation, and what
// opens can be converted and survives being written and read again.
func FuzzOpen(f *testing.F) {
	golden, err := os.ReadFile(python)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	for _, c := range hostile() {
		f.Add(c.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parse(data)
		if err != nil {
			return
		}
		for _, tensor := range file.Tensors {
			values := 1
			for _, d := range tensor.Shape {
				values *= d
			}
			if err := dtype.ToF32(make([]float32, values), tensor.Type, tensor.Data); err != nil {
				t.Fatalf("tensor %q: %v", tensor.Name, err)
			}
		}
		again := encode(t, file)
		copied, err := parse(again)
		if err != nil {
			t.Fatalf("the copy does not open: %v", err)
		}
		if !bytes.Equal(encode(t, copied), again) {
			t.Fatal("the copy's copy differs")
		}
	})
}

func encode(t *testing.T, f *File) []byte {
	head, alignment, err := encodeHeader(f.Meta, f.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeBody(&b, head, alignment, f.Tensors); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
