// Package report turns result files into tables and plots: on the terminal,
// in report.md with plots beside it, in one self-contained report.html, in CSV.
//
// Load reads the folder of a run; New sets several runs side by side and
// refuses what does not compare; the Report then makes Tables and Plots (one
// function each, in tables.go and plots.go), which know nothing of the format
// that they are written in.
package report

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/hashattn/hashattn/eval/result"
)

// names are the results of a run, in the order of a report: one file of each
// kind, and the benchmarks that keep their scores in a folder of their own.
var names = []string{result.KindRecall, result.KindPerplexity, result.KindScores, "niah", "ruler", result.KindBench}

// kindOf is what a file of that name must hold.
func kindOf(name string) string {
	if slices.Contains(result.Kinds, name) {
		return name
	}
	return result.KindScores
}

// fileOf is where a run has the results of that name.
func fileOf(name string) string {
	if slices.Contains(result.Kinds, name) {
		return name + ".json"
	}
	return filepath.Join(name, "scores.json")
}

// Run is the results of one run.
type Run struct {
	Name   string                 // of its folder
	Files  map[string]result.File // by name
	Losses []result.LossRow
}

// Load reads a run: a folder with result files, or one result file.
func Load(path string) (*Run, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	run := &Run{Files: map[string]result.File{}}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		f, err := result.Read(path)
		if err != nil {
			return nil, err
		}
		dir, name := filepath.Dir(abs), f.Head().Kind
		if own := filepath.Base(dir); name == result.KindScores && slices.Contains(names, own) {
			dir, name = filepath.Dir(dir), own
		}
		run.Name = filepath.Base(dir)
		run.Files[name] = f
		return run, nil
	}
	run.Name = filepath.Base(abs)
	var files []string
	for _, name := range names {
		files = append(files, fileOf(name))
		file := filepath.Join(path, fileOf(name))
		f, err := result.Read(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if f.Head().Kind != kindOf(name) {
			return nil, fmt.Errorf("%s: holds %s results", file, f.Head().Kind)
		}
		run.Files[name] = f
	}
	if len(run.Files) == 0 {
		return nil, fmt.Errorf("%s: no results there (looked for %s)", path, strings.Join(files, ", "))
	}
	curves, err := filepath.Glob(filepath.Join(path, "train", "*", "losses.jsonl"))
	if err != nil {
		return nil, err
	}
	for _, c := range curves {
		rows, err := result.ReadLosses(c)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			row.Preset = filepath.Base(filepath.Dir(c)) // training keeps each preset in a folder
			run.Losses = append(run.Losses, row)
		}
	}
	return run, nil
}

// Report is runs side by side.
type Report struct {
	Title string
	Runs  []*Run
	// parts are reports of runs that compare; none where all do.
	parts []*Report
}

// New sets runs side by side. Runs of one model whose samples or contexts
// differ do not compare, and are an error that says which and how. Those of
// different models stand one below another, each with tables and plots of its
// own; only the table and the plot of quality against bytes show all.
func New(runs ...*Run) (*Report, error) {
	if len(runs) == 0 {
		return nil, errors.New("report: no runs")
	}
	titles := make([]string, len(runs))
	for i, r := range runs {
		titles[i] = r.Name
	}
	for i, r := range runs { // the same folder name twice: tell them apart
		if n := slices.Index(titles, r.Name); n < i {
			return nil, fmt.Errorf("report: two runs are named %s; rename one folder", r.Name)
		}
	}
	var parts [][]*Run
	for _, r := range runs {
		at := -1
		for i, part := range parts {
			compares := true
			for _, other := range part {
				same, err := compare(other, r)
				if err != nil && same {
					return nil, err
				}
				compares = compares && err == nil
			}
			if compares && at < 0 {
				at = i
			}
		}
		if at < 0 {
			parts = append(parts, nil)
			at = len(parts) - 1
		}
		parts[at] = append(parts[at], r)
	}
	report := &Report{Title: strings.Join(titles, ", "), Runs: runs}
	if len(parts) > 1 {
		for _, part := range parts {
			var names []string
			for _, r := range part {
				names = append(names, r.Name)
			}
			report.parts = append(report.parts, &Report{Title: strings.Join(names, ", "), Runs: part})
		}
	}
	return report, nil
}

// compare reports results of two runs that do not compare, and whether they
// are, or may be, of the same model.
func compare(first, r *Run) (same bool, err error) {
	for _, kind := range names {
		g, ok := first.Files[kind]
		f, too := r.Files[kind]
		if !ok || !too {
			continue
		}
		if a, b := g.Head().Samples, f.Head().Samples; a != b {
			err = fmt.Errorf("report: %s and %s measured %s on different samples (%s and %s); measure both on the same texts", first.Name, r.Name, kind, short(a), short(b))
		} else if a, b := contexts(g), contexts(f); !slices.Equal(a, b) {
			err = fmt.Errorf("report: %s and %s measured %s at different contexts (%v and %v)", first.Name, r.Name, kind, a, b)
		}
		if err != nil {
			a, b := first.model(), r.model()
			return a == b || a == "" || b == "", err
		}
	}
	return true, nil
}

// model tells the models of runs apart; "" if no file names one.
func (run *Run) model() string {
	for _, name := range names {
		f, ok := run.Files[name]
		if !ok {
			continue
		}
		if m := f.Head().Model; m.Fingerprint != "" {
			return m.Fingerprint
		} else if m.Name != "" {
			return m.Name
		}
	}
	return ""
}

