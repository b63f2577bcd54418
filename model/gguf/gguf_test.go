package gguf

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hashattn/hashattn/kernels/dtype"
)

const python = "testdata/python.gguf" // from scripts/goldens/gguf_file.py

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestReadsWhatPythonWrote(t *testing.T) {
	f := open(t, python)
	wantMeta := Meta{
		"general.architecture": "llama", "general.name": "tiny “golden” ✓",
		"test.arrays": []any{[]int32{1, 2}, []int32{3}}, "test.bools": []bool{true, false, true},
		"test.bool": true, "test.float32": float32(1.5), "test.float64": 0.1,
		"test.int8": int8(-5), "test.int16": int16(-300), "test.int32": int32(-70000), "test.int64": int64(-1 << 40),
		"test.uint8": uint8(255), "test.uint16": uint16(65535), "test.uint32": uint32(4294967295), "test.uint64": uint64(1<<64 - 1),
		"tokenizer.ggml.scores":     []float32{0, -1.5, -1000.1, 3},
		"tokenizer.ggml.token_type": []int32{1, 2, 3, -1},
		"tokenizer.ggml.tokens":     []string{"<s>", "", "Ġa", "日本"},
	}
	if diff := cmp.Diff(wantMeta, f.Meta); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if f.Version != 3 {
		t.Errorf("version %d, want 3", f.Version)
	}
	var want []struct {
		Name, Type string
		Shape      []int
		Values     []float32
	}
	golden, err := os.ReadFile("testdata/python.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(golden, &want); err != nil {
		t.Fatal(err)
	}
	if len(f.Tensors) != len(want) || len(want) == 0 {
		t.Fatalf("%d tensors, want %d", len(f.Tensors), len(want))
	}
	for i, w := range want {
		got := f.Tensors[i]
		if got.Name != w.Name || got.Type.String() != w.Type || !slices.Equal(got.Shape, w.Shape) {
			t.Errorf("tensor %d is %s %v %v, want %s %s %v", i, got.Name, got.Type, got.Shape, w.Name, w.Type, w.Shape)
			continue
		}
		values := make([]float32, len(w.Values))
		if err := dtype.ToF32(values, got.Type, got.Data); err != nil {
			t.Errorf("tensor %s: %v", got.Name, err)
		}
		if !slices.Equal(values, w.Values) {
			t.Errorf("tensor %s: got %v, want %v", got.Name, values, w.Values)
		}
		if byName, ok := f.Tensor(w.Name); !ok || &byName.Data[0] != &got.Data[0] {
			t.Errorf("tensor %s is not found by its name", w.Name)
		}
	}
	if _, ok := f.Tensor("none"); ok {
		t.Error("found a tensor that is not there")
	}
}

// The golden's keys are in alphabetical order, so the writers must agree.
func TestWritesTheBytesPythonWrites(t *testing.T) {
	f := open(t, python)
	path := filepath.Join(t.TempDir(), "copy.gguf")
	if err := Write(path, f.Meta, f.Tensors); err != nil {
		t.Fatal(err)
	}
	want, err1 := os.ReadFile(python)
	got, err2 := os.ReadFile(path)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the copy has %d bytes and differs from the original's %d", len(got), len(want))
	}
}

