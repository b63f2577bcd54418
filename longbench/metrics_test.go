package longbench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// golden reads what scripts/goldens/longbench.py made with the official scorer.
func golden[T any](t *testing.T, name string) []T {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var v []T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if len(v) == 0 {
		t.Fatalf("%s is empty", name)
	}
	return v
}

// exact parses Python's float.hex.
func exact(t *testing.T, hex string) float64 {
	t.Helper()
	x, err := strconv.ParseFloat(hex, 64)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestMetrics compares to full double precision.
func TestMetrics(t *testing.T) {
	tested := map[Metric]int{}
	for _, g := range golden[struct {
		Metric             Metric
		Pred, Answer       string
		Classes            []string
		Score, Levenshtein string
	}](t, "metrics.json") {
		tested[g.Metric]++
		check := func(code Similarity, want float64) {
			got, err := metrics[g.Metric](g.Pred, reference{g.Answer, g.Classes, code})
			if errors.Is(err, errScoredZero) {
				err = nil
			}
			if err != nil || got != want {
				t.Errorf("%s(%q, %q) = %v, %v; official %v", g.Metric, g.Pred, g.Answer, got, err, want)
			}
		}
		check(Difflib, exact(t, g.Score))
		if g.Levenshtein != "" {
			check(Levenshtein, exact(t, g.Levenshtein))
		}
	}
	for m := range metrics {
		if tested[m] < 6 {
			t.Errorf("%s has %d golden cases", m, tested[m])
		}
	}
}

// TestRougeRecursion: sentences around the depth of Python's stack, on both of
// its sides.
func TestRougeRecursion(t *testing.T) {
	scored, zero := 0, 0
	for _, g := range golden[struct {
		Metric         Metric
		Words, Strange int
		Score          string
	}](t, "deep.json") {
		p, a := numbered("w", g.Words), append(numbered("q", g.Strange), numbered("w", g.Words-g.Strange)...)
		got, err := metrics[g.Metric](strings.Join(p, " "), reference{answer: strings.Join(a, " ")})
		want := exact(t, g.Score)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("%s of %d words, %d strange: %v, %v; official %v", g.Metric, g.Words, g.Strange, got, err, want)
		}
		if want == 0 {
			zero++
		} else {
			scored++
		}
	}
	if scored == 0 || zero == 0 {
		t.Errorf("%d cases scored, %d not: the limit is not between them", scored, zero)
	}
}

func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = prefix + strconv.Itoa(i)
	}
	return out
}

func TestMetricErrors(t *testing.T) {
	task := func(name string) Task {
		task, ok := TaskByName(name)
		if !ok {
			t.Fatalf("no task %s", name)
		}
		return task
	}
	for _, c := range []struct {
		task             string
		answers, classes []string
		code             Similarity
		want             string
	}{
		{"qasper", nil, nil, "", "no answers"},
		{"trec", []string{"Food"}, nil, "", "all_classes"},
		{"passage_retrieval_en", []string{"3"}, nil, "", "names no paragraph"},
		{"passage_retrieval_zh", []string{"Paragraph 3"}, nil, "", "names no paragraph"},
		{"lcc", []string{"x = 2"}, nil, "jaccard", "unknown code similarity"},
	} {
		_, _, err := task(c.task).Score("x = 1", c.answers, c.classes, c.code)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.task, err, c.want)
		}
	}

	score, note, err := task("gov_report").Score("", []string{"x"}, nil, "")
	if score != 0 || err != nil || !strings.Contains(note, "empty") {
		t.Errorf("an empty summary: %v, %q, %v", score, note, err)
	}
	score, note, err = task("gov_report").Score("x", []string{"", "x"}, nil, "")
	if score == 0 || err != nil || note != "" {
		t.Errorf("one of two answers empty: %v, %q, %v", score, note, err)
	}
}

