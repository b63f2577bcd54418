package hub

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
)

// checksum is what a file must hash to. The hub gives a SHA-256 for large
// files and git's object name, a SHA-1, for small ones.
type checksum struct {
	algorithm string
	start     func(size int64) hash.Hash // for a file of size bytes
	hex       string
}

func sha256Of(hex string) checksum {
	return checksum{"SHA-256", func(int64) hash.Hash { return sha256.New() }, hex}
}

func gitBlob(hex string) checksum {
	return checksum{"git object name", func(size int64) hash.Hash {
		h := sha1.New()
		fmt.Fprintf(h, "blob %d\x00", size)
		return h
	}, hex}
}

// verify reads the file at path, which has size bytes, and compares its
// checksum.
func (p *puller) verify(path string, want checksum, size int64, what string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := want.start(size)
	buffer := make([]byte, 1<<20)
	for done := int64(0); ; {
		n, err := f.Read(buffer)
		h.Write(buffer[:n])
		done += int64(n)
		p.progress(done, size, "verify "+what)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.hex {
		return wrongChecksum{want, got}
	}
	return nil
}

type wrongChecksum struct {
	want checksum
	got  string
}

func (e wrongChecksum) Error() string {
	return fmt.Sprintf("the file's %s is %s, want %s: it is damaged or another file", e.want.algorithm, e.got, e.want.hex)
}
