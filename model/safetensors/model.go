package safetensors

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

const (
	singleFile = "model.safetensors"
	indexFile  = "model.safetensors.index.json"
	maxIndex   = 100_000_000 // bytes
)

// Model holds the tensors of a checkpoint folder as the hub lays it out.
type Model struct {
	Tensors []Tensor // of all files, sorted by name

	files []*File
}

// OpenModel opens model.safetensors in dir or, without that, the shards that
// model.safetensors.index.json lists. It is an error when a shard is missing,
// lacks a tensor that the index says it has, or repeats another's.
func OpenModel(dir string) (*Model, error) {
	single := filepath.Join(dir, singleFile)
	f, err := Open(single)
	if err == nil {
		return &Model{f.Tensors, []*File{f}}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	index := filepath.Join(dir, indexFile)
	shardOf, err := readIndex(index)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s holds neither %s nor %s", dir, singleFile, indexFile)
	}
	if err != nil {
		return nil, err
	}
	m := &Model{}
	if err := m.openShards(dir, shardOf); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Model) openShards(dir string, shardOf map[string]string) error {
	index := filepath.Join(dir, indexFile)
	holder := map[string]string{} // tensor -> the shard that has it
	for _, shard := range slices.Compact(slices.Sorted(maps.Values(shardOf))) {
		if shard != filepath.Base(shard) || !filepath.IsLocal(shard) {
			return fmt.Errorf("%s: shard %q is not a file of the same folder", index, shard)
		}
		f, err := Open(filepath.Join(dir, shard))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: shard %s is missing: download it beside the others", index, shard)
		}
		if err != nil {
			return err
		}
		m.files = append(m.files, f)
		for _, t := range f.Tensors {
			if other, ok := holder[t.Name]; ok {
				return fmt.Errorf("%s: tensor %q is in %s and in %s", index, t.Name, other, shard)
			}
			holder[t.Name] = shard
		}
		m.Tensors = append(m.Tensors, f.Tensors...)
	}
	for _, name := range slices.Sorted(maps.Keys(shardOf)) {
		if holder[name] != shardOf[name] {
			return fmt.Errorf("%s: shard %s lacks tensor %q", index, shardOf[name], name)
		}
	}
	slices.SortFunc(m.Tensors, func(a, b Tensor) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

// readIndex gives the shard of each tensor.
func readIndex(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxIndex {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxIndex)
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(index.WeightMap) == 0 {
		return nil, fmt.Errorf("%s has no weight_map", path)
	}
	return index.WeightMap, nil
}

// Tensor finds a tensor by name.
func (m *Model) Tensor(name string) (Tensor, bool) { return find(m.Tensors, name) }

// Close unmaps all files: the Data of the tensors must not be touched any more.
func (m *Model) Close() error {
	var errs []error
	for _, f := range m.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
