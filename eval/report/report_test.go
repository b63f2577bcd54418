package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/eval/report"
	"github.com/hashattn/hashattn/eval/result"
)

// read is what a layer of 2 KV heads of 64 reads of a share of the tokens.
func read(bits, share float64, context int) result.StepRead {
	n := 2 * float64(context)
	return result.StepRead{StepBytes: n * (bits/8 + 256*share), DenseStepBytes: 256 * n}
}

// writeRun writes a run's files with made-up numbers; change may alter them.
func writeRun(t *testing.T, name string, change func(*result.Recall, *result.Perplexity, *result.Bench, *result.Scores)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	head := func(kind string) result.Header {
		h, err := result.NewHeader(kind, map[string]string{"for": "test"})
		if err != nil {
			t.Fatal(err)
		}
		h.Model.Name, h.Samples = "tiny", "aaaabbbbccccdddd"
		h.Device = result.Device{Kind: "cpu", Name: "Example CPU, 2 threads"}
		return h
	}
	recall := &result.Recall{Header: head(result.KindRecall)}
	perplexity := &result.Perplexity{Header: head(result.KindPerplexity)}
	bench := &result.Bench{Header: head(result.KindBench), Bandwidth: 2e10}
	scores := &result.Scores{Header: head(result.KindScores)}
	for c, context := range []int{4096, 32768} {
		bench.Rows = append(bench.Rows, result.BenchRow{Part: "attention", Device: "cpu", Shape: "32q/8kv d128", Batch: 1, Context: context, Selector: "dense", Median: float64(context), P10: 1, P90: 2, Runs: 9, Checked: true})
		for i, s := range []struct {
			selector, preset string
			bits             float64
		}{{"hash", "shared", 32}, {"hash", "grouped", 32}, {"hash", "paper", 96}, {"quest", "", 256}, {"streaming", "", 0}} {
			for j, budget := range []string{"1/8", "1/16", "1/32", "1/64"} {
				share := 1 / float64(int(8)<<j)
				recall.Rows = append(recall.Rows, result.RecallRow{Selector: s.selector, Preset: s.preset, BitsPerToken: s.bits, Context: context, Budget: budget, Density: share, Recall: .9 - .1*float64(i) - .05*float64(j), Mass: .9, Error: .1, Documents: 4, StepRead: read(s.bits, share, context), DistinctStepBytes: read(s.bits, share/2, context).StepBytes})
				layer := 3
				row := recall.Rows[len(recall.Rows)-1]
				row.StepRead, row.DistinctStepBytes = result.StepRead{}, 0
				row.Layer = &layer
				recall.Rows = append(recall.Rows, row)
				d := .01 * float64(i+j)
				perplexity.Rows = append(perplexity.Rows, result.PerplexityRow{Selector: s.selector, Preset: s.preset, Context: context, Budget: budget, Density: share, NLL: 2 + d, NLLDense: 2, Delta: d, StdErr: .004, Documents: 4, Tokens: 256, StepRead: read(s.bits, share, context)})
				if s.preset != "" {
					us := float64(context) / float64(c+2+j)
					bench.Rows = append(bench.Rows, result.BenchRow{Part: "attention", Device: "cpu", Shape: "32q/8kv d128", Batch: 1, Context: context, Budget: budget, Selector: s.selector, Preset: s.preset, Median: us, P10: us, P90: us, Runs: 9, Dense: float64(context), Speedup: float64(context) / us, Checked: true})
				}
			}
		}
	}
	scores.Rows = []result.ScoreRow{
		{Benchmark: "longbench", Task: "trec", Selector: "hash", Preset: "shared", BitsPerToken: 32, Budget: "1/32", Density: .05, Samples: 10, Score: 50, Dense: 60, Difference: -10, Low: -20, High: 0},
		{Benchmark: "longbench", Task: "average", Selector: "hash", Preset: "shared", BitsPerToken: 32, Budget: "1/32", Density: .05, Samples: 10, Score: 50, Dense: 60, Difference: -10, Low: -20, High: 0, Latency: .02, StepRead: read(32, .05, 3000)},
	}
	if change != nil {
		change(recall, perplexity, bench, scores)
	}
	if err := os.MkdirAll(filepath.Join(dir, "train", "shared"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []result.File{recall, perplexity, bench, scores} {
		if err := result.Write(filepath.Join(dir, f.Head().Kind+".json"), f); err != nil {
			t.Fatal(err)
		}
	}
	var curve bytes.Buffer
	for step := range 5 {
		for layer := range 2 {
			fmt.Fprintf(&curve, `{"layer":%d,"head":0,"step":%d,"loss":%v}`+"\n", layer, step, math.Exp(-float64(step)))
		}
	}
	curve.WriteString(`{"layer":1`) // a killed process's last line
	if err := os.WriteFile(filepath.Join(dir, "train", "shared", "losses.jsonl"), curve.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func load(t *testing.T, dirs ...string) *report.Report {
	t.Helper()
	var runs []*report.Run
	for _, d := range dirs {
		run, err := report.Load(d)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	r, err := report.New(runs...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSummary(t *testing.T) {
	var out bytes.Buffer
	if err := load(t, writeRun(t, "quickstart", nil)).Summary().Markdown(&out); err != nil {
		t.Fatal(err)
	}
	want := `## Quality and latency by budget

| selector | bits per token | recall 1/8 | recall 1/16 | recall 1/32 | recall 1/64 | dNLL 1/8 | dNLL 1/16 | dNLL 1/32 | dNLL 1/64 | points 1/32 | us 1/8 | us 1/16 | us 1/32 | us 1/64 |
|:--- | ---:| ---:| ---:| ---:| ---:| ---:| ---:| ---:| ---:| ---:| ---:| ---:| ---:| ---:|
| dense | - | - | - | - | - | - | - | - | - | - | 32768 | 32768 | 32768 | 32768 |
| hash shared | 32 | 0.900 | 0.850 | 0.800 | 0.750 | 0.000 | +0.010 | +0.020 | +0.030 | -10.0 | 10923 | 8192 | 6554 | 5461 |
| hash grouped | 32 | 0.800 | 0.750 | 0.700 | 0.650 | +0.010 | +0.020 | +0.030 | +0.040 | - | 10923 | 8192 | 6554 | 5461 |
| hash paper | 96 | 0.700 | 0.650 | 0.600 | 0.550 | +0.020 | +0.030 | +0.040 | +0.050 | - | 10923 | 8192 | 6554 | 5461 |
| quest | 256 | 0.600 | 0.550 | 0.500 | 0.450 | +0.030 | +0.040 | +0.050 | +0.060 | - | - | - | - | - |
| streaming | 0 | 0.500 | 0.450 | 0.400 | 0.350 | +0.040 | +0.050 | +0.060 | +0.070 | - | - | - | - | - |

recall of the exact top tokens at 32K; dNLL: change of nats per token against dense at 32K; points: average on LongBench against dense; us: one layer's attention step at 32K.

`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestWrite(t *testing.T) {
	run := writeRun(t, "quickstart", func(_ *result.Recall, _ *result.Perplexity, b *result.Bench, _ *result.Scores) {
		b.Device.Name = `<script>alert("x")</script>`
	})
	r := load(t, run)
	if err := r.Write(run); err != nil {
		t.Fatal(err)
	}
	html, err := os.ReadFile(filepath.Join(run, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(html)
	for _, foreign := range []string{"<script", "src=", "href=\"http", "url(", "@import"} {
		if strings.Contains(text, foreign) {
			t.Errorf("report.html holds %s: not self-contained or not escaped", foreign)
		}
	}
	figures, err := r.Figures()
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(text, "<svg"); n != len(figures) || n != 9 {
		t.Errorf("%d drawings in the page, %d in the report, want 9", n, len(figures))
	}
	for _, p := range figures {
		svg, err := os.ReadFile(filepath.Join(run, "plots", p.Name+".svg"))
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(bytes.NewReader(svg))
		for err == nil {
			_, err = d.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: not well-formed: %v", p.Name, err)
		}
		if strings.Contains(string(svg), "NaN") {
			t.Errorf("%s holds NaN", p.Name)
		}
	}
	for _, table := range r.Tables() {
		f, err := os.Open(filepath.Join(run, "csv", table.Name+".csv"))
		if err != nil {
			t.Fatal(err)
		}
		records, err := csv.NewReader(f).ReadAll()
		f.Close()
		if err != nil || len(records) != len(table.Rows)+1 {
			t.Errorf("%s.csv has %d records, %v; want %d", table.Name, len(records), err, len(table.Rows)+1)
		}
	}
	md, err := os.ReadFile(filepath.Join(run, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"![Recall by budget at 32K](plots/recall.svg)", "## Recall by layer at 32K", "## longbench: scores", "| shared | 2 | 4 | 1.0000 | 0.0183 |", "-10.00 | -20.00 to 0.00", "aaaabbbbcccc"} {
		if !strings.Contains(string(md), want) {
			t.Errorf("report.md lacks %q", want)
		}
	}
}

func TestCompare(t *testing.T) {
	a, b := writeRun(t, "a", nil), writeRun(t, "b", nil)
	var out bytes.Buffer
	if err := load(t, a, b).Terminal(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "a: hash shared") || !strings.Contains(out.String(), "b: hash shared") {
		t.Error("runs are not told apart")
	}
}

func TestCompareRefuses(t *testing.T) {
	for want, change := range map[string]func(*result.Recall, *result.Perplexity, *result.Bench, *result.Scores){
		"measured perplexity on different samples (aaaabbbbcccc and none)": func(_ *result.Recall, p *result.Perplexity, _ *result.Bench, _ *result.Scores) { p.Samples = "" },
		"measured recall at different contexts": func(r *result.Recall, _ *result.Perplexity, _ *result.Bench, _ *result.Scores) {
			r.Rows[0].Context = 100
		},
		"measured scores on different samples": func(_ *result.Recall, _ *result.Perplexity, _ *result.Bench, s *result.Scores) {
			s.Samples = "other"
		},
	} {
		a, err := report.Load(writeRun(t, "a", nil))
		if err != nil {
			t.Fatal(err)
		}
		b, err := report.Load(writeRun(t, "b", change))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := report.New(a, b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	a, err := report.Load(writeRun(t, "a", nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := report.New(a, a); err == nil {
		t.Error("the same run twice was accepted")
	}
}

func TestLoadRefuses(t *testing.T) {
	if _, err := report.Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no results there") {
		t.Errorf("empty folder: %v", err)
	}
	run := writeRun(t, "a", nil)
	if err := os.Rename(filepath.Join(run, "bench.json"), filepath.Join(run, "recall.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := report.Load(run); err == nil || !strings.Contains(err.Error(), "holds bench results") {
		t.Errorf("misnamed file: %v", err)
	}
}
