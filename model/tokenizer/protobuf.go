package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

const modelName = "tokenizer.model"

// sentencePieceModel is the part of a SentencePiece ModelProto (sentencepiece_model.proto) that decides ids.
type sentencePieceModel struct {
	pieces             []piece
	modelType          uint64 // 1 unigram, 2 BPE, 3 word, 4 char
	byteFallback       bool
	whitespaceAsSuffix bool
	unk, bos, eos, pad int64
	charsmap           int // bytes of a compiled normalisation
	dummyPrefix        bool
	collapse           bool // remove_extra_whitespaces
	escape             bool // escape_whitespaces
}

// parseSentencePiece reads the protobuf by hand: three message types, of which a few fields matter.
func parseSentencePiece(b []byte) (*sentencePieceModel, error) {
	m := &sentencePieceModel{modelType: 1, bos: 1, eos: 2, pad: -1, dummyPrefix: true, collapse: true, escape: true}
	err := protoFields(b, func(field int, v uint64, sub []byte) error {
		switch field {
		case 1:
			p := piece{kind: pieceNormal}
			err := protoFields(sub, func(field int, v uint64, sub []byte) error {
				switch field {
				case 1:
					if p.text = string(sub); !utf8.ValidString(p.text) {
						return fmt.Errorf("its text %q is not UTF-8", p.text)
					}
				case 2:
					p.score = math.Float32frombits(uint32(v))
				case 3:
					p.kind = pieceType(min(v, math.MaxInt32))
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("piece %d: %w", len(m.pieces), err)
			}
			m.pieces = append(m.pieces, p)
		case 2:
			return protoFields(sub, func(field int, v uint64, _ []byte) error {
				switch field {
				case 3:
					m.modelType = v
				case 24:
					m.whitespaceAsSuffix = v != 0
				case 35:
					m.byteFallback = v != 0
				case 40:
					m.unk = int64(int32(v))
				case 41:
					m.bos = int64(int32(v))
				case 42:
					m.eos = int64(int32(v))
				case 43:
					m.pad = int64(int32(v))
				}
				return nil
			})
		case 3:
			return protoFields(sub, func(field int, v uint64, sub []byte) error {
				switch field {
				case 2:
					m.charsmap = len(sub)
				case 3:
					m.dummyPrefix = v != 0
				case 4:
					m.collapse = v != 0
				case 5:
					m.escape = v != 0
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: not a SentencePiece model: %w", modelName, err)
	}
	return m, nil
}

// protoFields calls f for each field of a protobuf message: its number, and its value (varint and fixed) or bytes.
func protoFields(b []byte, f func(field int, v uint64, sub []byte) error) error {
	size := len(b)
	for len(b) > 0 {
		at := size - len(b)
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return fmt.Errorf("byte %d: bad field tag", at)
		}
		b = b[n:]
		var v uint64
		var sub []byte
		switch tag & 7 {
		case 0:
			if v, n = binary.Uvarint(b); n <= 0 {
				return fmt.Errorf("byte %d: bad varint", at)
			}
		case 1:
			if n = 8; len(b) < n {
				return fmt.Errorf("byte %d: truncated", at)
			}
			v = binary.LittleEndian.Uint64(b)
		case 2:
			l, k := binary.Uvarint(b)
			if k <= 0 || l > uint64(len(b)-k) {
				return fmt.Errorf("byte %d: truncated", at)
			}
			n = k + int(l)
			sub = b[k:n]
		case 5:
			if n = 4; len(b) < n {
				return fmt.Errorf("byte %d: truncated", at)
			}
			v = uint64(binary.LittleEndian.Uint32(b))
		default:
			return fmt.Errorf("byte %d: wire type %d", at, tag&7)
		}
		b = b[n:]
		if err := f(int(tag>>3), v, sub); err != nil {
			return err
		}
	}
	return nil
}

// FromSentencePiece reads a SentencePiece BPE model (tokenizer.model of Llama 2, Mistral or Gemma) and, for more special tokens and
// the chat template, the tokenizer_config.json beside it (nil if there is none). Control pieces that stand in a text count as special
// tokens, and each stretch of text between them gets SentencePiece's prefix space if the model has it, as in transformers. BOS is put
// before a text unless the configuration says otherwise.
func FromSentencePiece(model, config []byte) (*Tokenizer, error) {
	m, err := parseSentencePiece(model)
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	switch {
	case m.modelType != 2:
		return nil, fmt.Errorf("%s: model type %d is not supported, only BPE (2)", modelName, m.modelType)
	case m.charsmap > 0:
		return nil, fmt.Errorf("%s: a compiled normalisation (%d bytes) is not supported, only identity", modelName, m.charsmap)
	case m.whitespaceAsSuffix:
		return nil, fmt.Errorf("%s: treat_whitespace_as_suffix is not supported", modelName)
	case !m.escape:
		return nil, fmt.Errorf("%s: a model without escape_whitespaces is not supported", modelName)
	}
	t := &Tokenizer{}
	var added []addedToken
	if added, err = c.mergeAdded(t.setPieces(m.pieces)); err != nil {
		return nil, err
	}
	if err := t.setSentencePiece(modelName, m.pieces, added, m.byteFallback, m.dummyPrefix, m.collapse); err != nil {
		return nil, err
	}
	t.bos, t.eos, t.pad, t.unk = t.valid(m.bos), t.valid(m.eos), t.valid(m.pad), t.valid(m.unk)
	if t.bos != None {
		t.prefix = []int32{t.bos}
	}
	if c.AddBOS != nil || c.AddEOS != nil {
		if err := t.surround(configName, c.AddBOS == nil || *c.AddBOS, c.AddEOS != nil && *c.AddEOS); err != nil {
			return nil, err
		}
	}
	if err := c.apply(t); err != nil {
		return nil, err
	}
	t.finish()
	return t, nil
}

// valid returns id if the vocabulary has it, else None.
func (t *Tokenizer) valid(id int64) int32 {
	if id < 0 || id >= int64(len(t.tokens)) || t.tokens[id] == "" {
		return None
	}
	return int32(id)
}

// setPieces lists the control pieces and the unknown one as added tokens.
func (t *Tokenizer) setPieces(pieces []piece) []addedToken {
	var added []addedToken
	for i, p := range pieces {
		if p.kind == pieceControl || p.kind == pieceUnknown {
			added = append(added, addedToken{ID: int32(i), Content: p.text, Special: true})
		}
	}
	return added
}

// setSentencePiece sets vocabulary, stages and model of a SentencePiece tokenizer.
func (t *Tokenizer) setSentencePiece(source string, pieces []piece, added []addedToken, byteFallback, prefix, collapse bool) error {
	m, err := newSentencePiece(source, pieces, byteFallback)
	if err != nil {
		return err
	}
	t.model = m
	vocab := make(map[string]int32, len(pieces))
	for i, p := range pieces {
		if _, dup := vocab[p.text]; !dup {
			vocab[p.text] = int32(i)
		}
	}
	if err := t.setTokens(source, vocab, added); err != nil {
		return err
	}
	for i, p := range pieces {
		t.tokens[i] = p.text
	}
	if collapse {
		t.normalize = append(t.normalize, collapseSpaces())
	}
	if prefix {
		t.normalize = append(t.normalize, prependNormalizer(" "))
		t.decoding.strip = 1
	}
	t.normalize = append(t.normalize, replaceNormalizer(" ", string(chunkMark)))
	if collapse {
		t.normalize = append(t.normalize, trimMarks())
	}
	t.decoding.space, t.decoding.byteFallback = string(chunkMark), byteFallback
	t.setAdded(added)
	return nil
}
