package safetensors

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// shards writes a folder: the tensors of each file and, unless nil, the index.
func shards(t *testing.T, files map[string][]string, index map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for file, names := range files {
		var tensors []Tensor
		for _, name := range names {
			tensors = append(tensors, Tensor{name, dtype.U8, []int{len(name)}, []byte(name)})
		}
		if err := Write(filepath.Join(dir, file), tensors, nil); err != nil {
			t.Fatal(err)
		}
	}
	if index != nil {
		b, err := json.Marshal(map[string]any{"metadata": map[string]int{"total_size": 1}, "weight_map": index})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, indexFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpenModel(t *testing.T) {
	for name, dir := range map[string]string{
		"single": shards(t, map[string][]string{singleFile: {"c", "a", "bb"}}, nil),
		"sharded": shards(t, map[string][]string{"model-1.safetensors": {"c", "a"}, "model-2.safetensors": {"bb"}},
			map[string]string{"a": "model-1.safetensors", "bb": "model-2.safetensors", "c": "model-1.safetensors"}),
	} {
		t.Run(name, func(t *testing.T) {
			m, err := OpenModel(dir)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, tensor := range m.Tensors {
				names = append(names, tensor.Name)
				if got, ok := m.Tensor(tensor.Name); !ok || string(got.Data) != tensor.Name {
					t.Errorf("tensor %s holds %q", tensor.Name, got.Data)
				}
			}
			if !slices.Equal(names, []string{"a", "bb", "c"}) {
				t.Errorf("got %q, want them sorted", names)
			}
			if _, ok := m.Tensor("d"); ok {
				t.Error("found a tensor that is not there")
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenModelErrors(t *testing.T) {
	damaged := shards(t, map[string][]string{"1": {"a"}}, map[string]string{"a": "1"})
	if err := os.Truncate(filepath.Join(damaged, "1"), 20); err != nil {
		t.Fatal(err)
	}
	text := shards(t, nil, nil)
	if err := os.WriteFile(filepath.Join(text, indexFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ dir, want string }{
		"nothing":       {t.TempDir(), "neither model.safetensors nor"},
		"no folder":     {filepath.Join(t.TempDir(), "none"), "none holds neither"},
		"missing shard": {shards(t, map[string][]string{"1": {"a"}}, map[string]string{"a": "1", "b": "2"}), "shard 2 is missing"},
		"absent tensor": {shards(t, map[string][]string{"1": {"a"}}, map[string]string{"a": "1", "b": "1"}), `shard 1 lacks tensor "b"`},
		"other shard":   {shards(t, map[string][]string{"1": {"a"}, "2": {"b"}}, map[string]string{"a": "2", "b": "1"}), `shard 2 lacks tensor "a"`},
		"in two shards": {shards(t, map[string][]string{"1": {"a"}, "2": {"a", "b"}}, map[string]string{"a": "1", "b": "2"}), `tensor "a" is in 1 and in 2`},
		"outside":       {shards(t, nil, map[string]string{"a": "../1"}), `shard "../1" is not a file of the same folder`},
		"itself":        {shards(t, nil, map[string]string{"a": ".."}), `shard ".." is not a file`},
		"empty index":   {shards(t, nil, map[string]string{}), "no weight_map"},
		"damaged shard": {damaged, "truncated"},
		"broken index":  {text, indexFile},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := OpenModel(c.dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}
