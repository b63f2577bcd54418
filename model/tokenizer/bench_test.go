package tokenizer

import (
	"strings"
	"testing"
	"time"
)

// BenchmarkEncode encodes 1 MB of mixed text; a fresh cache each time is the cost for a text never seen before.
func BenchmarkEncode(b *testing.B) {
	text := bigText(b)
	for _, name := range []string{"smollm2", "qwen3", "small-llama3", "small-spm", "small-llama2"} {
		for _, cold := range []bool{false, true} {
			kind := "/warm"
			if cold {
				kind = "/cold"
			}
			b.Run(name+kind, func(b *testing.B) {
				tok := load(b, name)
				if tok.Decode(tok.Encode(text, false), false) == "" {
					b.Fatal("no tokens")
				}
				b.SetBytes(int64(len(text)))
				b.ResetTimer()
				for range b.N {
					if cold {
						tok.dropCache()
					}
					tok.Encode(text, false)
				}
			})
		}
	}
}

func (t *Tokenizer) dropCache() {
	switch m := t.model.(type) {
	case *bpe:
		m.cache = newWordCache()
	case *sentencePiece:
		m.cache = newWordCache()
	}
}

func BenchmarkDecode(b *testing.B) {
	tok := load(b, "qwen3")
	text := bigText(b)
	ids := tok.Encode(text, false)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		tok.Decode(ids, true)
	}
}

func BenchmarkFromJSON(b *testing.B) {
	data := unpack(b, "testdata/tokenizers/qwen3.json.zst")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := FromJSON(data, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// TestLongWords checks that a single long word is not quadratic: 128 KB take some 50 ms, and would take 10 s at one nanosecond for each
// pair of bytes.
func TestLongWords(t *testing.T) {
	for _, name := range []string{"smollm2", "small-spm-unused", "small-gemma"} {
		tok := load(t, name)
		for kind, text := range map[string]string{
			"letters": "a", "spaces": " ", "newlines": "\n", "ideographs": "中文", "punctuation": "=-", "marks": "\u0301",
			"emoji": "👍\u200d", "bytes": "\xff", "quotes": "'", "specials": "<|im_end|",
		} {
			text = strings.Repeat(text, 1<<17/len(text))
			start := time.Now()
			ids := tok.Encode(text, false)
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("%s: %d bytes of %s took %v", name, len(text), kind, took)
			} else {
				t.Logf("%s: %s: %d tokens in %v", name, kind, len(ids), took)
			}
		}
	}
}
