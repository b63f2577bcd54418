package model

import (
	"fmt"
	"strings"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/gguf"
	"github.com/hashattn/hashattn/model/tokenizer"
)

// ggufFile is a checkpoint in one GGUF file (llama.cpp's format).
type ggufFile struct {
	*gguf.File
	path string
	arch string
	row  architecture
	conf Config
}

func openGGUF(path string) (*ggufFile, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	g := &ggufFile{File: f, path: path}
	if err := g.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return g, nil
}

func (g *ggufFile) read() (err error) {
	if g.arch, err = g.Meta.String("general.architecture"); err != nil {
		return err
	}
	if g.row, err = lookup(g.arch); err != nil {
		return err
	}
	if g.Meta.Has("split.count") {
		if n, err := g.Meta.Int("split.count"); err != nil || n > 1 {
			return fmt.Errorf("one of %d split files is not supported: merge them with llama.cpp's gguf-split", n)
		}
	}
	c := Config{Architecture: g.arch}
	if g.Meta.Has("general.name") {
		c.Name, _ = g.Meta.String("general.name")
	}
	integer := func(into *int, key string, otherwise int) {
		if err != nil {
			return
		}
		if key = g.arch + "." + key; otherwise >= 0 && !g.Meta.Has(key) {
			*into = otherwise
			return
		}
		*into, err = g.Meta.Int(key)
	}
	number := func(into *float64, key string, otherwise float64) {
		if err != nil {
			return
		}
		if key = g.arch + "." + key; otherwise >= 0 && !g.Meta.Has(key) {
			*into = otherwise
			return
		}
		*into, err = g.Meta.Float(key)
	}
	integer(&c.Layers, "block_count", -1)
	integer(&c.Width, "embedding_length", -1)
	integer(&c.FeedForward, "feed_forward_length", -1)
	integer(&c.QueryHeads, "attention.head_count", -1)
	integer(&c.KVHeads, "attention.head_count_kv", c.QueryHeads)
	if err == nil && c.QueryHeads > 0 {
		integer(&c.HeadDim, "attention.key_length", c.Width/c.QueryHeads)
	}
	integer(&c.Context, "context_length", -1)
	integer(&c.Window, "attention.sliding_window", 0)
	var eps float64
	number(&eps, "attention.layer_norm_rms_epsilon", -1)
	number(&c.Rope.Base, "rope.freq_base", 10000)
	number(&c.LocalRope.Base, "rope.freq_base_swa", 0)
	if err != nil {
		return err
	}
	c.NormEps = float32(eps)
	if c.Window > 0 && g.arch != "gemma3" {
		// Mistral 7B v0.1's window; later ones and other llama files have none
		c.LocalRope = c.Rope
	}
	rotated := c.HeadDim
	if integer(&rotated, "rope.dimension_count", c.HeadDim); err != nil {
		return err
	}
	if rotated != c.HeadDim {
		return fmt.Errorf("rope over %d of %d dimensions is not supported", rotated, c.HeadDim)
	}
	if key := g.arch + ".rope.scaling.type"; g.Meta.Has(key) {
		kind, err := g.Meta.String(key)
		if err != nil {
			return err
		}
		switch kind {
		case "none":
		case "linear":
			c.Rope.Scaling = kind
			if c.Rope.Factor, err = g.Meta.Float(g.arch + ".rope.scaling.factor"); err != nil {
				return err
			}
		default:
			return fmt.Errorf("rope scaling %q is not supported", kind)
		}
	}
	output, ok := g.Tensor("output.weight")
	if !ok {
		output, ok = g.Tensor("token_embd.weight")
	}
	if !ok || len(output.Shape) != 2 {
		return fmt.Errorf("no token_embd.weight of two dimensions")
	}
	c.Vocabulary = output.Shape[0]
	if c.Rope.Divisors, ok, err = g.vector("rope_freqs.weight"); err != nil {
		return err
	} else if !ok {
		c.Rope.Divisors = nil
	}
	g.conf = c
	return g.row.complete(&g.conf)
}

func (g *ggufFile) config() (Config, error) { return g.conf, nil }

func (g *ggufFile) tokenizer() (*tokenizer.Tokenizer, error) {
	t, err := tokenizer.FromGGUF(tokenizerMeta{g.Meta})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", g.path, err)
	}
	return t, nil
}

func (g *ggufFile) matrix(name string) (kernels.Matrix, bool, error) {
	t, ok := g.Tensor(name)
	if !ok {
		return kernels.Matrix{}, false, nil
	}
	if len(t.Shape) != 2 {
		return kernels.Matrix{}, true, fmt.Errorf("%s: tensor %s has shape %v, want two dimensions", g.path, name, t.Shape)
	}
	m := kernels.Matrix{Name: name, Type: t.Type, Rows: t.Shape[0], Cols: t.Shape[1], Data: t.Data}
	if g.row.interleaved {
		switch {
		case strings.HasSuffix(name, ".attn_q.weight"):
			m = unpermute(m, g.conf.QueryHeads)
		case strings.HasSuffix(name, ".attn_k.weight"):
			m = unpermute(m, g.conf.KVHeads)
		}
	}
	return m, true, nil
}

func (g *ggufFile) vector(name string) ([]float32, bool, error) {
	t, ok := g.Tensor(name)
	if !ok {
		return nil, false, nil
	}
	if len(t.Shape) != 1 {
		return nil, true, fmt.Errorf("%s: tensor %s has shape %v, want one dimension", g.path, name, t.Shape)
	}
	v, err := floats(name, t.Type, t.Shape[0], t.Data)
	if err != nil {
		return nil, true, fmt.Errorf("%s: %w", g.path, err)
	}
	if g.row.interleaved && (strings.HasSuffix(name, ".attn_q.bias") || strings.HasSuffix(name, ".attn_k.bias")) {
		heads := g.conf.QueryHeads
		if strings.HasSuffix(name, ".attn_k.bias") {
			heads = g.conf.KVHeads
		}
		column := kernels.Matrix{Type: dtype.F32, Rows: len(v), Cols: 1, Data: t.Data}
		if t.Type != dtype.F32 {
			return nil, true, fmt.Errorf("%s: tensor %s is %v, want F32", g.path, name, t.Type)
		}
		v, err = floats(name, dtype.F32, len(v), unpermute(column, heads).Data)
	}
	return v, true, err
}

func (g *ggufFile) fingerprint() string { return fingerprint(g.conf, g.Tensors) }

// tokenizerMeta shows a GGUF file's metadata to package tokenizer, which asks
// whether a key is there rather than why not.
type tokenizerMeta struct{ gguf.Meta }

func found[T any](v T, err error) (T, bool) { return v, err == nil }

func (m tokenizerMeta) String(key string) (string, bool)    { return found(m.Meta.String(key)) }
func (m tokenizerMeta) Bool(key string) (bool, bool)        { return found(m.Meta.Bool(key)) }
func (m tokenizerMeta) Uint(key string) (uint64, bool)      { return found(m.Meta.Uint(key)) }
func (m tokenizerMeta) Strings(key string) ([]string, bool) { return found(m.Meta.Strings(key)) }

func (m tokenizerMeta) Ints(key string) ([]int64, bool) {
	v, err := m.Meta.Ints(key)
	wide := make([]int64, len(v))
	for i, x := range v {
		wide[i] = int64(x)
	}
	return wide, err == nil
}

func (m tokenizerMeta) Floats(key string) ([]float64, bool) {
	v, err := m.Meta.Floats(key)
	wide := make([]float64, len(v))
	for i, x := range v {
		wide[i] = float64(x)
	}
	return wide, err == nil
}
