package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tokenizerJSON is the part of tokenizer.json that decides ids.
type tokenizerJSON struct {
	Added         []addedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         *bpeJSON        `json:"model"`
}

type bpeJSON struct {
	Type         string           `json:"type"`
	Dropout      *float64         `json:"dropout"`
	Unknown      *string          `json:"unk_token"`
	Prefix       *string          `json:"continuing_subword_prefix"`
	Suffix       *string          `json:"end_of_word_suffix"`
	FuseUnknown  bool             `json:"fuse_unk"`
	ByteFallback bool             `json:"byte_fallback"`
	IgnoreMerges bool             `json:"ignore_merges"`
	Vocab        map[string]int32 `json:"vocab"`
	Merges       []mergeJSON      `json:"merges"`
}

// mergeJSON is a merge, in the old form "a b" or the new one ["a", "b"].
type mergeJSON [2]string

func (m *mergeJSON) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var parts []string
		if err := json.Unmarshal(b, &parts); err != nil {
			return err
		}
		if len(parts) != 2 {
			return fmt.Errorf("a merge of %d tokens", len(parts))
		}
		copy(m[:], parts)
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	a, rest, ok := strings.Cut(s, " ")
	if !ok || strings.Contains(rest, " ") {
		return fmt.Errorf("merge %q is not two tokens with a space between", s)
	}
	m[0], m[1] = a, rest
	return nil
}

const jsonName = "tokenizer.json"

// FromJSON reads a tokenizer.json of Hugging Face and, for the special tokens and the chat template, the tokenizer_config.json beside
// it (nil if there is none: BOS is then what the file itself puts before a text, EOS is unknown). BPE models with the pre-tokenizers
// of Llama 2 and 3, Mistral, Qwen, SmolLM2, GPT-2 and Gemma are known; anything else is an error that names it. The settings for
// truncation and padding are left to the caller, as transformers does.
func FromJSON(tokenizer, config []byte) (*Tokenizer, error) {
	var j tokenizerJSON
	if err := json.Unmarshal(tokenizer, &j); err != nil {
		return nil, fmt.Errorf("%s: %w", jsonName, err)
	}
	c, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	t := &Tokenizer{bos: None, eos: None, pad: None, unk: None}
	if j.Model == nil {
		return nil, fmt.Errorf("%s: there is no model", jsonName)
	}
	j.Added, err = c.mergeAdded(j.Added)
	if err != nil {
		return nil, err
	}
	var p parts
	if err := p.parse(&j); err != nil {
		return nil, fmt.Errorf("%s: %w", jsonName, err)
	}
	if err := t.setModel(j.Model, &p); err != nil {
		return nil, err
	}
	if err := t.setTokens(jsonName, j.Model.Vocab, j.Added); err != nil {
		return nil, err
	}
	t.normalize, t.pre, t.decoding = p.normalize, p.pre, p.decoding
	t.setAdded(j.Added)
	if t.prefix, err = t.resolve(p.prefix); err != nil {
		return nil, err
	}
	if t.suffix, err = t.resolve(p.suffix); err != nil {
		return nil, err
	}
	if err := c.apply(t); err != nil {
		return nil, err
	}
	if config == nil && len(t.prefix) > 0 {
		t.bos = t.prefix[0]
	}
	if m := j.Model; m.Unknown != nil && *m.Unknown != "" {
		t.unk = t.ids[*m.Unknown]
	}
	t.finish()
	return t, nil
}

// setModel builds the BPE model before added tokens join the vocabulary.
func (t *Tokenizer) setModel(m *bpeJSON, p *parts) error {
	// Old files leave the type out.
	if m.Type != "BPE" && m.Type != "" {
		return fmt.Errorf("%s: model type %q is not supported, only BPE", jsonName, m.Type)
	}
	if m.Vocab == nil || m.Merges == nil {
		return fmt.Errorf("%s: the model has no vocab or no merges", jsonName)
	}
	for key, v := range map[string]*string{"continuing_subword_prefix": m.Prefix, "end_of_word_suffix": m.Suffix} {
		if v != nil && *v != "" {
			return fmt.Errorf("%s: model.%s %q is not supported", jsonName, key, *v)
		}
	}
	if m.Dropout != nil && *m.Dropout != 0 {
		return fmt.Errorf("%s: model.dropout %v is not supported", jsonName, *m.Dropout)
	}
	c := bpeConfig{
		vocab: m.Vocab, merges: len(m.Merges), merge: func(i int) (a, b string) { return m.Merges[i][0], m.Merges[i][1] },
		fuse: m.FuseUnknown, byteFallback: m.ByteFallback, byteLevel: p.byteLevel, ignoreMerges: m.IgnoreMerges,
	}
	if m.Unknown != nil {
		c.unknown = *m.Unknown
	}
	for token, id := range m.Vocab {
		if id < 0 {
			return fmt.Errorf("%s: token %.40q has id %d", jsonName, token, id)
		}
	}
	b, err := newBPE(jsonName, c)
	if err != nil {
		return err
	}
	t.model = b
	return nil
}

// resolve turns the tokens of a template into ids.
func (t *Tokenizer) resolve(tokens []templateToken) ([]int32, error) {
	var ids []int32
	for _, tok := range tokens {
		if tok.ids != nil {
			for _, id := range tok.ids {
				if t.Token(id) == "" {
					return nil, fmt.Errorf("%s: post_processor: token %q has the id %d, which is not in the vocabulary", jsonName, tok.name, id)
				}
			}
			ids = append(ids, tok.ids...)
			continue
		}
		id, ok := t.ids[tok.name]
		if !ok {
			return nil, fmt.Errorf("%s: post_processor: token %q is not in the vocabulary", jsonName, tok.name)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// maxFile bounds the files that FromDir reads; the largest known (Gemma 3) has 33 MB.
const maxFile = 256 << 20

// FromDir reads the tokenizer of a Hugging Face folder: tokenizer.json, or else tokenizer.model (SentencePiece), with
// tokenizer_config.json and chat_template.jinja where they are there.
func FromDir(dir string) (*Tokenizer, error) {
	config, err := readOptional(filepath.Join(dir, configName))
	if err != nil {
		return nil, err
	}
	chat, err := readOptional(filepath.Join(dir, "chat_template.jinja"))
	if err != nil {
		return nil, err
	}
	t, err := fromDir(dir, config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if chat != nil {
		t.chat.set("default", string(chat))
	}
	return t, nil
}

func fromDir(dir string, config []byte) (*Tokenizer, error) {
	b, err := readOptional(filepath.Join(dir, jsonName))
	if err != nil {
		return nil, err
	}
	if b != nil {
		return FromJSON(b, config)
	}
	if b, err = readOptional(filepath.Join(dir, modelName)); err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("neither %s nor %s is there", jsonName, modelName)
	}
	return FromSentencePiece(b, config)
}

// readOptional returns nil if there is no such file.
func readOptional(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d bytes, more than the %d a tokenizer may have", path, info.Size(), maxFile)
	}
	return os.ReadFile(path)
}
