package model

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/tokenizer"
)

// Model is a checkpoint whose weights are on a device.
type Model struct {
	Config
	Tokenizer *tokenizer.Tokenizer // nil for random weights
	// Fingerprint identifies the weights in traces, mappings and results.
	Fingerprint string
	Device      kernels.Device

	checkpoint checkpoint // keeps mapped weights readable
	weights    weights
}

type weights struct {
	embed, output kernels.Weight
	outputNorm    kernels.Tensor
	freq, local   kernels.Tensor // rope frequencies [headDim/2]
	layers        []layerWeights
}

// layerWeights is one layer. Biases and norms that the architecture lacks are
// none.
type layerWeights struct {
	attnNorm, ffnNorm         kernels.Tensor // [width]
	postAttnNorm, postFFNNorm kernels.Tensor // [width]
	qNorm, kNorm              kernels.Tensor // [headDim]
	q, k, v, output           kernels.Weight // [heads*headDim, width], output transposed
	qBias, kBias, vBias       kernels.Tensor
	gate, up, down            kernels.Weight // [feedForward, width], down transposed
}

// LoadOptions is what Load may be told.
type LoadOptions struct {
	// Progress is called after each layer.
	Progress func(done, total int)
}

// Load puts the model at path, a GGUF file or a Hugging Face folder, on a
// device. Close the model when done.
func Load(ctx context.Context, path string, d kernels.Device, o LoadOptions) (*Model, error) {
	c, err := open(path)
	if err != nil {
		return nil, err
	}
	m := &Model{Device: d, checkpoint: c}
	if err := m.load(ctx, o); err != nil {
		c.Close()
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return m, nil
}

// Inspect reads a checkpoint's config and tokenizer without loading weights.
func Inspect(path string) (Config, *tokenizer.Tokenizer, string, error) {
	c, err := open(path)
	if err != nil {
		return Config{}, nil, "", err
	}
	defer c.Close()
	conf, err := c.config()
	if err != nil {
		return conf, nil, "", err
	}
	t, err := c.tokenizer()
	return conf, t, c.fingerprint(), err
}

// Close frees the checkpoint's mapping. The device stays open.
func (m *Model) Close() error { return m.checkpoint.Close() }

func (m *Model) load(ctx context.Context, o LoadOptions) (err error) {
	if m.Config, err = m.checkpoint.config(); err != nil {
		return err
	}
	if m.Tokenizer, err = m.checkpoint.tokenizer(); err != nil {
		return err
	}
	if m.Tokenizer != nil {
		if n := m.Tokenizer.VocabSize(); n > m.Vocabulary {
			return fmt.Errorf("the tokenizer has %d tokens, the embedding %d rows", n, m.Vocabulary)
		}
	}
	m.Fingerprint = m.checkpoint.fingerprint()

	l := loader{m.Device, m.checkpoint, nil}
	w := &m.weights
	w.embed = l.matrix("token_embd.weight", m.Vocabulary, m.Width)
	w.outputNorm = l.vector("output_norm.weight", m.Width)
	if l.has("output.weight") {
		w.output = l.matrix("output.weight", m.Vocabulary, m.Width)
	} else {
		w.output = w.embed
	}
	w.freq = l.frequencies(m.Rope, m.HeadDim)
	if m.Window > 0 {
		w.local = l.frequencies(m.LocalRope, m.HeadDim)
	}
	for i := range m.Layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.layers = append(w.layers, l.layer(m.Config, i))
		if l.err != nil {
			return l.err
		}
		if o.Progress != nil {
			o.Progress(i+1, m.Layers)
		}
	}
	return l.err
}

// loader reads tensors until the first error.
type loader struct {
	device kernels.Device
	from   checkpoint
	err    error
}

