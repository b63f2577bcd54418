package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Dataset is the path of a large file of a data set of the hub, owner/repo,
// which is downloaded unless the cache holds it as the hub has it now.
func Dataset(ctx context.Context, repo, file string, opts Options) (string, error) {
	p, err := newPuller(opts)
	if err != nil {
		return "", err
	}
	path := p.datasetPath(repo, file)
	if err := p.dataset(ctx, "datasets/"+repo, file, path); err != nil {
		return "", fmt.Errorf("%s of %s: %w; or put the file at %s", file, repo, err, path)
	}
	return path, nil
}

// DatasetPath is where Dataset puts a file.
func DatasetPath(repo, file string) (string, error) {
	p, err := newPuller(Options{})
	if err != nil {
		return "", err
	}
	return p.datasetPath(repo, file), nil
}

func (p *puller) datasetPath(repo, file string) string {
	return filepath.Join(p.cache, "datasets", filepath.FromSlash(repo), filepath.FromSlash(file))
}

func (p *puller) dataset(ctx context.Context, repo, file, path string) error {
	address := p.fileURL(repo, "main", file)
	want, size, err := p.stored(ctx, address)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	lock, err := p.lock(ctx, want.hex, file)
	if err != nil {
		return err
	}
	defer lock.Release()
	if p.holds(path, want, size, file) {
		return nil
	}
	return p.download(ctx, address, want, size, path, file)
}

// stored asks for the SHA-256 and the size of a large file: they stand in the
// answer that names the store where it lies.
func (p *puller) stored(ctx context.Context, address string) (checksum, int64, error) {
	req, err := p.prepare(ctx, http.MethodHead, address)
	if err != nil {
		return checksum{}, 0, err
	}
	client := *p.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return checksum{}, 0, err
	}
	resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return checksum{}, 0, statusError{resp.StatusCode, "the server answers " + resp.Status}
	}
	sum := strings.Trim(resp.Header.Get("X-Linked-Etag"), `"`)
	size, err := strconv.ParseInt(resp.Header.Get("X-Linked-Size"), 10, 64)
	if raw, bad := hex.DecodeString(sum); bad != nil || len(raw) != sha256.Size || err != nil || size < 0 {
		return checksum{}, 0, errors.New("the server names no checksum and size of a large file")
	}
	return sha256Of(strings.ToLower(sum)), size, nil
}
