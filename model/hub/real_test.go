package hub

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/model/gguf"
)

// TestRealPull fetches a real model into the user's cache. HASHATTN_TEST_MODELS
// is 1, or the aliases to pull with commas between.
func TestRealPull(t *testing.T) {
	names := os.Getenv("HASHATTN_TEST_MODELS")
	if names == "" {
		t.Skip("HASHATTN_TEST_MODELS is not set: no real model is downloaded")
	}
	if names == "1" {
		names = "smollm2-135m"
	}
	for name := range strings.SplitSeq(names, ",") {
		path, err := Pull(context.Background(), name, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m, _ := findModel(name)
		p, err := newPuller(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.verify(path, sha256Of(m.sha256), m.size, name); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		f, err := gguf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d tensors", path, len(f.Tensors))
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
