//go:build unix

package hub

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestKilledProcess pulls in a child process, kills it in the middle, and
// expects nothing under the final name and a pull that goes on from there.
func TestKilledProcess(t *testing.T) {
	content := noise(400_000)
	addModel(t, "tiny", content, onHub)
	if os.Getenv("HUB_TEST_CHILD") != "" {
		_, err := Pull(context.Background(), "tiny", Options{})
		t.Fatalf("the child was to be killed: %v", err)
	}
	h := newFakeHub(t, map[string][]byte{"m.gguf": content})
	h.mu.Lock() // the child's requests are ordered by nothing else
	h.answer = func(w http.ResponseWriter, r *http.Request, content []byte) bool {
		if r.Header.Get("Range") != "" {
			return false
		}
		_, _ = w.Write(content[:100_000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	h.mu.Unlock()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
	cmd.Env = append(os.Environ(), "HUB_TEST_CHILD=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(os.Getenv("HASHATTN_CACHE"), "partial", sum(content)+".part")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if info, err := os.Stat(part); err == nil && info.Size() == 100_000 {
			break
		}
		if time.Now().After(deadline) {
			t.Error("the child got nothing")
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	p, err := newPuller(Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, _ := findModel("tiny")
	if _, err := os.Stat(p.modelPath(m)); !os.IsNotExist(err) {
		t.Errorf("the final name is there: %v", err)
	}
	path, err := Pull(context.Background(), "tiny", Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, content)
	mustBeClean(t)
	if h.seen("bytes=100000-") != 1 {
		t.Errorf("requests: %q, want one that goes on at 100000", h.requests)
	}
}
