package tokenizer

import (
	"testing"
)

// TestClasses compares the class of every code point with what Hugging Face's tokenizers take it for.
func TestClasses(t *testing.T) {
	var want map[string][][2]rune
	unpackJSON(t, "testdata/classes.json.zst", &want)
	for name, is := range map[string]func(rune) bool{
		"letter": func(r rune) bool { return classOf(r) == letter },
		"number": isNumber,
		"space":  isSpace,
		"digit":  isDigit,
		"upper":  func(r rune) bool { up, _ := letterCase(r); return up },
		"lower":  func(r rune) bool { _, low := letterCase(r); return low },
		"punctuation": func(r rune) bool {
			// The six symbols that llama.cpp's pattern names besides \p{P}, $ + < = > ^ ~ |, are no punctuation.
			return isPunctuation(r) && r != '$' && r != '+' && r != '<' && r != '=' && r != '>' && r != '^' && r != '~' && r != '|'
		},
	} {
		ranges, ok := want[name]
		if !ok || len(ranges) == 0 {
			t.Fatalf("no ranges for %s", name)
		}
		wrong := 0
		for r := rune(0); r <= 0x10FFFF; r++ {
			for len(ranges) > 0 && r > ranges[0][1] {
				ranges = ranges[1:]
			}
			in := len(ranges) > 0 && r >= ranges[0][0]
			if is(r) != in && (r < 0xD800 || r > 0xDFFF) {
				if wrong++; wrong < 40 {
					t.Errorf("%s: U+%04X: got %v, want %v", name, r, is(r), in)
				}
			}
		}
		if wrong > 0 {
			t.Errorf("%s: %d code points differ", name, wrong)
		}
	}
}
