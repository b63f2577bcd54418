package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashattn/hashattn/longbench"
	"github.com/hashattn/hashattn/model/hub"
)

// longBenchPath is where pull longbench puts the published data.
func longBenchPath() (string, error) {
	dir, err := hub.CacheDir()
	return filepath.Join(dir, "longbench", "data.zip"), err
}

// pullLongBench downloads LongBench's data.zip. The hub names the file's
// SHA-256 in a header; a file of another is refused, and so is one that is no
// LongBench.
func (a *app) pullLongBench(ctx context.Context) (string, error) {
	path, err := longBenchPath()
	if err != nil {
		return "", err
	}
	if checkLongBench(path) == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".data.zip.*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name()) // fails once renamed
	sum := sha256.New()
	want, err := a.download(ctx, dataURL(), io.MultiWriter(f, sum))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("pull longbench: %w; or put data.zip at %s", err, path)
	}
	if err := checkSum(sum, want); err != nil {
		return "", fmt.Errorf("pull longbench: %w", err)
	}
	if err := checkLongBench(f.Name()); err != nil {
		return "", fmt.Errorf("pull longbench: %w", err)
	}
	return path, os.Rename(f.Name(), path)
}

// dataURL is the address of the data, at the mirror that HF_ENDPOINT names.
func dataURL() string {
	if mirror := os.Getenv("HF_ENDPOINT"); mirror != "" {
		return strings.Replace(longbench.DataURL, "https://huggingface.co", strings.TrimRight(mirror, "/"), 1)
	}
	return longbench.DataURL
}

func checkLongBench(path string) error {
	d, err := longbench.Open(path)
	if err != nil {
		return err
	}
	return d.Close()
}

func checkSum(sum hash.Hash, want string) error {
	if got := hex.EncodeToString(sum.Sum(nil)); want != "" && got != want {
		return fmt.Errorf("the file has SHA-256 %s, the hub says %s", got, want)
	}
	return nil
}

// download writes what lies at url to w and gives the SHA-256 that the hub
// names, empty if it names none.
func (a *app) download(ctx context.Context, url string, w io.Writer) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	linked := ""
	client := http.Client{CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		// The checksum stands in the answer that sends us to the store.
		if tag := strings.Trim(r.Response.Header.Get("X-Linked-Etag"), `"`); tag != "" {
			linked = tag
		}
		return nil
	}}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, answer.Status)
	}
	if tag := strings.Trim(answer.Header.Get("X-Linked-Etag"), `"`); tag != "" {
		linked = tag
	}
	task := a.progress.task("pull longbench", true)
	defer task.end()
	done := int64(0)
	buf := make([]byte, 1<<16)
	for {
		n, err := answer.Body.Read(buf)
		if _, writeErr := w.Write(buf[:n]); writeErr != nil {
			return "", writeErr
		}
		done += int64(n)
		task.update64(done, answer.ContentLength)
		switch {
		case errors.Is(err, io.EOF) && answer.ContentLength >= 0 && done != answer.ContentLength:
			return "", fmt.Errorf("%s: %d bytes of %d", url, done, answer.ContentLength)
		case errors.Is(err, io.EOF):
			return linked, nil
		case err != nil:
			return "", err
		}
	}
}
