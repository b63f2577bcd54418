package benchmark

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/gguf"
)

// byteTokens is a byte-level vocabulary without merges: GPT-2's letter for
// each byte.
func byteTokens() []string {
	var tokens []string
	other := rune(256)
	for b := range 256 {
		if b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE {
			tokens = append(tokens, string(rune(b)))
			continue
		}
		tokens = append(tokens, string(other))
		other++
	}
	return tokens
}

const chatTemplate = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"

// tinyModel writes a random Llama of two layers whose tokens are bytes, and
// loads it on the reference device.
func tinyModel(t *testing.T) *model.Model {
	t.Helper()
	const layers, width, ff, heads, kvHeads, context = 2, 32, 48, 4, 2, 1024
	tokens := append(byteTokens(), "<|end|>")
	types := make([]int32, len(tokens))
	for i := range types {
		types[i] = 1
	}
	types[len(types)-1] = 3 // control
	meta := gguf.Meta{
		"general.architecture": "llama", "general.name": "tiny",
		"llama.block_count": uint32(layers), "llama.embedding_length": uint32(width), "llama.feed_forward_length": uint32(ff),
		"llama.attention.head_count": uint32(heads), "llama.attention.head_count_kv": uint32(kvHeads),
		"llama.context_length": uint32(context), "llama.attention.layer_norm_rms_epsilon": float32(1e-5),
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
		"tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": []string{},
		"tokenizer.ggml.eos_token_id": uint32(len(tokens) - 1), "tokenizer.chat_template": chatTemplate,
	}
	rng := rand.New(rand.NewPCG(7, 7))
	var tensors []gguf.Tensor
	matrix := func(name string, rows, cols int, scale float64) {
		tensors = append(tensors, gguf.Tensor{Name: name, Type: dtype.F32, Shape: []int{rows, cols}, Data: random(rng, rows*cols, scale)})
	}
	ones := func(name string, n int) {
		data := make([]byte, 0, 4*n)
		for range n {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(1))
		}
		tensors = append(tensors, gguf.Tensor{Name: name, Type: dtype.F32, Shape: []int{n}, Data: data})
	}
	matrix("token_embd.weight", len(tokens), width, 1)
	matrix("output.weight", len(tokens), width, 1)
	ones("output_norm.weight", width)
	kv := width / heads * kvHeads
	for _, l := range []string{"blk.0.", "blk.1."} {
		ones(l+"attn_norm.weight", width)
		ones(l+"ffn_norm.weight", width)
		matrix(l+"attn_q.weight", width, width, .5)
		matrix(l+"attn_k.weight", kv, width, .5)
		matrix(l+"attn_v.weight", kv, width, .5)
		matrix(l+"attn_output.weight", width, width, .5)
		matrix(l+"ffn_gate.weight", ff, width, .3)
		matrix(l+"ffn_up.weight", ff, width, .3)
		matrix(l+"ffn_down.weight", width, ff, .3)
	}
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := gguf.Write(path, meta, tensors); err != nil {
		t.Fatal(err)
	}
	m, err := model.Load(t.Context(), path, kernels.NewReference(), model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func random(rng *rand.Rand, n int, scale float64) []byte {
	data := make([]byte, 0, 4*n)
	for range n {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(scale*rng.NormFloat64())))
	}
	return data
}

// settingOf makes a method's setting with a small sink and local window.
func settingOf(t *testing.T, m *model.Model, method string) eval.Setting {
	t.Helper()
	s, err := eval.NewSetting(m.Device, m.Shape(), m.QueryScale, eval.Source{Method: method, Sink: 4, Local: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
