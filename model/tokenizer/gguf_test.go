package tokenizer

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// metadata is a GGUF file's metadata by hand.
type metadata map[string]any

func value[T any](m metadata, key string) (T, bool) {
	v, ok := m[key].(T)
	return v, ok
}

func (m metadata) Has(key string) bool                 { _, ok := m[key]; return ok }
func (m metadata) String(key string) (string, bool)    { return value[string](m, key) }
func (m metadata) Bool(key string) (bool, bool)        { return value[bool](m, key) }
func (m metadata) Uint(key string) (uint64, bool)      { return value[uint64](m, key) }
func (m metadata) Strings(key string) ([]string, bool) { return value[[]string](m, key) }
func (m metadata) Ints(key string) ([]int64, bool)     { return value[[]int64](m, key) }
func (m metadata) Floats(key string) ([]float64, bool) { return value[[]float64](m, key) }

// bpeMetadata is what llama.cpp's converter makes of a tokenizer.json.
func bpeMetadata(t *testing.T, file []byte, pre string) metadata {
	t.Helper()
	var j tokenizerJSON
	if err := json.Unmarshal(file, &j); err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, id := range j.Model.Vocab {
		size = max(size, int(id)+1)
	}
	for _, a := range j.Added {
		size = max(size, int(a.ID)+1)
	}
	size += 3 // unused rows of the embedding
	tokens, types := make([]string, size), make([]int64, size)
	for i := range tokens {
		tokens[i], types[i] = "[PAD"+string(rune('0'+i%10))+"]", int64(pieceUnused)
	}
	for token, id := range j.Model.Vocab {
		tokens[id], types[id] = token, int64(pieceNormal)
	}
	for _, a := range j.Added {
		kind := pieceUserDefined
		if a.Special {
			kind = pieceControl
		}
		tokens[a.ID], types[a.ID] = a.Content, int64(kind)
	}
	merges := make([]string, len(j.Model.Merges))
	for i, m := range j.Model.Merges {
		merges[i] = m[0] + " " + m[1]
	}
	return metadata{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
		"tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": merges, "tokenizer.ggml.add_bos_token": false,
	}
}

func TestGGUFBytePairs(t *testing.T) {
	for name, pre := range map[string]string{"smollm2": "smollm", "qwen3": "qwen2", "small-default": "default"} {
		t.Run(name, func(t *testing.T) {
			tok, err := FromGGUF(bpeMetadata(t, unpack(t, "testdata/tokenizers/"+name+".json.zst"), pre))
			if err != nil {
				t.Fatal(err)
			}
			// The same hash is the same ids, which TestGolden checks; once more for the small one.
			if name == "small-default" {
				checkGolden(t, tok, name)
			}
			if want := load(t, name); tok.Hash() != want.Hash() {
				t.Errorf("hash %s, from tokenizer.json %s", tok.Hash(), want.Hash())
			}
		})
	}
	t.Run("llama-3.1", func(t *testing.T) {
		dir := os.Getenv("HASHATTN_SHARED_DATA")
		if dir == "" {
			t.Skip("HASHATTN_SHARED_DATA is not set: Llama 3.1 as GGUF is not checked")
		}
		meta := bpeMetadata(t, unpack(t, filepath.Join(dir, "tokenizers/llama-3.1/tokenizer.json.zst")), "llama-bpe")
		delete(meta, "tokenizer.ggml.add_bos_token") // true for this pre-tokenizer
		meta["tokenizer.ggml.bos_token_id"] = uint64(128000)
		tok, err := FromGGUF(meta)
		if err != nil {
			t.Fatal(err)
		}
		checkGolden(t, tok, "llama-3.1")
	})
}

