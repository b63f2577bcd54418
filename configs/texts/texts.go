// Package texts holds the documents that calibrate mappings, that choose
// between variants of them, and that measure them, and reads a user's own.
//
// A source names documents: "calibration", "choice" or "heldout" for the embedded sets
// (with "/prose" and the like for those whose name starts so), else a text
// file, a folder of them, or a glob; .zst and .gz are unpacked. Read gives the
// documents in a fixed order, each with the hash of its text.
package texts

import (
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

//go:embed calibration/*.zst choice/*.zst heldout/*.zst LICENSES.md
var embedded embed.FS

// Sets are the names of the embedded sets.
var Sets = []string{"calibration", "choice", "heldout"}

// maxBytes bounds one unpacked document.
const maxBytes = 256 << 20

// Document is one text.
type Document struct {
	Name string // set/name of an embedded document, else its path
	Kind string // prose, code, ...; of a user's own its extension
	Text string
}

// Spread gives n documents (0: all), taken from each kind in turn, so that few
// documents still are of several kinds.
func Spread(docs []Document, n int) []Document {
	if n == 0 || n >= len(docs) {
		return docs
	}
	var kinds []string
	byKind := map[string][]Document{}
	for _, d := range docs {
		if byKind[d.Kind] == nil {
			kinds = append(kinds, d.Kind)
		}
		byKind[d.Kind] = append(byKind[d.Kind], d)
	}
	var out []Document
	for round := 0; ; round++ {
		for _, k := range kinds {
			if round < len(byKind[k]) {
				if out = append(out, byKind[k][round]); len(out) == n {
					return out
				}
			}
		}
	}
}

// kind tells a document's kind by its name.
func kind(name string) string {
	for _, s := range Sets {
		if rest, ok := strings.CutPrefix(name, s+"/"); ok {
			k, _, _ := strings.Cut(rest, "-")
			return k
		}
	}
	base := strings.TrimSuffix(strings.TrimSuffix(name, ".zst"), ".gz")
	if ext := strings.TrimPrefix(path.Ext(filepath.ToSlash(base)), "."); ext != "" {
		return ext
	}
	return "text"
}

// Hash is the SHA-256 of the text in hex.
func (d Document) Hash() string {
	sum := sha256.Sum256([]byte(d.Text))
	return hex.EncodeToString(sum[:])
}

// Read gives the documents that the sources name, in the order of the sources
// and by name within one; a document named twice is an error, as it would
// count twice.
func Read(sources ...string) ([]Document, error) {
	var docs []Document
	seen := map[string]bool{}
	for _, source := range sources {
		fsys, names, err := find(source)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if seen[name] {
				return nil, fmt.Errorf("texts: document %s is named twice", name)
			}
			seen[name] = true
			text, err := read(fsys, name)
			if err != nil {
				return nil, err
			}
			docs = append(docs, Document{strings.TrimSuffix(name, ".txt.zst"), kind(name), text})
		}
	}
	return docs, nil
}

// osFS opens paths of the operating system as they are, absolute ones too.
type osFS struct{}

func (osFS) Open(name string) (fs.File, error) { return os.Open(name) }

// find lists the files that a source names.
func find(source string) (fs.FS, []string, error) {
	set, prefix, _ := strings.Cut(source, "/")
	for _, s := range Sets {
		if s != set {
			continue
		}
		names, err := fs.Glob(embedded, path.Join(set, prefix+"*.zst"))
		if err == nil && len(names) == 0 {
			err = fmt.Errorf("texts: the embedded set %s has no document that starts with %q", set, prefix)
		}
		return embedded, names, err
	}
	info, err := os.Stat(source)
	switch {
	case err == nil && !info.IsDir():
		return osFS{}, []string{source}, nil
	case err == nil:
		var names []string
		err := filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && !strings.HasPrefix(d.Name(), ".") {
				names = append(names, p)
			}
			return err
		})
		if err == nil && len(names) == 0 {
			err = fmt.Errorf("texts: folder %s has no files", source)
		}
		sort.Strings(names)
		return osFS{}, names, err
	case !errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("texts: %w", err)
	}
	names, globErr := filepath.Glob(source)
	if globErr != nil || len(names) == 0 {
		return nil, nil, fmt.Errorf("texts: %w (a source is one of the embedded sets %s, a file, a folder or a glob)", err, strings.Join(Sets, ", "))
	}
	sort.Strings(names)
	return osFS{}, names, nil
}

// read unpacks one document.
func read(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", fmt.Errorf("texts: %w", err)
	}
	defer f.Close()
	var r io.Reader = f
	switch path.Ext(name) {
	case ".zst":
		d, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBytes))
		if err != nil {
			return "", fmt.Errorf("texts: %s: %w", name, err)
		}
		defer d.Close()
		r = d
	case ".gz":
		if r, err = gzip.NewReader(f); err != nil {
			return "", fmt.Errorf("texts: %s: %w", name, err)
		}
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("texts: %s: %w", name, err)
	case len(raw) > maxBytes:
		return "", fmt.Errorf("texts: %s is larger than %d MiB; split it", name, maxBytes>>20)
	case !utf8.Valid(raw):
		return "", fmt.Errorf("texts: %s is not UTF-8 text", name)
	case len(strings.TrimSpace(string(raw))) == 0:
		return "", fmt.Errorf("texts: %s is empty", name)
	}
	return string(raw), nil
}
