package eval_test

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/trace"
)

func load(t *testing.T, name string) *model.Model {
	t.Helper()
	m, err := model.Load(context.Background(), filepath.Join("..", "model", "testdata", "tiny", name), kernels.NewReference(), model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func text(m *model.Model, seed uint64, n int) []int32 {
	rng := rand.New(rand.NewPCG(seed, 2))
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(3 + rng.IntN(m.Vocabulary-3))
	}
	return tokens
}

// capture is a trace of two random documents of n tokens.
func capture(t *testing.T, m *model.Model, n int) *trace.Reader {
	t.Helper()
	dir := t.TempDir()
	w, err := trace.Create(dir, trace.Header{Model: m.Shape(), Tokenizer: "t", Context: n, Captured: m.GlobalLayers(), Scale: m.QueryScale})
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.NewRunner(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		d, err := r.Capture(context.Background(), text(m, uint64(i), n), trace.Tail(n, 8, 4), m.GlobalLayers(), nil)
		if err != nil {
			t.Fatal(err)
		}
		d.ID, d.Hash, d.Kind = string(rune('a'+i)), strings.Repeat(string(rune('0'+i)), 64), "random"
		if err := w.Add(*d); err != nil {
			t.Fatal(err)
		}
	}
	reader, err := trace.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	return reader
}

func settings(t *testing.T, m *model.Model, tr *trace.Reader, methods ...string) []eval.Setting {
	t.Helper()
	var all []eval.Setting
	for _, method := range methods {
		s, err := eval.NewSetting(m.Device, m.Shape(), m.QueryScale, eval.Source{Method: method, Sink: 4, Local: 8}, eval.TraceSamples{Reader: tr})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func TestRecall(t *testing.T) {
	m := load(t, "qwen2")
	tr := capture(t, m, 160)
	o := eval.RecallOptions{
		Device: m.Device, Trace: tr, Contexts: []int{160}, Window: 64, Queries: 4, PerHead: true,
		Settings: settings(t, m, tr, "oracle", "oracle:per=group", "streaming", "lsh:bits=32", "pq:parts=4,bits=4", "pq:parts=8,bits=4", "doublesparsity:channels=8", "quest:page=4"),
		Budgets:  []kernels.Budget{{Num: 1, Den: 4}, {Num: 1, Den: 1}},
	}
	rows, err := eval.Recall(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	mean := map[string]result.RecallRow{}
	heads := 0
	for _, r := range rows {
		if r.Layer != nil {
			heads++
			continue
		}
		mean[r.Selector+" "+r.Budget] = r
	}
	if want := len(o.Settings) * len(o.Budgets) * 2 * m.QueryHeads; heads != want {
		t.Errorf("%d rows of heads, want %d", heads, want)
	}
	if len(mean) != len(o.Settings)*len(o.Budgets) {
		t.Errorf("%d names for %d settings", len(mean), len(o.Settings)*len(o.Budgets))
	}
	for name, r := range mean {
		if r.Budget == "1/1" && (math.Abs(r.Recall-1) > 1e-9 || math.Abs(r.Mass-1) > 1e-4 || r.Error > 1e-4 || r.Density != 1) {
			t.Errorf("%s: %+v, want exact attention", name, r)
		}
		if r.Documents != 2 {
			t.Errorf("%s: %d documents, want 2", name, r.Documents)
		}
		if r.Budget == "1/4" && r.Mass > mean["oracle 1/4"].Mass+1e-6 {
			t.Errorf("%s has mass %v, more than the oracle's %v", name, r.Mass, mean["oracle 1/4"].Mass)
		}
	}
	if r := mean["oracle 1/4"]; r.Recall != 1 {
		t.Errorf("the oracle's recall is %v", r.Recall)
	}
	if r := mean["streaming 1/4"]; r.Recall > 0.6 {
		t.Errorf("streaming's recall of random attention is %v", r.Recall)
	}
	again := o
	again.Settings = append(again.Settings, o.Settings[0])
	if _, err := eval.Recall(context.Background(), again); err == nil || !strings.Contains(err.Error(), "two settings are called oracle") {
		t.Errorf("two settings of one name: error %v", err)
	}
	o.Contexts = []int{4096}
	if _, err := eval.Recall(context.Background(), o); err == nil || !strings.Contains(err.Error(), "no queries") {
		t.Errorf("a context longer than the documents: error %v", err)
	}
	o.Layers = []int{7}
	if _, err := eval.Recall(context.Background(), o); err == nil || !strings.Contains(err.Error(), "layer 7") {
		t.Errorf("a layer that was not captured: error %v", err)
	}
}

// kept is a PerplexityLog in memory.
type kept struct {
	rows  map[string][]eval.DocumentNLL
	asked int
}

func (k *kept) Load(document string, context int) []eval.DocumentNLL {
	k.asked++
	return k.rows[document]
}

func (k *kept) Save(rows []eval.DocumentNLL) error {
	k.rows[rows[0].Document] = rows
	return nil
}

func TestPerplexity(t *testing.T) {
	m := load(t, "qwen2")
	tr := capture(t, m, 160)
	log := &kept{rows: map[string][]eval.DocumentNLL{}}
	o := eval.PerplexityOptions{
		Model: m, Documents: []eval.Document{{"a", text(m, 3, 160)}, {"b", text(m, 4, 150)}},
		Settings: settings(t, m, tr, "oracle", "streaming"), Budgets: []kernels.Budget{{Num: 1, Den: 8}, {Num: 1, Den: 1}},
		Contexts: []int{140}, Tokens: 20, CacheType: dtype.F32, Done: log,
	}
	rows, err := eval.Perplexity(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 5 {
		t.Fatalf("%d rows, want dense and 4", len(rows))
	}
	for _, r := range rows {
		switch {
		case r.Selector == "dense" || r.Budget == "1/1":
			if math.Abs(r.Delta) > 1e-4 || r.Density != 1 {
				t.Errorf("%s %s: delta %v at density %v, want dense", r.Selector, r.Budget, r.Delta, r.Density)
			}
		default:
			if r.Delta == 0 || r.Density > 0.3 || r.StdErr == 0 {
				t.Errorf("%s %s: delta %v ± %v at density %v, want sparse", r.Selector, r.Budget, r.Delta, r.StdErr, r.Density)
			}
		}
		if r.Documents != 2 || r.Tokens != 40 {
			t.Errorf("%s: %d documents, %d tokens", r.Selector, r.Documents, r.Tokens)
		}
	}
	again, err := eval.Perplexity(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if again[i] != rows[i] {
			t.Errorf("from the log: %+v, measured: %+v", again[i], rows[i])
		}
	}
	o.Done = nil
	o.Settings = append(o.Settings, o.Settings[1])
	if _, err := eval.Perplexity(context.Background(), o); err == nil || !strings.Contains(err.Error(), "two settings are called streaming") {
		t.Errorf("two settings of one name: error %v", err)
	}
	o.Contexts, o.Settings = []int{155}, o.Settings[:2]
	if _, err := eval.Perplexity(context.Background(), o); err == nil || !strings.Contains(err.Error(), "document b") {
		t.Errorf("a document that is too short: error %v", err)
	}
}
