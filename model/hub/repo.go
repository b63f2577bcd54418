package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hashattn/hashattn/model/atomicfile"
)

const (
	hubPrefix  = "hf:"
	maxListing = 64 << 20 // bytes of a repository's description
)

// repoRef is an hf: name. Without a file it means the checkpoint in
// safetensors files with its configuration and tokenizer.
type repoRef struct{ repo, revision, file string }

var (
	repoForm     = regexp.MustCompile(`^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$`)
	revisionForm = regexp.MustCompile(`^[A-Za-z0-9][\w./-]*$`)
	commitForm   = regexp.MustCompile(`^[0-9a-f]{40}$`)
	sha256Form   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// parseRepoRef reads owner/repo[@revision][:file].
func parseRepoRef(name string) (repoRef, error) {
	repo, file, hasFile := strings.Cut(name, ":")
	repo, revision, hasRevision := strings.Cut(repo, "@")
	if !hasRevision {
		revision = "main"
	}
	if !repoForm.MatchString(repo) || !revisionForm.MatchString(revision) || !fs.ValidPath(revision) || hasFile && !isFileName(file) {
		return repoRef{}, unknownError(fmt.Sprintf("%s%s is not of the form %sowner/repo[@revision][:file]", hubPrefix, name, hubPrefix))
	}
	return repoRef{repo, revision, file}, nil
}

// isFileName says whether a file's name in a repository is safe as a path below
// a folder here.
func isFileName(name string) bool {
	return fs.ValidPath(name) && name != "." && filepath.IsLocal(filepath.FromSlash(name)) && !strings.ContainsAny(name, "\\:\x00")
}

func (p *puller) fileURL(repo, revision, file string) string {
	return fmt.Sprintf("%s/%s/resolve/%s/%s", p.endpoint, repo, url.PathEscape(revision), (&url.URL{Path: file}).EscapedPath())
}

// repository is what the hub says about a revision.
type repository struct {
	Commit string `json:"sha"`
	Files  []struct {
		Name string `json:"rfilename"`
		Size int64  `json:"size"`
		Blob string `json:"blobId"` // git's object name
		LFS  *struct {
			SHA256 string `json:"sha256"`
			Size   int64  `json:"size"`
		} `json:"lfs"` // for large files
	} `json:"siblings"`
}

// remoteFile is a file to get.
type remoteFile struct {
	name string
	size int64
	want checksum
}

func (p *puller) describe(ctx context.Context, r repoRef) (repository, error) {
	var d repository
	resp, err := p.get(ctx, fmt.Sprintf("%s/api/models/%s/revision/%s?blobs=true", p.endpoint, r.repo, url.PathEscape(r.revision)), 0)
	if err != nil {
		return d, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return d, statusError{resp.StatusCode, "the hub answers " + resp.Status}
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxListing)).Decode(&d); err != nil {
		return d, fmt.Errorf("the hub's description of %s: %w", r.repo, err)
	}
	if !commitForm.MatchString(d.Commit) {
		return d, fmt.Errorf("the hub's description of %s has no commit", r.repo)
	}
	return d, nil
}

// wanted picks the files that r means and checks what the hub says about them.
func (d repository) wanted(r repoRef) ([]remoteFile, error) {
	var files []remoteFile
	var names, ggufs []string
	weights := false
	for _, f := range d.Files {
		names = append(names, f.Name)
		if strings.HasSuffix(f.Name, ".gguf") {
			ggufs = append(ggufs, r.fileRef(f.Name))
		}
		if r.file == "" && !inCheckpoint(f.Name) || r.file != "" && f.Name != r.file {
			continue
		}
		weights = weights || strings.HasSuffix(f.Name, ".safetensors")
		file := remoteFile{f.Name, f.Size, gitBlob(f.Blob)}
		valid := commitForm.MatchString(f.Blob)
		if f.LFS != nil {
			file.size, file.want = f.LFS.Size, sha256Of(f.LFS.SHA256)
			valid = sha256Form.MatchString(f.LFS.SHA256)
		}
		if !valid || file.size < 0 || !isFileName(f.Name) {
			return nil, fmt.Errorf("the hub gives no usable name, size and checksum for file %q", f.Name)
		}
		files = append(files, file)
	}
	switch {
	case r.file != "" && len(files) == 0:
		return nil, fmt.Errorf("the repository has no file %q; it has %s", r.file, list(names))
	case r.file == "" && !weights && len(ggufs) > 0:
		return nil, fmt.Errorf("the repository has GGUF files: name one of %s", list(ggufs))
	case r.file == "" && !weights:
		return nil, fmt.Errorf("the repository has neither safetensors nor GGUF files; it has %s", list(names))
	}
	return files, nil
}

