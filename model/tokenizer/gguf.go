package tokenizer

import (
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// Metadata is what [FromGGUF] needs of a GGUF file's metadata. Has says whether a key is there; the getters return false if it is not
// or holds another type.
type Metadata interface {
	Has(key string) bool
	String(key string) (string, bool)
	Bool(key string) (bool, bool)
	Uint(key string) (uint64, bool)
	Strings(key string) ([]string, bool)
	Ints(key string) ([]int64, bool)
	Floats(key string) ([]float64, bool)
}

// require returns what a getter finds under a key, and an error if it is not there.
func require[T any](meta Metadata, get func(string) (T, bool), key string) (T, error) {
	v, ok := get(key)
	switch {
	case ok:
		return v, nil
	case meta.Has(key):
		return v, fmt.Errorf("%s does not hold a %T", key, v)
	}
	return v, fmt.Errorf("%s is missing", key)
}

// optional sets v to what a getter finds under a key, if the key is there.
func optional[T any](meta Metadata, get func(string) (T, bool), key string, v *T) (err error) {
	if meta.Has(key) {
		*v, err = require(meta, get, key)
	}
	return err
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
	t := &Tokenizer{}
	if err := t.readGGUF(meta); err != nil {
		return nil, fmt.Errorf("GGUF: %w", err)
	}
	t.finish()
	return t, nil
}

func (t *Tokenizer) readGGUF(meta Metadata) error {
	name, err := require(meta, meta.String, "tokenizer.ggml.model")
	if err != nil {
		return fmt.Errorf("the file has no tokenizer: %w", err)
	}
	tokens, err := require(meta, meta.Strings, "tokenizer.ggml.tokens")
	if err != nil {
		return err
	}
	types, err := require(meta, meta.Ints, "tokenizer.ggml.token_type")
	if err != nil {
		return err
	}
	if len(types) != len(tokens) || len(tokens) == 0 {
		return fmt.Errorf("tokenizer.ggml.token_type has %d entries, tokenizer.ggml.tokens %d", len(types), len(tokens))
	}
	bos, eos := true, false // the defaults of llama.cpp for SentencePiece
	switch name {
	case "gpt2":
		bos, err = t.setGGUFBPE(meta, tokens, types)
	case "llama":
		err = t.setGGUFSentencePiece(meta, tokens, types)
	default:
		err = fmt.Errorf(`tokenizer.ggml.model %q is not supported, only "gpt2" and "llama"`, name)
	}
	if err != nil {
		return err
	}
	ids := map[string]*int32{
		"bos_token_id": &t.bos, "eos_token_id": &t.eos, "padding_token_id": &t.pad, "unknown_token_id": &t.unk,
		"eot_token_id": new(int32), "eom_token_id": new(int32),
	}
	for key, id := range ids {
		if *id, err = ggufID(meta, "tokenizer.ggml."+key, len(tokens)); err != nil {
			return err
		}
	}
	for _, key := range []string{"eot_token_id", "eom_token_id"} {
		if id := *ids[key]; id != None {
			t.eog = append(t.eog, id)
		}
	}
	if err := optional(meta, meta.Bool, "tokenizer.ggml.add_bos_token", &bos); err != nil {
		return err
	}
	if err := optional(meta, meta.Bool, "tokenizer.ggml.add_eos_token", &eos); err != nil {
		return err
	}
	if err := t.surround("tokenizer.ggml.add_bos_token, add_eos_token", bos, eos); err != nil {
		return err
	}
	var chat string
	if err := optional(meta, meta.String, "tokenizer.chat_template", &chat); err != nil {
		return err
	}
	if chat != "" {
		t.chat.set("default", chat)
	}
	return nil
}

// ggufID reads the id of a special token, None if it is not given.
func ggufID(meta Metadata, key string, vocab int) (int32, error) {
	v := uint64(1<<32 - 1)
	if err := optional(meta, meta.Uint, key, &v); err != nil {
		return None, err
	}
	if v == 1<<32-1 { // llama.cpp writes -1 for none
		return None, nil
	}
	if v >= uint64(vocab) {
		return None, fmt.Errorf("%s is %d, but there are %d tokens", key, v, vocab)
	}
	return int32(v), nil
}

// setGGUFBPE reads byte-level BPE and says whether BOS is added by default.
func (t *Tokenizer) setGGUFBPE(meta Metadata, tokens []string, types []int64) (addBOS bool, err error) {
	preName, err := require(meta, meta.String, "tokenizer.ggml.pre")
	if err != nil {
		return false, fmt.Errorf("how to split words is unknown, convert the model again with a current llama.cpp: %w", err)
	}
	pre, ok := ggufPres[preName]
	if !ok {
		return false, fmt.Errorf("tokenizer.ggml.pre %q is not known", preName)
	}
	merges, err := require(meta, meta.Strings, "tokenizer.ggml.merges")
	if err != nil {
		return false, err
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
				return false, fmt.Errorf("tokens %d and %d are both %q", old, i, token)
			}
			vocab[token] = id
		default:
			return false, fmt.Errorf("token %d (%q) has the unknown type %d", i, token, types[i])
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
			return false, fmt.Errorf("tokenizer.ggml.merges: merge %d %q is not two tokens with a space between", i, m)
		}
	}
	t.model, err = newBPE("tokenizer.ggml", bpeConfig{
		vocab: vocab, merges: len(merges), byteLevel: true, ignoreMerges: pre.ignoreMerges,
		merge: func(i int) (a, b string) { a, b, _ = strings.Cut(merges[i], " "); return a, b },
	})
	if err != nil {
		return false, err
	}
	if err := t.setTokens("tokenizer.ggml", vocab, added); err != nil {
		return false, err
	}
	t.normalize, t.pre, t.decoding.byteLevel = pre.normalize, pre.pre, true
	t.setAdded(added)
	return pre.addBOS, nil
}

// setGGUFSentencePiece reads a SentencePiece vocabulary.
func (t *Tokenizer) setGGUFSentencePiece(meta Metadata, tokens []string, types []int64) error {
	scores, err := require(meta, meta.Floats, "tokenizer.ggml.scores")
	if err != nil {
		return err
	}
	if len(scores) != len(tokens) {
		return fmt.Errorf("tokenizer.ggml.scores has %d entries, tokenizer.ggml.tokens %d", len(scores), len(tokens))
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
	// The converter of Gemma writes <unk> as a control token.
	if id, err := ggufID(meta, "tokenizer.ggml.unknown_token_id", len(tokens)); err != nil {
		return err
	} else if id != None && pieces[id].kind == pieceControl {
		pieces[id].kind = pieceUnknown
	}
	prefix, collapse := true, false
	if err := optional(meta, meta.Bool, "tokenizer.ggml.add_space_prefix", &prefix); err != nil {
		return err
	}
	if err := optional(meta, meta.Bool, "tokenizer.ggml.remove_extra_whitespaces", &collapse); err != nil {
		return err
	}
	return t.setSentencePiece("tokenizer.ggml", pieces, t.setPieces(pieces), bytes > 0, prefix, collapse)
}
