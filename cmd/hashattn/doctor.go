package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/cpu"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/model/hub"
)

// finding is one line of the doctor's report.
type finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at this machine: devices, CPU features, cache, versions",
		Long: `doctor says what hashattn finds on this machine and what is missing for what.
What is marked "-" is not needed for everything; the remedy says what for.
` + exitHelp,
		Example: "  hashattn doctor\n  hashattn doctor --json",
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			all := examine()
			if a.json {
				return a.printJSON(all)
			}
			for _, f := range all {
				mark := "ok"
				if !f.OK {
					mark = "-"
				}
				a.printf("%-2s  %-18s %s\n", mark, f.Name, f.Detail)
				if f.Remedy != "" {
					a.printf("    %-18s %s\n", "", f.Remedy)
				}
			}
			return nil
		},
	}
}

func examine() []finding {
	v := result.Versions()
	version := v["hashattn"]
	if r := v["revision"]; r != "" {
		version += " " + r
	}
	all := []finding{
		{Name: "hashattn", OK: true, Detail: version},
		{Name: "go", OK: true, Detail: v["go"] + " " + v["platform"]},
		processorFinding(),
	}
	for _, op := range openers {
		f := finding{Name: "device " + op.kind}
		detail, err := op.probe()
		if f.OK = err == nil; f.OK {
			f.Detail = detail
		} else {
			f.Detail = err.Error()
		}
		all = append(all, f)
	}
	return append(all, cacheFindings()...)
}

// processorFinding names the vector instructions that the kernels can use.
func processorFinding() finding {
	f := finding{Name: "processor", Detail: fmt.Sprintf("%d cores", runtime.NumCPU())}
	var features []string
	add := func(has bool, name string) {
		if has {
			features = append(features, name)
		}
	}
	add(cpu.X86.HasAVX2, "AVX2")
	add(cpu.X86.HasFMA, "FMA")
	add(cpu.X86.HasAVX512F, "AVX-512F")
	add(cpu.X86.HasAVX512BW, "BW")
	add(cpu.X86.HasAVX512VL, "VL")
	add(cpu.X86.HasAVX512VNNI, "VNNI")
	add(cpu.X86.HasAVX512VPOPCNTDQ, "VPOPCNTDQ")
	add(cpu.X86.HasAVX512BF16, "BF16")
	add(cpu.ARM64.HasASIMD, "NEON")
	f.OK = cpu.X86.HasAVX2 && cpu.X86.HasFMA
	f.Detail += ", " + strings.Join(features, " ")
	if !f.OK {
		f.Remedy = "without AVX2 and FMA the CPU device runs in plain Go, which is slow"
	}
	return f
}

// cacheFindings looks at the cache of models and at what fills it.
func cacheFindings() []finding {
	f := finding{Name: "cache"}
	dir, err := hub.CacheDir()
	if err != nil {
		f.Detail = err.Error()
		return []finding{f}
	}
	size, files := int64(0), 0
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, infoErr := d.Info(); infoErr == nil && info.Mode().IsRegular() {
			size, files = size+info.Size(), files+1
		}
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.OK, f.Detail = true, dir+" (empty)"
	case err != nil:
		f.Detail = err.Error()
	default:
		f.OK, f.Detail = true, fmt.Sprintf("%s, %d files, %.1f MB", dir, files, float64(size)/1e6)
	}
	if f.OK {
		if err := writable(dir); err != nil {
			f.OK, f.Detail, f.Remedy = false, err.Error(), "set HASHATTN_CACHE to a folder that can be written"
		}
	}
	return []finding{f, pipFinding()}
}

// writable tries to make a file in dir, or in the nearest folder above that
// is there.
func writable(dir string) error {
	for {
		t, err := os.CreateTemp(dir, ".doctor")
		switch {
		case err == nil:
			return errors.Join(t.Close(), os.Remove(t.Name()))
		case !errors.Is(err, fs.ErrNotExist) || filepath.Dir(dir) == dir:
			return err
		}
		dir = filepath.Dir(dir)
	}
}

// pipFinding looks for pip, the second source of models.
func pipFinding() finding {
	f := finding{Name: "pip", Remedy: "pull then has only the hub as a source"}
	for _, python := range []string{"python3", "python"} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		out, err := exec.CommandContext(ctx, python, "-m", "pip", "--version").Output()
		cancel()
		if err == nil {
			text, _, _ := strings.Cut(strings.TrimSpace(string(out)), " from ")
			return finding{Name: "pip", OK: true, Detail: python + ", " + text}
		}
		f.Detail = fmt.Sprintf("%s -m pip: %v", python, err)
	}
	return f
}
