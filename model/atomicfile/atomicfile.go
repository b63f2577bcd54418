// Package atomicfile writes files that are either whole or not there: the
// bytes go to a temporary file beside the final name, reach the disk, and only
// then take the name.
package atomicfile

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Write makes the file at path from what write sends to its argument. When
// anything fails, what was at path before stays, and the temporary file goes.
// The folder must exist. A killed process may leave a temporary file (hidden,
// with the suffix .tmp) but never a part under the final name.
func Write(path string, write func(w io.Writer) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	dir, base := filepath.Split(path)
	f, err := create(dir, base)
	if err != nil {
		return err
	}
	renamed := false
	defer func() { // also when write panics
		if !renamed {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	renamed = true
	return SyncDir(dir)
}

// Replace makes the file at path hold data, as Write does.
func Replace(path string, data []byte) error {
	return Write(path, func(w io.Writer) error { _, err := w.Write(data); return err })
}

// create opens a new temporary file; unlike os.CreateTemp it leaves the file's
// mode to the user's umask.
func create(dir, base string) (*os.File, error) {
	for try := 0; ; try++ {
		f, err := os.OpenFile(fmt.Sprintf("%s.%s.%08x.tmp", dir, base, rand.Uint32()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil || !os.IsExist(err) || try == 100 {
			return f, err
		}
	}
}

// SyncDir makes renames within a folder last through a power failure. Systems
// that cannot sync a folder do it by themselves or not at all, so only the
// failure to open it is an error.
func SyncDir(dir string) error {
	if dir == "" {
		dir = "."
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	_ = d.Sync()
	return nil
}