func TestGetters(t *testing.T) {
	m := open(t, python).Meta
	if s, err := m.String("general.name"); err != nil || s != "tiny “golden” ✓" {
		t.Errorf("String: %q, %v", s, err)
	}
	for _, key := range []string{"test.uint8", "test.uint16", "test.uint32", "test.uint64"} {
		if u, err := m.Uint(key); err != nil || u != map[string]uint64{"test.uint8": 255, "test.uint16": 65535, "test.uint32": 1<<32 - 1, "test.uint64": 1<<64 - 1}[key] {
			t.Errorf("Uint(%s): %d, %v", key, u, err)
		}
	}
	for key, want := range map[string]int{"test.int8": -5, "test.int16": -300, "test.int32": -70000, "test.int64": -1 << 40, "test.uint8": 255, "test.uint32": 1<<32 - 1} {
		if i, err := m.Int(key); err != nil || i != want {
			t.Errorf("Int(%s): %d, %v", key, i, err)
		}
	}
	for key, want := range map[string]float64{"test.float32": 1.5, "test.float64": 0.1} {
		if x, err := m.Float(key); err != nil || x != want {
			t.Errorf("Float(%s): %v, %v", key, x, err)
		}
	}
	if b, err := m.Bool("test.bool"); err != nil || !b {
		t.Errorf("Bool: %v, %v", b, err)
	}
	if s, err := m.Strings("tokenizer.ggml.tokens"); err != nil || !slices.Equal(s, []string{"<s>", "", "Ġa", "日本"}) {
		t.Errorf("Strings: %q, %v", s, err)
	}
	if x, err := m.Floats("tokenizer.ggml.scores"); err != nil || !slices.Equal(x, []float32{0, -1.5, -1000.1, 3}) {
		t.Errorf("Floats: %v, %v", x, err)
	}
	if b, err := m.Bools("test.bools"); err != nil || !slices.Equal(b, []bool{true, false, true}) {
		t.Errorf("Bools: %v, %v", b, err)
	}
	if i, err := m.Ints("tokenizer.ggml.token_type"); err != nil || !slices.Equal(i, []int{1, 2, 3, -1}) {
		t.Errorf("Ints: %v, %v", i, err)
	}
	m["big"] = []uint64{1, 1 << 63}
	errs := map[string]error{}
	_, errs["string of test.bool"] = m.String("test.bool")
	_, errs["int of test.uint64"] = m.Int("test.uint64")
	_, errs["uint of test.int8"] = m.Uint("test.int8")
	_, errs["uint of general.name"] = m.Uint("general.name")
	_, errs["float of test.int8"] = m.Float("test.int8")
	_, errs["ints of tokenizer.ggml.scores"] = m.Ints("tokenizer.ggml.scores")
	_, errs["ints of big"] = m.Ints("big")
	_, errs["strings of none"] = m.Strings("none")
	for what, err := range errs {
		key := what[strings.LastIndex(what, " ")+1:]
		if err == nil || !strings.Contains(err.Error(), `"`+key+`"`) {
			t.Errorf("%s: got %v, want an error that names the key", what, err)
		}
		if errors.Is(err, ErrNoKey) != (key == "none") {
			t.Errorf("%s: ErrNoKey is wrong: %v", what, err)
		}
	}
}

func TestIsGGUF(t *testing.T) {
	if !IsGGUF(python) {
		t.Error("the golden is not GGUF")
	}
	for _, path := range []string{"testdata", "testdata/none", "testdata/python.json", "gguf.go"} {
		if IsGGUF(path) {
			t.Errorf("%s is GGUF", path)
		}
	}
}

func TestEmptyTensorsAndScalars(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.gguf")
	want := []Tensor{
		{"none", dtype.F32, []int{0, 3}, []byte{}},
		{"number", dtype.F32, []int{}, []byte{0, 0, 128, 63}},
		{"last", dtype.I8, []int{1, 1, 1, 3}, []byte{1, 2, 3}},
	}
	if err := Write(path, Meta{alignmentKey: uint32(64)}, want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, open(t, path).Tensors); diff != "" {
		t.Errorf("tensors (-want +got):\n%s", diff)
	}
}

func TestWriteErrors(t *testing.T) {
	ok := Tensor{"w", dtype.Q8_0, []int{1, 32}, make([]byte, 34)}
	change := func(f func(*Tensor)) []Tensor { c := ok; f(&c); return []Tensor{c} }
	for _, c := range []struct {
		name, want string
		meta       Meta
		tensors    []Tensor
	}{
		{"twice", `tensor "w": is there twice`, nil, []Tensor{ok, ok}},
		{"short", "take 34 bytes, its data has 33", nil, change(func(t *Tensor) { t.Data = t.Data[:33] })},
		{"part of a block", "whole number", nil, change(func(t *Tensor) { t.Shape = []int{32, 1} })},
		{"negative", "negative", nil, change(func(t *Tensor) { t.Shape = []int{-1, 32} })},
		{"dimensions", "5 dimensions", nil, change(func(t *Tensor) { t.Shape = []int{1, 1, 1, 1, 32} })},
		{"format", "number format 1001", nil, change(func(t *Tensor) { t.Type = dtype.U16 })},
		{"long name", "65536 bytes", nil, change(func(t *Tensor) { t.Name = strings.Repeat("n", maxName) })},
		{"value", `key "k": a value of Go type int cannot be stored`, Meta{"k": 3}, nil},
		{"mixed", "holds arrays only", Meta{"k": []any{int8(1)}}, nil},
		{"mixed scalar", "holds arrays only", Meta{"k": []any{"x"}}, nil},
		{"deep", "within each other", Meta{"k": []any{[]any{[]any{[]any{[]int8{}}}}}}, nil},
		{"alignment", "power of two", Meta{alignmentKey: uint32(24)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			err := Write(filepath.Join(dir, "out.gguf"), c.meta, c.tensors)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "out.gguf") {
				t.Errorf("got %v, want an error with the file's name and %q", err, c.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
