package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/eval/report"
)

type reportOptions struct {
	out    string
	format string
}

func (a *app) reportCommand() *cobra.Command {
	var o reportOptions
	c := &cobra.Command{
		Use:   "report RUN...",
		Short: "Turn the results of one run or several into tables and plots",
		Long: `report reads recall.json, perplexity.json, scores.json and bench.json of each run
(a folder, or one such file), prints tables, and with --out writes report.md,
report.html (self-contained), plots/*.svg and csv/*.csv. Runs of one model whose
samples or contexts differ are refused: their numbers do not compare. Those of
different models stand one below another.

One table and one plot, quality, have all runs: output error, recall, change of
NLL and LongBench points of every selector and budget against the bytes that a
decode step must read in a layer. Those are the index of all cached tokens; in
bf16, the keys and values of sink and local once for each KV head and of every
chosen token once for each set that chose it, a query head's or a KV head's; and
the keys of what reranking reads beside. Results of earlier versions, which did
not count bytes, say unknown.
` + exitHelp,
		Example: `  hashattn report runs/quickstart
  hashattn report runs/a runs/b --out compared
  hashattn report runs/qwen2.5-coder-0.5b runs/qwen2.5-coder-1.5b runs/smollm2-135m --out models
  hashattn report runs/quickstart --format csv`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, paths []string) error { return a.runReport(o, paths) },
	}
	c.Flags().StringVarP(&o.out, "out", "o", "", "write report.md, report.html, plots and CSV files into this `folder`")
	c.Flags().StringVar(&o.format, "format", "text", "of standard output: text, markdown, csv, html")
	return c
}

func (a *app) runReport(o reportOptions, paths []string) error {
	var runs []*report.Run
	for _, p := range paths {
		run, err := report.Load(p)
		if err != nil {
			return asInput(err)
		}
		runs = append(runs, run)
	}
	r, err := report.New(runs...)
	if err != nil {
		return asInput(err)
	}
	if o.out != "" {
		if err := r.Write(o.out); err != nil {
			return err
		}
		a.progress.logf("wrote %s and %s", filepath.Join(o.out, "report.md"), filepath.Join(o.out, "report.html"))
	}
	if a.json {
		return a.printJSON(r.Tables())
	}
	switch o.format {
	case "text":
		return r.Terminal(a.stdout)
	case "markdown":
		return r.Markdown(a.stdout)
	case "html":
		return r.HTML(a.stdout)
	case "csv":
		for _, t := range r.Tables() {
			a.printf("# %s\n%s\n", t.Title, t.CSV())
		}
		return nil
	}
	return usagef("--format %q is not one of text, markdown, csv, html", o.format)
}
