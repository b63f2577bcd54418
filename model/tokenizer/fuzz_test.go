package tokenizer

import (
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// tinyJSON is a tokenizer.json small enough for a fuzzer to get somewhere with.
const tinyJSON = `{"added_tokens":[{"id":8,"content":"<s>","special":true},{"id":9,"content":"<x>","lstrip":true,"normalized":true}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[8],"tokens":["<s>"]}}},
"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{"<unk>":0,"a":1,"b":2,"▁":3,"ab":4,"▁ab":5,"<0x41>":6,"aa":7},"merges":["a b",["▁","ab"],["a","a"]]}}`

const tinyByteLevel = `{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":true,"use_regex":true}]},
"decoder":{"type":"ByteLevel"},"model":{"vocab":{"a":0,"b":1,"Ġ":2,"Ġa":3,"ab":4},"merges":["Ġ a","a b"],"ignore_merges":true}}`

// tinyConfig is a tokenizer_config.json.
const tinyConfig = `{"bos_token":"<s>","eos_token":{"content":"<e>"},"add_bos_token":true,"tokenizer_class":"LlamaTokenizer","added_tokens_decoder":{"10":{"content":"<e>","special":true}},"chat_template":[{"name":"default","template":"{{ bos_token }}"}]}`

// maxSpent bounds what reading a hostile file of n bytes may allocate.
func maxSpent(n int) uint64 { return 64<<20 + 400*uint64(n) }

// spent returns the bytes that f allocates.
func spent(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// try uses a tokenizer that was read from hostile input.
func try(t *testing.T, tok *Tokenizer) {
	t.Helper()
	const text = "<s> ab aab'LL 12345 \u00e9e\u0301 \n\n x<x>y中文\xff👍"
	for _, id := range tok.Encode(text, true) {
		if id < 0 || int(id) >= tok.VocabSize() {
			t.Errorf("id %d of a vocabulary of %d", id, tok.VocabSize())
		}
	}
	all := []int32{-1, 1 << 30}
	for id := range min(tok.VocabSize(), 300) {
		all = append(all, int32(id))
	}
	if s := tok.Decode(all, false); !utf8.ValidString(s) && validTokens(tok, all) {
		t.Errorf("the text %q is not valid UTF-8", s)
	}
	checkStream(t, tok, all)
	if len(tok.Hash()) != 64 {
		t.Errorf("hash %q", tok.Hash())
	}
	for _, id := range tok.EOG() {
		if tok.Token(id) == "" {
			t.Errorf("end of generation %d is no token", id)
		}
	}
}

// validTokens says whether the tokens are themselves valid UTF-8 (those of a file by hand may not be).
func validTokens(tok *Tokenizer, ids []int32) bool {
	return !slices.ContainsFunc(ids, func(id int32) bool { return !utf8.ValidString(tok.Token(id)) })
}

func FuzzFromJSON(f *testing.F) {
	f.Add([]byte(tinyJSON), []byte(tinyConfig))
	f.Add([]byte(tinyByteLevel), []byte(`{}`))
	f.Add([]byte(strings.ReplaceAll(tinyJSON, `"a":1`, `"a":2147483647`)), []byte(nil))
	f.Add([]byte(strings.ReplaceAll(tinyJSON, `"a":1`, `"a":-5`)), []byte(nil))
	f.Add([]byte(strings.ReplaceAll(tinyJSON, `"id":8`, `"id":2000000000`)), []byte(nil))
	f.Add([]byte(`{"model":{"vocab":{},"merges":[]}}`), []byte(`{"added_tokens_decoder":{"99999999":{"content":"x"}}}`))
	f.Add([]byte(`{"normalizer":`+strings.Repeat(`{"type":"Sequence","normalizers":[`, 100)+strings.Repeat(`]}`, 100)+`}`), []byte(nil))
	f.Add([]byte(strings.ReplaceAll(tinyJSON, "Metaspace", "Whitespace")), []byte(nil))
	f.Fuzz(func(t *testing.T, file, config []byte) {
		var tok *Tokenizer
		var err error
		n := spent(func() { tok, err = FromJSON(file, config) })
		if n > maxSpent(len(file)+len(config)) {
			t.Errorf("%d bytes of input allocate %d", len(file)+len(config), n)
		}
		if err != nil {
			return
		}
		try(t, tok)
		again, err := FromJSON(file, config)
		if err != nil || again.Hash() != tok.Hash() {
			t.Errorf("read twice: hashes %s and %s, %v", tok.Hash(), again.Hash(), err)
		}
	})
}

func FuzzSentencePieceModel(f *testing.F) {
	for _, name := range []string{"small-spm-plain", "small-spm-gemma"} {
		file := unpack(f, "testdata/tokenizers/"+name+".model.zst")
		f.Add(file[:600])
		f.Add(file[len(file)-300:])
	}
	f.Add([]byte{10, 7, 10, 1, 'a', 21, 0, 0, 128, 63, 10, 9, 10, 5, '<', 'u', 'n', 'k', '>', 24, 2, 18, 2, 24, 2, 26, 2, 32, 0})
	f.Add([]byte{10, 255, 255, 255, 255, 255, 255, 255, 255, 127})
	f.Fuzz(func(t *testing.T, file []byte) {
		var tok *Tokenizer
		var err error
		n := spent(func() { tok, err = FromSentencePiece(file, nil) })
		if n > maxSpent(len(file)) {
			t.Errorf("%d bytes of input allocate %d", len(file), n)
		}
		if err == nil {
			try(t, tok)
		}
	})
}

func FuzzEncode(f *testing.F) {
	for _, s := range loadStrings().Strings {
		if len(s) < 200 {
			f.Add(s)
		}
	}
	lossless := map[string]*Tokenizer{"smollm2": load(f, "smollm2"), "small-default": load(f, "small-default")}
	prefixed := map[string]*Tokenizer{"small-spm": load(f, "small-spm"), "small-llama2": load(f, "small-llama2")}
	f.Fuzz(func(t *testing.T, text string) {
		valid := repairUTF8(text)
		if utf8.ValidString(text) && valid != text || valid != strings.ToValidUTF8(valid, "") {
			t.Fatalf("%q is repaired to %q", text, valid)
		}
		for name, tok := range lossless {
			if lacksByte(tok, valid) {
				continue
			}
			ids := tok.Encode(text, false)
			if got := tok.Decode(ids, false); got != valid {
				t.Errorf("%s: %q comes back as %q", name, valid, got)
			}
			if got := tok.Decode(tok.EncodeOrdinary(text), false); got != valid {
				t.Errorf("%s: ordinary: %q comes back as %q", name, valid, got)
			}
			checkStream(t, tok, ids)
		}
		// SentencePiece writes a space as ▁, so that the two come back alike; a prefix space comes after each special token.
		for name, tok := range prefixed {
			if strings.ContainsAny(valid, "▁<") {
				continue
			}
			if got := tok.Decode(tok.Encode(text, false), false); got != valid {
				t.Errorf("%s: %q comes back as %q", name, valid, got)
			}
		}
	})
}

// lacksByte says whether text has a byte that is not in the vocabulary (SmolLM2 lacks some control characters, which its encoding drops).
func lacksByte(tok *Tokenizer, text string) bool {
	ids := tok.model.(*bpe).byteID
	return slices.ContainsFunc([]byte(text), func(b byte) bool { return ids[b] == absent })
}

// FuzzChatTemplate looks for panics and differences between rewriting a template once and twice.
func FuzzChatTemplate(f *testing.F) {
	var golden []goldenChat
	unpackJSON(f, "testdata/chat.json.zst", &golden)
	for _, g := range golden {
		if g.Template != nil {
			f.Add(*g.Template)
		}
	}
	f.Add(`{{ ['a' if x else "b", {'c': (d if e)}] }}{% set a = 1 if b else 2 if c else 3 %}`)
	f.Add("{{ '\\\n' }}{% raw %}{{ (a if b else c) }}{% endraw %}{# (a if b else c) #}")
	f.Fuzz(func(t *testing.T, source string) {
		once := rewriteConditionals(source)
		if len(once) > 64*len(source)+64 {
			t.Errorf("%d bytes become %d", len(source), len(once))
		}
		if !strings.Contains(source, "if") && !strings.Contains(source, "\\\n") && once != source {
			t.Errorf("%q is rewritten to %q", source, once)
		}
	})
}

func TestTinyFiles(t *testing.T) {
	var any map[string]any
	for _, s := range []string{tinyJSON, tinyByteLevel, tinyConfig} {
		if err := json.Unmarshal([]byte(s), &any); err != nil {
			t.Fatal(err)
		}
	}
	tok, err := FromJSON([]byte(tinyJSON), []byte(tinyConfig))
	if err != nil {
		t.Fatal(err)
	}
	try(t, tok)
	if want := []int32{8, 5, 8, 3, 9, 0, 6, 10}; !slices.Equal(tok.Encode("ab<s> <x>éA<e>", true), want) {
		t.Errorf("got %v, want %v", tok.Encode("ab<s> <x>éA<e>", true), want)
	}
	if tok.BOS() != 8 || tok.EOS() != 10 || !tok.IsEOG(10) || tok.PAD() != None || tok.Unknown() != 0 {
		t.Errorf("special tokens %d %d %d %d", tok.BOS(), tok.EOS(), tok.PAD(), tok.Unknown())
	}
}
