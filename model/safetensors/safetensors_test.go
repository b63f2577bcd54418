package safetensors

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hashattn/hashattn/kernels/dtype"
)

var update = flag.Bool("update", false, "write testdata/go.safetensors anew; then run scripts/goldens/safetensors_file.py")

// golden is what the Python package reads from a file.
type golden struct {
	Metadata map[string]string
	Tensors  []struct {
		Name, Type, SHA256 string
		Shape              []int
	}
}

func readGolden(t *testing.T, path string) golden {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Tensors) == 0 {
		t.Fatalf("%s is empty", path)
	}
	return g
}

func describe(f *File) golden {
	g := golden{Metadata: f.Metadata}
	for _, t := range f.Tensors {
		sum := sha256.Sum256(t.Data)
		g.Tensors = append(g.Tensors, struct {
			Name, Type, SHA256 string
			Shape              []int
		}{t.Name, t.Type.String(), hex.EncodeToString(sum[:]), t.Shape})
	}
	return g
}

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
	f := open(t, "testdata/python.safetensors")
	if diff := cmp.Diff(readGolden(t, "testdata/python.json"), describe(f)); diff != "" {
		t.Errorf("(-Python +Go):\n%s", diff)
	}
	weight, ok := f.Tensor("weight")
	if !ok || weight.Type != dtype.F32 || !slices.Equal(weight.Shape, []int{4, 8}) {
		t.Errorf("weight: %+v, %v", weight, ok)
	}
	if _, ok := f.Tensor("weigh"); ok {
		t.Error("found a tensor that is not there")
	}
}

// sample has every type and awkward sizes and names.
func sample() ([]Tensor, map[string]string) {
	var tensors []Tensor
	for name, typ := range types {
		if typ == dtype.BF16 { // numpy cannot read it
			continue
		}
		for _, n := range []int{0, 1, 5, 8} {
			data := make([]byte, n*typ.BlockBytes())
			for i := range data {
				data[i] = byte(i) & 1
			}
			tensors = append(tensors, Tensor{name + "." + strings.Repeat("x", n), typ, []int{n, 1}, data})
		}
	}
	tensors = append(tensors, Tensor{"one \"number\" <é\u2028>", dtype.F32, nil, []byte{0, 0, 128, 63}})
	return tensors, map[string]string{"b": "2", "a": "<línea>\n\"1\"", "": ""}
}

// go.safetensors is what Write makes of the sample; go.json is what the Python
// package reads from it.
func TestPythonReadsWhatWeWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "go.safetensors")
	tensors, metadata := sample()
	if err := Write(path, tensors, metadata); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/go.safetensors", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/go.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("Write gives other bytes than testdata/go.safetensors: check them with -update and scripts/goldens/safetensors_file.py")
	}
	f := open(t, path)
	if diff := cmp.Diff(readGolden(t, "testdata/go.json"), describe(f)); diff != "" {
		t.Errorf("(-Python +Go):\n%s", diff)
	}
}

func TestWriteIsDeterministicAndAligned(t *testing.T) {
	dir := t.TempDir()
	tensors, metadata := sample()
	tensors = append(tensors, Tensor{"bf16", dtype.BF16, []int{3}, make([]byte, 6)})
	first, second := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	if err := Write(first, tensors, metadata); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(tensors)
	if err := Write(second, tensors, metadata); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Error("the order of the tensors changes the bytes")
	}
	f := open(t, first)
	base := f.mapped.Bytes()
	for _, tensor := range f.Tensors {
		if len(tensor.Data) == 0 {
			continue
		}
		at := offsetOf(base, tensor.Data)
		if at < 0 || at%tensor.Type.BlockBytes() != 0 || len(tensor.Data)%8 == 0 && at%8 != 0 {
			t.Errorf("tensor %q of %d bytes lies at %d", tensor.Name, len(tensor.Data), at)
		}
	}
	if len(f.Tensors) != len(tensors) {
		t.Errorf("%d tensors, want %d", len(f.Tensors), len(tensors))
	}
}

// offsetOf finds where a window of base begins.
func offsetOf(base, window []byte) int {
	for i := range base {
		if &base[i] == &window[0] {
			return i
		}
	}
	return -1
}

func TestWriteErrors(t *testing.T) {
	ok := Tensor{"w", dtype.F32, []int{2}, make([]byte, 8)}
	change := func(f func(*Tensor)) []Tensor { c := ok; f(&c); return []Tensor{c} }
	for _, c := range []struct {
		name, want string
		tensors    []Tensor
		metadata   map[string]string
	}{
		{"twice", `tensor "w": is there twice`, []Tensor{ok, ok}, nil},
		{"reserved", "reserved", change(func(t *Tensor) { t.Name = metadataKey }), nil},
		{"short", "take 8 bytes, its data has 7", change(func(t *Tensor) { t.Data = t.Data[:7] }), nil},
		{"long", "take 4 bytes, its data has 8", change(func(t *Tensor) { t.Shape = nil }), nil},
		{"negative", "negative", change(func(t *Tensor) { t.Shape = []int{-2} }), nil},
		{"overflow", "too large", change(func(t *Tensor) { t.Shape = []int{1 << 40, 1 << 40, 0} }), nil},
		{"quantised", "cannot hold Q8_0", change(func(t *Tensor) { t.Type = dtype.Q8_0 }), nil},
		{"unknown", "cannot hold type(77)", change(func(t *Tensor) { t.Type = 77 }), nil},
		{"name", "not UTF-8", change(func(t *Tensor) { t.Name = "\xff" }), nil},
		{"metadata", "not UTF-8", nil, map[string]string{"k": "\xff"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			err := Write(filepath.Join(dir, "out.safetensors"), c.tensors, c.metadata)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "out.safetensors") {
				t.Errorf("got %v, want an error with the file's name and %q", err, c.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
