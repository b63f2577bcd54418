package tokenizer

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
)

// None is the id that [Tokenizer.BOS], [Tokenizer.EOS], [Tokenizer.PAD] and [Tokenizer.Unknown] return where a model has no such token.
const None int32 = -1

// Tokenizer maps text to token ids and back. It is safe for concurrent use.
type Tokenizer struct {
	tokens []string         // by id; "" where an id is not used
	ids    map[string]int32 // the id of each token

	added     addedTokens
	normalize []normalizer
	pre       []splitter
	model     model
	prefix    []int32 // what addSpecial puts before the text
	suffix    []int32 // and after it
	decoding  decoding

	bos, eos, pad, unk int32
	eog                []int32
	chat               chatTemplates
	hash               string
}

// model turns one word into tokens.
type model interface {
	// appendIDs appends the ids of one word; word is valid UTF-8 and not empty.
	appendIDs(ids []int32, word string) []int32
	// fingerprint feeds what defines the model to h.
	fingerprint(h *fingerprint)
}

// Encode returns the ids of text. Special and other added tokens that stand in the text become their own ids, as in Hugging Face's
// tokenizers. addSpecial puts the model's special tokens around the text (for most models: BOS before it). Text that is not valid
// UTF-8 is repaired as the WHATWG decoder does (one U+FFFD for each maximal invalid part).
func (t *Tokenizer) Encode(text string, addSpecial bool) []int32 {
	ids := make([]int32, 0, len(text)/4+len(t.prefix)+len(t.suffix)+4)
	if addSpecial {
		ids = append(ids, t.prefix...)
	}
	ids = t.encode(ids, text, true)
	if addSpecial {
		ids = append(ids, t.suffix...)
	}
	return ids
}

// EncodeOrdinary returns the ids of text and takes special tokens in it for plain text, for input that is not trusted. As in Hugging
// Face's tokenizers with encode_special_tokens, added tokens that are not special (Qwen's <think>, say) still count.
func (t *Tokenizer) EncodeOrdinary(text string) []int32 {
	return t.encode(make([]int32, 0, len(text)/4+4), text, false)
}

func (t *Tokenizer) encode(ids []int32, text string, special bool) []int32 {
	text = repairUTF8(text)
	split := func(s string, first bool) { ids = t.model.appendIDs(ids, s) }
	for i := len(t.pre) - 1; i >= 0; i-- {
		stage, next := t.pre[i], split
		split = func(s string, first bool) { stage.split(s, first, next) }
	}
	t.added.raw.split(text, special, func(id int32, start, end int) {
		if id >= 0 {
			ids = append(ids, id)
			return
		}
		segment := text[start:end]
		for _, n := range t.normalize {
			segment = n.apply(segment)
		}
		t.added.normalized.split(segment, special, func(id int32, s, e int) {
			switch {
			case id >= 0:
				ids = append(ids, id)
			case s < e:
				split(segment[s:e], start == 0 && s == 0)
			}
		})
	})
	return ids
}

// VocabSize returns one more than the largest id. A model's embedding may have more rows.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// Token returns the token with this id as the vocabulary writes it (byte-level BPE writes " the" as "Ġthe"), or "" where there is none.
func (t *Tokenizer) Token(id int32) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return ""
	}
	return t.tokens[id]
}

// ID returns the id of a token as the vocabulary writes it.
func (t *Tokenizer) ID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// BOS returns the id of the beginning-of-sequence token, or [None].
func (t *Tokenizer) BOS() int32 { return t.bos }

// EOS returns the id of the end-of-sequence token, or [None].
func (t *Tokenizer) EOS() int32 { return t.eos }

// PAD returns the id of the padding token, or [None].
func (t *Tokenizer) PAD() int32 { return t.pad }

// Unknown returns the id of the token that stands for unknown text, or [None].
func (t *Tokenizer) Unknown() int32 { return t.unk }

// EOG returns the ids that end a generation, ascending: EOS and every special token that ends a turn or a text in the known chat
// formats (<|im_end|>, <|eot_id|>, <end_of_turn>, ...).
func (t *Tokenizer) EOG() []int32 { return slices.Clone(t.eog) }

