package benchmark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/longbench"
	"github.com/hashattn/hashattn/model"
)

// dataset writes LongBench files with texts of different lengths.
func dataset(t *testing.T, samples int) string {
	t.Helper()
	dir := t.TempDir()
	for _, task := range []string{"qasper", "samsum", "trec", "passage_count"} {
		var file strings.Builder
		for i := range samples {
			rec := map[string]any{
				"_id": fmt.Sprintf("%s-%d", task, i), "input": fmt.Sprintf("Question %d?", i),
				"context": strings.Repeat(fmt.Sprintf("Words of %s number %d. ", task, i), 1+2*i),
				"answers": []string{"an answer"}, "all_classes": nil, "length": 10 + i,
			}
			if task == "trec" {
				rec["all_classes"] = []string{"an answer", "a class"}
			}
			line, err := json.Marshal(rec)
			if err != nil {
				t.Fatal(err)
			}
			file.Write(append(line, '\n'))
		}
		if err := os.WriteFile(filepath.Join(dir, task+".jsonl"), []byte(file.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// open reads a data set's benchmark and shortens the answers, which the
// reference device takes long for.
func open(t *testing.T, dir string, tasks ...string) *Benchmark {
	t.Helper()
	data, err := longbench.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := LongBench(LongBenchOptions{Data: data, Tasks: tasks})
	if err != nil {
		t.Fatal(err)
	}
	for i := range b.Questions {
		b.Questions[i].MaxTokens = 6
	}
	return b
}

func options(t *testing.T, m *model.Model) Options {
	return Options{
		Model: m, QuestionSparse: SparseTail, PrefillOffset: 24, MaxLength: 150, CacheType: dtype.F32, Chunk: 128, Dir: t.TempDir(),
		Settings: []eval.Setting{settingOf(t, m, "oracle"), settingOf(t, m, "streaming")},
		Budgets:  []kernels.Budget{{Num: 1, Den: 8}},
		Notice:   func(text string) { t.Log(text) },
	}
}

func mustRun(t *testing.T, b *Benchmark, o Options) Outcome {
	t.Helper()
	out, err := Run(t.Context(), b, o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// predictions reads a setting's answers by sample.
func predictions(t *testing.T, dir, setting string) map[string]Prediction {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, setting, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no predictions of %s: %v", setting, err)
	}
	all := map[string]Prediction{}
	for _, f := range files {
		lines, whole, err := readLog(f)
		if err != nil || whole >= 0 {
			t.Fatalf("%s: %v, cut at %d", f, err, whole)
		}
		for _, p := range lines {
			if _, twice := all[p.Sample]; twice {
				t.Fatalf("%s: sample %s twice", f, p.Sample)
			}
			all[p.Sample] = p
		}
	}
	return all
}

// same compares answers.
func same(t *testing.T, what string, a, b map[string]Prediction) {
	t.Helper()
	if len(a) != len(b) {
		t.Fatalf("%s: %d predictions and %d", what, len(a), len(b))
	}
	for id, p := range a {
		if q := b[id]; fmt.Sprint(p.Tokens) != fmt.Sprint(q.Tokens) || p.Pred != q.Pred || p.PromptHash != q.PromptHash {
			t.Errorf("%s: sample %s: %v and %v", what, id, p.Tokens, q.Tokens)
		}
	}
}

// generated is the answer by model.Generate, the plain way.
func generated(t *testing.T, m *model.Model, prompt []int32, cacheType dtype.Type, n int) []int32 {
	t.Helper()
	r, err := m.NewRunner(128, 1)
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.NewSequence(len(prompt)+n, cacheType)
	if err != nil {
		t.Fatal(err)
	}
	g, err := r.Generate(t.Context(), s, prompt, model.Dense{Model: m}, model.Dense{Model: m}, model.GenerateOptions{MaxTokens: n})
	if err != nil {
		t.Fatal(err)
	}
	return g.Tokens
}

// Sparse attention that reads everything answers as dense does, by whatever
// part of the prompt is sparse, alone or several samples at once, and dense as
// plain generation does: the rewound caches and the batches change nothing.
func TestSettingsThatReadAllAnswerAsDense(t *testing.T) {
	m := tinyModel(t)
	b := open(t, dataset(t, 3), "qasper", "samsum")
	all := kernels.Budget{Count: 1 << 20}
	o := options(t, m)
	o.Settings, o.Budgets = o.Settings[:1], []kernels.Budget{all}
	mustRun(t, b, o)
	dense := predictions(t, o.Dir, "dense")
	same(t, "tail", dense, predictions(t, o.Dir, "oracle-1048576"))

	for _, part := range []string{SparseAll, SparseNone} {
		o.Dir, o.QuestionSparse, o.Memory = t.TempDir(), part, 64<<20
		mustRun(t, b, o)
		same(t, part+" dense", dense, predictions(t, o.Dir, "dense"))
		same(t, part, dense, predictions(t, o.Dir, "oracle-1048576"))
	}
	p, err := newPrompter(m.Tokenizer, m.Context, o.MaxLength, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b.Questions {
		q := &b.Questions[i]
		if q.StopNewline {
			continue // Generate knows no such rule
		}
		prompt, err := p.tokens(q)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := dense[q.ID].Tokens, generated(t, m, prompt, o.CacheType, q.MaxTokens); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("sample %s: %v, Generate gives %v", q.ID, got, want)
		}
	}
}

// The density in rows is what the device read.
func TestRunReportsAchievedDensity(t *testing.T) {
	m := tinyModel(t)
	b := open(t, dataset(t, 3), "qasper")
	o := options(t, m)
	out := mustRun(t, b, o)
	for _, row := range out.Rows {
		switch {
		case row.Selector == "dense" && row.Density != 1:
			t.Errorf("dense read %v of the tokens", row.Density)
		case row.Selector != "dense" && !(row.Density > .13 && row.Density < .45):
			t.Errorf("%s read %v of the tokens, want 1/8 and 20 more of about 150", row.Selector, row.Density)
		}
	}
	var read, dense float64 // bytes of the answers' steps
	streamed := predictions(t, o.Dir, "streaming-1of8")
	for id, p := range streamed {
		sum, cached := 0, 0
		middle := kernels.StepRead{KVHeads: m.KVHeads, HeadDim: m.HeadDim, Cached: p.PromptTokens + (len(p.Tokens)+1)/2}
		read += middle.Sparse(kernels.Selection{Heads: m.KVHeads, Sink: 4, Local: 16, Budget: kernels.Budget{Num: 1, Den: 8}}, nil) / float64(len(streamed))
		dense += middle.Dense() / float64(len(streamed))
		selection := kernels.Selection{Sink: 4, Local: 16, Budget: kernels.Budget{Num: 1, Den: 8}}
		for n := p.PromptTokens - o.PrefillOffset + 1; n <= p.PromptTokens+p.DecodeSteps; n++ {
			sum, cached = sum+selection.Read(n), cached+n
		}
		if want := float64(sum) / float64(cached); !(abs(p.Density-want) < 1e-12) {
			t.Errorf("sample %s: density %v, the selection says %v", id, p.Density, want)
		}
	}
	for _, row := range out.Rows {
		switch {
		case row.Selector == "dense" && (row.StepBytes != row.DenseStepBytes || row.StepBytes == 0):
			t.Errorf("dense reads %+v", row.StepRead)
		case row.Selector == "streaming" && !(abs(row.StepBytes-read) < 1e-6*read && abs(row.DenseStepBytes-dense) < 1e-6*dense):
			t.Errorf("%s of %s reads %+v, want %v of %v", row.Selector, row.Task, row.StepRead, read, dense)
		}
	}
}

// Answers and densities do not depend on what is answered together: settings
// one by one, some at a time, or all settings of several samples, whose budgets
// then share an index.
func TestRunTogether(t *testing.T) {
	m := tinyModel(t)
	b := open(t, dataset(t, 3), "qasper", "trec")
	several := func() Options {
		o := options(t, m)
		o.Settings = append(o.Settings, settingOf(t, m, "quest:page=4"), settingOf(t, m, "lsh:bits=32"))
		o.Budgets = append(o.Budgets, kernels.Budget{Num: 1, Den: 3})
		return o
	}
	alone := several()
	mustRun(t, b, alone)
	for _, memory := range []int64{1 << 20, 3 << 19, 64 << 20} {
		o := several()
		o.Memory = memory
		out := mustRun(t, b, o)
		for _, s := range []string{"dense", "oracle-1of8", "streaming-1of8", "quest-page4-1of8", "quest-page4-1of3", "lsh-bits32-1of8", "lsh-bits32-1of3"} {
			want, got := predictions(t, alone.Dir, s), predictions(t, o.Dir, s)
			same(t, s, want, got)
			for id, p := range got {
				if !(abs(p.Density-want[id].Density) < 1e-12) {
					t.Errorf("%d bytes: %s, sample %s: density %v, alone %v", memory, s, id, p.Density, want[id].Density)
				}
			}
		}
		for _, row := range out.Rows {
			if !(row.Latency > 0) {
				t.Errorf("%s %s has no latency", row.Selector, row.Task)
			}
		}
	}
}

func abs(x float64) float64 { return max(x, -x) }

// A run that is stopped, or killed within a line, continues without a
// duplicate or a hole, and gives what an undisturbed one gives.
func TestRunContinues(t *testing.T) {
	m := tinyModel(t)
	b := open(t, dataset(t, 3), "qasper", "trec")
	o := options(t, m)
	whole := mustRun(t, b, o)
	want := map[string]map[string]Prediction{}
	for _, s := range []string{"dense", "oracle-1of8", "streaming-1of8"} {
		want[s] = predictions(t, o.Dir, s)
	}

	o.Dir = t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(p Progress) {
		if p.Done == 7 {
			cancel()
		}
	}
	if _, err := Run(ctx, b, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("a cancelled run gives %v", err)
	}
	// the kill comes in the middle of a line
	path := filepath.Join(o.Dir, "dense", "qasper.jsonl")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw[:len(raw)-20], 0o644); err != nil {
		t.Fatal(err)
	}
	last := 0
	o.Progress = func(p Progress) {
		if p.Total != 18 || p.Done <= last {
			t.Errorf("progress %+v after %d", p, last)
		}
		last = p.Done
	}
	again := mustRun(t, b, o)
	if last != 18 || again.Made != 12 {
		t.Errorf("the second run came to %d of 18 and made %d", last, again.Made)
	}
	for s, p := range want {
		same(t, s, p, predictions(t, o.Dir, s))
	}
	sameScores(t, whole.Rows, again.Rows)
	if third := mustRun(t, b, o); third.Made != 0 {
		t.Errorf("a finished run makes %d predictions more", third.Made)
	}
}

// sameScores compares rows but for their times.
func sameScores(t *testing.T, a, b []result.ScoreRow) {
	t.Helper()
	if len(a) != len(b) {
		t.Fatalf("%d rows and %d", len(a), len(b))
	}
	for i := range a {
		x, y := a[i], b[i]
		x.Latency, y.Latency = 0, 0
		if x != y {
			t.Errorf("row %d: %+v and %+v", i, x, y)
		}
	}
}

// Another configuration does not reuse predictions, and does not lose them.
func TestRunSetsOtherConfigurationsAside(t *testing.T) {
	m := tinyModel(t)
	b := open(t, dataset(t, 2), "qasper")
	o := options(t, m)
	mustRun(t, b, o)
	first := predictions(t, o.Dir, "oracle-1of8")

	o.PrefillOffset = 1
	if out := mustRun(t, b, o); out.Made != 4 {
		t.Errorf("another protocol made %d predictions, want 4: dense does not depend on it", out.Made)
	}
	o.MaxLength = 120
	if out := mustRun(t, b, o); out.Made != 6 {
		t.Errorf("another length made %d predictions, want 6", out.Made)
	}
	o.PrefillOffset, o.MaxLength = 24, 150
	if out := mustRun(t, b, o); out.Made != 0 {
		t.Errorf("the first configuration made %d predictions again", out.Made)
	}
	same(t, "taken back", first, predictions(t, o.Dir, "oracle-1of8"))

	// another template is another configuration too
	for i := range b.Questions {
		b.Questions[i].Template = "changed"
	}
	if out := mustRun(t, b, o); out.Made != 6 {
		t.Errorf("another prompt template made %d predictions, want 6", out.Made)
	}
}

// Whatever a prediction depends on is in the hash of its configuration; what
// dense attention does not depend on is not in dense's.
func TestConfigurationHash(t *testing.T) {
	m := tinyModel(t)
	o := options(t, m)
	base, err := newRun(open(t, dataset(t, 2), "qasper"), o)
	if err != nil {
		t.Fatal(err)
	}
	hash := func(variant int, change func(r *run, m *model.Model, v *variant, identity *string, q *Question)) string {
		r, model, v, q, identity := *base, *m, *base.variants[variant], base.benchmark.Questions[0], "identity"
		r.Model, r.benchmark = &model, &Benchmark{Name: base.benchmark.Name}
		change(&r, &model, &v, &identity, &q)
		h, err := r.config(&v, identity, &q)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	same := func(*run, *model.Model, *variant, *string, *Question) {}
	for name, c := range map[string]struct {
		change func(r *run, m *model.Model, v *variant, identity *string, q *Question)
		sparse bool // dense does not depend on it
	}{
		"benchmark":     {func(r *run, _ *model.Model, _ *variant, _ *string, _ *Question) { r.benchmark.Name = "x" }, false},
		"task":          {func(_ *run, _ *model.Model, _ *variant, _ *string, q *Question) { q.Task = "x" }, false},
		"template":      {func(_ *run, _ *model.Model, _ *variant, _ *string, q *Question) { q.Template = "x" }, false},
		"system":        {func(_ *run, _ *model.Model, _ *variant, _ *string, q *Question) { q.System = "x" }, false},
		"answer prefix": {func(_ *run, _ *model.Model, _ *variant, _ *string, q *Question) { q.AnswerPrefix = "x" }, false},
		"answer limit":  {func(_ *run, _ *model.Model, _ *variant, _ *string, q *Question) { q.MaxTokens++ }, false},
		"model":         {func(_ *run, m *model.Model, _ *variant, _ *string, _ *Question) { m.Fingerprint = "x" }, false},
		"chat template": {func(r *run, _ *model.Model, _ *variant, _ *string, _ *Question) {
			p := *r.prompter
			p.chat, r.prompter = nil, &p
		}, false},
		"cache":           {func(r *run, _ *model.Model, _ *variant, _ *string, _ *Question) { r.CacheType = dtype.BF16 }, false},
		"length":          {func(r *run, _ *model.Model, _ *variant, _ *string, _ *Question) { r.MaxLength++ }, false},
		"mapping":         {func(_ *run, _ *model.Model, _ *variant, identity *string, _ *Question) { *identity = "x" }, true},
		"budget":          {func(_ *run, _ *model.Model, v *variant, _ *string, _ *Question) { v.budget = "x" }, true},
		"question sparse": {func(r *run, _ *model.Model, _ *variant, _ *string, _ *Question) { r.QuestionSparse = SparseNone }, true},
		"prefill offset":  {func(r *run, _ *model.Model, _ *variant, _ *string, _ *Question) { r.PrefillOffset++ }, true},
	} {
		if hash(1, c.change) == hash(1, same) {
			t.Errorf("another %s is the same configuration of %s", name, base.variants[1].folder)
		}
		if (hash(0, c.change) == hash(0, same)) != c.sparse {
			t.Errorf("another %s: dense's configuration is another one: %v", name, c.sparse)
		}
	}
}

// The hash of the samples is of what is asked, in whatever order.
func TestSamplesHash(t *testing.T) {
	b := open(t, dataset(t, 2), "qasper")
	want := b.samples()
	for name, change := range map[string]func(q *Question){
		"task": func(q *Question) { q.Task = "x" }, "sample": func(q *Question) { q.ID = "x" },
		"text": func(q *Question) { q.Hash = "x" }, "template": func(q *Question) { q.Template = "x" },
	} {
		old := b.Questions[1]
		if change(&b.Questions[1]); b.samples() == want {
			t.Errorf("another %s has the same hash", name)
		}
		b.Questions[1] = old
	}
	b.Questions[0], b.Questions[1] = b.Questions[1], b.Questions[0]
	if b.samples() != want {
		t.Error("another order has another hash")
	}
}

func replaceIn(t *testing.T, path, old, with string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(raw), old, with, 1)
	if changed == string(raw) {
		t.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What was changed behind the program's back is noticed.
func TestRunNoticesChanges(t *testing.T) {
	m := tinyModel(t)
	for _, c := range []struct {
		name, file, old, with string // under DATA or the predictions
		want                  string
	}{
		{"answers", "dense/qasper.jsonl", "an answer", "another answer", "differs from the data's"},
		{"classes", "dense/qasper.jsonl", `"all_classes":null`, `"all_classes":["a class"]`, "differs from the data's"},
		{"sample", "DATA/qasper.jsonl", "Words of", "Other words of", "differs from the data's"},
		{"damaged line", "dense/qasper.jsonl", `{"pred"`, `{pred`, "qasper.jsonl:1: damaged line"},
		{"cut data", "DATA/qasper.jsonl", "\"answers\":[\"an answer\"],", "", "qasper.jsonl:1: no answers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := dataset(t, 2)
			o := options(t, m)
			o.Settings = nil
			mustRun(t, open(t, data, "qasper"), o)
			file, inData := strings.CutPrefix(c.file, "DATA")
			path := filepath.Join(o.Dir, c.file)
			if inData {
				path = filepath.Join(data, file)
			}
			replaceIn(t, path, c.old, c.with)
			set, err := longbench.Open(data)
			if err != nil {
				t.Fatal(err)
			}
			b, err := LongBench(LongBenchOptions{Data: set, Tasks: []string{"qasper"}})
			if err == nil {
				for i := range b.Questions {
					b.Questions[i].MaxTokens = 6
				}
				_, err = Run(t.Context(), b, o)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// A planted right answer raises the score of its setting, not of dense, and
// the interval says how sure that is.
func TestRunScoresPlantedAnswer(t *testing.T) {
	m := tinyModel(t)
	b := open(t, dataset(t, 4), "qasper", "passage_count")
	o := options(t, m)
	before := mustRun(t, b, o)
	for _, row := range before.Rows {
		if row.Score != 0 || row.Low != 0 || row.High != 0 {
			t.Fatalf("a random model scores %+v", row)
		}
	}
	path := filepath.Join(o.Dir, "oracle-1of8", "qasper.jsonl")
	p := predictions(t, o.Dir, "oracle-1of8")["qasper-2"]
	old, err := json.Marshal(p.Pred)
	if err != nil {
		t.Fatal(err)
	}
	replaceIn(t, path, `{"pred":`+string(old), `{"pred":"an answer"`)
	after := mustRun(t, b, o)
	if after.Samples != before.Samples || after.Made != 0 {
		t.Errorf("samples %s and %s, %d made", after.Samples, before.Samples, after.Made)
	}
	found := 0
	for _, row := range after.Rows {
		want := 0.0
		if row.Selector == "oracle" {
			want = map[string]float64{"qasper": 25, "average": 12.5, "average-no-count": 25}[row.Task]
		}
		if row.Score != want || row.Difference != want || row.Dense != 0 {
			t.Errorf("%s %s: score %v, dense %v, difference %v, want %v", row.Selector, row.Task, row.Score, row.Dense, row.Difference, want)
		}
		if want > 0 {
			found++
			if row.Low != 0 || !(row.High > want) {
				t.Errorf("%s: interval %v to %v around %v", row.Task, row.Low, row.High, want)
			}
		}
	}
	if found != 3 {
		t.Errorf("%d rows with the planted answer, want 3", found)
	}
	// the official scorer reads the same files
	scored, err := longbench.Score(t.Context(), filepath.Join(o.Dir, "oracle-1of8"), longbench.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := scored.Average(nil); got != 12.5 {
		t.Errorf("longbench.Score gives %v, want 12.5", got)
	}
}

// The first token of an answer of one line is neither a line end nor the end.
func TestStopNewline(t *testing.T) {
	m := tinyModel(t)
	b := open(t, dataset(t, 3), "samsum")
	for i := range b.Questions {
		b.Questions[i].MaxTokens = 64
	}
	o := options(t, m)
	o.Settings = nil
	mustRun(t, b, o)
	for id, p := range predictions(t, o.Dir, "dense") {
		if len(p.Tokens) == 0 || strings.HasPrefix(p.Pred, "\n") {
			t.Errorf("sample %s begins with the end: %q", id, p.Pred)
		}
		if i := strings.Index(p.Pred, "\n"); i >= 0 && i != len(p.Pred)-1 {
			t.Errorf("sample %s goes on behind a line end: %q", id, p.Pred)
		}
	}
}
