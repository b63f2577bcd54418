package main

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/eval/benchmark"
	"github.com/hashattn/hashattn/eval/report"
	"github.com/hashattn/hashattn/longbench"
	"github.com/hashattn/hashattn/model/atomicfile"
)

type scoreOptions struct {
	e, levenshtein, full bool
	out, against         string
}

func (a *app) evalScoreCommand() *cobra.Command {
	var o scoreOptions
	c := &cobra.Command{
		Use:   "score DIR",
		Short: "Score predictions that anyone made, as LongBench's scorer does",
		Long: `eval score reads a folder of predictions, TASK.jsonl (also .gz, .zst) with a JSON
object a line: pred, answers, all_classes and length, as LongBench's own script
and eval longbench write them. It prints the scores and writes result.json, both
equal to the official scorer's.

With --against it instead sets the predictions beside those of another folder,
sample by sample, and shows where they first differ.
` + exitHelp,
		Example: `  hashattn eval score pred/llama3-8b-instruct
  hashattn eval score pred_e/llama3-8b-instruct --e --full
  hashattn eval score runs/quickstart/predictions/dense --against transformers`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, dirs []string) error {
			if o.against != "" {
				return a.compare(dirs[0], o.against)
			}
			r, err := longbench.Score(c.Context(), dirs[0], longbench.Options{E: o.e, Similarity: similarity(o.levenshtein), Full: o.full})
			if err != nil {
				return asInput(err)
			}
			out := o.out
			if out == "" {
				out = filepath.Join(dirs[0], "result.json")
			}
			// Shown first: they are seen even where nothing can be written.
			if err := a.showScores(r); err != nil {
				return err
			}
			if err := atomicfile.Replace(out, r.JSON()); err != nil {
				return err
			}
			a.progress.logf("wrote %s", out)
			return nil
		},
	}
	c.Flags().BoolVar(&o.e, "e", false, "LongBench-E: scores by length")
	c.Flags().BoolVar(&o.levenshtein, "levenshtein", false, "code similarity as the official scorer has it where python-Levenshtein is installed")
	c.Flags().BoolVar(&o.full, "full", false, "want a prediction for every sample of the official data set")
	c.Flags().StringVarP(&o.out, "out", "o", "", "`file` to write (default: result.json in DIR)")
	c.Flags().StringVar(&o.against, "against", "", "compare with the predictions in this `folder`")
	return c
}

// showScores prints a table, or the official result.json.
func (a *app) showScores(r longbench.Result) error {
	if a.json {
		a.printf("%s\n", r.JSON())
		return nil
	}
	t := report.Table{Title: "LongBench", Columns: []string{"task", "samples", "score"}}
	score := func(v float64) string {
		if math.IsNaN(v) {
			return "-"
		}
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	add := func(name, samples string, mean float64, bucket func(int) float64) {
		row := []string{name, samples, score(mean)}
		if r.E {
			for i := range longbench.Buckets {
				row = append(row, score(bucket(i)))
			}
		}
		t.Rows = append(t.Rows, row)
	}
	if r.E {
		t.Title = "LongBench-E"
		t.Columns = append(t.Columns, longbench.Buckets[:]...)
	}
	for _, task := range r.Tasks {
		add(task.Task.Name, strconv.Itoa(len(task.Samples)), task.Score, func(i int) float64 { return task.Buckets[i] })
	}
	add("average", "", r.Average(nil), func(i int) float64 { return r.AverageBucket(i, nil) })
	keep := longbench.WithoutPassageCount
	add("average without passage_count", "", r.Average(keep), func(i int) float64 { return r.AverageBucket(i, keep) })
	return t.Terminal(a.stdout)
}

// compare prints how two folders of predictions differ.
func (a *app) compare(dir, against string) error {
	all, err := benchmark.Compare(dir, against)
	if err != nil {
		return asInput(err)
	}
	if a.json {
		return a.printJSON(all)
	}
	t := report.Table{Title: "Predictions of " + dir + " and " + against, Columns: []string{"task", "samples", "equal", "only here", "only there"}}
	for _, c := range all {
		t.Rows = append(t.Rows, []string{c.Task, strconv.Itoa(c.Samples), strconv.Itoa(c.Equal), strconv.Itoa(c.Here), strconv.Itoa(c.There)})
	}
	if err := t.Terminal(a.stdout); err != nil {
		return err
	}
	for _, c := range all {
		for _, d := range c.Differences {
			a.printf("\n%s %s: %s\n  here  %s\n  there %s\n", c.Task, d.Sample, where(d), quote(d.Before, d.Here), quote(d.Before, d.There))
		}
	}
	return nil
}

// where says at which token predictions part, and why if it is known.
func where(d benchmark.Difference) string {
	text := "the answers differ"
	if d.Token >= 0 {
		text = fmt.Sprintf("they part at token %d of the answer", d.Token+1)
	}
	switch {
	case d.Prompts:
		text = "the prompts differ; " + text
	case d.Lead != nil:
		text += fmt.Sprintf(", whose logit leads there by %.3g", *d.Lead)
	}
	return text
}

// quote shows a text from where it differs, behind what both share.
func quote(before, text string) string { return fmt.Sprintf("%q + %q", before, text) }
