package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/configs"
	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/latency"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/shape"
)

type benchOptions struct {
	out      string
	mappings []string
	skewed   bool
}

func (a *app) benchCommand() *cobra.Command {
	c := a.benchPart("bench", "Time attention, decoding and prefill, outputs checked first", "", []string{"bench"})
	c.Long = `bench runs all its parts: attention (one layer's decode step on random data),
decode (a token of the model) and prefill. Every output is checked against the
reference or the dense path before it is timed; times are medians of runs from
cold caches, beside dense attention of the same shape.
` + exitHelp
	c.Example = `  hashattn bench
  hashattn bench attention --contexts 32K,128K --sparsities 1/32 --presets grouped
  hashattn bench attention --device cuda --shape llama-3.1-8b --batch 1,8 --project l4
  hashattn bench decode --model smollm2-135m --decode 4K --out decode.json
  hashattn bench decode --shape qwen2.5-coder-0.5b --weights q8_0 --decode 32K`
	c.AddCommand(
		a.benchPart("attention", "Time one layer's decode step, dense and by hash attention", "attention",
			[]string{"bench.contexts", "bench.batch", "bench.queryHeads", "bench.kvHeads", "bench.headDim", "bench.shape", "bench.project", "bench.runs", "bench.presets"}),
		a.benchPart("decode", "Time a token of the model behind a context, dense and sparse", "decode", []string{"bench.decode", "bench.batch", "bench.shape", "bench.weights", "bench.runs", "bench.presets", "selectors", "train.denseLayers"}),
		a.benchPart("prefill", "Time the prefill of a context", "prefill", []string{"bench.decode", "bench.shape", "bench.weights", "bench.runs"}),
	)
	return c
}

// benchPart is the command of one part, of all where part is empty.
func (a *app) benchPart(use, short, part string, keys []string) *cobra.Command {
	var o benchOptions
	c := &cobra.Command{
		Use: use, Short: short,
		Long:    short + ".\n" + exitHelp,
		Example: fmt.Sprintf("  hashattn bench %s --threads 2 --runs 20 --sparsities 1/16,1/32", part),
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.experiment(c)
			if err != nil {
				return err
			}
			if part != "" {
				e.Bench.Parts = []string{part}
			}
			if e.Bench.Shape != "" && changed(c, "query-heads", "kv-heads", "head-dim") {
				return usagef("--shape has the heads of %s: leave out --query-heads, --kv-heads and --head-dim", e.Bench.Shape)
			}
			if e.Bench.Shape != "" && changed(c, "mapping", "model") {
				return usagef("--shape stands for random weights and maps: leave out --model and --mapping")
			}
			s := a.session(e)
			defer s.Close()
			if o.out == "" {
				o.out = s.path("bench.json")
			}
			f, err := s.bench(c.Context(), o)
			if err != nil {
				return err
			}
			return s.show(o.out, f)
		},
	}
	a.bindKeys(c, append([]string{"name", "model", "device", "sparsities", "train.bits", "train.queryBits", "train.candidates", "train.sink", "train.local"}, keys...)...)
	c.Flags().StringArrayVar(&o.mappings, "mapping", nil, "mapping `file` for decode, may be repeated (default: those of the run)")
	c.Flags().StringVarP(&o.out, "out", "o", "", "`file` to write (default: bench.json in the run's folder)")
	c.Flags().BoolVar(&o.skewed, "skewed", false, "attention: put all winners side by side instead of spread by chance")
	return c
}

// benchConfig is what bench.json depends on beside model and mappings.
func (s *session) benchConfig(o benchOptions) any {
	t := s.Train
	return map[string]any{"bench": s.Bench, "sparsities": s.Sparsities, "bits": t.Bits, "queryBits": t.QueryBits, "candidates": t.Candidates,
		"sink": t.Sink, "local": t.Local, "selectors": s.hashSelectors(), "denseLayers": t.DenseLayers, "cache": s.Device.Numbers(), "chunk": s.Device.Chunk, "skewed": o.skewed}
}

// bench times the parts and writes the file.
func (s *session) bench(ctx context.Context, o benchOptions) (*result.Bench, error) {
	begin := time.Now()
	d, err := s.openDevice()
	if err != nil {
		return nil, err
	}
	f := &result.Bench{}
	if m, ok := d.(kernels.Meter); ok {
		if f.Bandwidth, err = m.ReadBandwidth(); err != nil {
			return nil, fmt.Errorf("bandwidth of the memory: %w", err)
		}
		s.app.progress.logf("memory is read at %.1f GB/s", f.Bandwidth/1e9)
	}
	if k := d.Info().Kind; len(s.Bench.Project) > 0 && k != "cuda" {
		return nil, usagef("bench.project: the fixed costs of %s are not a graphics card's: time on one with --device cuda", k)
	}
	if slices.Contains(s.Bench.Parts, "attention") {
		rows, err := s.benchAttention(ctx, d, f.Bandwidth, o)
		if err != nil {
			return nil, err
		}
		f.Rows = append(f.Rows, rows...)
		if f.Rows, err = s.project(f.Rows, d, f.Bandwidth); err != nil {
			return nil, err
		}
	}
	var m shape.Model // none where only attention is timed
	if slices.Contains(s.Bench.Parts, "decode") || slices.Contains(s.Bench.Parts, "prefill") {
		opened, err := s.benchedModel(ctx)
		if err != nil {
			return nil, err
		}
		m = opened.Shape()
		rows, err := s.benchModel(ctx, opened, f.Bandwidth, o)
		if err != nil {
			return nil, err
		}
		f.Rows = append(f.Rows, rows...)
	}
	f.Header, err = s.header(result.KindBench, s.benchConfig(o), s.Bench.Parts, m, d, begin)
	if err != nil {
		return nil, err
	}
	return f, s.finish(o.out, f)
}