// short is the beginning of a hash.
func short(hash string) string {
	if hash == "" {
		return "none"
	}
	return hash[:min(12, len(hash))]
}

// contexts are the distinct contexts of a file, ascending. Those of bench are
// left out: a latency stands for itself.
func contexts(f result.File) []int {
	var out []int
	switch f := f.(type) {
	case *result.Recall:
		for _, r := range f.Rows {
			out = append(out, r.Context)
		}
	case *result.Perplexity:
		for _, r := range f.Rows {
			out = append(out, r.Context)
		}
	case *result.Scores:
		for _, r := range f.Rows {
			out = append(out, r.Context)
		}
	}
	sort.Ints(out)
	return slices.Compact(out)
}

// rows gives f every row of the runs' files of one type.
func rows[F result.File, R any](r *Report, kind string, list func(F) []R, f func(*Run, R)) {
	for _, run := range r.Runs {
		if file, ok := run.Files[kind].(F); ok {
			for _, row := range list(file) {
				f(run, row)
			}
		}
	}
}

func (r *Report) recall(f func(*Run, result.RecallRow)) {
	rows(r, result.KindRecall, func(x *result.Recall) []result.RecallRow { return x.Rows }, f)
}

func (r *Report) perplexity(f func(*Run, result.PerplexityRow)) {
	rows(r, result.KindPerplexity, func(x *result.Perplexity) []result.PerplexityRow { return x.Rows }, f)
}

func (r *Report) bench(f func(*Run, result.BenchRow)) {
	rows(r, result.KindBench, func(x *result.Bench) []result.BenchRow { return x.Rows }, f)
}

func (r *Report) scores(f func(*Run, result.ScoreRow)) {
	for _, name := range names {
		if kindOf(name) == result.KindScores {
			rows(r, name, func(x *result.Scores) []result.ScoreRow { return x.Rows }, f)
		}
	}
}

// label names a setting in tables and legends.
func (r *Report) label(run *Run, selector, preset string) string {
	name := selector
	if preset != "" {
		name += " " + preset
	}
	if len(r.Runs) > 1 {
		name = run.Name + ": " + name
	}
	return name
}

// Tables are all tables that the runs have results for, the summary first.
func (r *Report) Tables() []Table {
	if len(r.parts) > 0 {
		out := []Table{r.qualityTable()}
		for _, part := range r.parts {
			for _, t := range part.comparedTables() {
				t.Name, t.Title = part.fileName(t.Name), part.Title+": "+t.Title
				out = append(out, t)
			}
		}
		return append(out, r.provenanceTable())
	}
	out := r.comparedTables()
	if t := r.qualityTable(); len(t.Rows) > 0 {
		out = slices.Insert(out, min(1, len(out)), t)
	}
	return append(out, r.provenanceTable())
}

// fileName is that of a part's table or plot.
func (r *Report) fileName(name string) string {
	return strings.ReplaceAll(r.Title, ", ", "-") + "-" + name
}

// comparedTables are those whose rows compare, the summary first.
func (r *Report) comparedTables() []Table {
	var out []Table
	for _, t := range []Table{r.summaryTable(), r.recallTable(), r.layerTable(), r.perplexityTable()} {
		if len(t.Rows) > 0 {
			out = append(out, t)
		}
	}
	for _, t := range append(r.scoreTables(), r.benchTables()...) {
		if len(t.Rows) > 0 {
			out = append(out, t)
		}
	}
	if t := r.trainingTable(); len(t.Rows) > 0 {
		out = append(out, t)
	}
	return out
}

// Plots are all plots of lines that the runs have results for.
func (r *Report) Plots() []Plot {
	var out []Plot
	for _, part := range r.parts {
		for _, p := range part.Plots() {
			p.Name, p.Title = part.fileName(p.Name), part.Title+": "+p.Title
			out = append(out, p)
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, p := range []Plot{
		r.recallPlot(), r.bitsPlot(), r.perplexityPlot(), r.scoreDensityPlot(), r.scoreBitsPlot(), r.scoreLatencyPlot(),
		r.speedupPlot(), r.lossPlot(),
	} {
		if len(p.Lines) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// Figure is a drawing of the report.
type Figure struct {
	Name  string // of its SVG file
	Title string
	Map   bool // a heat map, whose colours mean something and whose size is its own
	Wide  bool // takes the page's whole width
	SVG   func() ([]byte, error)
}

// Figures are all drawings that the runs have results for: plots and the heat
// maps of needle in a haystack.
func (r *Report) Figures() ([]Figure, error) {
	var out []Figure
	if grid := r.qualityGrid(); len(grid) > 0 {
		out = append(out, Figure{Name: "quality", Title: "Quality against bytes read per decode step", Wide: true, SVG: func() ([]byte, error) { return gridSVG(grid) }})
	}
	for _, p := range r.Plots() {
		out = append(out, Figure{Name: p.Name, Title: p.Title, SVG: p.SVG})
	}
	for _, run := range r.Runs {
		for _, name := range names {
			scores, ok := run.Files[name].(*result.Scores)
			if !ok {
				continue
			}
			maps, err := HeatMaps(scores.Rows)
			if err != nil {
				return nil, fmt.Errorf("report: %s of %s: %w", name, run.Name, err)
			}
			for _, m := range maps {
				m.Title = r.label(run, m.Title, "")
				out = append(out, Figure{Name: m.FileName(), Title: "Needle in a haystack: " + m.Title, Map: true, SVG: m.SVG})
			}
		}
	}
	return out, nil
}
