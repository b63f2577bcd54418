package jsonl

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
)

func read(r io.Reader) (texts []string, err error) {
	for l, err := range Lines(r, "f.jsonl") {
		if err != nil {
			return texts, err
		}
		if l.Number != len(texts)+1 || l.File != "f.jsonl" {
			return texts, l.Errorf("numbered %d", l.Number)
		}
		texts = append(texts, string(l.Text))
	}
	return texts, nil
}

func TestLines(t *testing.T) {
	long := strings.Repeat("é", 100_000) // longer than the buffer, and cut inside a character by it
	texts, err := read(strings.NewReader("one\r\n" + long + "\nlast"))
	if err != nil || len(texts) != 3 || texts[0] != "one" || texts[1] != long || texts[2] != "last" {
		t.Errorf("%d lines, %v", len(texts), err)
	}
	if texts, err := read(strings.NewReader("")); err != nil || len(texts) != 0 {
		t.Errorf("an empty file: %q, %v", texts, err)
	}
	for text, want := range map[string]string{
		"a\n\nb":   "f.jsonl:2: blank line",
		"a\n \t\n": "f.jsonl:2: blank line",
		"\xff\n":   "f.jsonl:1: not UTF-8",
	} {
		if _, err := read(strings.NewReader(text)); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// endless is a file without an end, or one that breaks off.
type endless struct{ err error }

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), e.err
}

func TestHostile(t *testing.T) {
	if _, err := read(endless{}); err == nil || !strings.Contains(err.Error(), "f.jsonl:1: longer than 64 MiB") {
		t.Errorf("a line without an end: %v", err)
	}
	broken := errors.New("disk on fire")
	if _, err := read(io.MultiReader(strings.NewReader("a\n"), endless{broken})); !errors.Is(err, broken) || !strings.Contains(err.Error(), "f.jsonl:2: ") {
		t.Errorf("a read error: %v", err)
	}
}

func TestDecompress(t *testing.T) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte("a\nb\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Decompress(bytes.NewReader(b.Bytes()), "f.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	if texts, err := read(r); err != nil || len(texts) != 2 {
		t.Errorf("%q, %v", texts, err)
	}
	if base, ok := TrimSuffix("trec.jsonl.zst"); base != "trec" || !ok {
		t.Errorf("base %q, %v", base, ok)
	}
	if base, ok := TrimSuffix("result.json"); base != "result.json" || ok {
		t.Errorf("base %q, %v", base, ok)
	}
}