func (s *session) benchAttention(ctx context.Context, d kernels.Device, bandwidth float64, o benchOptions) ([]result.BenchRow, error) {
	var shapes []latency.Shape
	layer := latency.Shape{QueryHeads: s.Bench.QueryHeads, KVHeads: s.Bench.KVHeads, HeadDim: s.Bench.HeadDim}
	if s.Bench.Shape != "" {
		c, err := model.Named(s.Bench.Shape)
		if err != nil {
			return nil, usageError{err}
		}
		layer = latency.Shape{QueryHeads: c.QueryHeads, KVHeads: c.KVHeads, HeadDim: c.HeadDim}
	}
	for _, batch := range s.Bench.Batch {
		for _, c := range s.Bench.Contexts {
			layer.Batch, layer.Context = batch, int(c)
			shapes = append(shapes, layer)
		}
	}
	task := s.app.progress.task("bench attention", false)
	defer task.end()
	return latency.Attention(ctx, latency.AttentionOptions{
		Device: d, Shapes: shapes, Hashes: s.hashShapes(), Budgets: s.budgets(), Runs: s.Bench.Runs, Skewed: o.skewed, Bandwidth: bandwidth, Progress: task.update,
	})
}

// hashShapes are the sizes of the presets to time.
func (s *session) hashShapes() []latency.HashShape {
	var hashes []latency.HashShape
	for _, p := range s.Bench.Presets {
		h := latency.HashShape{Preset: p, Bits: s.Train.Bits, QueryBits: s.Train.QueryBits, Sink: s.Train.Sink, Local: s.Train.Local}
		switch p {
		case "paper":
			h.QueryBits = 1
		case "grouped":
			h.Candidates = s.Train.Candidates
		}
		hashes = append(hashes, h)
	}
	return hashes
}

// benchModel times prefill and decode on a shipped text.
func (s *session) benchModel(ctx context.Context, m *model.Model, bandwidth float64, o benchOptions) ([]result.BenchRow, error) {
	contexts := s.contexts(s.Bench.Decode)
	tokens, err := s.benchTokens(m, slices.Max(contexts)+s.Bench.Runs+1)
	if err != nil {
		return nil, err
	}
	options := latency.ModelOptions{
		Model: m, Tokens: tokens, Contexts: contexts, Budgets: s.budgets(), Runs: s.Bench.Runs,
		Rows: chunk(s.Device, m.Device), CacheType: cacheType(s.Device), Bandwidth: bandwidth, Fill: s.Bench.Shape != "",
	}
	var rows []result.BenchRow
	for _, part := range s.Bench.Parts {
		task := s.app.progress.task("bench "+part, false)
		options.Progress = task.update
		var more []result.BenchRow
		switch part {
		case "prefill":
			once := options
			once.Runs = min(options.Runs, 3) // each is a whole prefill
			more, err = latency.Prefill(ctx, once)
		case "decode":
			if options.Settings, err = s.benchSettings(m, o); err != nil {
				break
			}
			for _, batch := range s.Bench.Batch {
				var some []result.BenchRow
				options.Batch = batch
				if some, err = latency.Decode(ctx, options); err != nil {
					break
				}
				more = append(more, some...)
			}
		}
		task.end()
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// hashSelectors are the experiment's ways of using mappings: what decoding is
// timed with.
func (s *session) hashSelectors() []configs.Selector {
	var out []configs.Selector
	for _, sel := range s.Selectors {
		if sel.Name == "hash" {
			out = append(out, sel)
		}
	}
	return out
}

// benchSettings are the mappings to decode with.
func (s *session) benchSettings(m *model.Model, o benchOptions) ([]eval.Setting, error) {
	mappings, err := s.benchMappings(m, o)
	if err != nil {
		return nil, err
	}
	var out []eval.Setting
	for _, sel := range s.hashSelectors() {
		for _, mp := range mappings {
			if sel.Preset != "" && sel.Preset != mp.Preset || len(o.mappings) == 0 && !slices.Contains(s.Bench.Presets, mp.Preset) {
				continue
			}
			set, err := eval.NewSetting(m.Device, m.Shape(), m.QueryScale, s.mappingSource(mp, sel), nil)
			if err != nil {
				return nil, asInput(err)
			}
			out = append(out, set)
		}
	}
	if len(out) == 0 {
		s.app.progress.logf("bench decode: the run has no mappings, so only dense is timed; train some or name them with --mapping")
	}
	return out, nil
}
