package model

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/tokenizer"
)

// RandomOptions is what Random may be told.
type RandomOptions struct {
	// Type is the number format of the matrices: BF16 or Q8_0.
	Type     dtype.Type
	Progress func(done, total int)
}

// Random makes a model of a named shape with random weights, which takes the
// time and memory of the true one. It has no tokenizer.
func Random(ctx context.Context, name string, d kernels.Device, o RandomOptions) (*Model, error) {
	c, err := Named(name)
	if err != nil {
		return nil, err
	}
	if o.Type != dtype.BF16 && o.Type != dtype.Q8_0 {
		return nil, fmt.Errorf("random weights in %v, want BF16 or Q8_0", o.Type)
	}
	if need, have := c.weightBytes(o.Type, slices.Contains(untied, name)), d.Info().Memory; have > 0 && need > have {
		return nil, fmt.Errorf("the weights of %s take %d MiB in %v, the device has %d MiB", name, need>>20, o.Type, have>>20)
	}
	m := &Model{Device: d, checkpoint: &random{shape: c, kind: o.Type, untied: slices.Contains(untied, name)}}
	if err := m.load(ctx, LoadOptions{Progress: o.Progress}); err != nil {
		return nil, fmt.Errorf("random %s: %w", name, err)
	}
	return m, nil
}

// weightBytes is what the matrices take.
func (c Config) weightBytes(t dtype.Type, untied bool) int64 {
	heads := c.QueryHeads * c.HeadDim
	layer := 2*heads*c.Width + 2*c.KVHeads*c.HeadDim*c.Width + 3*c.FeedForward*c.Width
	n := int64(layer)*int64(c.Layers) + int64(c.Vocabulary)*int64(c.Width)
	if untied {
		n += int64(c.Vocabulary) * int64(c.Width)
	}
	return n / int64(t.BlockLen()) * int64(t.BlockBytes())
}

// random is a checkpoint that makes up its tensors: matrices of normal numbers
// that keep the scale of activations, gains of 1. The same name gives the same
// tensor.
type random struct {
	shape  Config
	kind   dtype.Type
	untied bool
}

func (r *random) config() (Config, error) { return r.shape, nil }

func (r *random) tokenizer() (*tokenizer.Tokenizer, error) { return nil, nil }

func (r *random) fingerprint() string { return "random-" + r.shape.Name + "-" + r.kind.String() }

func (r *random) Close() error { return nil }

// size is the rows and columns of a matrix, 0 if the model has none of the name.
func (r *random) size(name string) (rows, cols int) {
	c := r.shape
	part := name
	if rest, ok := strings.CutPrefix(name, "blk."); ok {
		_, part, _ = strings.Cut(rest, ".")
	}
	switch part {
	case "token_embd.weight":
		return c.Vocabulary, c.Width
	case "output.weight":
		if r.untied {
			return c.Vocabulary, c.Width
		}
	case "attn_q.weight":
		return c.QueryHeads * c.HeadDim, c.Width
	case "attn_k.weight", "attn_v.weight":
		return c.KVHeads * c.HeadDim, c.Width
	case "attn_output.weight":
		return c.Width, c.QueryHeads * c.HeadDim
	case "ffn_gate.weight", "ffn_up.weight":
		return c.FeedForward, c.Width
	case "ffn_down.weight":
		return c.Width, c.FeedForward
	}
	return 0, 0
}

func (r *random) matrix(name string) (kernels.Matrix, bool, error) {
	rows, cols := r.size(name)
	m := kernels.Matrix{Name: name, Type: r.kind, Rows: rows, Cols: cols}
	if rows == 0 {
		return m, false, nil
	}
	n, err := r.kind.Bytes(rows * cols)
	if err != nil || cols%r.kind.BlockLen() != 0 {
		return m, false, fmt.Errorf("tensor %s: %d columns are not whole blocks of %v", name, cols, r.kind)
	}
	seed := fnv.New64a()
	seed.Write([]byte(name))
	rng := rand.New(rand.NewPCG(seed.Sum64(), 1))
	m.Data = kernels.NewHostMemory(n)
	state := rng.Uint64() | 1
	next := func() uint64 { // xorshift: drawing billions of normal numbers would take minutes
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		return state
	}
	scale := 1 / math.Sqrt(float64(cols))
	if r.kind == dtype.BF16 {
		const table = 1 << 12
		var normal [table]uint16
		for i := range normal {
			normal[i] = dtype.BF16FromF32(float32(rng.NormFloat64() * scale))
		}
		for i := 0; i < n; i += 2 {
			binary.LittleEndian.PutUint16(m.Data[i:], normal[next()>>52])
		}
		return m, true, nil
	}
	// Q8_0: a scale in half precision, then 32 bytes, evenly spread
	half := dtype.F16FromF32(float32(scale / 74)) // standard deviation of a byte
	for i := 0; i < n; i += r.kind.BlockBytes() {
		block := m.Data[i : i+r.kind.BlockBytes()]
		binary.LittleEndian.PutUint16(block, half)
		for j := 2; j < len(block); j += 8 {
			binary.LittleEndian.PutUint64(block[j:], next())
		}
	}
	return m, true, nil
}

func (r *random) vector(name string) ([]float32, bool, error) {
	c := r.shape
	part := name
	if rest, ok := strings.CutPrefix(name, "blk."); ok {
		_, part, _ = strings.Cut(rest, ".")
	}
	n, value := 0, float32(1)
	switch part {
	case "output_norm.weight", "attn_norm.weight", "ffn_norm.weight", "post_attention_norm.weight", "post_ffw_norm.weight":
		n = c.Width
	case "attn_q_norm.weight", "attn_k_norm.weight":
		n = c.HeadDim
	case "attn_q.bias", "attn_k.bias", "attn_v.bias":
		if value = 0.1; c.Architecture == "qwen2" {
			n = c.KVHeads * c.HeadDim
			if part == "attn_q.bias" {
				n = c.QueryHeads * c.HeadDim
			}
		}
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = value
	}
	return out, n > 0, nil
}
