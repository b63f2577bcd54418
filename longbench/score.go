package longbench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashattn/hashattn/longbench/internal/jsonl"
)

// Options of Score.
type Options struct {
	E          bool       // LongBench-E: scores by length
	Similarity Similarity // of code; Difflib where empty
	// Full makes it an error if a task's predictions are not as many as the
	// official data set's samples: the way to notice a file cut off at the end
	// of a line.
	Full bool
}

// Prediction is one line of a file of predictions, as the official scripts write
// and read it. Further fields may stand beside these.
type Prediction struct {
	Pred       string   `json:"pred"`
	Answers    []string `json:"answers"`
	AllClasses []string `json:"all_classes"` // null where the task has no classes
	Length     int      `json:"length"`      // of the sample
}

// Prediction is the record of what a model answered to the sample.
func (s Sample) Prediction(pred string) Prediction {
	return Prediction{Pred: pred, Answers: s.Answers, AllClasses: s.AllClasses, Length: s.Length}
}

// Score scores a folder of predictions, one file TASK.jsonl a task (also .gz or
// .zst; with E also TASK_e.jsonl), one Prediction a line.
//
// All cores take part. A damaged line, a missing field, an unknown task or a
// truncated file is an error that names file and line: nothing is left out and
// nothing scored 0 in its place.
func Score(ctx context.Context, dir string, opt Options) (Result, error) {
	files, err := predictionFiles(dir, opt.E)
	if err != nil {
		return Result{}, err
	}
	predictions := make([][]prediction, len(files))
	for i, f := range files {
		if predictions[i], err = readPredictions(f, opt); err != nil {
			return Result{}, err
		}
	}
	result := Result{E: opt.E, Tasks: make([]TaskResult, len(files))}
	for i, f := range files {
		t := &result.Tasks[i]
		*t = TaskResult{Task: f.task, File: f.path, Samples: make([]SampleScore, len(predictions[i]))}
		if err := t.scoreAll(ctx, predictions[i], opt.Similarity); err != nil {
			return Result{}, err
		}
		t.summarize(opt.E)
	}
	return result, nil
}

// Score scores one prediction of the task as the official scorer does: after
// PostProcess, the best over the answers. classes are all_classes of a
// classification task, else nil. note is empty or says why a score of 0 is no
// judgement of the text: upstream's ROUGE fails on it.
func (t Task) Score(prediction string, answers, classes []string, code Similarity) (score float64, note string, err error) {
	if len(answers) == 0 {
		return 0, "", errors.New("no answers")
	}
	prediction = t.PostProcess(prediction)
	for _, a := range answers {
		s, err := metrics[t.Metric](prediction, reference{a, classes, code})
		if errors.Is(err, errScoredZero) {
			note = err.Error()
		} else if err != nil {
			return 0, "", err
		}
		score = max(score, s)
	}
	if score > 0 {
		note = ""
	}
	return score, note, nil
}

type predictionFile struct {
	path string
	task Task
}

// predictionFiles lists the files to score in the official order of their tasks.
func predictionFiles(dir string, e bool) ([]predictionFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	byTask := map[string]predictionFile{}
	for _, entry := range entries {
		base, ok := jsonl.TrimSuffix(entry.Name())
		if !ok || entry.IsDir() {
			continue
		}
		f := predictionFile{path: filepath.Join(dir, entry.Name())}
		if e {
			base = strings.TrimSuffix(base, "_e")
		}
		if f.task, ok = TaskByName(base); !ok {
			return nil, fmt.Errorf("%s: %q is no task of LongBench", f.path, base)
		}
		if e && f.task.SamplesE == 0 {
			return nil, fmt.Errorf("%s: %s is no task of LongBench-E", f.path, base)
		}
		if other, twice := byTask[base]; twice {
			return nil, fmt.Errorf("task %s twice: %s and %s", base, other.path, f.path)
		}
		byTask[base] = f
	}
	var files []predictionFile
	for _, t := range tasks {
		if f, ok := byTask[t.Name]; ok {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no predictions (TASK.jsonl, also .gz or .zst)", dir)
	}
	return files, nil
}

// prediction is a Prediction and where it stands.
type prediction struct {
	Prediction
	line int
}

func readPredictions(f predictionFile, opt Options) ([]prediction, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	r, err := jsonl.Decompress(in, f.path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	defer r.Close()

	var out []prediction
	for l, err := range jsonl.Lines(r, f.path) {
		if err != nil {
			return nil, err
		}
		p, err := parsePrediction(l, f.task, opt.E)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	want := f.task.Samples
	if opt.E {
		want = f.task.SamplesE
	}
	switch {
	case len(out) == 0:
		return nil, fmt.Errorf("%s: no predictions", f.path)
	case opt.Full && len(out) != want:
		return nil, fmt.Errorf("%s:%d: ends after %d predictions, %s has %d samples", f.path, len(out), len(out), f.task.Name, want)
	}
	return out, nil
}

func parsePrediction(l jsonl.Line, t Task, e bool) (prediction, error) {
	var rec struct {
		Pred       *string         `json:"pred"`
		Answers    []string        `json:"answers"`
		AllClasses json.RawMessage `json:"all_classes"`
		Length     *int            `json:"length"`
	}
	if err := json.Unmarshal(l.Text, &rec); err != nil {
		return prediction{}, l.Errorf("%w", err)
	}
	p := prediction{Prediction{Answers: rec.Answers}, l.Number}
	switch {
	case rec.Pred == nil:
		return p, l.Errorf("no pred")
	case len(rec.Answers) == 0:
		return p, l.Errorf("no answers")
	case rec.AllClasses == nil:
		return p, l.Errorf("no all_classes (null for tasks without classes)")
	case e && rec.Length == nil:
		return p, l.Errorf("no length, which LongBench-E scores by")
	}
	p.Pred = *rec.Pred
	if err := json.Unmarshal(rec.AllClasses, &p.AllClasses); err != nil {
		return p, l.Errorf("all_classes: %w", err)
	}
	if t.Metric == Classification && len(p.AllClasses) == 0 {
		return p, l.Errorf("all_classes is empty in a prediction of %s", t.Name)
	}
	if rec.Length != nil {
		p.Length = *rec.Length
	}
	return p, nil
}

// scoreAll fills t.Samples, with as many workers as there are cores.
func (t *TaskResult) scoreAll(ctx context.Context, predictions []prediction, code Similarity) error {
	// Upstream scores every prediction with the classes of the last line.
	classes := predictions[len(predictions)-1].AllClasses
	errs := make([]error, len(predictions))
	var next atomic.Int64
	var failed atomic.Bool
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(predictions)) {
		workers.Go(func() {
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= len(predictions) {
					return
				}
				p := predictions[i]
				score, note, err := t.Task.Score(p.Pred, p.Answers, classes, code)
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					errs[i] = fmt.Errorf("%s:%d: %w", t.File, p.line, err)
					failed.Store(true)
				}
				t.Samples[i] = SampleScore{Line: p.line, Length: p.Length, Score: score, Note: note}
			}
		})
	}
	workers.Wait()
	// Predictions are taken in order, so the first error is that of the first
	// line that has one, whatever the workers' speed.
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
