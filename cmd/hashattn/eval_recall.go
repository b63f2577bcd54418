package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/model/selector"
	"github.com/hashattn/hashattn/model/trace"
)

type recallOptions struct {
	measureOptions
	trace string
}

func (a *app) evalRecallCommand() *cobra.Command {
	var o recallOptions
	c := &cobra.Command{
		Use:   "recall",
		Short: "Measure how much of exact attention the chosen tokens keep",
		Long: `eval recall takes queries and keys of a held-out trace and measures, for each
selector, context and budget: recall of the exact top 32 tokens outside sink and
local, the attention mass on the tokens read, and the relative error of
attention's output. It needs no model, only the trace and the mappings.
` + exitHelp,
		Example: `  hashattn eval recall --config quickstart
  hashattn eval recall --trace traces/heldout --mapping shared.safetensors --selectors hash,quest --sparsities 1/32
  hashattn eval recall --per-head --out recall.json`,
		Args: args(cobra.NoArgs),
		RunE: a.inSession(func(ctx context.Context, s *session) error {
			o.fill(s)
			f, err := s.recall(ctx, o)
			if err != nil {
				return err
			}
			return s.show(o.out, f)
		}),
	}
	a.bindKeys(c, "name", "eval.recall", "selectors", "sparsities", "train.denseLayers", "device")
	c.Flags().StringVar(&o.trace, "trace", "", "held-out trace (default: traces/heldout in the run's `folder`)")
	o.bind(c, "recall.json", "")
	return c
}

// fill sets what the user left out.
func (o *recallOptions) fill(s *session) {
	if o.trace == "" {
		o.trace = s.path("traces", "heldout")
	}
	o.measureOptions.fill(s, "recall.json")
}

// recallConfig is what recall.json depends on beside traces and mappings.
func (s *session) recallConfig() any {
	return map[string]any{"eval.recall": s.Eval.Recall, "selectors": s.Selectors, "sparsities": s.Sparsities, "sink": s.Train.Sink, "local": s.Train.Local, "denseLayers": s.Train.DenseLayers}
}

// recall measures recall and writes the file.
func (s *session) recall(ctx context.Context, o recallOptions) (*result.Recall, error) {
	begin := time.Now()
	if len(s.Selectors) == 0 {
		return nil, usagef("selectors names none to measure")
	}
	files, err := s.mappingFiles(o.mappings)
	if err != nil {
		return nil, err
	}
	mappings, err := loadMappings(files)
	if err != nil {
		return nil, err
	}
	held, err := trace.Open(o.trace)
	if err != nil {
		return nil, asInput(fmt.Errorf("%w (hashattn capture makes one)", err))
	}
	defer held.Close()
	calibration, err := openCalibration(o.calibration, held.Model)
	if err != nil {
		return nil, err
	}
	if calibration != nil {
		defer calibration.Close()
	}
	d, err := s.openDevice()
	if err != nil {
		return nil, err
	}
	settings, err := s.settings(d, selector.Shape{Model: held.Model, Scale: held.Scale}, mappings, calibration)
	if err != nil {
		return nil, err
	}
	contexts := s.contexts(s.Eval.Recall.Contexts)
	if len(s.Eval.Recall.Contexts) == 0 {
		contexts = []int{held.Context}
	}
	layers := s.Eval.Recall.Layers
	if len(layers) == 0 {
		layers = held.Captured
	}
	task := s.app.progress.task("eval recall", false)
	defer task.end()
	rows, err := eval.Recall(ctx, eval.RecallOptions{
		Device: d, Trace: held, Settings: settings, Budgets: s.budgets(), Contexts: contexts,
		Window: s.recallWindow(), Queries: s.Eval.Recall.Queries, Layers: layers, PerHead: s.Eval.Recall.PerHead, Progress: task.update,
	})
	if err != nil {
		return nil, err
	}
	task.end()
	samples := make([]string, 0, len(held.Shards))
	for _, shard := range held.Shards {
		samples = append(samples, shard.Hash)
	}
	f := &result.Recall{Rows: rows}
	f.Header, err = s.header(result.KindRecall, s.recallConfig(), []any{samples, contexts, s.Eval.Recall.Queries, layers}, held.Model, d, begin)
	if err != nil {
		return nil, err
	}
	return f, s.finish(o.out, f)
}
