package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/eval/benchmark"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/longbench"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/hub"
)

type longBenchOptions struct {
	benchmarkOptions
	e bool
}

func (a *app) evalLongBenchCommand() *cobra.Command {
	var o longBenchOptions
	c := &cobra.Command{
		Use:   "longbench",
		Short: "Score answers to LongBench under sparse attention",
		Long: `eval longbench answers LongBench's questions greedily, under dense attention and
under every selector and budget, and scores the answers as the official scorer
does. Prompts are the official ones, cut in the middle where they are too long.
By the paper's protocol the prompt is prefilled densely but for its last
prefillOffset tokens, which, as the answer, use sparse attention. One prefill
serves all settings.

Every prediction is kept as it is made, in predictions/SETTING/TASK.jsonl beside
the file of scores: a stopped run goes on, a changed configuration does not
reuse them. --data sample asks the few samples that come with the program, which
compare with no published score.
` + exitHelp,
		Example: `  hashattn eval longbench --config quickstart
  hashattn eval longbench --data LongBench/data --tasks qasper,trec --samples 20 --sparsities 1/16,1/32
  hashattn eval longbench --data data.zip --e --max-length 7500 --memory 8GiB`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.experiment(c)
			if err != nil {
				return err
			}
			s := a.session(e)
			defer s.Close()
			if err := o.fill(s, "scores.json"); err != nil {
				return err
			}
			f, err := s.longBench(c.Context(), o)
			if err != nil {
				return err
			}
			return s.show(o.out, f)
		},
	}
	a.bindKeys(c, "name", "model", "longbench", "selectors", "sparsities", "device")
	a.bindBenchmark(c, &o.benchmarkOptions, "scores.json")
	c.Flags().BoolVar(&o.e, "e", false, "LongBench-E: scores by length")
	return c
}

// longBenchData opens the samples that the experiment names.
func (s *session) longBenchData() (*longbench.Dataset, error) {
	switch s.LongBench.Data {
	case "sample":
		return longbench.Embedded(), nil
	case "longbench":
		cache, err := hub.CacheDir()
		if err != nil {
			return nil, err
		}
		path := filepath.Join(cache, "longbench", "data.zip")
		data, err := longbench.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, asInput(fmt.Errorf("%s is not there; download %s to it, or name a folder by --data", path, longbench.DataURL))
		}
		return data, asInput(err)
	}
	data, err := longbench.Open(s.LongBench.Data)
	return data, asInput(err)
}

// similarity is how code is compared.
func similarity(levenshtein bool) longbench.Similarity {
	if levenshtein {
		return longbench.Levenshtein
	}
	return longbench.Difflib
}

// longBench answers, scores and writes the file.
func (s *session) longBench(ctx context.Context, o longBenchOptions) (*result.Scores, error) {
	data, err := s.longBenchData()
	if err != nil {
		return nil, err
	}
	defer data.Close()
	l := s.LongBench
	return s.ask(ctx, question{
		name:   "longbench",
		config: map[string]any{"maxLength": l.MaxLength, "levenshtein": l.Levenshtein, "e": o.e},
		make: func(context.Context, *model.Model) (*benchmark.Benchmark, error) {
			return benchmark.LongBench(benchmark.LongBenchOptions{
				Data: data, Tasks: l.Tasks, Samples: l.Samples, E: o.e, Similarity: similarity(l.Levenshtein),
			})
		},
		protocol: func(b *benchmark.Options) { b.MaxLength = int(l.MaxLength) },
	}, o.benchmarkOptions)
}
