package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestPullLongBench pulls from a hub that sends requests on to a store, as the
// real one does; broken transfers, foreign files and wrong checksums are caught.
func TestPullLongBench(t *testing.T) {
	record := `{"input":"q","context":"c","answers":["a"],"length":1,"dataset":"trec","language":"en","all_classes":["a"],"_id":"1"}` + "\n"
	var good bytes.Buffer
	z := zip.NewWriter(&good)
	f, err := z.Create("data/trec.jsonl")
	if err == nil {
		_, err = f.Write([]byte(record))
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	content, named, broken := good.Bytes(), "", 0 // what the store has, what the hub says, transfers that break off
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/datasets/THUDM/LongBench/resolve/main/data.zip":
			if named != "" {
				w.Header().Set("X-Linked-Etag", `"`+named+`"`)
				w.Header().Set("X-Linked-Size", strconv.Itoa(len(content)))
			}
			http.Redirect(w, r, "/store", http.StatusFound)
		case "/store":
			if broken > 0 {
				broken--
				w.Header().Set("Content-Length", strconv.Itoa(len(content)))
				_, _ = w.Write(content[:len(content)/2])
				return
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HASHATTN_CACHE", t.TempDir())
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	pull := func() (int, string, string) {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"pull", "longbench", "--quiet"}, &stdout, &stderr)
		return code, stdout.String(), stderr.String()
	}
	for _, c := range []struct{ what, named, want string }{
		{"a hub that names no checksum", "", "names no checksum"},
		{"another file than the hub names", sum([]byte("else")), "SHA-256"},
	} {
		named = c.named
		if code, _, stderr := pull(); code == 0 || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit code %d, %s", c.what, code, stderr)
		}
	}
	content = []byte("not a zip")
	named = sum(content)
	if code, _, stderr := pull(); code == 0 || !strings.Contains(stderr, "pull longbench: ") {
		t.Errorf("a file that is no LongBench: exit code %d, %s", code, stderr)
	}
	content, broken = good.Bytes(), 1
	named = sum(content)
	code, stdout, stderr := pull()
	if code != 0 {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	if got, err := os.ReadFile(strings.TrimSpace(stdout)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%s: %d bytes, %v", stdout, len(got), err)
	}
	server.Close() // it is in the cache now
	if code, again, stderr := pull(); code != 0 || again != stdout {
		t.Errorf("second pull: exit code %d, %s%s", code, again, stderr)
	}
}
