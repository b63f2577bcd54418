package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hashattn/hashattn"

// mayImport is the direction of imports: the packages below the first path may
// import those below the others and no other of ours. The linter's depguard
// holds the same rules (.golangci.yml).
var mayImport = map[string][]string{
	"kernels":   {"kernels"},
	"longbench": {"longbench"},
	"model":     {"model", "kernels"},
	"train":     {"train", "model", "kernels"},
	"configs":   {"configs", "model", "kernels"},
	"eval":      {"eval", "longbench", "model", "kernels"},
	"cmd":       {"cmd", "configs", "eval", "train", "longbench", "model", "kernels"},
}

func TestImportDirections(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,CgoFiles", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	type listed struct {
		ImportPath        string
		Imports, CgoFiles []string
	}
	seen := map[string]bool{}
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		top, _, _ := strings.Cut(name, "/")
		if top == "scripts" || p.ImportPath == module {
			continue // tools of their own
		}
		allowed, ok := mayImport[top]
		if !ok {
			t.Errorf("%s: a new folder at the top; say in mayImport and .golangci.yml what it may import", p.ImportPath)
			continue
		}
		seen[top] = true
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s: the default build must need no cgo, found %v", p.ImportPath, p.CgoFiles)
		}
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, "gorgonia.org/gorgonia") && top != "train" {
				t.Errorf("%s imports gorgonia: only train may", p.ImportPath)
			}
			own, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			base, _, _ := strings.Cut(own, "/")
			if !slices.Contains(allowed, base) {
				t.Errorf("%s imports %s: %s may import only %v", p.ImportPath, imported, top, allowed)
			}
		}
	}
	for top := range mayImport {
		if !seen[top] {
			t.Errorf("no package below %s was looked at", top)
		}
	}
}