// TestTable compares the table with the official configuration: a changed prompt
// changes its hash.
func TestTable(t *testing.T) {
	official := map[Metric]string{
		QAF1: "qa_f1_score", QAF1Chinese: "qa_f1_zh_score", RougeL: "rouge_score", RougeLChinese: "rouge_zh_score",
		Classification: "classification_score", Retrieval: "retrieval_score", RetrievalChinese: "retrieval_zh_score",
		Count: "count_score", CodeSimilarity: "code_sim_score",
	}
	rows := golden[struct {
		Name, Metric string
		PromptSHA256 string `json:"prompt_sha256"`
		MaxTokens    int    `json:"max_tokens"`
	}](t, "tasks.json")
	if len(rows) != len(Tasks()) {
		t.Fatalf("%d tasks, official %d", len(Tasks()), len(rows))
	}
	for _, g := range rows {
		task, ok := TaskByName(g.Name)
		if !ok {
			t.Errorf("no task %s", g.Name)
			continue
		}
		if task.PromptHash() != g.PromptSHA256 {
			t.Errorf("%s: prompt hash %s, official %s", g.Name, task.PromptHash(), g.PromptSHA256)
		}
		if task.MaxTokens != g.MaxTokens || official[task.Metric] != g.Metric {
			t.Errorf("%s: %d tokens, metric %s; official %d, %s", g.Name, task.MaxTokens, task.Metric, g.MaxTokens, g.Metric)
		}
		changed := task
		changed.Prompt = strings.Replace(task.Prompt, "{context}", "{context} ", 1)
		if changed.PromptHash() == g.PromptSHA256 {
			t.Errorf("%s: a changed prompt has the same hash", g.Name)
		}
	}

	raw := []string{"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
	first := []string{"trec", "triviaqa", "samsum", "lsht"}
	total, totalE := 0, 0
	for _, task := range Tasks() {
		if task.Chat == slices.Contains(raw, task.Name) {
			t.Errorf("%s: chat template %v", task.Name, task.Chat)
		}
		if task.FirstLine != slices.Contains(first, task.Name) {
			t.Errorf("%s: first line only %v", task.Name, task.FirstLine)
		}
		if task.StopNewline != (task.Name == "samsum") {
			t.Errorf("%s: stops at a newline %v", task.Name, task.StopNewline)
		}
		total += task.Samples
		totalE += task.SamplesE
	}
	if total != 4750 || totalE != 3668 || len(TasksE()) != 13 {
		t.Errorf("%d samples, %d in the %d tasks of LongBench-E", total, totalE, len(TasksE()))
	}
}

func TestPrompt(t *testing.T) {
	task, _ := TaskByName("repobench-p")
	got := task.BuildPrompt(Sample{Context: "a {input} {0}\n", Input: "b {context}\n"})
	if want := "Please complete the code given below. \na {input} {0}\nb {context}\nNext line of code:\n"; got != want {
		t.Errorf("prompt %q, want %q", got, want)
	}
	samsum, _ := TaskByName("samsum")
	if got := samsum.PostProcess("\n\nfirst\nsecond"); got != "first" {
		t.Errorf("first line %q", got)
	}
	if got := task.PostProcess("\nfirst\nsecond"); got != "\nfirst\nsecond" {
		t.Errorf("repobench-p's prediction became %q", got)
	}
}

func TestTruncateMiddle(t *testing.T) {
	ids := []int32{0, 1, 2, 3, 4, 5, 6}
	for _, c := range []struct {
		limit      int
		head, tail string
	}{
		{8, "[0 1 2 3 4 5 6]", "[]"}, {7, "[0 1 2 3 4 5 6]", "[]"}, {6, "[0 1 2]", "[4 5 6]"},
		{5, "[0 1]", "[5 6]"}, {2, "[0]", "[6]"}, {1, "[]", "[]"}, {-3, "[]", "[]"},
	} {
		head, tail := TruncateMiddle(ids, c.limit)
		if fmt.Sprint(head) != c.head || fmt.Sprint(tail) != c.tail {
			t.Errorf("limit %d: %v, %v", c.limit, head, tail)
		}
	}
}
