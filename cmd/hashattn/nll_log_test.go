package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashattn/hashattn/eval"
)

func TestNLLLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.jsonl")
	open := func(key string) *nllLog {
		t.Helper()
		l, err := openNLLLog(path, key)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open("one")
	for _, doc := range []string{"a", "b"} {
		if err := l.Save([]eval.DocumentNLL{{Document: doc, Context: 64, Selector: "dense", NLL: 2}, {Document: doc, Context: 64, Selector: "hash", NLL: 3}}); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Whatever a kill leaves of the file, what is whole is kept, and what comes
	// next is whole again.
	for n := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		l := open("one")
		kept := len(l.done)
		if err := l.Save([]eval.DocumentNLL{{Document: "c", Context: 64}}); err != nil {
			t.Fatal(err)
		}
		l.Close()
		l = open("one")
		if len(l.done) != kept+1 || l.Load("c", 64) == nil || l.Load("c", 128) != nil {
			t.Fatalf("cut at %d: %d documents kept, %d after one more", n, kept, len(l.done))
		}
		if n == len(whole) && (kept != 2 || len(l.Load("b", 64)) != 2) {
			t.Fatalf("the whole file gives %d documents", kept)
		}
		l.Close()
	}
	// Another measurement begins anew.
	l = open("two")
	if len(l.done) != 0 {
		t.Errorf("%d documents of another measurement", len(l.done))
	}
	if err := l.Remove(); err != nil {
		t.Fatal(err)
	}
}
