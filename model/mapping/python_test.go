package mapping

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/safetensors"
)

// encoded runs the reference device over random keys and queries and gives
// keys, queries, codes, weights, scales and scores as tensors of a file.
func encoded(t *testing.T, m *Mapping) []safetensors.Tensor {
	t.Helper()
	const n, rows = 67, 5
	device := kernels.NewReference()
	rng := rand.New(rand.NewPCG(7, 7))
	var all []safetensors.Tensor
	add := func(layer int, part string, x kernels.Tensor, kind dtype.Type) {
		all = append(all, safetensors.Tensor{Name: fmt.Sprintf("layers.%d.%s", layer, part), Type: kind, Shape: x.Shape, Data: x.Bytes()})
	}
	alloc := func(kind dtype.Type, shape ...int) kernels.Tensor {
		x, err := device.Alloc(kind, shape...)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	random := func(shape ...int) kernels.Tensor {
		x := alloc(dtype.F32, shape...)
		for i := range x.F32() { // values that bfloat16 holds exactly
			x.F32()[i] = dtype.F32FromBF16(dtype.BF16FromF32(float32(rng.NormFloat64())))
		}
		return x
	}
	s := m.Model
	for l, layer := range m.Layers {
		if layer == nil {
			continue
		}
		cache, err := device.NewCache(kernels.CacheSpec{Layers: s.Layers, KVHeads: s.KVHeads, HeadDim: s.HeadDim, Capacity: n, Type: dtype.F32})
		if err != nil {
			t.Fatal(err)
		}
		index := &kernels.Index{Layers: make([][]kernels.Tensor, s.Layers)}
		codes := alloc(dtype.U32, m.KeyHeads(), n, layer.Key.Words())
		index.Layers[l] = []kernels.Tensor{codes}
		key, err := device.LoadProjection(layer.Key)
		if err != nil {
			t.Fatal(err)
		}
		query, err := device.LoadProjection(layer.Query)
		if err != nil {
			t.Fatal(err)
		}
		var prompt kernels.Batch
		if err := device.SetBatch(&prompt, []kernels.Segment{{Cache: cache, Index: index, Len: n}}); err != nil {
			t.Fatal(err)
		}
		keys := random(n, s.KVHeads, s.HeadDim)
		device.Append(l, keys, keys, &prompt)
		device.EncodeKeys(key, l, &prompt)
		q := random(rows, s.QueryHeads, s.HeadDim)
		weights := alloc(dtype.I8, rows, layer.Query.Heads, m.Bits)
		scales := alloc(dtype.F32, rows, layer.Query.Heads)
		device.EncodeQueries(weights, scales, query, q, m.QueryBits)
		scores := alloc(dtype.I32, rows, m.SelectionHeads(l), n)
		for r := range rows { // every query sees all n keys
			var one kernels.Batch
			if err := device.SetBatch(&one, []kernels.Segment{{Cache: cache, Index: index, Start: n - 1, Len: 1}}); err != nil {
				t.Fatal(err)
			}
			device.ScanHash(scores.Rows(r, r+1), weights.Rows(r, r+1), l, &one)
		}
		add(l, "keys", cache.K[l], dtype.F32)
		add(l, "queries", q, dtype.F32)
		add(l, "codes", codes, dtype.I32) // torch has no unsigned words
		add(l, "weights", weights, dtype.I8)
		add(l, "scales", scales, dtype.F32)
		add(l, "scores", scores, dtype.I32)
	}
	return all
}

var update = flag.Bool("update", false, "write the golden files again")

// The goldens hold what the reference device gave when load_mapping.py agreed
// with it in every bit; they keep the encoding from changing unnoticed where
// there is no torch.
func TestGolden(t *testing.T) {
	for preset, bits := range presets {
		m := random(preset, bits)
		path := filepath.Join("testdata", preset)
		if *update {
			if err := os.MkdirAll("testdata", 0o777); err != nil {
				t.Fatal(err)
			}
			if err := m.Save(path + ".mapping.safetensors"); err != nil {
				t.Fatal(err)
			}
			if err := safetensors.Write(path+".codes.safetensors", encoded(t, m), nil); err != nil {
				t.Fatal(err)
			}
		}
		m, err := Load(path + ".mapping.safetensors")
		if err != nil {
			t.Fatal(err)
		}
		golden, err := safetensors.Open(path + ".codes.safetensors")
		if err != nil {
			t.Fatal(err)
		}
		defer golden.Close()
		for _, got := range encoded(t, m) {
			want, ok := golden.Tensor(got.Name)
			if !ok {
				t.Fatalf("%s: the golden lacks %s", preset, got.Name)
			}
			if string(want.Data) != string(got.Data) {
				t.Errorf("%s: %s differs from the golden", preset, got.Name)
			}
		}
	}
}

// TestPython lets load_mapping.py compute codes, weights and scores and
// compare every bit.
func TestPython(t *testing.T) {
	python := os.Getenv("HASHATTN_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import torch, safetensors").Run(); err != nil {
		t.Skipf("%s has no torch and safetensors (set HASHATTN_PYTHON to one that has): %v", python, err)
	}
	for preset := range presets {
		path := filepath.Join("testdata", preset)
		out, err := exec.Command(python, "../../scripts/load_mapping.py", path+".mapping.safetensors", "--check", path+".codes.safetensors").CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", preset, err, out)
		}
		t.Logf("%s\n%s", preset, out)
	}
}
