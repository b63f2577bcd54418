package model

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/gguf"
	"github.com/hashattn/hashattn/model/safetensors"
	"github.com/hashattn/hashattn/model/tokenizer"
)

// checkpoint is a model on disk. Tensors go by GGUF's names ("blk.0.attn_q.weight").
type checkpoint interface {
	config() (Config, error)
	tokenizer() (*tokenizer.Tokenizer, error)
	// matrix gives a two-dimensional weight, vector a one-dimensional one as
	// float32; the bool tells whether the checkpoint has it.
	matrix(name string) (kernels.Matrix, bool, error)
	vector(name string) ([]float32, bool, error)
	// fingerprint identifies the weights.
	fingerprint() string
	Close() error
}

// open opens a GGUF file or a Hugging Face folder.
func open(path string) (checkpoint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openHF(path)
	}
	if !gguf.IsGGUF(path) {
		return nil, fmt.Errorf("%s: neither a GGUF file nor a folder with config.json and safetensors", path)
	}
	return openGGUF(path)
}

// unpermute undoes llama.cpp's convert_hf_to_gguf permutation of the rows of
// q and k: within each head row 2i is the half-split form's row i, row 2i+1 its
// row i + headDim/2.
func unpermute(m kernels.Matrix, heads int) kernels.Matrix {
	d := m.Rows / heads
	data := make([]byte, 0, len(m.Data))
	for h := range heads {
		for i := range d {
			from := 2 * i
			if i >= d/2 {
				from = 2*(i-d/2) + 1
			}
			data = append(data, m.Row(h*d+from)...)
		}
	}
	m.Data = data
	return m
}

// floats turns raw values into float32.
func floats(name string, t dtype.Type, n int, data []byte) ([]float32, error) {
	out := make([]float32, n)
	if err := dtype.ToF32(out, t, data); err != nil {
		return nil, fmt.Errorf("tensor %s: %w", name, err)
	}
	return out, nil
}

// fingerprint covers the config and of every tensor its name, format, shape
// and first and last bytes: enough to tell two checkpoints apart without
// reading gigabytes.
func fingerprint[T gguf.Tensor | safetensors.Tensor](c Config, tensors []T) string {
	h := sha256.New()
	fmt.Fprintln(h, c.hash())
	for _, stored := range tensors {
		t := gguf.Tensor(stored) // both have the same fields
		fmt.Fprintln(h, t.Name, t.Type, t.Shape)
		h.Write(ends(t.Data))
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// ends is the first and last kilobytes of data.
func ends(data []byte) []byte {
	const keep = 2048
	if len(data) <= 2*keep {
		return data
	}
	return append(append([]byte(nil), data[:keep]...), data[len(data)-keep:]...)
}
