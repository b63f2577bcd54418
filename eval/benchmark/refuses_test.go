package benchmark

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/model/filelock"
)

// Files that two runs wrote at once, or that were put together, are refused.
func TestRunRefusesMixedFiles(t *testing.T) {
	m := tinyModel(t)
	b := open(t, dataset(t, 2), "qasper")
	o := options(t, m)
	o.Settings = nil
	mustRun(t, b, o)
	path := filepath.Join(o.Dir, "dense", "qasper.jsonl")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, second, _ := strings.Cut(string(raw), "\n")
	config := predictions(t, o.Dir, "dense")["qasper-0"].Config
	for want, content := range map[string]string{
		"qasper.jsonl:2: sample qasper-":          first + "\n" + first + "\n",
		"qasper.jsonl:2: made with configuration": first + "\n" + strings.Replace(second, config, strings.Repeat("0", len(config)), 1),
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), b, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// Two processes cannot write one folder of predictions.
func TestRunLocksPredictions(t *testing.T) {
	m := tinyModel(t)
	b := open(t, dataset(t, 2), "qasper")
	o := options(t, m)
	lock, err := filelock.Try(filepath.Join(o.Dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), b, o); err == nil || !strings.Contains(err.Error(), "writes predictions in "+o.Dir) {
		t.Errorf("while another writes: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(o.Dir, "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("written in spite of the lock: %v, %v", left, err)
	}
	lock.Release()
	mustRun(t, b, o)
}

func TestRunRefuses(t *testing.T) {
	m := tinyModel(t)
	b := open(t, dataset(t, 2), "qasper")
	for _, c := range []struct {
		change func(o *Options)
		want   string
	}{
		{func(o *Options) { o.QuestionSparse = "half" }, `sparse part of the question is "half"`},
		{func(o *Options) { o.Memory = 1000 }, "allow more memory"},
		{func(o *Options) { o.Settings = append(o.Settings, settingOf(t, m, "oracle")) }, "two settings are called oracle-1of8"},
	} {
		o := options(t, m)
		c.change(&o)
		if _, err := Run(t.Context(), b, o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}
