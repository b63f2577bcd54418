package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/configs/texts"
	"github.com/hashattn/hashattn/eval/benchmark"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/longbench"
	"github.com/hashattn/hashattn/model"
)

// benchmarkOptions are the flags of eval longbench, niah and ruler.
type benchmarkOptions struct {
	out, predictions, calibration string
	mappings                      []string
}

// bindBenchmark adds the flags that all benchmarks have.
func (o *benchmarkOptions) bind(c *cobra.Command, file string) {
	f := c.Flags()
	f.StringVarP(&o.out, "out", "o", "", "`file` to write (default: "+file+" in the run's folder)")
	f.StringVar(&o.predictions, "predictions", "", "`folder` of the answers, kept as they are made (default: predictions in the run's folder)")
	f.StringVar(&o.calibration, "calibration", "", "trace that pq and doublesparsity calibrate on (default: traces/calibration in the run's `folder`)")
	f.StringArrayVar(&o.mappings, "mapping", nil, "mapping `file`, may be repeated (default: those of the run)")
}

// fill sets what the user left out.
func (o *benchmarkOptions) fill(s *session, file string) {
	if o.out == "" {
		o.out = s.path(file)
	}
	if o.predictions == "" {
		o.predictions = filepath.Join(filepath.Dir(o.out), "predictions", strings.TrimSuffix(file, ".json"))
	}
	if o.calibration == "" {
		o.calibration = s.path("traces", "calibration")
	}
}

// benchmarkConfig is what scores depend on beside model, mappings and samples.
func (s *session) benchmarkConfig(own any) any {
	l := s.LongBench
	return map[string]any{"benchmark": own, "selectors": s.Selectors, "sparsities": s.Sparsities, "sink": s.Train.Sink, "local": s.Train.Local, "denseLayers": s.Train.DenseLayers,
		"prefillOffset": l.PrefillOffset, "questionSparse": l.QuestionSparse, "maxLength": l.MaxLength, "cache": s.Device.Cache, "chunk": s.Device.Chunk}
}

// ask answers a benchmark's questions and writes the scores.
func (s *session) ask(ctx context.Context, m *model.Model, b *benchmark.Benchmark, own any, o benchmarkOptions) (*result.Scores, error) {
	begin := time.Now()
	settings, _, err := s.modelSettings(m, o.mappings, o.calibration)
	if err != nil {
		return nil, err
	}
	memory := int64(s.LongBench.Memory)
	if memory == 0 {
		memory = m.Device.Info().Memory / 2
	}
	task := s.app.progress.task("eval "+b.Name, false)
	defer task.end()
	outcome, err := benchmark.Run(ctx, b, benchmark.Options{
		Model: m, Settings: settings, Budgets: s.budgets(), QuestionSparse: s.LongBench.QuestionSparse, PrefillOffset: s.LongBench.PrefillOffset,
		MaxLength: int(s.LongBench.MaxLength), CacheType: cacheType(s.Device), Chunk: int(s.Device.Chunk), Memory: memory, Dir: o.predictions,
		Notice:   func(text string) { s.app.progress.logf("%s", text) },
		Progress: func(p benchmark.Progress) { task.left(p.Done, p.Total, p.Task, p.Remaining) },
	})
	if err != nil {
		return nil, err
	}
	task.end()
	f := &result.Scores{Rows: outcome.Rows}
	f.Header, err = s.header(result.KindScores, s.benchmarkConfig(own), nil, m.Name, m.Fingerprint, m.Device, begin)
	if err != nil {
		return nil, err
	}
	f.Header.Samples = outcome.Samples
	s.app.progress.logf("%d answers made, the others were there, in %s", outcome.Made, elapsed(time.Since(begin)))
	return f, s.finish(o.out, f)
}

// benchmarkCommand is a command that asks one benchmark. keys are the
// experiment's keys beside those that all have.
func (a *app) benchmarkCommand(use, short, long, example, file string, keys []string, ask func(context.Context, *session, benchmarkOptions) (*result.Scores, error)) *cobra.Command {
	var o benchmarkOptions
	c := &cobra.Command{
		Use: use, Short: short, Long: long + exitHelp, Example: example,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.experiment(c)
			if err != nil {
				return err
			}
			s := a.session(e)
			defer s.Close()
			o.fill(s, file)
			f, err := ask(c.Context(), s, o)
			if err != nil {
				return err
			}
			return s.show(o.out, f)
		},
	}
	a.bindKeys(c, append([]string{"name", "model", "device", "selectors", "sparsities", "longbench.prefillOffset", "longbench.questionSparse", "longbench.memory"}, keys...)...)
	o.bind(c, file)
	return c
}

func (a *app) evalLongBenchCommand() *cobra.Command {
	return a.benchmarkCommand("longbench", "Score answers on LongBench, dense and sparse", `eval longbench asks LongBench's questions (or LongBench-E's) under dense attention
and every selector and budget, by the paper's protocol: a dense prefill but for
the last 128 tokens of the prompt. One prefill of a sample serves all settings.
Every answer is kept when made; a stopped run goes on without a hole. Data is
sample (a few short ones that ship with the program), longbench (pulled before),
a folder of TASK.jsonl files or the published data.zip.
`, `  hashattn eval longbench --tasks trec,samsum
  hashattn eval longbench --config full --data longbench/ --tasks qasper,hotpotqa --samples 20
  hashattn pull longbench && hashattn eval longbench --data longbench --selectors hash --sparsities 1/32`, "scores.json",
		[]string{"longbench.data", "longbench.tasks", "longbench.samples", "longbench.maxLength", "longbench.e", "longbench.levenshtein"},
		func(ctx context.Context, s *session, o benchmarkOptions) (*result.Scores, error) {
			return s.longBench(ctx, o)
		})
}

// similarity is how code is compared.
func similarity(levenshtein bool) longbench.Similarity {
	if levenshtein {
		return longbench.Levenshtein
	}
	return longbench.Difflib
}

// openLongBench opens the samples that the experiment names.
func (s *session) openLongBench() (*longbench.Dataset, error) {
	switch s.LongBench.Data {
	case "sample":
		return longbench.Embedded(), nil
	case "longbench":
		path, err := longBenchPath()
		if err != nil {
			return nil, err
		}
		d, err := longbench.Open(path)
		if err != nil {
			return nil, asInput(fmt.Errorf("%w (hashattn pull longbench gets it)", err))
		}
		return d, nil
	}
	d, err := longbench.Open(s.LongBench.Data)
	return d, asInput(err)
}

func (s *session) longBench(ctx context.Context, o benchmarkOptions) (*result.Scores, error) {
	data, err := s.openLongBench()
	if err != nil {
		return nil, err
	}
	defer data.Close()
	l := s.LongBench
	b, err := benchmark.LongBench(benchmark.LongBenchOptions{Data: data, Tasks: l.Tasks, Samples: l.Samples, E: l.E, Similarity: similarity(l.Levenshtein)})
	if err != nil {
		return nil, asInput(err)
	}
	m, err := s.openModel(ctx)
	if err != nil {
		return nil, err
	}
	return s.ask(ctx, m, b, map[string]any{"tasks": l.Tasks, "samples": l.Samples, "e": l.E, "levenshtein": l.Levenshtein}, o)
}

// haystack is the text to hide needles in.
func haystack(source string) (string, error) {
	docs, err := texts.Read(source)
	if err != nil {
		return "", asInput(err)
	}
	all := make([]string, len(docs))
	for i, d := range docs {
		all[i] = d.Text
	}
	return strings.Join(all, "\n"), nil
}
