package tokenizer

import (
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// Metadata is what [FromGGUF] needs of a GGUF file's metadata. Each getter returns false if the key is missing or has another type.
type Metadata interface {
	String(key string) (string, bool)
	Bool(key string) (bool, bool)
	Uint(key string) (uint64, bool)
	Strings(key string) ([]string, bool)
	Ints(key string) ([]int64, bool)
	Floats(key string) ([]float64, bool)
}

// ggufPre is what a value of tokenizer.ggml.pre stands for.
type ggufPre struct {
	normalize    []normalizer
	pre          []splitter
	ignoreMerges bool
	addBOS       bool // unless tokenizer.ggml.add_bos_token says otherwise
}

// ggufPres are the known values of tokenizer.ggml.pre for byte-level BPE, named as in llama.cpp (src/llama-vocab.cpp). Where llama.cpp
// departs from the model's own tokenizer (it does not normalise Qwen's text to NFC), the model's own is followed.
var ggufPres = func() map[string]ggufPre {
	gpt2 := ggufPre{pre: []splitter{scanSplitter("gpt2", scanGPT2)}}
	llama3 := ggufPre{pre: []splitter{scanPatterns[llama3Pattern]}, ignoreMerges: true, addBOS: true}
	qwen2 := ggufPre{pre: []splitter{scanPatterns[qwen2Pattern]}, normalize: []normalizer{unicodeNormalizer("nfc", norm.NFC)}}
	smollm := ggufPre{pre: []splitter{runSplitter("digits", isDigit, 1), scanSplitter("gpt2", scanGPT2)}}
	tekken := ggufPre{pre: []splitter{scanPatterns[tekkenPattern]}, ignoreMerges: true, addBOS: true}
	fallback := ggufPre{pre: []splitter{
		runPatterns[`[\p{P}\$\+<=>\^~\|]+`], scanSplitter("gpt2", scanGPT2), runPatterns[`\p{N}+`], runPatterns[`[0-9][0-9][0-9]`],
	}}
	return map[string]ggufPre{
		"gpt-2": gpt2, "phi-2": gpt2,
		"llama3": llama3, "llama-v3": llama3, "llama-bpe": llama3, "falcon3": llama3,
		"qwen2": qwen2, "deepseek-r1-qwen": qwen2,
		"smollm": smollm, "codeshell": smollm, "refact": smollm, "starcoder": smollm, "command-r": smollm,
		"tekken":  tekken,
		"default": fallback,
	}
}()

// FromGGUF reads the tokenizer of a GGUF file: tokenizer.ggml.model "gpt2" (byte-level BPE, with the pre-tokenizer that
// tokenizer.ggml.pre names) or "llama" (SentencePiece BPE). Anything else is an error that names it.
func FromGGUF(meta Metadata) (*Tokenizer, error) {
	g := ggufReader{meta}
	name, ok := meta.String("tokenizer.ggml.model")
	if !ok {
		return nil, fmt.Errorf("GGUF: tokenizer.ggml.model is missing: the file has no tokenizer")
	}
	tokens, ok := meta.Strings("tokenizer.ggml.tokens")
	if !ok || len(tokens) == 0 {
		return nil, fmt.Errorf("GGUF: tokenizer.ggml.tokens is missing")
	}
	types, ok := meta.Ints("tokenizer.ggml.token_type")
	if !ok || len(types) != len(tokens) {
		return nil, fmt.Errorf("GGUF: tokenizer.ggml.token_type has %d entries, tokenizer.ggml.tokens %d", len(types), len(tokens))
	}
	t := &Tokenizer{}
	var err error
	addBOS := true
	switch name {
	case "gpt2":
		addBOS, err = t.setGGUFBPE(meta, tokens, types)
	case "llama":
		err = t.setGGUFSentencePiece(meta, tokens, types)
	default:
		err = fmt.Errorf(`GGUF: tokenizer.ggml.model %q is not supported, only "gpt2" and "llama"`, name)
	}
	if err != nil {
		return nil, err
	}
	for _, s := range []struct {
		key string
		id  *int32
	}{
		{"tokenizer.ggml.bos_token_id", &t.bos}, {"tokenizer.ggml.eos_token_id", &t.eos},
		{"tokenizer.ggml.padding_token_id", &t.pad}, {"tokenizer.ggml.unknown_token_id", &t.unk},
	} {
		if *s.id, err = g.id(s.key, len(tokens)); err != nil {
			return nil, err
		}
	}
	for _, key := range []string{"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"} {
		id, err := g.id(key, len(tokens))
		if err != nil {
			return nil, err
		}
		if id != None {
			t.eog = append(t.eog, id)
		}
	}
	addEOS := false
	if v, ok := meta.Bool("tokenizer.ggml.add_bos_token"); ok {
		addBOS = v
	}
	if v, ok := meta.Bool("tokenizer.ggml.add_eos_token"); ok {
		addEOS = v
	}
	if err := t.surround("GGUF", addBOS, addEOS); err != nil {
		return nil, err
	}
	if source, ok := meta.String("tokenizer.chat_template"); ok {
		t.chat.set("default", source)
	}
	t.finish()
	return t, nil
}

type ggufReader struct{ meta Metadata }

// id reads the id of a special token, None if it is not given.
func (g ggufReader) id(key string, vocab int) (int32, error) {
	v, ok := g.meta.Uint(key)
	if !ok || v == 1<<32-1 { // llama.cpp writes -1 for none
		return None, nil
	}
	if v >= uint64(vocab) {
		return 0, fmt.Errorf("GGUF: %s is %d, but there are %d tokens", key, v, vocab)
	}
	return int32(v), nil
}

// setGGUFBPE reads byte-level BPE and says whether BOS is added by default.
func (t *Tokenizer) setGGUFBPE(meta Metadata, tokens []string, types []int64) (addBOS bool, err error) {
	preName, ok := meta.String("tokenizer.ggml.pre")
	if !ok {
		return false, fmt.Errorf("GGUF: tokenizer.ggml.pre is missing: how to split words is unknown; convert the model again with a current llama.cpp")
	}
	pre, ok := ggufPres[preName]
	if !ok {
		return false, fmt.Errorf("GGUF: tokenizer.ggml.pre %q is not known", preName)
	}
	merges, ok := meta.Strings("tokenizer.ggml.merges")
	if !ok {
		return false, fmt.Errorf("GGUF: tokenizer.ggml.merges is missing")
	}
	var added []addedToken
	vocab := make(map[string]int32, len(tokens))
	for i, token := range tokens {
		id := int32(i)
		switch kind := pieceType(types[i]); kind {
		case pieceUnused: // rows of the embedding that no token uses
		case pieceControl, pieceUserDefined:
			added = append(added, addedToken{ID: id, Content: token, Special: kind == pieceControl})
		case pieceNormal, pieceUnknown, pieceByte:
			if old, dup := vocab[token]; dup {
				return false, fmt.Errorf("GGUF: tokens %d and %d are both %q", old, i, token)
			}
			vocab[token] = id
		default:
			return false, fmt.Errorf("GGUF: token %d (%q) has the unknown type %d", i, token, types[i])
		}
	}
	// Merges may lead to or through an added token.
	for _, a := range added {
		if _, dup := vocab[a.Content]; !dup {
			vocab[a.Content] = a.ID
		}
	}
	for i, m := range merges {
		if strings.Count(m, " ") != 1 {
			return false, fmt.Errorf("GGUF: tokenizer.ggml.merges: merge %d %q is not two tokens with a space between", i, m)
		}
	}
	t.model, err = newBPE("GGUF", bpeConfig{
		vocab: vocab, merges: len(merges), byteLevel: true, ignoreMerges: pre.ignoreMerges,
		merge: func(i int) (a, b string) { a, b, _ = strings.Cut(merges[i], " "); return a, b },
	})
	if err != nil {
		return false, err
	}
	if err := t.setTokens("GGUF", vocab, added); err != nil {
		return false, err
	}
	t.normalize, t.pre, t.decoding.byteLevel = pre.normalize, pre.pre, true
	t.setAdded(added)
	return pre.addBOS, nil
}

// setGGUFSentencePiece reads a SentencePiece vocabulary.
func (t *Tokenizer) setGGUFSentencePiece(meta Metadata, tokens []string, types []int64) error {
	scores, ok := meta.Floats("tokenizer.ggml.scores")
	if !ok || len(scores) != len(tokens) {
		return fmt.Errorf("GGUF: tokenizer.ggml.scores has %d entries, tokenizer.ggml.tokens %d", len(scores), len(tokens))
	}
	pieces := make([]piece, len(tokens))
	bytes := 0
	for i, token := range tokens {
		pieces[i] = piece{token, float32(scores[i]), pieceType(types[i])}
		switch pieces[i].kind {
		case pieceUserDefined:
			// llama.cpp's converter writes these with real spaces.
			pieces[i].text = strings.ReplaceAll(token, " ", string(chunkMark))
		case pieceByte:
			bytes++
		}
	}
	prefix, collapse := true, false
	if v, ok := meta.Bool("tokenizer.ggml.add_space_prefix"); ok {
		prefix = v
	}
	if v, ok := meta.Bool("tokenizer.ggml.remove_extra_whitespaces"); ok {
		collapse = v
	}
	return t.setSentencePiece("GGUF", pieces, t.setPieces(pieces), bytes > 0, prefix, collapse)
}
