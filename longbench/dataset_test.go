package longbench

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/hashattn/hashattn/longbench/internal/jsonl"
)

func collect(t *testing.T, d *Dataset, task Task, e bool) []Sample {
	t.Helper()
	var out []Sample
	for s, err := range d.Samples(task, e) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func TestEmbedded(t *testing.T) {
	d := Embedded()
	if got := len(d.Tasks(false)); got != 21 {
		t.Fatalf("samples of %d tasks", got)
	}
	ids, hashes := map[string]bool{}, map[string]bool{}
	for _, task := range d.Tasks(false) {
		samples := collect(t, d, task, false)
		if len(samples) == 0 || len(samples) > 2 {
			t.Errorf("%s: %d samples", task.Name, len(samples))
		}
		for _, s := range samples {
			if ids[s.ID] || hashes[s.Hash()] || !strings.HasPrefix(s.ID, "hashattn-") {
				t.Errorf("%s: id %s or its content twice, or not marked as ours", task.Name, s.ID)
			}
			ids[s.ID], hashes[s.Hash()] = true, true
			if want := task.length(s.Context) + task.length(s.Input) + task.length(s.Answers[0]); s.Length != want {
				t.Errorf("%s: length %d, counted %d", s.ID, s.Length, want)
			}
			prompt := task.BuildPrompt(s)
			if !strings.Contains(prompt, s.Context) || !strings.Contains(prompt, s.Input) || strings.Contains(prompt, "{context}") {
				t.Errorf("%s: prompt %q", s.ID, prompt)
			}
			// The answer itself scores full marks, so the sample is well formed.
			for _, a := range s.Answers {
				score, note, err := task.Score(a, s.Answers, s.AllClasses, Difflib)
				if err != nil || note != "" || !(score > 0.999) {
					t.Errorf("%s: its own answer %q scores %v, %q, %v", s.ID, a, score, note, err)
				}
			}
		}
	}
}

const record = `{"_id": "x1", "dataset": "qasper", "input": "Q", "context": "some text", "answers": ["A"], "all_classes": null, "length": 9}`

// TestLayouts reads the same samples from every form of the official layout.
func TestLayouts(t *testing.T) {
	data := []byte(record + "\n" + strings.Replace(record, "x1", "x2", 1)) // no newline at the end
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	write(dir+"/plain/qasper.jsonl", data)
	write(dir+"/plain/qasper_e.jsonl", data)
	write(dir+"/plain/notes.jsonl", []byte("not ours"))
	write(dir+"/nested/data/qasper.jsonl.zst", compressZstd(t, data))
	write(dir+"/nested/data/qasper_e.jsonl.gz", compressGzip(t, data))

	var z bytes.Buffer
	w := zip.NewWriter(&z)
	for _, name := range []string{"data/qasper.jsonl", "data/qasper_e.jsonl"} {
		f, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(dir+"/data.zip", z.Bytes())

	for _, form := range []string{"plain", "nested", "data.zip"} {
		d, err := Open(filepath.Join(dir, form))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []bool{false, true} {
			have := d.Tasks(e)
			if len(have) != 1 || have[0].Name != "qasper" {
				t.Fatalf("%s: tasks %v", form, have)
			}
			samples := collect(t, d, have[0], e)
			if len(samples) != 2 || samples[1].ID != "x2" || samples[0].Length != 9 || samples[0].Context != "some text" {
				t.Errorf("%s: %+v", form, samples)
			}
		}
		for s, err := range d.Samples(tasks[0], false) {
			if err == nil || !strings.Contains(err.Error(), "no file of task narrativeqa") {
				t.Errorf("%s: a task that is not there gives %+v, %v", form, s, err)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func compressZstd(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

func compressGzip(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDamagedSamples: every damage names file and line, and what is before it is
// still given.
func TestDamagedSamples(t *testing.T) {
	whole := record + "\n"
	for name, c := range map[string]struct {
		file string
		data []byte
		want string
	}{
		"cut in a line":   {"qasper.jsonl", []byte(whole + record[:60]), "qasper.jsonl:2: unexpected end of JSON input"},
		"cut zst":         {"qasper.jsonl.zst", cut(compressZstd(t, []byte(strings.Repeat(whole, 200)))), "qasper.jsonl.zst:1: the file is damaged or cut off"},
		"cut gzip":        {"qasper.jsonl.gz", cut(compressGzip(t, []byte(strings.Repeat(whole, 200)))), "the file is damaged or cut off"},
		"no gzip at all":  {"qasper.jsonl.gz", []byte(whole), "qasper.jsonl.gz: gzip: invalid header"},
		"empty":           {"qasper.jsonl", nil, "qasper.jsonl: no samples"},
		"blank line":      {"qasper.jsonl", []byte(whole + "\n" + whole), "qasper.jsonl:2: blank line"},
		"not UTF-8":       {"qasper.jsonl", []byte(whole + "{\"context\": \"\xff\"}\n"), "qasper.jsonl:2: not UTF-8"},
		"two on a line":   {"qasper.jsonl", []byte(record + record), "qasper.jsonl:1: invalid character"},
		"no context":      {"qasper.jsonl", []byte(strings.Replace(whole, `"context"`, `"text"`, 1)), "qasper.jsonl:1: no context"},
		"no answers":      {"qasper.jsonl", []byte(strings.Replace(whole, `["A"]`, `[]`, 1)), "qasper.jsonl:1: no answers"},
		"a wrong type":    {"qasper.jsonl", []byte(strings.Replace(whole, `["A"]`, `[7]`, 1)), "qasper.jsonl:1: json: cannot unmarshal number"},
		"no classes":      {"trec.jsonl", []byte(strings.Replace(whole, `qasper`, `trec`, 1)), "trec.jsonl:1: no all_classes"},
		"of another task": {"hotpotqa.jsonl", []byte(whole), "hotpotqa.jsonl:1: a sample of qasper in a file of hotpotqa"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), c.data, 0o644); err != nil {
				t.Fatal(err)
			}
			d, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, err = range d.Samples(d.Tasks(false)[0], false) {
				n++
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%d steps, error %v, want %q", n, err, c.want)
			}
		})
	}
}

func cut(b []byte) []byte { return b[:len(b)-9] }

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "absent")); err == nil {
		t.Error("an absent folder opens")
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "no file of a LongBench task") {
		t.Errorf("an empty folder: %v", err)
	}
	file := filepath.Join(dir, "data.zip")
	if err := os.WriteFile(file, []byte("no zip"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil || !strings.Contains(err.Error(), "not a zip file") {
		t.Errorf("a damaged zip: %v", err)
	}
	for _, name := range []string{"trec.jsonl", "trec.jsonl.gz"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "task trec twice") {
		t.Errorf("a task twice: %v", err)
	}
}

func TestHash(t *testing.T) {
	a := Sample{Task: "qasper", Input: "ab", Context: "c", Answers: []string{"d"}}
	b := Sample{Task: "qasper", Input: "a", Context: "bc", Answers: []string{"d"}}
	if a.Hash() == b.Hash() {
		t.Error("moving text between fields keeps the hash")
	}
	b = a
	b.ID, b.Length = "other", 99
	if a.Hash() != b.Hash() {
		t.Error("the hash depends on more than the content")
	}
}

// TestMiniLongBench reads MiniLongBench and builds the official prompts, which are
// its own in all tasks but those it changed.
func TestMiniLongBench(t *testing.T) {
	shared := os.Getenv("HASHATTN_SHARED_DATA")
	if shared == "" {
		t.Skip("HASHATTN_SHARED_DATA is not set: MiniLongBench is not read (TestEmbedded is the small form)")
	}
	d, err := Open(filepath.Join(shared, "longbench", "mini"))
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, task := range d.Tasks(false) {
		prompts := miniPrompts(t, filepath.Join(shared, "longbench", "mini", task.Name+".jsonl.zst"))
		for i, s := range collect(t, d, task, false) {
			total++
			if len(s.ID) != 32 || s.Length <= 0 {
				t.Errorf("%s %d: id %q, length %d", task.Name, i, s.ID, s.Length)
			}
			got, want := task.BuildPrompt(s), prompts[i]
			switch task.Name {
			case "qasper": // another template altogether
				continue
			case "narrativeqa": // slips mended, context trimmed
				s.Context = strings.TrimSpace(s.Context)
				got = strings.ReplaceAll(task.BuildPrompt(s), "asconcisely", "as concisely")
			case "multi_news", "samsum", "triviaqa": // one more space or newline at the end
				want = want[:len(want)-1]
			}
			if got != want {
				t.Errorf("%s %d: the prompt differs from MiniLongBench's", task.Name, i)
			}
		}
	}
	if total != 237 {
		t.Errorf("%d samples, want 237", total)
	}
}

func miniPrompts(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := jsonl.Decompress(f, path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []string
	for l, err := range jsonl.Lines(r, path) {
		var rec struct{ Prompt string }
		if err == nil {
			err = json.Unmarshal(l.Text, &rec)
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec.Prompt)
	}
	return out
}

// TestEmbeddedUnchanged: results on the embedded samples are compared between
// versions of the project, so their content is pinned.
func TestEmbeddedUnchanged(t *testing.T) {
	h := sha256.New()
	err := fs.WalkDir(embedded, "samples", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := embedded.ReadFile(path)
		h.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = "903d843f316946a33c5c3d86d666d25aafe3cee625814aaa4dc3d489b30b79e1"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("the embedded samples have hash %s, pinned %s", got, want)
	}
}
