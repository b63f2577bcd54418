package longbench

import (
	"archive/zip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/hashattn/hashattn/longbench/internal/jsonl"
	"github.com/hashattn/hashattn/longbench/internal/pystr"
)

// Repository is the hub's data set with the published samples, Archive its file:
// a zip of data/TASK.jsonl and data/TASK_e.jsonl.
const (
	Repository = "THUDM/LongBench"
	Archive    = "data.zip"
)

// Sample is one record of a task.
type Sample struct {
	// ID is the record's _id or, where it has none, the first half of Hash.
	ID         string
	Task       string
	Input      string   // the question or the unfinished last example; may be empty
	Context    string   // the long text
	Answers    []string // any of them is right
	AllClasses []string // of a classification task
	// Length is in words of English and code or characters of Chinese, of
	// context, input and answer; counted here where the record does not say.
	Length int
}

// Hash identifies the content of a sample: the SHA-256, in hexadecimal, of its
// task, input, context, answers and classes. Two runs are comparable only over
// samples of equal hashes.
func (s Sample) Hash() string {
	h := sha256.New()
	// JSON arrays of strings keep the fields apart whatever they contain.
	if err := json.NewEncoder(h).Encode([]any{s.Task, s.Input, s.Context, s.Answers, s.AllClasses}); err != nil {
		panic(err) // strings always encode, a hash never fails
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Dataset is a set of samples by task, on disk or embedded.
type Dataset struct {
	name  string // for messages
	files fs.FS
	paths map[string]string // base name such as "qasper_e" -> path in files
	close func() error
}

//go:embed samples/*.jsonl
var embedded embed.FS

// Embedded returns the samples that come with the project: one or two short ones
// of each task's form, written for it, so that a first look needs no download.
// They are no part of LongBench, and scores on them compare with no published one.
func Embedded() *Dataset {
	d := &Dataset{name: "embedded samples", files: embedded}
	if err := d.index("samples"); err != nil {
		panic(err) // a broken build
	}
	return d
}

// Open opens a data set: a folder of TASK.jsonl, TASK_e.jsonl (LongBench-E),
// either also .gz or .zst, or with such files in a folder data; or the published
// data.zip. Files of other names are left alone, but there must be one of a task.
func Open(name string) (*Dataset, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	d := &Dataset{name: name}
	if info.IsDir() {
		d.files = os.DirFS(name)
	} else {
		z, err := zip.OpenReader(name)
		if err != nil {
			return nil, fmt.Errorf("%s: not a folder and not a zip file: %w", name, err)
		}
		d.files, d.close = z, z.Close
	}
	if err := d.index(".", "data"); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Dataset) index(folders ...string) error {
	d.paths = map[string]string{}
	for _, folder := range folders {
		entries, err := fs.ReadDir(d.files, folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		for _, e := range entries {
			base, ok := jsonl.TrimSuffix(e.Name())
			if !ok || e.IsDir() {
				continue
			}
			task, known := TaskByName(strings.TrimSuffix(base, "_e"))
			if !known || base != task.Name && task.SamplesE == 0 {
				continue
			}
			file := path.Join(folder, e.Name())
			if other, twice := d.paths[base]; twice {
				return fmt.Errorf("%s: task %s twice: %s and %s", d.name, base, other, file)
			}
			d.paths[base] = file
		}
	}
	if len(d.paths) == 0 {
		return fmt.Errorf("%s: no file of a LongBench task (such as %s.jsonl, also .gz or .zst)", d.name, tasks[0].Name)
	}
	return nil
}

// Close releases the zip file, if it is one.
func (d *Dataset) Close() error {
	if d.close == nil {
		return nil
	}
	return d.close()
}

// Tasks returns the tasks of LongBench, or with e of LongBench-E, that the data
// set has a file of, in the official order.
func (d *Dataset) Tasks(e bool) []Task {
	var have []Task
	for _, t := range tasks {
		if _, ok := d.paths[fileBase(t, e)]; ok {
			have = append(have, t)
		}
	}
	return have
}

func fileBase(t Task, e bool) string {
	if e {
		return t.Name + "_e"
	}
	return t.Name
}

// Samples yields the samples of a task, with e those of LongBench-E, in the
// file's order. An error names file and line and ends the sequence.
func (d *Dataset) Samples(t Task, e bool) iter.Seq2[Sample, error] {
	return func(yield func(Sample, error) bool) {
		file, ok := d.paths[fileBase(t, e)]
		if !ok {
			yield(Sample{}, fmt.Errorf("%s: no file of task %s", d.name, fileBase(t, e)))
			return
		}
		shown := filepath.Join(d.name, filepath.FromSlash(file))
		f, err := d.files.Open(file)
		if err != nil {
			yield(Sample{}, fmt.Errorf("%s: %w", shown, err))
			return
		}
		defer f.Close()
		r, err := jsonl.Decompress(f, file)
		if err != nil {
			yield(Sample{}, fmt.Errorf("%s: %w", shown, err))
			return
		}
		defer r.Close()
		for s, err := range readSamples(r, shown, t) {
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// readSamples yields the samples of one task's file.
func readSamples(r io.Reader, file string, t Task) iter.Seq2[Sample, error] {
	return func(yield func(Sample, error) bool) {
		n := 0
		for l, err := range jsonl.Lines(r, file) {
			var s Sample
			if err == nil {
				s, err = parseSample(l, t)
			}
			if !yield(s, err) || err != nil {
				return
			}
			n++
		}
		if n == 0 {
			yield(Sample{}, fmt.Errorf("%s: no samples", file))
		}
	}
}

func parseSample(l jsonl.Line, t Task) (Sample, error) {
	// The official record; MiniLongBench leaves out _id, length and, where it
	// is empty, input, and has a prompt of its own that is not the official one.
	var rec struct {
		ID         string   `json:"_id"`
		Dataset    string   `json:"dataset"`
		Input      string   `json:"input"`
		Context    *string  `json:"context"`
		Answers    []string `json:"answers"`
		AllClasses []string `json:"all_classes"`
		Length     int      `json:"length"`
	}
	if err := json.Unmarshal(l.Text, &rec); err != nil {
		return Sample{}, l.Errorf("%w", err)
	}
	switch {
	case rec.Context == nil:
		return Sample{}, l.Errorf("no context")
	case len(rec.Answers) == 0:
		return Sample{}, l.Errorf("no answers")
	case t.Metric == Classification && len(rec.AllClasses) == 0:
		return Sample{}, l.Errorf("no all_classes in a sample of %s", t.Name)
	case rec.Dataset != "" && strings.TrimSuffix(rec.Dataset, "_e") != t.Name:
		return Sample{}, l.Errorf("a sample of %s in a file of %s", rec.Dataset, t.Name)
	}
	s := Sample{
		ID: rec.ID, Task: t.Name, Input: rec.Input, Context: *rec.Context,
		Answers: rec.Answers, AllClasses: rec.AllClasses, Length: rec.Length,
	}
	if s.ID == "" {
		s.ID = s.Hash()[:32]
	}
	if s.Length <= 0 {
		s.Length = t.length(s.Context) + t.length(s.Input) + t.length(s.Answers[0])
	}
	return s, nil
}

// length counts as LongBench's length field does.
func (t Task) length(text string) int {
	if t.Language == Chinese {
		return utf8.RuneCountInString(text)
	}
	return len(pystr.Fields(text))
}
