package jieba

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

// The golden files are made by scripts/goldens/longbench.py with Python's jieba.
func golden(t testing.TB, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

func TestCut(t *testing.T) {
	var cuts [][]string
	golden(t, "cut.json", &cuts)
	if len(cuts) < 100 {
		t.Fatalf("only %d golden cuts", len(cuts))
	}
	for _, want := range cuts {
		text := strings.Join(want, "")
		if got := Cut(text); !slices.Equal(got, want) {
			t.Errorf("Cut(%q)\n got %q\nwant %q", text, got, want)
		}
	}
}

// TestCutPredictions compares the words of all Chinese predictions and answers of
// two models with a hash of Python's.
func TestCutPredictions(t *testing.T) {
	shared := os.Getenv("HASHATTN_SHARED_DATA")
	if shared == "" {
		t.Skip("HASHATTN_SHARED_DATA is not set: the predictions of two models are not compared (TestCut is the small form)")
	}
	var files []struct {
		Model, Task, SHA256 string
		Texts               int
	}
	golden(t, "preds.json", &files)
	for _, f := range files {
		t.Run(f.Model+"/"+f.Task, func(t *testing.T) {
			t.Parallel()
			hash, n := sha256.New(), 0
			for _, text := range texts(t, filepath.Join(shared, "longbench", "preds", f.Model, f.Task+".jsonl.zst")) {
				fmt.Fprint(hash, strings.Join(Cut(text), "\x1e"), "\x1f")
				n++
			}
			if got := hex.EncodeToString(hash.Sum(nil)); got != f.SHA256 || n != f.Texts {
				t.Errorf("%d texts, hash %s; Python %d, %s", n, got, f.Texts, f.SHA256)
			}
		})
	}
}

// texts reads predictions and answers in the order of the file.
func texts(t testing.TB, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var out []string
	in := bufio.NewReader(d)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var p struct {
				Pred    string
				Answers []string
			}
			if err := json.Unmarshal(line, &p); err != nil {
				t.Fatal(err)
			}
			out = append(append(out, p.Pred), p.Answers...)
		}
		if err == io.EOF {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCutKeepsText: no character is lost, added or moved, whatever the text.
func TestCutKeepsText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.OneOf(
			rapid.RuneFrom([]rune("中国人民的一是在不了a1.%-\r\n 　，")),
			rapid.Map(rapid.Int32Range(hanFirst-2, hanLast+2), func(c int32) rune { return c }), rapid.Rune())).Draw(t, "text")
		words := Cut(text)
		if got := strings.Join(words, ""); got != text {
			t.Fatalf("Cut(%q) = %q", text, words)
		}
		if slices.Contains(words, "") {
			t.Fatalf("Cut(%q) has an empty word: %q", text, words)
		}
	})
}

func TestUnpackDamaged(t *testing.T) {
	if _, err := unpack(packed); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 4, 100, len(packed) / 2, len(packed) - 1} {
		if _, err := unpack(packed[:n]); err == nil {
			t.Errorf("tables cut to %d bytes are accepted", n)
		}
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{"", "jieba", magic, magic + strings.Repeat("\xff", 64), strings.Repeat("\x00", 64)} {
		if _, err := unpack(enc.EncodeAll([]byte(raw), nil)); err == nil {
			t.Errorf("tables %q are accepted", raw)
		}
	}
}

func BenchmarkUnpack(b *testing.B) {
	for b.Loop() {
		if _, err := unpack(packed); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCut(b *testing.B) {
	var cuts [][]string
	golden(b, "cut.json", &cuts)
	var text strings.Builder
	for _, c := range cuts {
		text.WriteString(strings.Join(c, ""))
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		Cut(text.String())
	}
}