// pieceMetadata is what llama.cpp's converter makes of a SentencePiece model.
func pieceMetadata(t *testing.T, file []byte) metadata {
	t.Helper()
	m, err := parseSentencePiece(file)
	if err != nil {
		t.Fatal(err)
	}
	tokens, types, scores := make([]string, len(m.pieces)), make([]int64, len(m.pieces)), make([]float64, len(m.pieces))
	for i, p := range m.pieces {
		tokens[i], types[i], scores[i] = p.text, int64(p.kind), float64(p.score)
		if p.kind == pieceUnknown {
			types[i] = int64(pieceControl) // as in Gemma's files
		}
		if p.kind == pieceUserDefined {
			tokens[i] = strings.ReplaceAll(p.text, "▁", " ")
		}
	}
	meta := metadata{
		"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, "tokenizer.ggml.scores": scores,
		"tokenizer.ggml.add_space_prefix": m.dummyPrefix, "tokenizer.ggml.remove_extra_whitespaces": m.collapse,
		"tokenizer.ggml.add_bos_token": m.bos >= 0,
	}
	for key, id := range map[string]int64{"bos": m.bos, "eos": m.eos, "padding": m.pad, "unknown": m.unk} {
		if id >= 0 {
			meta["tokenizer.ggml."+key+"_token_id"] = uint64(id)
		}
	}
	return meta
}

func TestGGUFSentencePiece(t *testing.T) {
	for _, name := range []string{"small-spm", "small-spm-gemma", "small-spm-plain", "small-spm-unused"} {
		t.Run(name, func(t *testing.T) {
			tok, err := FromGGUF(pieceMetadata(t, unpack(t, "testdata/tokenizers/"+name+".model.zst")))
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, tok, name)
			if want := load(t, name); tok.Hash() != want.Hash() {
				t.Errorf("hash %s, from tokenizer.model %s", tok.Hash(), want.Hash())
			}
		})
	}
}

func TestGGUFErrors(t *testing.T) {
	bpe := bpeMetadata(t, unpack(t, "testdata/tokenizers/small-default.json.zst"), "default")
	spm := pieceMetadata(t, unpack(t, "testdata/tokenizers/small-spm.model.zst"))
	for _, c := range []struct {
		base  metadata
		key   string
		value any // nil: the key is missing
		want  string
	}{
		{bpe, "model", nil, "tokenizer.ggml.model is missing"},
		{bpe, "model", uint64(7), "does not hold a string"},
		{bpe, "model", "t5", `"t5" is not supported`},
		{bpe, "pre", nil, "tokenizer.ggml.pre is missing"},
		{bpe, "pre", "dbrx", `"dbrx" is not known`},
		{bpe, "tokens", nil, "tokenizer.ggml.tokens is missing"},
		{bpe, "token_type", []int64{1}, "1 entries"},
		{bpe, "merges", nil, "tokenizer.ggml.merges is missing"},
		{bpe, "merges", []string{"a b c"}, "merge 0"},
		{bpe, "merges", []string{"qqqq zzzz"}, "not in the vocabulary"},
		{bpe, "bos_token_id", uint64(1 << 31), "there are"},
		{bpe, "bos_token_id", "1", "does not hold"},
		{bpe, "add_bos_token", true, "there is no BOS"},
		{bpe, "add_bos_token", "yes", "does not hold a bool"},
		{spm, "scores", nil, "tokenizer.ggml.scores is missing"},
		{spm, "scores", []float64{1}, "1 entries"},
	} {
		meta := maps.Clone(c.base)
		if key := "tokenizer.ggml." + c.key; c.value == nil {
			delete(meta, key)
		} else {
			meta[key] = c.value
		}
		if _, err := FromGGUF(meta); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v: error %v, want one with %q", c.key, c.value, err, c.want)
		}
	}
}

func TestGGUFEndOfGeneration(t *testing.T) {
	meta := bpeMetadata(t, unpack(t, "testdata/tokenizers/smollm2.json.zst"), "smollm")
	meta["tokenizer.ggml.eos_token_id"] = uint64(2)
	meta["tokenizer.ggml.eot_token_id"] = uint64(5)
	meta["tokenizer.chat_template"] = "{{ messages[0].content }}"
	tok, err := FromGGUF(meta)
	if err != nil {
		t.Fatal(err)
	}
	if want := []int32{0, 2, 5}; !slices.Equal(tok.EOG(), want) || !tok.IsEOG(5) || tok.IsEOG(1) {
		t.Errorf("end of generation %v, want %v", tok.EOG(), want)
	}
	if tok.EOS() != 2 || tok.BOS() != None || tok.Token(tok.EOS()) != "<|im_end|>" {
		t.Errorf("EOS %d, BOS %d", tok.EOS(), tok.BOS())
	}
	c, err := tok.ChatTemplate("")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := c.Render([]Message{{Role: "user", Content: "hi"}}, true, nil); text != "hi" || err != nil {
		t.Errorf("chat %q, %v", text, err)
	}
}
