package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/configs/texts"
	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
)

type perplexityOptions struct {
	measureOptions
	log string
}

func (a *app) evalPerplexityCommand() *cobra.Command {
	var o perplexityOptions
	c := &cobra.Command{
		Use:   "perplexity",
		Short: "Measure the change of likelihood under sparse attention",
		Long: `eval perplexity prefills held-out texts densely and predicts the last tokens of
each context under every selector and budget, as decoding would: the change of
their negative log-likelihood against dense on the same tokens, with the
standard error over documents. One prefill serves all settings. Finished
documents are kept, so that a stopped measurement goes on.
` + exitHelp,
		Example: `  hashattn eval perplexity --config quickstart
  hashattn eval perplexity --model model.gguf --mapping shared.safetensors --selectors hash --sparsities 1/32
  hashattn eval perplexity --contexts 8K --tokens 256 --heldout novel.txt`,
		Args: args(cobra.NoArgs),
		RunE: a.inSession(func(ctx context.Context, s *session) error {
			o.fill(s)
			f, err := s.perplexity(ctx, o)
			if err != nil {
				return err
			}
			return s.show(o.out, f)
		}),
	}
	a.bindKeys(c, "name", "model", "eval.perplexity", "selectors", "sparsities", "train.denseLayers", "device", "data.heldout")
	o.bind(c, "perplexity.json", "")
	return c
}

// fill sets what the user left out.
func (o *perplexityOptions) fill(s *session) {
	o.measureOptions.fill(s, "perplexity.json")
	o.log = filepath.Join(filepath.Dir(o.out), "perplexity.jsonl")
}

// perplexityConfig is what perplexity.json depends on beside model, texts and
// mappings.
func (s *session) perplexityConfig() any {
	return map[string]any{"eval.perplexity": s.Eval.Perplexity, "selectors": s.Selectors, "sparsities": s.Sparsities, "sink": s.Train.Sink, "local": s.Train.Local, "denseLayers": s.Train.DenseLayers, "cache": s.Device.Numbers(), "context": s.Capture.Context}
}

// perplexity measures and writes the file.
func (s *session) perplexity(ctx context.Context, o perplexityOptions) (*result.Perplexity, error) {
	begin := time.Now()
	m, err := s.openModel(ctx)
	if err != nil {
		return nil, err
	}
	settings, files, err := s.modelSettings(m, o.mappings, o.calibration)
	if err != nil {
		return nil, err
	}
	contexts := s.contexts(s.Eval.Perplexity.Contexts)
	docs, tokens, err := s.documents(m, s.Data.Heldout, s.Eval.Perplexity.Documents, slices.Max(contexts))
	if err != nil {
		return nil, err
	}
	samples := documentHashes(docs)
	var names []string // results of a version that named settings otherwise are not mixed in
	for _, set := range settings {
		names = append(names, set.Selector)
	}
	key := result.Hash(fmt.Append(nil, m.Fingerprint, s.perplexityConfig(), samples, fileHashes(files), names))
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return nil, err
	}
	log, err := openNLLLog(o.log, key)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	task := s.app.progress.task("eval perplexity", false)
	defer task.end()
	rows, err := eval.Perplexity(ctx, eval.PerplexityOptions{
		Model: m, Documents: tokens, Settings: settings, Budgets: s.budgets(), Contexts: contexts,
		Tokens: s.Eval.Perplexity.Tokens, CacheType: cacheType(s.Device), Chunk: chunk(s.Device, m.Device), Done: log, Progress: task.update,
	})
	if err != nil {
		return nil, err
	}
	task.end()
	f := &result.Perplexity{Rows: rows}
	f.Header, err = s.header(result.KindPerplexity, s.perplexityConfig(), []any{samples, contexts, s.Eval.Perplexity.Tokens}, m.Shape(), m.Device, begin)
	if err != nil {
		return nil, err
	}
	if err := s.finish(o.out, f); err != nil {
		return nil, err
	}
	return f, log.Remove() // the result holds all of it now
}

func documentHashes(docs []texts.Document) []string {
	out := make([]string, len(docs))
	for i, d := range docs {
		out[i] = d.Hash()
	}
	return out
}
