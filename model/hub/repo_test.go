package hub

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func checkpoint() map[string][]byte {
	return map[string][]byte{
		"config.json": []byte("{}"), "tokenizer.json": []byte(`{"a":1}`), "merges.txt": {}, "tokenizer.model": []byte("spm"),
		"model-00001-of-00002.safetensors": noise(5000), "model-00002-of-00002.safetensors": noise(300),
		"model.safetensors.index.json": []byte("{}"), "README.md": []byte("#"), "pytorch_model.bin": noise(9),
		"consolidated.safetensors": noise(7), "onnx/model.json": []byte("x"), "m.gguf": noise(1234),
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPullCheckpoint(t *testing.T) {
	h := newFakeHub(t, checkpoint())
	dir, err := Pull(context.Background(), "hf:owner/repo", Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"config.json", "merges.txt", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
		"model.safetensors.index.json", "tokenizer.json", "tokenizer.model"}
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, name := range want {
		mustHold(t, filepath.Join(dir, name), h.files[name])
	}
	mustBeClean(t)
	if h.seen("/owner/repo/resolve/"+commit+"/") == 0 || h.seen("resolve/main") > 0 {
		t.Errorf("files were not asked for by commit: %q", h.requests)
	}

	before := len(h.requests)
	if got, err := Resolve(context.Background(), "hf:owner/repo", Options{}); err != nil || got != dir || len(h.requests) != before {
		t.Errorf("Resolve: %s, %v, requests %q; want %s without a request", got, err, h.requests[before:], dir)
	}
	if got, err := Resolve(context.Background(), "hf:owner/repo@"+commit, Options{}); err != nil || got != dir || len(h.requests) != before {
		t.Errorf("Resolve by commit: %s, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(context.Background(), "hf:owner/repo", Options{}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, filepath.Join(dir, "config.json"), []byte("{}"))
	if n := h.seen(".safetensors") - h.seen("index"); n != 2 {
		t.Errorf("weights were asked for %d times, want 2", n)
	}
}

func TestPullFile(t *testing.T) {
	h := newFakeHub(t, checkpoint())
	t.Setenv("HF_TOKEN", "secret")
	for ref, name := range map[string]string{"hf:owner/repo:m.gguf": "m.gguf", "hf:owner/repo@v1/x:onnx/model.json": "onnx/model.json"} {
		path, err := Resolve(context.Background(), ref, Options{})
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, path, h.files[name])
		if filepath.Base(path) != filepath.Base(name) {
			t.Errorf("%s is called %s", ref, path)
		}
	}
	if !h.tokens["Bearer secret"] || len(h.tokens) != 1 {
		t.Errorf("tokens: %v", h.tokens)
	}
}

// A half-filled folder does not get the folder's name, and the next pull goes
// on with what is there.
func TestPullCheckpointBreaks(t *testing.T) {
	h := newFakeHub(t, checkpoint())
	h.answer = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if strings.HasSuffix(r.URL.Path, "00002-of-00002.safetensors") {
			http.NotFound(w, r)
			return true
		}
		return false
	}
	if _, err := Pull(context.Background(), "hf:owner/repo", Options{}); err == nil || !strings.Contains(err.Error(), "model-00002-of-00002.safetensors: ") {
		t.Errorf("got %v, want an error that names the file", err)
	}
	r := repoRef{"owner/repo", "main", ""}
	p, err := newPuller(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.place(r, commit)); !os.IsNotExist(err) {
		t.Errorf("the folder is there: %v", err)
	}
	if _, ok := p.cachedRepo(r); ok {
		t.Error("the folder counts as cached")
	}
	h.answer = nil
	if _, err := Pull(context.Background(), "hf:owner/repo", Options{}); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t)
	if n := h.seen("00001-of-00002"); n != 1 {
		t.Errorf("the first shard was downloaded %d times", n)
	}
}

func TestPullRepoErrors(t *testing.T) {
	for name, c := range map[string]struct {
		files     map[string][]byte
		ref, want string
	}{
		"no such file":   {checkpoint(), "hf:owner/repo:x.gguf", `no file "x.gguf"; it has `},
		"no such repo":   {checkpoint(), "hf:owner/other", "404 Not Found"},
		"only GGUF":      {map[string][]byte{"a.gguf": {1}, "b.gguf": {2}}, "hf:owner/repo", "hf:owner/repo@main:b.gguf"},
		"nothing":        {map[string][]byte{"README.md": {1}}, "hf:owner/repo", "neither safetensors nor GGUF"},
		"form":           {nil, "hf:owner", "owner/repo[@revision][:file]"},
		"deep":           {nil, "hf:a/b/c", "is not of the form"},
		"outside":        {nil, "hf:owner/repo:../x", "is not of the form"},
		"absolute":       {nil, "hf:owner/repo:/etc/x", "is not of the form"},
		"dots":           {nil, "hf:../repo", "is not of the form"},
		"revision":       {nil, "hf:owner/repo@../x", "is not of the form"},
		"empty revision": {nil, "hf:owner/repo@", "is not of the form"},
		"empty file":     {nil, "hf:owner/repo:", "is not of the form"},
	} {
		t.Run(name, func(t *testing.T) {
			newFakeHub(t, c.files)
			if _, err := Pull(context.Background(), c.ref, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// What the hub says is not believed blindly.
func TestHostileDescription(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON":      "<html>",
		"no commit":    `{"siblings":[]}`,
		"odd commit":   `{"sha":"../../x"}`,
		"name outside": `{"sha":"` + commit + `","siblings":[{"rfilename":"..json","size":1,"blobId":"` + commit + `"},{"rfilename":"model-/../../x.safetensors","size":1,"blobId":"` + commit + `"}]}`,
		"backslash":    `{"sha":"` + commit + `","siblings":[{"rfilename":"model-\\..\\x.safetensors","size":1,"blobId":"` + commit + `"}]}`,
		"no checksum":  `{"sha":"` + commit + `","siblings":[{"rfilename":"model.safetensors","size":1}]}`,
		"odd checksum": `{"sha":"` + commit + `","siblings":[{"rfilename":"model.safetensors","size":1,"lfs":{"size":1,"sha256":"../x"}}]}`,
		"size":         `{"sha":"` + commit + `","siblings":[{"rfilename":"model.safetensors","size":-1,"blobId":"` + commit + `"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHub(t, nil)
			h.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(body)) })
			if path, err := Pull(context.Background(), "hf:owner/repo", Options{}); err == nil {
				t.Errorf("got %s, want an error", path)
			}
		})
	}
}

// The token goes to the hub, not to where the hub redirects.
func TestTokenStaysAtTheHub(t *testing.T) {
	content := noise(100)
	h := newFakeHub(t, map[string][]byte{"m.gguf": content})
	t.Setenv("HF_TOKEN", "secret")
	var other string
	cdn := newFakeHub(t, nil)
	cdn.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		other = r.Header.Get("Authorization")
		_, _ = w.Write(content)
	})
	t.Setenv("HF_ENDPOINT", h.URL)
	t.Setenv("HF_TOKEN", "secret")
	h.answer = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		http.Redirect(w, r, cdn.URL+"/signed?key=hidden", http.StatusFound)
		return true
	}
	path, err := Pull(context.Background(), "hf:owner/repo:m.gguf", Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, content)
	if other != "" || !h.tokens["Bearer secret"] {
		t.Errorf("the other host got %q, the hub %v", other, h.tokens)
	}
	cdn.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(context.Background(), "hf:owner/repo:m.gguf", Options{}); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("got %v, want an error without the signed address", err)
	}
}
