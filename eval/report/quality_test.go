package report_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/eval/report"
	"github.com/hashattn/hashattn/eval/result"
)

type files struct {
	recall     *result.Recall
	perplexity *result.Perplexity
	scores     *result.Scores
}

// writeModel writes a run of a model of that name, measured on its own samples.
func writeModel(t *testing.T, name, model string, change func(files)) string {
	return writeRun(t, name, func(r *result.Recall, p *result.Perplexity, b *result.Bench, s *result.Scores) {
		for _, f := range []result.File{r, p, b, s} {
			f.Head().Model, f.Head().Samples = result.Model{Name: model, Fingerprint: model, Layers: 4, QueryHeads: 6, KVHeads: 2, HeadDim: 64}, model+"'s texts"
		}
		// few enough to write down
		keep := r.Rows[:0]
		for _, x := range r.Rows {
			if x.Budget == "1/32" && (x.Preset == "shared" || x.Selector == "quest") {
				keep = append(keep, x)
			}
		}
		r.Rows = keep
		rows := p.Rows[:0]
		for _, x := range p.Rows {
			if x.Budget == "1/32" && x.Preset == "shared" {
				rows = append(rows, x)
			}
		}
		p.Rows = rows
		if change != nil {
			change(files{r, p, s})
		}
	})
}

func quality(t *testing.T, r *report.Report) report.Table {
	t.Helper()
	for _, table := range r.Tables() {
		if table.Name == "quality" {
			return table
		}
	}
	t.Fatal("no table of quality")
	return report.Table{}
}

func TestQualityOfModels(t *testing.T) {
	// Contexts may differ, too.
	short := func(f files) {
		for i := range f.recall.Rows {
			x := &f.recall.Rows[i]
			if x.Context = 4096; x.Layer == nil {
				x.StepRead, x.DistinctStepBytes = read(x.BitsPerToken, x.Density, 4096), read(x.BitsPerToken, x.Density/2, 4096).StepBytes
			}
		}
		f.recall.Rows = f.recall.Rows[:4]
		for i := range f.perplexity.Rows {
			f.perplexity.Rows[i].Context = 4096
		}
		f.perplexity.Rows = f.perplexity.Rows[:1]
	}
	r := load(t, writeModel(t, "large", "qwen", nil), writeModel(t, "small", "smol", short))
	got := string(quality(t, r).CSV())
	want := `run,selector,bits per token,context,budget,KiB per step and layer,of dense,rows once: of dense,error,recall,change of NLL,standard error,LongBench: of dense,points,95% interval
large,dense,-,32K,-,16384,100%,100%,0,1,0,-,-,-,-
large,hash shared,32,32K,1/32,768,4.7%,3.1%,0.100,0.800,+0.0200,0.0040,6.6%,-10.00,-20.00 to 0.00
large,quest,256,32K,1/32,2560,15.6%,14.1%,0.100,0.500,-,-,-,-,-
small,dense,-,4K,-,2048,100%,100%,0,1,0,-,-,-,-
small,hash shared,32,4K,1/32,96.0,4.7%,3.1%,0.100,0.800,+0.0200,0.0040,6.6%,-10.00,-20.00 to 0.00
small,quest,256,4K,1/32,320,15.6%,14.1%,0.100,0.500,-,-,-,-,-
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	dir := t.TempDir()
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(filepath.Join(dir, "plots", "quality.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{">large: 6q/2kv d64, 32K<", ">small: 6q/2kv d64, 4K<", ">MiB read per decode step and layer<", ">KiB read per decode step and layer<",
		">output error, relative<", ">change of NLL, nats/token<", ">longbench, points vs dense<", ">dense<", ">hash shared<", ">quest<"} {
		if !strings.Contains(string(svg), text) {
			t.Errorf("quality.svg lacks %s", text)
		}
	}
	// All else stands apart.
	for _, name := range []string{"csv/large-recall.csv", "csv/small-recall.csv", "plots/small-recall.svg", "csv/quality.csv", "csv/provenance.csv"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	var out bytes.Buffer
	if err := r.Terminal(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "large: hash") || !strings.Contains(out.String(), "small: Recall against exact attention") {
		t.Error("models that do not compare share a table")
	}
}

func TestQualityRefusesOneModelOnTwoSamples(t *testing.T) {
	a, b, c := writeModel(t, "a", "qwen", nil), writeModel(t, "b", "smol", nil), writeModel(t, "c", "qwen", func(f files) { f.recall.Samples = "other" })
	var runs []*report.Run
	for _, dir := range []string{a, b, c} {
		run, err := report.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	if _, err := report.New(runs...); err == nil || !strings.Contains(err.Error(), "a and c measured recall on different samples") {
		t.Errorf("error %v", err)
	}
}

func TestQualityOfEarlierFiles(t *testing.T) {
	r := load(t, writeModel(t, "old", "qwen", func(f files) {
		for i := range f.recall.Rows {
			f.recall.Rows[i].StepRead, f.recall.Rows[i].DistinctStepBytes = result.StepRead{}, 0
		}
		f.perplexity.Rows[0].StepRead = result.StepRead{}
		f.perplexity.Rows[1].StepRead = result.StepRead{}
	}))
	table := quality(t, r)
	if len(table.Rows) != 2 || table.Rows[0][4] != "unknown" || table.Rows[0][5] != "unknown" {
		t.Errorf("rows %v", table.Rows)
	}
	for _, want := range []string{"The bytes of old's recall are unknown", "measure again (hashattn eval recall)", "The bytes of old's perplexity are unknown"} {
		if !strings.Contains(table.Note, want) {
			t.Errorf("note lacks %q", want)
		}
	}
	if strings.Contains(table.Note, "longbench are unknown") {
		t.Error("the scores have bytes")
	}
	// What has bytes is drawn.
	figures, err := r.Figures()
	if err != nil || figures[0].Name != "quality" {
		t.Fatalf("%v, first figure %s", err, figures[0].Name)
	}
	svg, err := figures[0].SVG()
	if err != nil || strings.Contains(string(svg), "recall of exact") || !strings.Contains(string(svg), "longbench, points vs") {
		t.Errorf("%v, or the wrong panels", err)
	}
}