func (l *loader) layer(c Config, i int) (w layerWeights) {
	name := func(part string) string { return fmt.Sprintf("blk.%d.%s", i, part) }
	qWidth, kvWidth := c.QueryHeads*c.HeadDim, c.KVHeads*c.HeadDim

	w.attnNorm = l.vector(name("attn_norm.weight"), c.Width)
	w.q = l.matrix(name("attn_q.weight"), qWidth, c.Width)
	w.k = l.matrix(name("attn_k.weight"), kvWidth, c.Width)
	w.v = l.matrix(name("attn_v.weight"), kvWidth, c.Width)
	w.qBias = l.optional(name("attn_q.bias"), qWidth)
	w.kBias = l.optional(name("attn_k.bias"), kvWidth)
	w.vBias = l.optional(name("attn_v.bias"), kvWidth)
	if c.QKNorm {
		w.qNorm = l.vector(name("attn_q_norm.weight"), c.HeadDim)
		w.kNorm = l.vector(name("attn_k_norm.weight"), c.HeadDim)
	}
	w.output = l.matrix(name("attn_output.weight"), c.Width, qWidth)
	w.ffnNorm = l.vector(name("ffn_norm.weight"), c.Width)
	w.gate = l.matrix(name("ffn_gate.weight"), c.FeedForward, c.Width)
	w.up = l.matrix(name("ffn_up.weight"), c.FeedForward, c.Width)
	w.down = l.matrix(name("ffn_down.weight"), c.Width, c.FeedForward)
	if c.PostNorms {
		w.postAttnNorm = l.vector(name("post_attention_norm.weight"), c.Width)
		w.postFFNNorm = l.vector(name("post_ffw_norm.weight"), c.Width)
	}
	return w
}

func (l *loader) has(name string) bool {
	if r, ok := l.from.(*random); ok { // makes the matrix when asked for it
		rows, _ := r.size(name)
		return rows > 0
	}
	_, ok, err := l.from.matrix(name)
	return ok && err == nil
}

func (l *loader) matrix(name string, rows, cols int) kernels.Weight {
	if l.err != nil {
		return nil
	}
	m, ok, err := l.from.matrix(name)
	switch {
	case err != nil:
		l.err = err
	case !ok:
		l.err = fmt.Errorf("tensor %s is missing", name)
	case m.Rows != rows || m.Cols != cols:
		l.err = fmt.Errorf("tensor %s: shape [%d %d], the model's config says [%d %d]", name, m.Rows, m.Cols, rows, cols)
	}
	if l.err != nil {
		return nil
	}
	w, err := l.device.LoadMatrix(m)
	l.err = err
	return w
}

func (l *loader) vector(name string, n int) kernels.Tensor {
	t := l.optional(name, n)
	if l.err == nil && t.None() {
		l.err = fmt.Errorf("tensor %s is missing", name)
	}
	return t
}

// optional is a vector, or none where the checkpoint has no such tensor.
func (l *loader) optional(name string, n int) kernels.Tensor {
	if l.err != nil {
		return kernels.Tensor{}
	}
	v, ok, err := l.from.vector(name)
	if err != nil {
		l.err = err
		return kernels.Tensor{}
	}
	if !ok {
		return kernels.Tensor{}
	}
	if len(v) != n {
		l.err = fmt.Errorf("tensor %s: %d values, the model's config says %d", name, len(v), n)
		return kernels.Tensor{}
	}
	for i, x := range v {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			l.err = fmt.Errorf("tensor %s: value %d is %v", name, i, x)
			return kernels.Tensor{}
		}
	}
	return l.upload(v)
}

func (l *loader) frequencies(r Rope, headDim int) kernels.Tensor {
	if l.err != nil {
		return kernels.Tensor{}
	}
	f, err := r.Frequencies(headDim)
	if err != nil {
		l.err = err
		return kernels.Tensor{}
	}
	return l.upload(f)
}

func (l *loader) upload(v []float32) kernels.Tensor {
	t, err := l.device.Alloc(dtype.F32, len(v))
	if err == nil {
		err = l.device.Upload(t, f32Bytes(v))
	}
	l.err = err
	return t
}

func f32Bytes(v []float32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

func i32Bytes(v []int32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, uint32(x))
	}
	return b
}
