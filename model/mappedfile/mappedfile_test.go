package mappedfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for _, content := range []string{"", "x", strings.Repeat("page", 5000)} {
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(f.Bytes()); got != content {
			t.Errorf("got %d bytes, want %d", len(got), len(content))
		}
		for range 2 {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
		if f.Bytes() != nil {
			t.Error("the content is still there after Close")
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "missing")} {
		if f, err := Open(path); err == nil || f != nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s): got %v, want an error that names it", path, err)
		}
	}
}
