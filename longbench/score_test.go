package longbench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// official reads a result.json, in which Python may have written NaN.
func official[T any](t *testing.T, path string) map[string]T {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]T
	if err := json.Unmarshal(bytes.ReplaceAll(data, []byte("NaN"), []byte("null")), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestScore scores the predictions that the golden script made and scored.
func TestScore(t *testing.T) {
	r, err := Score(t.Context(), "testdata/pred", Options{})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, r, official[float64](t, "testdata/pred/result.json"))
	for _, task := range r.Tasks {
		if len(task.Samples) != 7 || task.Samples[6].Line != 7 {
			t.Errorf("%s: samples %+v", task.Task.Name, task.Samples)
		}
	}
}

func compare(t *testing.T, r Result, want map[string]float64) {
	t.Helper()
	got := map[string]float64{}
	for _, task := range r.Tasks {
		got[task.Task.Name] = task.Score
	}
	if !maps.Equal(got, want) {
		t.Errorf("scores %v\nofficial %v", got, want)
	}
	var written map[string]float64
	if err := json.Unmarshal(r.JSON(), &written); err != nil || !maps.Equal(written, want) {
		t.Errorf("result.json %s: %v", r.JSON(), err)
	}
}

func TestScoreE(t *testing.T) {
	r, err := Score(t.Context(), "testdata/pred_e", Options{E: true})
	if err != nil {
		t.Fatal(err)
	}
	want := official[map[string]*float64](t, "testdata/pred_e/result.json")
	if len(want) != len(r.Tasks) {
		t.Errorf("%d tasks, official %d", len(r.Tasks), len(want))
	}
	empty := 0
	for _, task := range r.Tasks {
		for i, name := range Buckets {
			w := want[task.Task.Name][name]
			switch {
			case w == nil:
				empty++
				if !math.IsNaN(task.Buckets[i]) {
					t.Errorf("%s %s: %v, official NaN", task.Task.Name, name, task.Buckets[i])
				}
			case task.Buckets[i] != *w:
				t.Errorf("%s %s: %v, official %v", task.Task.Name, name, task.Buckets[i], *w)
			}
		}
	}
	if empty == 0 || !strings.Contains(string(r.JSON()), `"8k+": NaN`) {
		t.Errorf("%d ranges without a sample; result.json:\n%s", empty, r.JSON())
	}
	if a := r.AverageBucket(2, nil); math.IsNaN(a) {
		t.Error("a range without samples spoils the average")
	}
}

// TestResultFile: result.json is what Python's json.dump writes, but for the
// order of the tasks.
func TestResultFile(t *testing.T) {
	r, err := Score(t.Context(), "testdata/pred", Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := r.JSON()
	want, err := os.ReadFile("testdata/pred/result.json")
	if err != nil {
		t.Fatal(err)
	}
	sorted := func(b []byte) []string {
		l := strings.Split(strings.ReplaceAll(string(b), ",", ""), "\n")
		slices.Sort(l)
		return l
	}
	if len(got) != len(want) || !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("wrote %s\nofficial %s", got, want)
	}
}

func TestAverage(t *testing.T) {
	task := func(name string, score float64) TaskResult {
		task, _ := TaskByName(name)
		return TaskResult{Task: task, Score: score}
	}
	r := Result{Tasks: []TaskResult{task("qasper", 40), task("passage_count", 1), task("lcc", 60)}}
	if got := r.Average(nil); got != 101.0/3 {
		t.Errorf("average %v", got)
	}
	if got := r.Average(WithoutPassageCount); got != 50 {
		t.Errorf("average without passage_count %v", got)
	}
	if got := r.Average(func(t Task) bool { return t.Category == FewShot }); !math.IsNaN(got) {
		t.Errorf("average of nothing %v", got)
	}
}

const scored = `{"pred": "A", "answers": ["A"], "all_classes": null, "length": 10}`

