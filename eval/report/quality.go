package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/eval/result"
)

// bytesNote says how the bytes of a step are counted; package kernels has the
// count (kernels.StepRead).
const bytesNote = "Bytes that a decode step must read in a layer, a mean over layers: the index of all cached tokens (the oracle's are the keys) and, in bf16, the keys and values of sink and local once for each KV head, those of every chosen token once for each set that chose it (a set is a query head's, or a KV head's where its query heads share one; together never more than all tokens), and with reranking the keys of the other candidates. Dense reads every key and value once. Maps and queries, which do not grow with the context, are not counted. Rows once: the same if what several sets of a KV head chose were read once, as it could be where they agree."

// setting is a selector at a budget of one run.
type setting struct {
	selector, preset, budget string
	context                  int // 0: of prompts, which differ
}

// longest is the longest context of a run's rows of one kind.
func (run *Run) longest(kind string) int {
	if f, ok := run.Files[kind]; ok {
		if c := contexts(f); len(c) > 0 {
			return c[len(c)-1]
		}
	}
	return 0
}

// recallMeans are a run's means over layers at the longest context.
func (run *Run) recallMeans() (out []result.RecallRow) {
	if f, ok := run.Files[result.KindRecall].(*result.Recall); ok {
		at := run.longest(result.KindRecall)
		for _, x := range f.Rows {
			if x.Layer == nil && x.Context == at {
				out = append(out, x)
			}
		}
	}
	return out
}

// likelihoods are a run's rows at the longest context.
func (run *Run) likelihoods() (out []result.PerplexityRow) {
	if f, ok := run.Files[result.KindPerplexity].(*result.Perplexity); ok {
		at := run.longest(result.KindPerplexity)
		for _, x := range f.Rows {
			if x.Context == at && x.Selector != "dense" {
				out = append(out, x)
			}
		}
	}
	return out
}

// longBench are a run's averages of LongBench or LongBench-E.
func (run *Run) longBench() (out []result.ScoreRow) {
	if f, ok := run.Files[result.KindScores].(*result.Scores); ok {
		for _, x := range f.Rows {
			if strings.HasPrefix(x.Benchmark, "longbench") && x.Task == "average" && x.Selector != "dense" {
				out = append(out, x)
			}
		}
	}
	return out
}

// qualityRow is what is known of a setting.
type qualityRow struct {
	setting
	bits   string
	read   result.StepRead // of the recall row, else of the change of NLL
	recall *result.RecallRow
	nll    *result.PerplexityRow
	score  *result.ScoreRow
}

// quality sets a run's measurements of each setting side by side. Scores stand
// with the longest context of their setting, whose own is that of prompts.
func (run *Run) quality() []*qualityRow {
	var rows []*qualityRow
	of := func(s setting) *qualityRow {
		for _, row := range rows {
			if row.setting == s {
				return row
			}
		}
		rows = append(rows, &qualityRow{setting: s, bits: "-"})
		return rows[len(rows)-1]
	}
	for _, x := range run.recallMeans() {
		row := of(setting{x.Selector, x.Preset, x.Budget, x.Context})
		row.recall, row.bits, row.read = &x, number(x.BitsPerToken), x.StepRead
	}
	for _, x := range run.likelihoods() {
		row := of(setting{x.Selector, x.Preset, x.Budget, x.Context})
		if row.nll = &x; row.recall == nil {
			row.read = x.StepRead
		}
	}
	for _, x := range run.longBench() {
		at := -1
		for i, row := range rows {
			if row.selector == x.Selector && row.preset == x.Preset && row.budget == x.Budget && row.score == nil && (at < 0 || row.context > rows[at].context) {
				at = i
			}
		}
		if at < 0 {
			of(setting{selector: x.Selector, preset: x.Preset, budget: x.Budget}).score = &x
			continue
		}
		rows[at].score = &x
		rows[at].bits = number(x.BitsPerToken)
	}
	return rows
}

// qualityTable is quality against the bytes that a decode step reads, of every
// selector and budget of every run.
func (r *Report) qualityTable() Table {
	several := len(r.Runs) > 1
	var scored bool
	for _, run := range r.Runs {
		scored = scored || len(run.longBench()) > 0
	}
	t := Table{Name: "quality", Title: "Quality against bytes read per decode step"}
	if several {
		t.Columns = append(t.Columns, "run")
	}
	t.Columns = append(t.Columns, "selector", "bits per\ntoken", "context", "budget", "KiB per step\nand layer", "of dense", "rows once:\nof dense", "error", "recall", "change\nof NLL", "standard\nerror")
	if scored {
		t.Columns = append(t.Columns, "LongBench:\nof dense", "points", "95% interval")
	}
	var unknown []string
	for _, run := range r.Runs {
		rows := run.quality()
		line := func(cells ...string) {
			if several {
				cells = append([]string{run.Name}, cells...)
			}
			for len(cells) < len(t.Columns) {
				cells = append(cells, "-")
			}
			t.Rows = append(t.Rows, cells)
		}
		dense := map[int]bool{}
		for _, x := range rows {
			if d := x.read.DenseStepBytes; d > 0 && !dense[x.context] {
				dense[x.context] = true
				line("dense", "-", tokens(x.context), "-", kibibytes(d), "100%", "100%", "0", "1", "0", "-")
			}
		}
		for _, x := range rows {
			cells := []string{(&Report{Runs: []*Run{run}}).label(run, x.selector, x.preset), x.bits, "prompts", x.budget, "-", "-", "-", "-", "-", "-", "-"}
			if x.context > 0 {
				cells[2] = tokens(x.context)
				cells[4], cells[5] = kibibytes(x.read.StepBytes), ofDense(x.read)
			}
			if x.recall != nil {
				cells[6] = ofDense(result.StepRead{StepBytes: x.recall.DistinctStepBytes, DenseStepBytes: x.recall.DenseStepBytes})
				cells[7], cells[8] = fixed(x.recall.Error, 3), fixed(x.recall.Recall, 3)
			}
			if x.nll != nil {
				cells[9], cells[10] = signed(x.nll.Delta, 4), fixed(x.nll.StdErr, 4)
			}
			if x.score != nil {
				cells = append(cells, ofDense(x.score.StepRead), signed(x.score.Difference, 2), signed(x.score.Low, 2)+" to "+signed(x.score.High, 2))
			}
			line(cells...)
		}
		unknown = append(unknown, run.uncounted()...)
	}
	t.Note = strings.Join(append([]string{bytesNote + " Error is that of attention's output, relative, and recall that of the exact top tokens; change of NLL in nats per token against dense."}, unknown...), " ")
	return t
}

