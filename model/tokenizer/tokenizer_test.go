package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/text/unicode/norm"
)

// edit returns tinyJSON with one value changed: path leads to it through objects and lists.
func edit(t *testing.T, file string, path []any, value any) []byte {
	t.Helper()
	var j any
	if err := json.Unmarshal([]byte(file), &j); err != nil {
		t.Fatal(err)
	}
	at := j
	for i, step := range path {
		last := i == len(path)-1
		switch step := step.(type) {
		case string:
			if last {
				at.(map[string]any)[step] = value
			} else {
				at = at.(map[string]any)[step]
			}
		case int:
			if last {
				at.([]any)[step] = value
			} else {
				at = at.([]any)[step]
			}
		}
	}
	b, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestJSONErrors(t *testing.T) {
	for _, c := range []struct {
		path  []any
		value any
		want  string
	}{
		{[]any{"model"}, nil, "there is no model"},
		{[]any{"model", "type"}, "WordPiece", `"WordPiece" is not supported`},
		{[]any{"model", "vocab"}, nil, "no vocab"},
		{[]any{"model", "merges"}, []any{"a b c"}, `merge "a b c"`},
		{[]any{"model", "merges"}, []any{[]any{"a"}}, "merge of 1 tokens"},
		{[]any{"model", "merges"}, []any{"a z"}, `merge 0 ("a" "z")`},
		{[]any{"model", "unk_token"}, "nowhere", `unknown token "nowhere"`},
		{[]any{"model", "dropout"}, .1, "dropout 0.1"},
		{[]any{"model", "continuing_subword_prefix"}, "##", `continuing_subword_prefix "##"`},
		{[]any{"model", "vocab", "a"}, -1, "id -1"},
		{[]any{"model", "vocab", "a"}, 1 << 30, "id 1073741824"},
		{[]any{"added_tokens", 0, "id"}, 1 << 30, "id 1073741824"},
		{[]any{"added_tokens", 0, "content"}, "", "empty"},
		{[]any{"added_tokens", 0, "content"}, "a", "ids 1 and 8"},
		{[]any{"normalizer", "type"}, "BertNormalizer", `normalizer: type "BertNormalizer"`},
		{[]any{"normalizer", "normalizers", 1, "content"}, strings.Repeat("x", 100), "Replace of 1 bytes by 100"},
		{[]any{"normalizer", "normalizers", 1, "pattern"}, map[string]any{"Regex": "x+"}, "no literal string"},
		{[]any{"pre_tokenizer", "type"}, "Whitespace", `pre_tokenizer: type "Whitespace"`},
		{[]any{"pre_tokenizer", "prepend_scheme"}, "sometimes", `"sometimes"`},
		{[]any{"pre_tokenizer"}, map[string]any{"type": "Split", "pattern": map[string]any{"Regex": `\w+`}, "behavior": "Isolated"}, `split pattern "\\w+" is not known`},
		{[]any{"pre_tokenizer"}, map[string]any{"type": "Split", "pattern": map[string]any{"String": "x"}, "behavior": "Contiguous"}, `"Contiguous"`},
		{[]any{"post_processor", "single"}, []any{}, "leaves the text out"},
		{[]any{"post_processor", "single", 0, "SpecialToken", "id"}, "<none>", `token "<none>"`},
		{[]any{"post_processor", "special_tokens", "<s>", "ids"}, []any{700}, "id 700"},
		{[]any{"post_processor", "special_tokens", "<s>", "ids"}, make([]int, 100), "puts 100 tokens"},
		{[]any{"post_processor", "type"}, "BertProcessing", `post_processor: type "BertProcessing"`},
		{[]any{"decoder", "type"}, "WordPiece", `decoder: type "WordPiece"`},
	} {
		_, err := FromJSON(edit(t, tinyJSON, c.path, c.value), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), jsonName) {
			t.Errorf("%v = %v: error %v, want one with %q", c.path, c.value, err, c.want)
		}
	}
	for config, want := range map[string]string{
		`{`:                      configName,
		`{"bos_token":7}`:        "neither a string nor an object",
		`{"eos_token":"<gone>"}`: `eos_token "<gone>" is not in the vocabulary`,
		`{"chat_template":7}`:    "chat_template",
		`{"added_tokens_decoder":{"x":{"content":"y"}}}`:                `"x" is not an id`,
		`{"add_bos_token":true,"tokenizer_class":"LlamaTokenizerFast"}`: "there is no BOS token",
	} {
		if _, err := FromJSON([]byte(tinyJSON), []byte(config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("configuration %s: error %v, want one with %q", config, err, want)
		}
	}
	for n := range len(tinyJSON) {
		if _, err := FromJSON([]byte(tinyJSON[:n]), nil); err == nil {
			t.Fatalf("the first %d bytes are read without error", n)
		}
	}
}

func TestSentencePieceErrors(t *testing.T) {
	file := unpack(t, "testdata/tokenizers/small-spm.model.zst")
	for n := 0; n < len(file)-100; n += 41 {
		if _, err := FromSentencePiece(file[:n], nil); err == nil {
			t.Fatalf("the first %d of %d bytes are read without error", n, len(file))
		}
	}
	for name, bad := range map[string][]byte{
		"unigram":        append(slices.Clone(file), 18, 2, 24, 1),         // trainer_spec.model_type = 1
		"normalisation":  append(slices.Clone(file), 26, 3, 18, 1, 'x'),    // normalizer_spec.precompiled_charsmap
		"suffix":         append(slices.Clone(file), 18, 3, 0xC0, 1, 1),    // treat_whitespace_as_suffix
		"not escaped":    append(slices.Clone(file), 26, 2, 40, 0),         // escape_whitespaces
		"twice the same": append(slices.Clone(file), 10, 3, 10, 1, 'a'),    // a piece that is there
		"strange type":   append(slices.Clone(file), 10, 4, 10, 0, 24, 99), // type 99
		"not a byte":     append(slices.Clone(file), 10, 5, 10, 1, 'x', 24, 6),
	} {
		if _, err := FromSentencePiece(bad, nil); err == nil || !strings.HasPrefix(err.Error(), modelName) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestFromDir(t *testing.T) {
	dir := t.TempDir()
	if _, err := FromDir(dir); err == nil || !strings.Contains(err.Error(), "neither tokenizer.json nor tokenizer.model") {
		t.Errorf("an empty folder: %v", err)
	}
	put := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(modelName, unpack(t, "testdata/tokenizers/small-spm.model.zst"))
	tok, err := FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if ids := tok.Encode("hello", true); ids[0] != tok.BOS() || tok.BOS() != 1 {
		t.Errorf("tokenizer.model: ids %v, BOS %d", ids, tok.BOS())
	}
	if _, err := tok.ChatTemplate(""); err == nil || !strings.Contains(err.Error(), "no chat template") {
		t.Errorf("no chat template: %v", err)
	}
	put(jsonName, []byte(tinyJSON)) // goes before tokenizer.model
	put(configName, []byte(tinyConfig))
	if tok, err = FromDir(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": "<s>", "default": "<s>"} {
		c, err := tok.ChatTemplate(name)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := c.Render(nil, false, nil); text != want || err != nil {
			t.Errorf("chat template %q: %q, %v", name, text, err)
		}
	}
	if _, err := tok.ChatTemplate("tool_use"); err == nil || !strings.Contains(err.Error(), "only default") {
		t.Errorf("a template that is not there: %v", err)
	}
	put("chat_template.jinja", []byte("{{ eos_token }}")) // goes before the configuration's
	if tok, err = FromDir(dir); err != nil {
		t.Fatal(err)
	}
	c, err := tok.ChatTemplate("")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := c.Render(nil, false, nil); text != "<e>" || err != nil {
		t.Errorf("chat_template.jinja: %q, %v", text, err)
	}
}

func TestStream(t *testing.T) {
	tok := load(t, "smollm2")
	const text = "I ♥ 👩🏽‍💻 中文 é!"
	ids := tok.Encode(text, false)
	d := tok.NewDecoder(false)
	var got strings.Builder
	empty := 0
	for _, id := range ids {
		piece := d.Next(id)
		if piece == "" {
			empty++
		}
		got.WriteString(piece)
	}
	if got.String() != text || empty == 0 {
		t.Errorf("streamed %q, %d tokens without text", got.String(), empty)
	}
	if rest := d.Flush(); rest != "" {
		t.Errorf("%q is left", rest)
	}
	// A character that never ends.
	d = tok.NewDecoder(false)
	id, ok := tok.ID("ð") // byte F0
	if !ok {
		t.Fatal("no token for the byte F0")
	}
	if a, b := d.Next(id), d.Flush(); a != "" || b != "\uFFFD" {
		t.Errorf("an unfinished character gives %q and %q", a, b)
	}
	if a, b, c := d.Next(id), d.Next(id), d.Flush(); a != "" || b != "\uFFFD" || c != "\uFFFD" {
		t.Errorf("two unfinished characters give %q, %q, %q", a, b, c)
	}
	// Special tokens.
	d = tok.NewDecoder(true)
	if s := d.Next(2) + d.Next(ids[0]) + d.Flush(); s != "I" {
		t.Errorf("without special tokens %q", s)
	}
	// Byte tokens: valid characters come at once even if the run breaks later.
	spm := load(t, "small-spm")
	var run []int32
	for _, b := range []string{"<0xE4>", "<0xBD>", "<0xA0>", "<0xFF>"} {
		id, ok := spm.ID(b)
		if !ok {
			t.Fatal(b)
		}
		run = append(run, id)
	}
	d = spm.NewDecoder(false)
	var pieces []string
	for _, id := range run {
		pieces = append(pieces, d.Next(id))
	}
	if want := []string{"", "", "你", "\uFFFD"}; !slices.Equal(pieces, want) || d.Flush() != "" {
		t.Errorf("byte tokens stream as %q, want %q", pieces, want)
	}
	if got := spm.Decode(run, false); got != "\uFFFD\uFFFD\uFFFD\uFFFD" {
		t.Errorf("byte tokens decode to %q", got)
	}
}

func TestHash(t *testing.T) {
	base, err := FromJSON([]byte(tinyJSON), nil)
	if err != nil {
		t.Fatal(err)
	}
	// The order of keys is nothing.
	same, err := FromJSON(edit(t, tinyJSON, []any{"version"}, "1.0"), nil)
	if err != nil || same.Hash() != base.Hash() {
		t.Errorf("other key order: hash %s, want %s (%v)", same.Hash(), base.Hash(), err)
	}
	seen := map[string]any{base.Hash(): "base"}
	for _, c := range []struct {
		path  []any
		value any
	}{
		{[]any{"model", "vocab", "b"}, 11},
		{[]any{"model", "merges"}, []any{"a b", "a a", "▁ ab"}},
		{[]any{"model", "fuse_unk"}, false},
		{[]any{"model", "byte_fallback"}, false},
		{[]any{"model", "ignore_merges"}, true},
		{[]any{"added_tokens", 1, "lstrip"}, false},
		{[]any{"added_tokens", 1, "special"}, true},
		{[]any{"normalizer"}, nil},
		{[]any{"pre_tokenizer", "prepend_scheme"}, "always"},
		{[]any{"pre_tokenizer", "split"}, false},
		{[]any{"post_processor"}, nil},
	} {
		tok, err := FromJSON(edit(t, tinyJSON, c.path, c.value), nil)
		if err != nil {
			t.Fatalf("%v: %v", c.path, err)
		}
		if other, dup := seen[tok.Hash()]; dup {
			t.Errorf("%v and %v have the same hash", c.path, other)
		}
		seen[tok.Hash()] = c.path
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	for _, name := range []string{"small-llama3", "small-spm"} {
		tok := load(t, name)
		text := bigText(t)[:1<<16]
		want := tok.Encode(text, true)
		var wait sync.WaitGroup
		for range 4 {
			wait.Go(func() {
				if !slices.Equal(tok.Encode(text, true), want) {
					t.Errorf("%s: other ids", name)
				}
			})
		}
		wait.Wait()
	}
}

// TestNormalForm compares the long way with golang.org/x/text where that is right, on every code point and on pairs.
func TestNormalForm(t *testing.T) {
	forms := map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}
	for name, form := range forms {
		var all strings.Builder
		for r := rune(0); r < 0x30000; r++ {
			if r < 0xD800 || r > 0xDFFF {
				all.WriteString(string(r) + "x")
			}
		}
		if longNormalForm(form, all.String()) != form.String(all.String()) {
			t.Errorf("%s of all code points differs", name)
		}
		for _, s := range loadStrings().Strings {
			if !strings.Contains(s, strings.Repeat("\u0301", 20)) && !strings.Contains(s, strings.Repeat("\u0323\u0307", 10)) {
				if got, want := longNormalForm(form, s), form.String(s); got != want {
					t.Errorf("%s of %q: %q, want %q", name, s, got, want)
				}
			}
		}
		zalgo := "e" + strings.Repeat("\u0301\u0323", 50)
		if got := normalForm(form, zalgo); strings.Contains(got, "\u034F") || strings.Count(got, "\u0323") < 49 {
			t.Errorf("%s of a long run of marks: %q", name, got)
		}
	}
}

func TestRepairUTF8(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "ok": "ok", "a\xffb": "a\uFFFDb", "\xe4\xbd": "\uFFFD", "\xe4\xbda": "\uFFFDa", "\xf0\x9f\x91": "\uFFFD",
		"\xc0\x80": "\uFFFD\uFFFD", "\xed\xa0\x80": "\uFFFD\uFFFD\uFFFD", "\xf4\x90\x80\x80": "\uFFFD\uFFFD\uFFFD\uFFFD",
		"\uFFFD\xff": "\uFFFD\uFFFD", "\xe0\x80": "\uFFFD\uFFFD", "\xf0\x9f\xf0\x9f": "\uFFFD\uFFFD",
	} {
		if got := repairUTF8(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}