func (r repoRef) fileRef(file string) string {
	return hubFile{r.repo, r.revision, file}.String()
}

// list shows names, but not hundreds.
func list(names []string) string {
	const most = 20
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// inCheckpoint says whether a file belongs to a Hugging Face checkpoint:
// configuration, tokenizer, weights.
func inCheckpoint(name string) bool {
	switch ext := path.Ext(name); {
	case strings.Contains(name, "/"):
		return false
	case ext == ".json", ext == ".jinja", name == "merges.txt", name == "tokenizer.model":
		return true
	default:
		return ext == ".safetensors" && (name == "model.safetensors" || strings.HasPrefix(name, "model-"))
	}
}

// Within the cache: hub/owner/repo/refs/<revision> holds the commit that a
// revision was, hub/owner/repo/<commit>/files single files, and .../model a
// whole checkpoint, which is called model.partial until all files are in.
func (p *puller) repoDir(r repoRef) string {
	return filepath.Join(p.cache, "hub", filepath.FromSlash(r.repo))
}

func (p *puller) commitFile(r repoRef) string {
	return filepath.Join(p.repoDir(r), "refs", url.PathEscape(r.revision))
}

func (p *puller) place(r repoRef, commit string) string {
	if r.file == "" {
		return filepath.Join(p.repoDir(r), commit, "model")
	}
	return filepath.Join(p.repoDir(r), commit, "files", filepath.FromSlash(r.file))
}

// cachedRepo finds what an earlier pull of the same name brought.
func (p *puller) cachedRepo(r repoRef) (string, bool) {
	commit := r.revision
	if !commitForm.MatchString(commit) {
		b, err := os.ReadFile(p.commitFile(r))
		if err != nil || !commitForm.MatchString(string(b)) {
			return "", false
		}
		commit = string(b)
	}
	place := p.place(r, commit)
	_, err := os.Stat(place)
	return place, err == nil
}

// pullRepo gets a file or a checkpoint from the hub.
func (p *puller) pullRepo(ctx context.Context, r repoRef) (string, error) {
	d, err := p.describe(ctx, r)
	if err != nil {
		return "", err
	}
	files, err := d.wanted(r)
	if err != nil {
		return "", err
	}
	lock, err := p.lock(ctx, strings.ReplaceAll(r.repo, "/", "--")+"--"+d.Commit, r.repo)
	if err != nil {
		return "", err
	}
	defer lock.Release()
	place := p.place(r, d.Commit)
	if r.file != "" {
		err = p.pullFile(ctx, r, d.Commit, files[0], place)
	} else {
		err = p.pullCheckpoint(ctx, r, d.Commit, files, place)
	}
	if err != nil {
		return "", err
	}
	ref := p.commitFile(r)
	if err := os.MkdirAll(filepath.Dir(ref), 0o755); err != nil {
		return "", err
	}
	return place, atomicfile.Write(ref, func(w io.Writer) error { _, err := io.WriteString(w, d.Commit); return err })
}

// pullCheckpoint fills a folder with files and then gives it its name.
func (p *puller) pullCheckpoint(ctx context.Context, r repoRef, commit string, files []remoteFile, place string) error {
	dir := place
	if _, err := os.Stat(place); errors.Is(err, fs.ErrNotExist) {
		dir = place + ".partial"
	}
	for _, f := range files {
		if err := p.pullFile(ctx, r, commit, f, filepath.Join(dir, filepath.FromSlash(f.name))); err != nil {
			return err
		}
	}
	if dir == place {
		return nil
	}
	if err := os.Rename(dir, place); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(place))
}

func (p *puller) pullFile(ctx context.Context, r repoRef, commit string, f remoteFile, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	lock, err := p.lock(ctx, f.want.hex, f.name) // the same content may be pulled under another name
	if err != nil {
		return err
	}
	defer lock.Release()
	if p.holds(path, f.want, f.size, f.name) {
		return nil
	}
	if err := p.download(ctx, p.fileURL(r.repo, commit, f.name), f.want, f.size, path, f.name); err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}