// uncounted says which of a run's files have no bytes, and why.
func (run *Run) uncounted() (out []string) {
	reads := map[string][]result.StepRead{}
	for _, x := range run.recallMeans() {
		reads[result.KindRecall] = append(reads[result.KindRecall], x.StepRead)
	}
	for _, x := range run.likelihoods() {
		reads[result.KindPerplexity] = append(reads[result.KindPerplexity], x.StepRead)
	}
	for _, x := range run.longBench() {
		reads["longbench"] = append(reads["longbench"], x.StepRead)
	}
	for _, kind := range []string{result.KindRecall, result.KindPerplexity, "longbench"} {
		if slices.ContainsFunc(reads[kind], func(s result.StepRead) bool { return s.DenseStepBytes == 0 }) {
			out = append(out, fmt.Sprintf("The bytes of %s's %s are unknown: an earlier version measured it, which did not count them; measure again (hashattn eval %s).", run.Name, kind, kind))
		} else if slices.ContainsFunc(reads[kind], func(s result.StepRead) bool { return s.StepBytes == 0 }) {
			out = append(out, fmt.Sprintf("Some bytes of %s's %s are unknown: beside dense layers or windows the sizes of sets that end at a share of the mass are not known.", run.Name, kind))
		}
	}
	return out
}

func kibibytes(v float64) string {
	switch {
	case v == 0:
		return "unknown"
	case v < 100<<10:
		return fixed(v/1024, 1)
	}
	return fixed(v/1024, 0)
}

func ofDense(s result.StepRead) string {
	if s.StepBytes == 0 || s.DenseStepBytes == 0 {
		return "unknown"
	}
	return fixed(100*s.StepBytes/s.DenseStepBytes, 1) + "%"
}

// panel is one measure of quality of one run against bytes, log scale.
type panel struct {
	title, y string
	lines    lines
	budgets  []string
	dense    Point // bytes of dense attention and its quality
}

// heads are the sizes of a run's attention, as ": 9q/3kv d64", "" if unknown.
func (run *Run) heads() string {
	for _, kind := range names {
		if f, ok := run.Files[kind]; ok {
			if m := f.Head().Model; m.KVHeads > 0 {
				return fmt.Sprintf(": %dq/%dkv d%d", m.QueryHeads, m.KVHeads, m.HeadDim)
			}
		}
	}
	return ""
}

// panels are a run's measures that have bytes, by column of the grid: error,
// recall, change of NLL, scores.
func (run *Run) panels() (out [4]panel) {
	add := func(column int, y string, at int, budget, label string, read result.StepRead, quality float64, p Point) {
		if read.StepBytes == 0 || read.DenseStepBytes == 0 {
			return
		}
		where := "prompts"
		if at > 0 {
			where = tokens(at)
		}
		p.X = read.StepBytes
		out[column].title, out[column].y = run.Name+run.heads()+", "+where, y
		out[column].dense = Point{X: read.DenseStepBytes, Y: quality}
		out[column].lines.add(label, p)
		if !slices.Contains(out[column].budgets, budget) {
			out[column].budgets = append(out[column].budgets, budget)
		}
	}
	own := &Report{Runs: []*Run{run}}
	for _, x := range run.recallMeans() {
		label := own.label(run, x.Selector, x.Preset)
		add(0, "output error, relative", x.Context, x.Budget, label, x.StepRead, 0, Point{Y: x.Error})
		add(1, "recall of exact top tokens", x.Context, x.Budget, label, x.StepRead, 1, Point{Y: x.Recall})
	}
	for _, x := range run.likelihoods() {
		add(2, "change of NLL, nats/token", x.Context, x.Budget, own.label(run, x.Selector, x.Preset), x.StepRead, 0, Point{Y: x.Delta, Low: x.Delta - x.StdErr, High: x.Delta + x.StdErr})
	}
	for _, x := range run.longBench() {
		add(3, x.Benchmark+", points vs dense", 0, x.Budget, own.label(run, x.Selector, x.Preset), x.StepRead, 0, Point{Y: x.Difference, Low: x.Low, High: x.High})
	}
	for i := range out {
		out[i].lines.sorted()
	}
	return out
}

// qualityGrid is a row of panels for each run, with columns that any run has.
func (r *Report) qualityGrid() (rows [][]panel) {
	var has [4]bool
	var all [][4]panel
	for _, run := range r.Runs {
		p := run.panels()
		known := false
		for i := range p {
			if len(p[i].lines) > 0 {
				has[i], known = true, true
			}
		}
		if known {
			all = append(all, p)
		}
	}
	for _, p := range all {
		var row []panel
		for i := range p {
			if has[i] {
				row = append(row, p[i])
			}
		}
		rows = append(rows, row)
	}
	return rows
}
