package trace

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/safetensors"
	"github.com/hashattn/hashattn/model/shape"
)

var header = Header{
	Model:     shape.Model{Name: "tiny", Fingerprint: "f00d", Layers: 4, QueryHeads: 4, KVHeads: 2, HeadDim: 8, Rope: shape.Rope{Base: 1e4, Dims: 8}},
	Tokenizer: "t0", Context: 512, Captured: []int{1, 3}, Scale: DefaultScale(8),
}

// document makes a document whose values say where they belong.
func document(id string, n int) Document {
	m := header.Model
	d := Document{ID: id, Hash: "hash-of-" + id + "-padded", Kind: "prose", Tokens: make([]int32, n), Positions: Blocks(n)}
	for i := range d.Tokens {
		d.Tokens[i] = int32(i * 3)
	}
	fill := func(heads, rows, salt int) []uint16 {
		x := make([]uint16, heads*rows*m.HeadDim)
		for i := range x {
			x[i] = dtype.BF16FromF32(float32((i+salt)%251) / 16)
		}
		return x
	}
	d.Layer = func(l int) (q, k, v []uint16, err error) {
		return fill(m.QueryHeads, len(d.Positions), l), fill(m.KVHeads, n, l+7), fill(m.KVHeads, n, l+13), nil
	}
	return d
}

func write(t *testing.T, dir string, docs ...Document) *Writer {
	t.Helper()
	w, err := Create(dir, header)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		if err := w.Add(d); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	docs := []Document{document("a", 300), document("b", 512)}
	write(t, dir, docs...)
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := r.CheckModel(header.Model); err != nil {
		t.Error(err)
	}
	for i, d := range docs {
		l, err := r.Document(i)
		if err != nil {
			t.Fatal(err)
		}
		if l.ID != d.ID || !slices.Equal(l.Tokens, d.Tokens) || !slices.Equal(l.Positions, d.Positions) {
			t.Errorf("document %d differs: %v", i, l.Shard)
		}
		for _, layer := range header.Captured {
			got, err := l.Layer(layer)
			if err != nil {
				t.Fatal(err)
			}
			q, k, v, _ := d.Layer(layer)
			if !slices.Equal(got.Q, q) || !slices.Equal(got.K, k) || !slices.Equal(got.V, v) {
				t.Errorf("document %d layer %d differs", i, layer)
			}
		}
		if _, err := l.Layer(2); err == nil || !strings.Contains(err.Error(), "layer 2 was not captured") {
			t.Errorf("layer that was not captured: %v", err)
		}
	}
}

func TestResume(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, document("a", 300), document("b", 512))
	again := document("a", 300)
	again.Layer = func(int) (q, k, v []uint16, err error) {
		return nil, nil, nil, errors.New("captured again")
	}
	w := write(t, dir, again) // skipped, so Layer is not called
	if !w.Has("b", document("b", 1).Hash) || w.Has("b", "other text") {
		t.Error("Has does not know what the folder holds")
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Shards) != 2 {
		t.Errorf("%d shards, want 2", len(r.Shards))
	}
	// a shard that was cut short is an error to readers and captured again
	path := filepath.Join(dir, r.Shards[0].File)
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), r.Shards[0].File) {
		t.Errorf("truncated shard: %v", err)
	}
	write(t, dir, document("a", 300))
	r, err = Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Verify(context.Background()); err != nil || len(r.Shards) != 2 {
		t.Errorf("after repair: %v, %d shards", err, len(r.Shards))
	}
}

func TestOtherModel(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, document("a", 300))
	for name, change := range map[string]func(*Header){
		"fingerprint": func(h *Header) { h.Model.Fingerprint = "beef" },
		"headDim":     func(h *Header) { h.Model.HeadDim = 16 },
		"rope":        func(h *Header) { h.Model.Rope.Base = 5e5 },
		"tokenizer":   func(h *Header) { h.Tokenizer = "t1" },
		"context":     func(h *Header) { h.Context = 1024 },
		"layers":      func(h *Header) { h.Captured = []int{1} },
		"scale":       func(h *Header) { h.Scale = 1. / 16 },
	} {
		h := header
		change(&h)
		if _, err := Create(dir, h); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("other %s: %v", name, err)
		}
		if h.Model != header.Model {
			r, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.CheckModel(h.Model); err == nil {
				t.Errorf("reader accepts another %s", name)
			}
		}
	}
}