// TestScoreCatches plants what must not go unnoticed.
func TestScoreCatches(t *testing.T) {
	whole := strings.Repeat(scored+"\n", 3)
	many := strings.Repeat(scored+"\n", 200)
	drop := func(old, new string) []byte { return []byte(whole + strings.Replace(scored, old, new, 1)) }
	for name, c := range map[string]struct {
		file string
		data []byte
		opt  Options
		want string
	}{
		"a file cut in a line":       {"qasper.jsonl", []byte(many[:len(many)-20]), Options{}, "qasper.jsonl:200: unexpected end of JSON input"},
		"a file cut between lines":   {"qasper.jsonl", []byte(many[:199*(len(scored)+1)]), Options{Full: true}, "qasper.jsonl:199: ends after 199 predictions, qasper has 200 samples"},
		"a zst file cut":             {"qasper.jsonl.zst", cut(compressZstd(t, []byte(many))), Options{}, "damaged or cut off"},
		"too many predictions":       {"qasper.jsonl", []byte(many + scored), Options{Full: true}, "qasper.jsonl:201: ends after 201"},
		"no predictions":             {"qasper.jsonl", nil, Options{}, "qasper.jsonl: no predictions"},
		"no pred":                    {"qasper.jsonl", drop(`"pred": "A", `, ``), Options{}, "qasper.jsonl:4: no pred"},
		"pred null":                  {"qasper.jsonl", drop(`"pred": "A"`, `"pred": null`), Options{}, "qasper.jsonl:4: no pred"},
		"pred a number":              {"qasper.jsonl", drop(`"pred": "A"`, `"pred": 3`), Options{}, "qasper.jsonl:4: json: cannot unmarshal number"},
		"no answers":                 {"qasper.jsonl", drop(`"answers": ["A"], `, ``), Options{}, "qasper.jsonl:4: no answers"},
		"no all_classes":             {"qasper.jsonl", drop(`"all_classes": null, `, ``), Options{}, "qasper.jsonl:4: no all_classes"},
		"all_classes no list":        {"qasper.jsonl", drop(`null`, `"A"`), Options{}, "qasper.jsonl:4: all_classes: "},
		"no classes of a class task": {"trec.jsonl", []byte(whole), Options{}, "trec.jsonl:1: all_classes is empty"},
		"no length of LongBench-E":   {"qasper_e.jsonl", drop(`, "length": 10`, ``), Options{E: true}, "qasper_e.jsonl:4: no length"},
		"no paragraph in an answer":  {"passage_retrieval_en.jsonl", []byte(whole), Options{}, "passage_retrieval_en.jsonl:1: answer \"A\" names no paragraph"},
		"an unknown task":            {"quasper.jsonl", []byte(whole), Options{}, "\"quasper\" is no task of LongBench"},
		"no task of LongBench-E":     {"musique.jsonl", []byte(whole), Options{E: true}, "musique is no task of LongBench-E"},
		"no task at all":             {"result.json", []byte("{}"), Options{}, "no predictions (TASK.jsonl"},
		"an unknown similarity":      {"lcc.jsonl", drop(`"pred": "A"`, `"pred": "B"`), Options{Similarity: "cosine"}, "lcc.jsonl:4: unknown code similarity"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), c.data, 0o644); err != nil {
				t.Fatal(err)
			}
			r, err := Score(t.Context(), dir, c.opt)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("result %+v, error %v, want %q", r, err, c.want)
			}
			if !errors.Is(err, context.Canceled) && err != nil && !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v does not name the folder", err)
			}
		})
	}
	if _, err := Score(t.Context(), filepath.Join(t.TempDir(), "absent"), Options{}); err == nil {
		t.Error("an absent folder scores")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Score(ctx, "testdata/pred", Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestPredictionRoundTrip: what Sample.Prediction writes, Score reads: the embedded
// samples answered with their own answers have full marks.
func TestPredictionRoundTrip(t *testing.T) {
	dir := t.TempDir()
	d := Embedded()
	for _, task := range d.Tasks(false) {
		var file bytes.Buffer
		for _, s := range collect(t, d, task, false) {
			if err := json.NewEncoder(&file).Encode(s.Prediction(s.Answers[0])); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, task.Name+".jsonl"), file.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Score(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Tasks) != 21 || r.Average(nil) != 100 {
		t.Errorf("%d tasks, average %v", len(r.Tasks), r.Average(nil))
	}
}

// TestWrongAnswer: one changed prediction in a folder changes that task's score,
// that sample's score and nothing else.
func TestWrongAnswer(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/pred")); err != nil {
		t.Fatal(err)
	}
	before, err := Score(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "passage_retrieval_zh.jsonl")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(data, []byte(`"pred": "段落3"`), []byte(`"pred": "段落9"`), 1)
	if bytes.Equal(changed, data) {
		t.Fatal("no right answer to change")
	}
	if err := os.WriteFile(file, changed, 0o644); err != nil {
		t.Fatal(err)
	}
	after, err := Score(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, task := range before.Tasks {
		differ := 0
		for k, s := range task.Samples {
			if s != after.Tasks[i].Samples[k] {
				differ++
			}
		}
		want := 0
		if task.Task.Name == "passage_retrieval_zh" {
			want = 1
		}
		if differ != want || (task.Score != after.Tasks[i].Score) != (want == 1) {
			t.Errorf("%s: %d samples differ, score %v and %v", task.Task.Name, differ, task.Score, after.Tasks[i].Score)
		}
	}
}

// TestPublished scores the predictions of two models on all 21 tasks against the
// published results.
func TestPublished(t *testing.T) {
	shared := os.Getenv("HASHATTN_SHARED_DATA")
	if shared == "" {
		t.Skip("HASHATTN_SHARED_DATA is not set: the published predictions of two models are not scored (TestScore is the small form)")
	}
	for _, model := range []string{"llama3-8b-instruct", "qwen3-8b"} {
		dir := filepath.Join(shared, "longbench", "preds", model)
		r, err := Score(t.Context(), dir, Options{Full: true})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, r, official[float64](t, filepath.Join(dir, "result.json")))
	}
}

func BenchmarkScore(b *testing.B) {
	dir := "testdata/pred"
	if shared := os.Getenv("HASHATTN_SHARED_DATA"); shared != "" {
		dir = filepath.Join(shared, "longbench", "preds", "llama3-8b-instruct")
	}
	for b.Loop() {
		if _, err := Score(b.Context(), dir, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
