package cpu

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAssemblyIsGenerated runs the go:generate lines of doc.go elsewhere and
// compares: the assembly that is checked in is what its generator makes.
func TestAssemblyIsGenerated(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	generator := filepath.Join(dir, "asm.exe")
	if out, err := exec.Command("go", "build", "-o", generator, "./asm").CombinedOutput(); err != nil {
		if regexp.MustCompile(`dial tcp|no such host|connection refused|module lookup disabled|i/o timeout`).Match(out) {
			t.Skipf("the generator's module cannot be had: %s", out)
		}
		t.Fatalf("go build ./asm: %v\n%s", err, out)
	}
	lines := regexp.MustCompile(`(?m)^//go:generate go run ./asm (.*)$`).FindAllSubmatch(doc, -1)
	if len(lines) == 0 {
		t.Fatal("doc.go generates nothing")
	}
	made := 0
	for _, line := range lines {
		args := strings.Fields(string(line[1]))
		c := exec.Command(generator, args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("asm %s: %v\n%s", line[1], err, out)
		}
		for _, name := range args {
			if !strings.HasPrefix(filepath.Ext(name), ".s") && filepath.Ext(name) != ".go" {
				continue
			}
			want, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not what ./asm makes: run go generate ./kernels/cpu", name)
			}
			made++
		}
	}
	if listed, err := filepath.Glob("*_amd64.s"); err != nil || made != 2*len(listed) {
		t.Errorf("%d files are generated for %d of assembly (%v)", made, len(listed), err)
	}
}
