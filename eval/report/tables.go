package report

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/hashattn/hashattn/eval/result"
)

// Table is one table. A column's name may have several lines.
type Table struct {
	Name    string     `json:"name"` // of its CSV file
	Title   string     `json:"title"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
	Note    string     `json:"note,omitempty"`
}

// pivot collects cells by row and column, both in the order of first use.
type pivot struct {
	rows, columns []string
	cells         map[[2]string]string
}

func (p *pivot) set(row, column, cell string) {
	if p.cells == nil {
		p.cells = map[[2]string]string{}
	}
	if !slices.Contains(p.rows, row) {
		p.rows = append(p.rows, row)
	}
	if !slices.Contains(p.columns, column) {
		p.columns = append(p.columns, column)
	}
	p.cells[[2]string{row, column}] = cell
}

// table lays the cells out; cells that nothing set are "-".
func (p *pivot) table(t Table, corner string) Table {
	t.Columns = append([]string{corner}, p.columns...)
	for _, row := range p.rows {
		line := []string{row}
		for _, column := range p.columns {
			cell, ok := p.cells[[2]string{row, column}]
			if !ok {
				cell = "-"
			}
			line = append(line, cell)
		}
		t.Rows = append(t.Rows, line)
	}
	return t
}

// budgetShare orders budgets: 1/8 before 1/16, counts behind by size.
func budgetShare(budget string) float64 {
	num, den, share := strings.Cut(budget, "/")
	n, _ := strconv.ParseFloat(num, 64)
	if share {
		d, _ := strconv.ParseFloat(den, 64)
		return -n / d
	}
	return n
}

// budgets are the distinct budgets of the runs' recall, perplexity and
// attention rows, largest share first.
func (r *Report) budgets() []string {
	var out []string
	add := func(b string) {
		if b != "" && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	r.recall(func(_ *Run, x result.RecallRow) { add(x.Budget) })
	r.perplexity(func(_ *Run, x result.PerplexityRow) { add(x.Budget) })
	r.bench(func(_ *Run, x result.BenchRow) { add(x.Budget) })
	sort.SliceStable(out, func(i, j int) bool { return budgetShare(out[i]) < budgetShare(out[j]) })
	return out
}

// Summary is the short table that a run ends with.
func (r *Report) Summary() Table {
	if len(r.parts) > 0 {
		return r.qualityTable()
	}
	return r.summaryTable()
}

// summaryTable sets recall, change of NLL and latency side by side, at the
// longest context of each.
func (r *Report) summaryTable() Table {
	var p pivot
	var recallAt, nllAt, benchAt int
	r.recall(func(_ *Run, x result.RecallRow) { recallAt = max(recallAt, x.Context) })
	r.perplexity(func(_ *Run, x result.PerplexityRow) { nllAt = max(nllAt, x.Context) })
	r.bench(func(_ *Run, x result.BenchRow) {
		if x.Part == "attention" {
			benchAt = max(benchAt, x.Context)
		}
	})
	scored := map[string]bool{} // budgets
	r.averages(func(_ *Run, x result.ScoreRow) {
		if x.Benchmark == "longbench" {
			scored[x.Budget] = true
		}
	})
	budgets := r.budgets()
	const bits = "bits per\ntoken"
	if recallAt > 0 {
		p.columns = append(p.columns, bits)
	}
	for _, group := range []struct {
		name string
		any  bool
	}{{"recall", recallAt > 0}, {"dNLL", nllAt > 0}, {"points", len(scored) > 0}, {"us", benchAt > 0}} {
		for _, b := range budgets {
			if group.any && (group.name != "points" || scored[b]) {
				p.columns = append(p.columns, group.name+"\n"+b)
			}
		}
	}
	r.bench(func(run *Run, x result.BenchRow) {
		if x.Part == "attention" && x.Context == benchAt && x.Selector == "dense" && x.Stage == "" && !x.Projected && x.Batch == 1 {
			for _, b := range budgets {
				p.set(r.label(run, "dense", ""), "us\n"+b, micros(x.Median))
			}
		}
	})
	r.recall(func(run *Run, x result.RecallRow) {
		if x.Context == recallAt && x.Layer == nil {
			p.set(r.label(run, x.Selector, x.Preset), "recall\n"+x.Budget, fixed(x.Recall, 3))
			p.set(r.label(run, x.Selector, x.Preset), bits, number(x.BitsPerToken))
		}
	})
	r.perplexity(func(run *Run, x result.PerplexityRow) {
		if x.Context == nllAt && x.Selector != "dense" {
			p.set(r.label(run, x.Selector, x.Preset), "dNLL\n"+x.Budget, signed(x.Delta, 3))
		}
	})
	r.bench(func(run *Run, x result.BenchRow) {
		if x.Part == "attention" && x.Context == benchAt && x.Selector != "dense" && x.Stage == "" && !x.Projected && x.Batch == 1 {
			p.set(r.label(run, x.Selector, x.Preset), "us\n"+x.Budget, micros(x.Median))
		}
	})
	r.averages(func(run *Run, x result.ScoreRow) {
		if x.Benchmark == "longbench" {
			p.set(r.label(run, x.Selector, x.Preset), "points\n"+x.Budget, signed(x.Difference, 1))
		}
	})
	var notes []string
	if recallAt > 0 {
		notes = append(notes, fmt.Sprintf("recall of the exact top tokens at %s", tokens(recallAt)))
	}
	if nllAt > 0 {
		notes = append(notes, fmt.Sprintf("dNLL: change of nats per token against dense at %s", tokens(nllAt)))
	}
	if len(scored) > 0 {
		notes = append(notes, "points: average on LongBench against dense")
	}
	if benchAt > 0 {
		notes = append(notes, fmt.Sprintf("us: one layer's attention step at %s", tokens(benchAt)))
	}
	return p.table(Table{Name: "summary", Title: "Quality and latency by budget", Note: strings.Join(notes, "; ") + "."}, "selector")
}

// recallTable is every mean over layers.
func (r *Report) recallTable() Table {
	t := Table{
		Name: "recall", Title: "Recall against exact attention",
		Columns: []string{"selector", "bits per token", "context", "budget", "density", "recall", "mass", "error", "documents"},
		Note:    "Recall of the exact top tokens by q.k outside sink and local; mass of attention on the tokens read; relative error of attention's output. Density is the share of cached tokens really read, sink and local included.",
	}
	r.recall(func(run *Run, x result.RecallRow) {
		if x.Layer == nil {
			t.Rows = append(t.Rows, []string{r.label(run, x.Selector, x.Preset), number(x.BitsPerToken), tokens(x.Context), x.Budget,
				fixed(x.Density, 4), fixed(x.Recall, 3), fixed(x.Mass, 3), fixed(x.Error, 3), count(x.Documents)})
		}
	})
	return t
}

// layerTable is recall by layer, mean over heads, at the longest context and
// the middle budget.
func (r *Report) layerTable() Table {
	at, budgets := 0, []string{}
	r.recall(func(_ *Run, x result.RecallRow) {
		if x.Layer != nil {
			at = max(at, x.Context)
			if !slices.Contains(budgets, x.Budget) {
				budgets = append(budgets, x.Budget)
			}
		}
	})
	if len(budgets) == 0 {
		return Table{}
	}
	sort.SliceStable(budgets, func(i, j int) bool { return budgetShare(budgets[i]) < budgetShare(budgets[j]) })
	budget := budgets[len(budgets)/2]
	var p pivot
	heads := map[[2]string][]float64{}
	r.recall(func(run *Run, x result.RecallRow) {
		if x.Layer != nil && x.Context == at && x.Budget == budget {
			cell := [2]string{strconv.Itoa(*x.Layer), r.label(run, x.Selector, x.Preset)}
			heads[cell] = append(heads[cell], x.Recall)
			p.set(cell[0], cell[1], fixed(mean(heads[cell]), 3))
		}
	})
	return p.table(Table{Name: "layers", Title: fmt.Sprintf("Recall by layer at %s, budget %s", tokens(at), budget)}, "layer")
}

func (r *Report) perplexityTable() Table {
	t := Table{
		Name: "perplexity", Title: "Change of likelihood against dense on the same tokens",
		Columns: []string{"selector", "context", "budget", "density", "NLL", "NLL dense", "change", "standard error", "perplexity ratio", "documents", "tokens"},
		Note:    "Nats per token after a dense prefill; the standard error is over documents.",
	}
	r.perplexity(func(run *Run, x result.PerplexityRow) {
		t.Rows = append(t.Rows, []string{r.label(run, x.Selector, x.Preset), tokens(x.Context), x.Budget, fixed(x.Density, 4),
			fixed(x.NLL, 4), fixed(x.NLLDense, 4), signed(x.Delta, 4), fixed(x.StdErr, 4), fixed(math.Exp(x.Delta), 4), count(x.Documents), count(x.Tokens)})
	})
	return t
}

// scoreTables are, for each benchmark, tasks against settings.
func (r *Report) scoreTables() []Table {
	var benchmarks []string
	r.scores(func(_ *Run, x result.ScoreRow) {
		if !slices.Contains(benchmarks, x.Benchmark) {
			benchmarks = append(benchmarks, x.Benchmark)
		}
	})
	var out []Table
	for _, name := range benchmarks {
		var p pivot
		detail := Table{
			Name: name + "-differences", Title: name + ": difference from dense on the same samples",
			Columns: []string{"task", "setting", "bits per token", "density", "samples", "score", "dense", "difference", "95% interval"},
			Note:    "Paired differences with bootstrap 95% intervals.",
		}
		r.scores(func(run *Run, x result.ScoreRow) {
			if x.Benchmark != name {
				return
			}
			task := x.Task
			if x.Context > 0 {
				task += " " + tokens(x.Context)
			}
			if x.Task == result.NIAHTask {
				task += fmt.Sprintf(" at %.0f%%", 100*x.Depth)
			}
			setting := r.label(run, x.Selector, x.Preset)
			if x.Selector == "dense" {
				p.set(task, setting, fixed(x.Score, 2))
				return
			}
			setting += " " + x.Budget
			p.set(task, r.label(run, "dense", ""), fixed(x.Dense, 2))
			p.set(task, setting, fixed(x.Score, 2))
			interval := "-" // one sample tells nothing of others
			if x.Samples > 1 {
				interval = signed(x.Low, 2) + " to " + signed(x.High, 2)
			}
			detail.Rows = append(detail.Rows, []string{task, setting, number(x.BitsPerToken), fixed(x.Density, 4), count(x.Samples),
				fixed(x.Score, 2), fixed(x.Dense, 2), signed(x.Difference, 2), interval})
		})
		out = append(out, p.table(Table{Name: name, Title: name + ": scores"}, "task"), detail)
	}
	return out
}

// benchTables are the timings, one table a part.
func (r *Report) benchTables() []Table {
	var out []Table
	for _, part := range []string{"attention", "decode", "prefill"} {
		t := Table{
			Name: "bench-" + part, Title: "Latency: " + part,
			Columns: []string{"selector", "stage", "shape", "batch", "context", "budget", "median us", "p10", "p90", "runs", "speedup", "tokens/s", "bandwidth", "device"},
			Note:    "Outputs were checked before timing. Speedup is over dense of the same shape on the same device; bandwidth is the share of the measured memory bandwidth that the bytes which must be read stand for.",
		}
		r.bench(func(run *Run, x result.BenchRow) {
			if x.Part != part {
				return
			}
			name := r.label(run, x.Selector, x.Preset)
			if x.Projected {
				name += " (projected)"
				if note := name + ": " + strings.TrimPrefix(x.Note, "projected: "); !strings.Contains(t.Note, note) {
					t.Note += " " + note + "."
				}
			}
			stage := x.Stage
			if stage == "" {
				stage = "all"
			}
			t.Rows = append(t.Rows, []string{name, stage, x.Shape, strconv.Itoa(x.Batch), tokens(x.Context), orDash(x.Budget),
				micros(x.Median), micros(x.P10), micros(x.P90), count(x.Runs), times(x.Speedup), optional(x.Tokens, 1), percent(x.BandwidthShare), x.Device})
		})
		out = append(out, t)
	}
	return out
}

// trainingTable is the loss curves' ends by preset: mean over layers and heads.
func (r *Report) trainingTable() Table {
	t := Table{
		Name: "training", Title: "Training",
		Columns: []string{"preset", "curves", "steps", "first loss", "last loss"},
		Note:    "Mean over layers and heads. Losses of different presets do not compare. The paper's mapping still gains at 6400 steps: below that its results are not its best.",
	}
	for _, run := range r.Runs {
		var presets []string
		first, last, steps := map[string][]float64{}, map[string]map[[2]int]float64{}, map[string]int{}
		for _, x := range run.Losses {
			unit := [2]int{x.Layer, x.Head}
			if last[x.Preset] == nil {
				presets = append(presets, x.Preset)
				last[x.Preset] = map[[2]int]float64{}
			}
			if _, seen := last[x.Preset][unit]; !seen {
				first[x.Preset] = append(first[x.Preset], x.Loss)
			}
			last[x.Preset][unit] = x.Loss // curves are in the order of their steps
			steps[x.Preset] = max(steps[x.Preset], x.Step)
		}
		for _, p := range presets {
			var ends []float64
			for _, v := range last[p] {
				ends = append(ends, v)
			}
			slices.Sort(ends) // so that the mean's last digit does not vary
			t.Rows = append(t.Rows, []string{r.label(run, p, ""), strconv.Itoa(len(ends)), strconv.Itoa(steps[p]), fixed(mean(first[p]), 4), fixed(mean(ends), 4)})
		}
	}
	return t
}

// provenanceTable says where each file came from.
func (r *Report) provenanceTable() Table {
	t := Table{
		Name: "provenance", Title: "Where the numbers come from",
		Columns: []string{"run", "results", "model", "device", "created", "seconds", "config", "samples", "hashattn", "Go"},
	}
	for _, run := range r.Runs {
		for _, kind := range names {
			f, ok := run.Files[kind]
			if !ok {
				continue
			}
			h := f.Head()
			device := h.Device.Name
			if h.Device.Kind != "" {
				device += " (" + h.Device.Kind + ")"
			}
			version := h.Versions["hashattn"]
			if rev := h.Versions["revision"]; rev != "" {
				version += " " + short(rev)
			}
			t.Rows = append(t.Rows, []string{run.Name, kind, h.Model.Name, device, h.Created.Format("2006-01-02 15:04"),
				optional(h.Seconds, 0), short(h.ConfigHash), short(h.Samples), version, h.Versions["go"]})
		}
	}
	return t
}

func fixed(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }

// signed writes a difference with its sign; what rounds to zero has none.
func signed(v float64, digits int) string {
	s := fixed(v, digits)
	switch {
	case strings.Trim(s, "-0.") == "":
		return strings.TrimPrefix(s, "-")
	case v > 0:
		return "+" + s
	}
	return s
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }

func count(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func optional(v float64, digits int) string {
	if v == 0 {
		return "-"
	}
	return fixed(v, digits)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func times(v float64) string {
	if v == 0 {
		return "-"
	}
	return fixed(v, 2) + "x"
}

func percent(v float64) string {
	if v == 0 {
		return "-"
	}
	return fixed(100*v, 0) + "%"
}

// micros writes microseconds with three figures.
func micros(v float64) string {
	switch {
	case v >= 100:
		return fixed(v, 0)
	case v >= 10:
		return fixed(v, 1)
	}
	return fixed(v, 2)
}

// tokens writes a context: 4K.
func tokens(n int) string {
	if n >= 1024 && n%1024 == 0 {
		return strconv.Itoa(n/1024) + "K"
	}
	return strconv.Itoa(n)
}