// IsEOG says whether id ends a generation.
func (t *Tokenizer) IsEOG(id int32) bool { return slices.Contains(t.eog, id) }

// IsSpecial says whether id is a special token, one that Decode can leave out.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.added.special[id] }

// Hash returns a fingerprint of all that decides the ids (vocabulary, merges, added tokens, normaliser, splitting, special tokens
// around a text) as 64 hexadecimal digits. It does not depend on the order of keys in the file it was read from.
func (t *Tokenizer) Hash() string { return t.hash }

// endOfGeneration are the tokens that end a turn or a text in known chat formats.
var endOfGeneration = []string{
	"</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>", "<|return|>",
	"<|end_of_turn|>", "<end_of_turn>", "<end_of_utterance>", "<EOT>", "[EOS]", "[EOT]",
}

// maxSparse bounds the ids that a file may use beyond the number of its tokens, so that a hostile id allocates nothing large.
const maxSparse = 1 << 16

// setTokens builds the two directions of the vocabulary from a model's tokens, which may leave ids out, and the added tokens.
func (t *Tokenizer) setTokens(source string, vocab map[string]int32, added []addedToken) error {
	for i, a := range added {
		if a.Content == "" {
			return fmt.Errorf("%s: added token %d is empty", source, i)
		}
		if id, ok := vocab[a.Content]; ok && id != a.ID {
			return fmt.Errorf("%s: added token %.40q has the ids %d and %d", source, a.Content, id, a.ID)
		}
		vocab[a.Content] = a.ID
	}
	limit, size := int64(2*len(vocab)+maxSparse), 0
	for token, id := range vocab {
		if id < 0 || int64(id) >= limit {
			return fmt.Errorf("%s: token %.40q has id %d, but there are only %d tokens", source, token, id, len(vocab))
		}
		size = max(size, int(id)+1)
	}
	t.ids, t.tokens = vocab, make([]string, size)
	for token, id := range vocab {
		// Where tokens share an id, the smaller string stands, so that the result does not depend on the order of a map.
		if old := t.tokens[id]; old == "" || token < old {
			t.tokens[id] = token
		}
	}
	for _, a := range added {
		t.tokens[a.ID] = a.Content
	}
	return nil
}

// finish sets what follows from the rest: the end-of-generation ids and the hash.
func (t *Tokenizer) finish() {
	if t.eos >= 0 {
		t.eog = append(t.eog, t.eos)
	}
	for _, token := range endOfGeneration {
		if id, ok := t.ids[token]; ok && t.added.special[id] {
			t.eog = append(t.eog, id)
		}
	}
	slices.Sort(t.eog)
	t.eog = slices.Compact(t.eog)

	h := &fingerprint{}
	h.text("hashattn tokenizer 1")
	for _, token := range t.tokens {
		h.text(token)
	}
	t.model.fingerprint(h)
	for _, a := range t.added.list {
		h.text(a.Content)
		h.ints(a.ID, bit(a.Special), bit(a.Normalized), bit(a.LStrip), bit(a.RStrip), bit(a.SingleWord))
	}
	for _, n := range t.normalize {
		h.text(n.name)
	}
	for _, p := range t.pre {
		h.text(p.name)
	}
	h.ints(int32(len(t.prefix)))
	h.ints(t.prefix...)
	h.ints(t.suffix...)
	t.hash = h.sum()
}

// fingerprint hashes a sequence of lengths-prefixed values.
type fingerprint struct{ buf []byte }

func (f *fingerprint) text(s string) {
	f.buf = binary.AppendUvarint(f.buf, uint64(len(s)))
	f.buf = append(f.buf, s...)
}

func (f *fingerprint) ints(v ...int32) {
	for _, x := range v {
		f.buf = binary.LittleEndian.AppendUint32(f.buf, uint32(x))
	}
}

func (f *fingerprint) sum() string {
	s := sha256.Sum256(f.buf)
	return hex.EncodeToString(s[:])
}

func bit(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
