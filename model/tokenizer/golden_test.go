package tokenizer

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// unpack returns the content of a file, decompressed if its name ends in .zst.
func unpack(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(path, ".zst") {
		return b
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if b, err = d.DecodeAll(b, nil); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return b
}

func unpackJSON(t testing.TB, path string, v any) {
	t.Helper()
	if err := json.Unmarshal(unpack(t, path), v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// hardStrings are the texts that every tokenizer is tried on: text, and byte strings that are not UTF-8.
type hardStrings struct {
	Strings []string
	Invalid [][]byte
}

var loadStrings = sync.OnceValue(func() *hardStrings {
	var raw struct{ Strings, Invalid []string }
	t := &testing.T{}
	unpackJSON(t, "testdata/strings.json.zst", &raw)
	h := &hardStrings{Strings: raw.Strings}
	for _, s := range raw.Invalid {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			panic(err)
		}
		h.Invalid = append(h.Invalid, b)
	}
	return h
})

func bigText(t testing.TB) string { return string(unpack(t, "testdata/big.txt.zst")) }

// golden is what the upstream library gives; see scripts/goldens/tokenizer.py.
type golden struct {
	Own      []string  `json:"own"`     // texts with this tokenizer's added tokens
	IDs      [][]int32 `json:"ids"`     // of the hard strings and Own
	Special  [][]int32 `json:"special"` // of the first strings, with special tokens around
	Ordinary [][]int32 `json:"ordinary"`
	Invalid  [][]int32 `json:"invalid"`
	Big      struct {
		Count  int    `json:"count"`
		SHA256 string `json:"sha256"`
	} `json:"big"`
	Decoded    []*string `json:"decoded"` // null: the text itself
	Skipped    []*string `json:"skipped"`
	Odd        [][]int32 `json:"odd"` // ids that no text gives
	OddDecoded []string  `json:"odd_decoded"`
}

// smallTokenizers are trained by scripts/goldens/tokenizer.py and checked in, as are SmolLM2's and Qwen's.
var smallTokenizers = []string{
	"small-llama3", "small-gpt2", "small-tekken", "small-default", "small-gaps", "small-llama2", "small-metaspace-first",
	"small-metaspace-always", "small-gemma", "small-unk-fused", "small-unk-single", "small-spm", "small-spm-gemma", "small-spm-plain",
	"small-spm-unused", "smollm2", "qwen3",
}

// load reads one of the checked-in tokenizers.
func load(t testing.TB, name string) *Tokenizer {
	t.Helper()
	base := filepath.Join("testdata", "tokenizers", name)
	var tok *Tokenizer
	var err error
	if _, statErr := os.Stat(base + ".model.zst"); statErr == nil {
		tok, err = FromSentencePiece(unpack(t, base+".model.zst"), nil)
	} else {
		tok, err = FromJSON(unpack(t, base+".json.zst"), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestGolden(t *testing.T) {
	for _, name := range smallTokenizers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkGolden(t, load(t, name), name)
		})
	}
}

// TestGoldenShared checks tokenizers whose licence does not let them be checked in.
func TestGoldenShared(t *testing.T) {
	dir := os.Getenv("HASHATTN_SHARED_DATA")
	if dir == "" {
		t.Skip("HASHATTN_SHARED_DATA is not set: the tokenizers of Llama and Mistral are not checked")
	}
	dir = filepath.Join(dir, "tokenizers")
	for name, load := range map[string]func() (*Tokenizer, error){
		"llama-3.1": func() (*Tokenizer, error) {
			return FromJSON(unpack(t, filepath.Join(dir, "llama-3.1/tokenizer.json.zst")), unpack(t, filepath.Join(dir, "llama-3.1/tokenizer_config.json")))
		},
		"qwen3": func() (*Tokenizer, error) {
			return FromJSON(unpack(t, filepath.Join(dir, "qwen3/tokenizer.json.zst")), unpack(t, filepath.Join(dir, "qwen3/tokenizer_config.json")))
		},
		"llama-2": func() (*Tokenizer, error) {
			return FromSentencePiece(unpack(t, filepath.Join(dir, "llama-2/tokenizer.model")), nil)
		},
		"mistral-v3": func() (*Tokenizer, error) {
			return FromSentencePiece(unpack(t, filepath.Join(dir, "mistral-v3/tokenizer.model.v3")), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := load()
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, tok, name)
		})
	}
}

// checkGolden compares tok with testdata/ids/<name>.
func checkGolden(t *testing.T, tok *Tokenizer, name string) {
	t.Helper()
	var g golden
	unpackJSON(t, filepath.Join("testdata", "ids", name+".json.zst"), &g)
	hard := loadStrings()
	texts := append(slices.Clone(hard.Strings), g.Own...)
	if len(texts) < 250 || len(g.IDs) != len(texts) || len(g.Ordinary) != len(texts) || len(g.Decoded) != len(texts) {
		t.Fatalf("%d texts, %d ids, %d ordinary ids, %d decoded texts", len(texts), len(g.IDs), len(g.Ordinary), len(g.Decoded))
	}
	same := func(kind, text string, got, want []int32) {
		t.Helper()
		if !slices.Equal(got, want) {
			i := 0
			for i < min(len(got), len(want)) && got[i] == want[i] {
				i++
			}
			t.Errorf("%s %.80q: token %d: got %v (%d tokens), want %v (%d)", kind, text, i,
				got[i:min(i+6, len(got))], len(got), want[i:min(i+6, len(want))], len(want))
		}
	}
	for i, text := range texts {
		ids := tok.Encode(text, false)
		same("ids of", text, ids, g.IDs[i])
		same("ordinary ids of", text, tok.EncodeOrdinary(text), g.Ordinary[i])
		for skip, want := range map[bool]*string{false: g.Decoded[i], true: g.Skipped[i]} {
			if want == nil {
				want = &text
			}
			if got := tok.Decode(g.IDs[i], skip); got != *want {
				t.Errorf("ids of %.80q decode to %.80q, want %.80q", text, got, *want)
			}
		}
		checkStream(t, tok, g.IDs[i])
	}
	for i, want := range g.Special {
		same("ids with special tokens of", texts[i], tok.Encode(texts[i], true), want)
	}
	for i, want := range g.Invalid {
		same("ids of", string(hard.Invalid[i]), tok.Encode(string(hard.Invalid[i]), false), want)
	}
	for i, ids := range g.Odd {
		if got := tok.Decode(ids, false); got != g.OddDecoded[i] {
			t.Errorf("ids %v decode to %q, want %q", ids, got, g.OddDecoded[i])
		}
		checkStream(t, tok, ids)
	}
	if ids := tok.Encode(bigText(t), false); len(ids) != g.Big.Count || digest(ids) != g.Big.SHA256 {
		t.Errorf("1 MB of mixed text: %d tokens, digest %s; want %d, %s", len(ids), digest(ids), g.Big.Count, g.Big.SHA256)
	}
}

// checkStream compares the incremental decoder with Decode.
func checkStream(t *testing.T, tok *Tokenizer, ids []int32) {
	t.Helper()
	d := tok.NewDecoder(false)
	var text strings.Builder
	for _, id := range ids {
		piece := d.Next(id)
		if strings.ToValidUTF8(piece, "") != piece {
			t.Errorf("ids %v: a piece %q is not whole", ids, piece)
		}
		text.WriteString(piece)
	}
	text.WriteString(d.Flush())
	whole := tok.Decode(ids, false)
	// In a run of byte tokens that is not valid the stream may keep more of the text.
	if got := text.String(); got != whole && !strings.Contains(whole, "\uFFFD") {
		t.Errorf("ids %v: the stream gives %.80q, Decode %.80q", ids, got, whole)
	}
}

func digest(ids []int32) string {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, ids); err != nil {
		panic(err)
	}
	s := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(s[:])
}
