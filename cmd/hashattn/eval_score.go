package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/eval/benchmark"
	"github.com/hashattn/hashattn/eval/report"
	"github.com/hashattn/hashattn/longbench"
)

type scoreOptions struct {
	e, levenshtein, full bool
	out, against         string
}

func (a *app) evalScoreCommand() *cobra.Command {
	var o scoreOptions
	c := &cobra.Command{
		Use:   "score DIR",
		Short: "Score LongBench predictions that anyone made",
		Long: `eval score scores a folder of predictions as LongBench's official scorer does,
TASK.jsonl (also .gz, .zst) with pred, answers, all_classes and length on each
line, prints the scores and writes result.json. Damaged lines, missing fields
and truncated files are errors that name file and line. With --against it also
says where each sample's predictions in two folders part, and, for predictions of
scripts/longbench_transformers.py, by how much the token there led the next one:
a tiny lead is a tie that rounding decided.
` + exitHelp,
		Example: `  hashattn eval score pred/llama3-8b-instruct
  hashattn eval score pred_e/model --e
  hashattn eval score ours --against theirs`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, dirs []string) error { return a.runScore(c.Context(), o, dirs[0]) },
	}
	f := c.Flags()
	f.BoolVar(&o.e, "e", false, "LongBench-E: scores by length")
	f.BoolVar(&o.levenshtein, "levenshtein", false, "code similarity by Levenshtein ratio instead of difflib's")
	f.BoolVar(&o.full, "full", false, "want as many predictions of each task as the official data has samples")
	f.StringVarP(&o.out, "out", "o", "", "`file` to write (default: DIR/result.json)")
	f.StringVar(&o.against, "against", "", "another `folder` of predictions to compare with")
	return c
}

func (a *app) runScore(ctx context.Context, o scoreOptions, dir string) error {
	r, err := longbench.Score(ctx, dir, longbench.Options{E: o.e, Similarity: similarity(o.levenshtein), Full: o.full})
	if err != nil {
		return asInput(err)
	}
	if o.out == "" {
		o.out = filepath.Join(dir, "result.json")
	}
	if err := r.WriteFile(o.out); err != nil {
		return err
	}
	a.progress.logf("wrote %s", o.out)
	if a.json {
		return a.printScoreJSON(r)
	}
	if err := scoreTable(r).Terminal(a.stdout); err != nil {
		return err
	}
	if o.against == "" {
		return nil
	}
	all, err := benchmark.Compare(dir, o.against)
	if err != nil {
		return asInput(err)
	}
	t := report.Table{Title: "Predictions that are equal", Columns: []string{"task", "samples", "equal", "only here", "only there"}}
	for _, c := range all {
		t.Rows = append(t.Rows, []string{c.Task, strconv.Itoa(c.Samples), strconv.Itoa(c.Equal), strconv.Itoa(c.Here), strconv.Itoa(c.There)})
	}
	if err := t.Terminal(a.stdout); err != nil {
		return err
	}
	for _, c := range all {
		for _, d := range c.Differences {
			a.printf("\n%s %s: %s\n  here  %q + %q\n  there %q + %q\n", c.Task, d.Sample, where(d), d.Before, d.Here, d.Before, d.There)
		}
	}
	return nil
}

// where says at which token two predictions part, and why if it is known.
func where(d benchmark.Difference) string {
	text := "the answers differ"
	if d.Token >= 0 {
		text = fmt.Sprintf("they part at token %d of the answer", d.Token+1)
	}
	switch {
	case d.Prompts:
		return "the prompts differ; " + text
	case d.Lead != nil:
		return fmt.Sprintf("%s, whose logit leads there by %.3g", text, *d.Lead)
	}
	return text
}

// printScoreJSON prints result.json as strict JSON: ranges without samples,
// which Python writes as NaN, are left out.
func (a *app) printScoreJSON(r longbench.Result) error {
	if !r.E {
		return a.printJSON(json.RawMessage(r.JSON()))
	}
	out := map[string]map[string]float64{}
	for _, t := range r.Tasks {
		out[t.Task.Name] = map[string]float64{}
		for i, v := range t.Buckets {
			if v == v {
				out[t.Task.Name][longbench.Buckets[i]] = v
			}
		}
	}
	return a.printJSON(out)
}

// scoreTable is the scores by task, with the averages.
func scoreTable(r longbench.Result) report.Table {
	two := func(v float64) string {
		if v != v {
			return "-"
		}
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	t := report.Table{Title: "LongBench scores", Columns: []string{"task", "samples", "score"}}
	if r.E {
		t.Title, t.Columns = "LongBench-E scores", append(t.Columns, longbench.Buckets[:]...)
	}
	add := func(name, samples string, score float64, buckets func(int) float64) {
		row := []string{name, samples, two(score)}
		if r.E {
			for i := range longbench.Buckets {
				row = append(row, two(buckets(i)))
			}
		}
		t.Rows = append(t.Rows, row)
	}
	for _, task := range r.Tasks {
		add(task.Task.Name, strconv.Itoa(len(task.Samples)), task.Score, func(i int) float64 { return task.Buckets[i] })
	}
	add("average", "-", r.Average(nil), func(i int) float64 { return r.AverageBucket(i, nil) })
	add("without passage_count", "-", r.Average(longbench.WithoutPassageCount), func(i int) float64 { return r.AverageBucket(i, longbench.WithoutPassageCount) })
	return t
}
