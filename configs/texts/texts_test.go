package texts_test

import (
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/configs/texts"
)

func TestEmbeddedSets(t *testing.T) {
	seen := map[string]string{}
	for _, set := range texts.Sets {
		docs, err := texts.Read(set)
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]bool{}
		for _, d := range docs {
			kind, _, _ := strings.Cut(strings.TrimPrefix(d.Name, set+"/"), "-")
			kinds[kind] = true
			if len(d.Text) < 140_000 {
				t.Errorf("%s has %d bytes, too short for 32K tokens", d.Name, len(d.Text))
			}
			if other := seen[d.Hash()]; other != "" {
				t.Errorf("%s and %s are the same text", d.Name, other)
			}
			seen[d.Hash()] = d.Name
		}
		for _, kind := range []string{"prose", "code", "spanish", "chinese"} {
			if !kinds[kind] {
				t.Errorf("%s has no %s", set, kind)
			}
		}
	}
	code, err := texts.Read("calibration/code")
	if err != nil || len(code) != 2 {
		t.Errorf("calibration/code gives %d documents, %v", len(code), err)
	}
}

func TestOwnTexts(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	a, b := write("b.txt", "second"), write("a.txt", "first")
	for _, sources := range [][]string{{dir}, {b, a}, {filepath.Join(dir, "*.txt")}} {
		docs, err := texts.Read(sources...)
		if err != nil || len(docs) != 2 || docs[0].Text != "first" || docs[1].Text != "second" {
			t.Errorf("%v gives %v, %v", sources, docs, err)
		}
	}
	z, err := os.Create(filepath.Join(dir, "c.txt.gz"))
	if err != nil {
		t.Fatal(err)
	}
	w := gzip.NewWriter(z)
	_, err = w.Write([]byte("packed"))
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	if docs, err := texts.Read(z.Name()); err != nil || docs[0].Text != "packed" {
		t.Errorf("gzip: %v, %v", docs, err)
	}
}

func TestBadSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	same := write("same.txt", "x")
	for want, sources := range map[string][]string{
		"a source is one of":             {filepath.Join(dir, "missing")},
		"has no document that starts":    {"heldout/klingon"},
		"is not UTF-8":                   {write("latin1.txt", "caf\xe9")},
		"is empty":                       {write("empty.txt", " \n")},
		"named twice":                    {same, same},
		"magic number mismatch":          {write("foreign.zst", "not compressed")},
		"invalid header":                 {write("foreign.gz", "not compressed at all")},
		"has no files":                   {t.TempDir()},
		"calibration/prose-baskervilles": {"calibration", "calibration/prose"},
	} {
		if _, err := texts.Read(sources...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want %q", sources, err, want)
		}
	}
}

func TestSpread(t *testing.T) {
	docs, err := texts.Read("heldout/prose", "heldout/code", "heldout/spanish")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range texts.Spread(docs, 4) {
		got = append(got, d.Kind)
	}
	if strings.Join(got, " ") != "prose code spanish prose" {
		t.Errorf("spread over %v", got)
	}
	if n := len(texts.Spread(docs, 0)); n != 5 {
		t.Errorf("all are %d", n)
	}
}