// Version 1 did not say the scale: it was 1/sqrt(headDim).
func TestVersion1(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, document("a", 300))
	path := filepath.Join(dir, indexName)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	if fields["version"] != 2. || fields["scale"] == nil {
		t.Errorf("written as version %v with scale %v", fields["version"], fields["scale"])
	}
	put := func(version, scale any) {
		t.Helper()
		fields["version"], fields["scale"] = version, scale
		if scale == nil {
			delete(fields, "scale")
		}
		data, err := json.Marshal(fields)
		if err == nil {
			err = os.WriteFile(path, data, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(1, nil)
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := DefaultScale(header.Model.HeadDim); r.Scale != want {
		t.Errorf("scale %v, want %v", r.Scale, want)
	}
	if w := write(t, dir, document("b", 300)); w.index.Version != version || len(w.index.Shards) != 2 {
		t.Errorf("continued as version %d with %d shards", w.index.Version, len(w.index.Shards))
	}
	for _, bad := range []struct{ version, scale any }{{1, 0.5}, {2, nil}, {2, 0}, {2, -1}, {3, 0.5}} {
		put(bad.version, bad.scale)
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "scale") && !strings.Contains(err.Error(), "version 3") {
			t.Errorf("version %v, scale %v: %v", bad.version, bad.scale, err)
		}
	}
}

func TestAddRefuses(t *testing.T) {
	w := write(t, t.TempDir())
	for name, change := range map[string]func(*Document){
		"positions":  func(d *Document) { d.Positions[3] = 0 },
		"tokens":     func(d *Document) { d.Tokens = make([]int32, 1000) },
		"not finite": func(d *Document) { spoil(d, func(q []uint16) []uint16 { q[5] = 0x7fc0; return q }) },
		"values":     func(d *Document) { spoil(d, func(q []uint16) []uint16 { return q[1:] }) },
	} {
		d := document("x", 300)
		change(&d)
		if err := w.Add(d); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if len(w.index.Shards) != 0 {
		t.Error("a refused document is listed")
	}
	left, _ := filepath.Glob(filepath.Join(w.dir, "*.safetensors"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func spoil(d *Document, change func([]uint16) []uint16) {
	good := d.Layer
	d.Layer = func(l int) (q, k, v []uint16, err error) {
		q, k, v, err = good(l)
		return change(q), k, v, err
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	dir := t.TempDir()
	w := write(t, dir, document("a", 300))
	path := filepath.Join(dir, w.index.Shards[0].File)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Verify(context.Background()); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("flipped bit: %v", err)
	}
}

func TestShardOfWrongShape(t *testing.T) {
	dir := t.TempDir()
	w := write(t, dir, document("a", 300))
	x := w.index
	x.Model.HeadDim = 4
	data, _ := json.Marshal(x)
	if err := os.WriteFile(filepath.Join(dir, indexName), data, 0o666); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Document(0); err == nil || !strings.Contains(err.Error(), `tensor "layers.1.q" is BF16 [4 128 8]`) {
		t.Errorf("wrong headDim: %v", err)
	}
}

func TestBlocks(t *testing.T) {
	for _, n := range []int{256, 300, 512, 1000, 4096, 32768, 100003} {
		p := Blocks(n)
		if len(p) == 0 || len(p)%BlockLen != 0 || int(p[len(p)-1]) >= n {
			t.Errorf("n %d: %d positions", n, len(p))
		}
		if err := checkPositions(p, n); err != nil {
			t.Errorf("n %d: %v", n, err)
		}
	}
	if Blocks(255) != nil {
		t.Error("a text shorter than two blocks has positions")
	}
	if p := Tail(4096, 64, 16); len(p) != 64 || p[0] != 3072 || p[63] != 4080 {
		t.Errorf("Tail: %v", p)
	}
}

// FuzzShard feeds a shard file of any content to the reader.
func FuzzShard(f *testing.F) {
	dir := f.TempDir()
	w, err := Create(dir, header)
	if err != nil {
		f.Fatal(err)
	}
	if err := w.Add(document("a", 256)); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, w.index.Shards[0].File))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:len(good)/2])
	f.Add(append([]byte{2, 0, 0, 0, 0, 0, 0, 0}, "{}"...))
	small := filepath.Join(dir, "small")
	if err := safetensors.Write(small, []safetensors.Tensor{{Name: "tokens", Type: dtype.I32, Shape: []int{1}, Data: []byte{0, 0, 0, 0}}},
		map[string]string{"format": format, "model": "f00d", "hash": w.index.Shards[0].Hash, "document": "a"}); err != nil {
		f.Fatal(err)
	}
	data, _ := os.ReadFile(small)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		shard := w.index.Shards[0]
		if err := os.WriteFile(filepath.Join(dir, shard.File), data, 0o666); err != nil {
			t.Fatal(err)
		}
		r := &Reader{Header: header, Shards: []Shard{shard}, dir: dir, open: make([]*Loaded, 1)}
		defer r.Close()
		l, err := r.Document(0)
		if err != nil {
			return
		}
		if _, err := l.Layer(header.Captured[0]); err != nil {
			t.Errorf("accepted, but %v", err)
		}
	})
}

// FuzzIndex feeds index.json of any content to the parser.
func FuzzIndex(f *testing.F) {
	good, err := json.Marshal(index{format, version, header, []Shard{{File: "a.safetensors", ID: "a", Tokens: 512, Queries: 256}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(strings.Replace(string(good), "a.safetensors", "../../etc/passwd", 1)))
	f.Add([]byte(strings.Replace(string(good), `"layers":4`, `"layers":4000000000`, 1)))
	f.Add([]byte(strings.Replace(string(good), `"tokens":512`, `"tokens":-1`, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := parseIndex(data)
		if err != nil {
			return
		}
		for _, s := range x.Shards {
			if strings.ContainsAny(s.File, `/`) || s.Tokens > math.MaxInt32 {
				t.Errorf("accepted %+v", s)
			}
		}
	})
}
