package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/eval/benchmark"
	"github.com/hashattn/hashattn/eval/pipeline"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/longbench"
	"github.com/hashattn/hashattn/model"
)

func (a *app) evalLongBenchCommand() *cobra.Command {
	var o measureOptions
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
		RunE: a.inSession(func(ctx context.Context, s *session) error {
			o.fill(s, "scores.json")
			f, err := s.longBench(ctx, o)
			if err != nil {
				return err
			}
			return s.show(o.out, f)
		}),
	}
	a.bindKeys(c, "name", "model", "longbench", "selectors", "sparsities", "train.denseLayers", "device")
	o.bind(c, "scores.json", besidePredictions)
	return c
}

// longBenchSource is where the samples lie, "" for those of the program.
func (s *session) longBenchSource() (string, error) {
	switch s.LongBench.Data {
	case "sample":
		return "", nil
	case "longbench":
		path, err := longBenchPath()
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err != nil {
			return "", asInput(fmt.Errorf("%s is not there: hashattn pull longbench gets it, or name a folder by longbench.data", path))
		}
		return path, nil
	}
	path, err := filepath.Abs(s.LongBench.Data)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", asInput(fmt.Errorf("longbench.data: %w", err))
	}
	return path, nil
}

// longBenchData opens the samples that the experiment names.
func (s *session) longBenchData() (*longbench.Dataset, error) {
	path, err := s.longBenchSource()
	switch {
	case err != nil:
		return nil, err
	case path == "":
		return longbench.Embedded(), nil
	}
	data, err := longbench.Open(path)
	return data, asInput(err)
}

// longBenchStage is the stage of hashattn run. Its predictions are no work to
// be removed: each knows the configuration that it was made under.
func (s *session) longBenchStage(kind string, mappings []string, inputs func() ([]string, error)) (pipeline.Stage, error) {
	path, err := s.longBenchSource()
	if err != nil {
		return pipeline.Stage{}, err
	}
	o := measureOptions{mappings: mappings}
	o.fill(s, "scores.json")
	return pipeline.Stage{
		Name: "eval-longbench", Version: 2, Outputs: []string{"scores.json"},
		Config: []any{kind, s.LongBench, s.Selectors, s.Sparsities, s.Train.Sink, s.Train.Local, s.Train.DenseLayers, s.Device.Numbers()},
		Inputs: func() ([]string, error) {
			files, err := inputs()
			if path != "" {
				files = append(files, path)
			}
			return files, err
		},
		Run: func(ctx context.Context) error { _, err := s.longBench(ctx, o); return err },
	}, nil
}

// similarity is how code is compared.
func similarity(levenshtein bool) longbench.Similarity {
	if levenshtein {
		return longbench.Levenshtein
	}
	return longbench.Difflib
}

// longBench answers, scores and writes the file.
func (s *session) longBench(ctx context.Context, o measureOptions) (*result.Scores, error) {
	data, err := s.longBenchData()
	if err != nil {
		return nil, err
	}
	defer data.Close()
	l := s.LongBench
	return s.ask(ctx, question{
		name:   "longbench",
		config: map[string]any{"maxLength": l.MaxLength, "levenshtein": l.Levenshtein, "e": l.E},
		make: func(context.Context, *model.Model) (*benchmark.Benchmark, error) {
			return benchmark.LongBench(benchmark.LongBenchOptions{
				Data: data, Tasks: l.Tasks, Samples: l.Samples, E: l.E, Similarity: similarity(l.Levenshtein),
			})
		},
		protocol: func(b *benchmark.Options) { b.MaxLength = int(l.MaxLength) },
	}, o)
}
