package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/eval/benchmark"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/model"
)

func (a *app) evalRulerCommand() *cobra.Command {
	var o measureOptions
	c := &cobra.Command{
		Use:   "ruler",
		Short: "Score RULER's synthetic tasks under sparse attention",
		Long: `eval ruler generates RULER's tasks at a length in the model's tokens (needles,
variable tracking, common and frequent words; questions where SQuAD's or
HotpotQA's file is given), or reads a file that upstream's scripts prepared, and
answers them under dense attention and under every selector and budget. The same
seed gives the same samples. Predictions are kept as they are made, so that a
stopped run goes on.
` + exitHelp,
		Example: `  hashattn eval ruler --config quickstart --context 4K
  hashattn eval ruler --tasks niah_multikey_3,vt --context 8K --samples 50 --sparsities 1/32
  hashattn eval ruler --tasks niah_multikey_3 --file niah_multikey_3/validation.jsonl`,
		Args: args(cobra.NoArgs),
		RunE: a.inSession(func(ctx context.Context, s *session) error {
			o.fill(s, "ruler/scores.json")
			f, err := s.ruler(ctx, o)
			if err != nil {
				return err
			}
			return s.show(o.out, f)
		}),
	}
	a.bindKeys(c, "name", "model", "eval.ruler", "selectors", "sparsities", "train.denseLayers", "device")
	o.bind(c, "ruler/scores.json", besidePredictions)
	return c
}

// ruler answers, scores and writes the file.
func (s *session) ruler(ctx context.Context, o measureOptions) (*result.Scores, error) {
	r := s.Eval.Ruler
	text, err := haystack(r.Haystack)
	if err != nil {
		return nil, err
	}
	return s.ask(ctx, question{
		name: "ruler", config: map[string]any{"context": r.Context, "seed": r.Seed},
		make: func(ctx context.Context, m *model.Model) (*benchmark.Benchmark, error) {
			if c := int(r.Context); r.File == "" && c > m.Context {
				return nil, beyond(m, c, "eval.ruler.context")
			}
			return benchmark.Ruler(ctx, benchmark.RulerOptions{
				Tokenizer: m.Tokenizer, Context: int(r.Context), Tasks: r.Tasks, Samples: r.Samples, Seed: r.Seed,
				Haystack: text, SQuAD: r.SQuAD, HotpotQA: r.HotpotQA, Prepared: r.File,
			})
		},
	}, o)
}
