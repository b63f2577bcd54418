package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// entry is one file that a stage read or made.
type entry struct {
	Path     string    `json:"path"` // slashes; within the run's folder, or absolute
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	SHA256   string    `json:"sha256"`
}

// sums remembers checksums, so that a large file is read once: a file of the
// same size and time of change counts as unchanged.
type sums struct {
	path  string
	known map[string]entry
}

func (s *sums) load(path string) {
	s.path, s.known = path, map[string]entry{}
	readJSON(path, &s.known)
	if s.known == nil {
		s.known = map[string]entry{}
	}
}

// list gives the files of an output or input, a file or a folder, in order of
// their names. Hidden files are left out: they are temporary.
func (r *runner) list(path string) ([]entry, error) {
	root := path
	if !filepath.IsAbs(path) {
		root = filepath.Join(r.dir, path)
	}
	var out []entry
	changed := false
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p != root && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := os.Stat(p) // follows links, which caches are made of
		if err != nil || info.IsDir() {
			return err
		}
		name := p
		if !filepath.IsAbs(path) {
			if name, err = filepath.Rel(r.dir, p); err != nil {
				return err
			}
		}
		e := entry{Path: filepath.ToSlash(name), Size: info.Size(), Modified: info.ModTime().UTC()}
		if known := r.sums.known[e.Path]; known.Size == e.Size && known.Modified.Equal(e.Modified) {
			e.SHA256 = known.SHA256
		} else {
			if e.SHA256, err = checksum(p); err != nil {
				return err
			}
			r.sums.known[e.Path] = e
			changed = true
		}
		out = append(out, e)
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s holds no files", root)
	}
	if err == nil && changed {
		err = writeJSON(r.sums.path, r.sums.known)
	}
	return out, err
}

// intact says whether the files are there as they were listed.
func (r *runner) intact(files []entry) bool {
	for _, want := range files {
		got, err := r.list(filepath.FromSlash(want.Path))
		if err != nil || len(got) != 1 || got[0].Size != want.Size || got[0].SHA256 != want.SHA256 {
			return false
		}
	}
	return len(files) > 0
}

func checksum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
