package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// decoding is how tokens become text, the decoder of tokenizer.json brought into one form.
type decoding struct {
	byteLevel    bool   // tokens spell bytes by GPT-2's table
	space        string // what stands for a space in tokens, "" if nothing does
	byteFallback bool   // tokens such as <0xE4> are bytes
	strip        int    // how many spaces the text loses at its start
	dropFirst    bool   // the first token loses its visible spaces altogether (Metaspace)
	join         string // stands between tokens
}

// Decode returns the text of ids; skipSpecial leaves special tokens out. Unknown ids are left out. Bytes that are not valid UTF-8
// become U+FFFD, as in Hugging Face's tokenizers. (The cleaning up of spaces before punctuation that transformers does for some
// models on top is not done.)
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	d := t.NewDecoder(skipSpecial)
	d.whole = true
	for _, id := range ids {
		d.write(id)
	}
	d.end()
	return string(d.out)
}

// Decoder decodes a stream of ids piece by piece. It is not safe for concurrent use.
type Decoder struct {
	t           *Tokenizer
	skipSpecial bool
	whole       bool // all ids come before anything is read

	out   []byte // text that is ready
	held  []byte // bytes that may be the start of a character
	strip int
	count int
}

// NewDecoder returns a decoder for one stream of ids.
func (t *Tokenizer) NewDecoder(skipSpecial bool) *Decoder {
	return &Decoder{t: t, skipSpecial: skipSpecial, strip: t.decoding.strip}
}

// Next takes one id and returns the text that is complete now, which may be empty: a character whose bytes are spread over several
// tokens comes with the last of them. The pieces and [Decoder.Flush] together are Decode's text, except that a run of byte tokens
// (<0xE4>) that is not valid as a whole keeps its valid characters here.
func (d *Decoder) Next(id int32) string {
	d.write(id)
	text := string(d.out)
	d.out = d.out[:0]
	return text
}

// Flush returns what is left at the end of the stream: U+FFFD for the bytes of an unfinished character.
func (d *Decoder) Flush() string {
	d.end()
	text := string(d.out)
	d.out = d.out[:0]
	return text
}

func (d *Decoder) write(id int32) {
	t := d.t
	token := t.Token(id)
	if token == "" || d.skipSpecial && t.added.special[id] {
		return
	}
	first := d.count == 0
	d.count++
	if !first && t.decoding.join != "" {
		d.text(t.decoding.join)
	}
	if t.decoding.byteLevel {
		d.held = bytesOf(d.held, token)
		if !d.whole {
			d.release()
		}
		return
	}
	if t.decoding.byteFallback {
		if b, ok := byteToken(token); ok {
			d.held = append(d.held, b)
			if !d.whole {
				d.release()
			}
			return
		}
		d.end()
	}
	if t.decoding.space != "" {
		space := " "
		if first && t.decoding.dropFirst {
			space = ""
		}
		token = strings.ReplaceAll(token, t.decoding.space, space)
	}
	d.text(token)
}

// text appends s to the output, less the spaces that the start of the text loses.
func (d *Decoder) text(s string) {
	for d.strip > 0 && s != "" {
		if s[0] != ' ' {
			d.strip = 0
			break
		}
		s = s[1:]
		d.strip--
	}
	d.out = append(d.out, s...)
}

// release moves the complete characters of the held bytes to the output.
func (d *Decoder) release() {
	n := 0
	for n < len(d.held) {
		r, size := utf8.DecodeRune(d.held[n:])
		if r == utf8.RuneError && size == 1 {
			size = invalidPart(string(d.held[n:]))
			if n+size == len(d.held) && !utf8.FullRune(d.held[n:]) {
				break // may still become a character
			}
			d.invalid(size)
		} else {
			d.text(string(d.held[n : n+size]))
		}
		n += size
	}
	d.held = append(d.held[:0], d.held[n:]...)
}

// invalid writes n bytes that are no character: one U+FFFD for a maximal invalid part of byte-level text, one for each byte token.
func (d *Decoder) invalid(n int) {
	if d.t.decoding.byteLevel {
		n = 1
	}
	for range n {
		d.text("\uFFFD")
	}
}

// end writes the held bytes at the end of a run of them.
func (d *Decoder) end() {
	switch {
	case len(d.held) == 0:
		return
	case utf8.Valid(d.held):
		d.text(string(d.held))
	case d.t.decoding.byteLevel:
		d.text(repairUTF8(string(d.held)))
	default: // ByteFallback of Hugging Face's tokenizers: one U+FFFD for each byte of the run, the valid ones too
		d.invalid(len(d.held))
	}
	d.held = d.held[:0]
}
