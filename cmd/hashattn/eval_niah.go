package main

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/configs/texts"
	"github.com/hashattn/hashattn/eval/benchmark"
	"github.com/hashattn/hashattn/eval/report"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/longbench/niah"
	"github.com/hashattn/hashattn/model"
)

func (a *app) evalNIAHCommand() *cobra.Command {
	var o measureOptions
	c := &cobra.Command{
		Use:   "niah",
		Short: "Find a needle in a haystack under sparse attention",
		Long: `eval niah hides a sentence in a long text, at several depths and lengths, and asks
for it, under dense attention and under every selector and budget: heat maps of
the share of its words that the answers have, as text, PNG and SVG. Predictions
are kept as they are made, so that a stopped run goes on.
` + exitHelp,
		Example: `  hashattn eval niah --config quickstart
  hashattn eval niah --contexts 2K,4K,8K --depths 5 --haystack essays --selectors quest,streaming --sparsities 1/32`,
		Args: args(cobra.NoArgs),
		RunE: a.inSession(func(ctx context.Context, s *session) error {
			o.fill(s, "niah/scores.json")
			f, err := s.niah(ctx, o)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(f)
			}
			return s.showHeatMaps(f, filepath.Dir(o.out))
		}),
	}
	a.bindKeys(c, "name", "model", "eval.niah", "selectors", "sparsities", "train.denseLayers", "device")
	o.bind(c, "niah/scores.json", besidePredictions)
	return c
}

// haystack is the text that needles are hidden in.
func haystack(source string) (string, error) {
	docs, err := texts.Read(source)
	if err != nil {
		return "", asInput(err)
	}
	parts := make([]string, len(docs))
	for i, d := range docs {
		parts[i] = d.Text
	}
	return strings.Join(parts, "\n"), nil
}

// niah answers, scores and writes the file.
func (s *session) niah(ctx context.Context, o measureOptions) (*result.Scores, error) {
	text, err := haystack(s.Eval.NIAH.Haystack)
	if err != nil {
		return nil, err
	}
	n := s.Eval.NIAH
	return s.ask(ctx, question{
		name: "niah", config: map[string]any{"contexts": n.Contexts, "depths": n.Depths},
		make: func(_ context.Context, m *model.Model) (*benchmark.Benchmark, error) {
			if c := slices.Max(s.contexts(n.Contexts)); c > m.Context {
				return nil, beyond(m, c, "eval.niah.contexts")
			}
			return benchmark.NIAH(benchmark.NIAHOptions{
				Tokenizer: m.Tokenizer, Haystack: text, Contexts: s.contexts(n.Contexts), Depths: n.Depths, Needle: niah.SanFrancisco,
			})
		},
	}, o)
}

// showHeatMaps prints a map per setting and draws them into the folder.
func (s *session) showHeatMaps(f *result.Scores, dir string) error {
	maps, err := report.HeatMaps(f.Rows)
	if err != nil {
		return err
	}
	for i, m := range maps {
		if i > 0 {
			s.app.printf("\n")
		}
		s.app.printf("%s", m.Text())
		for _, ext := range []string{".png", ".svg"} {
			path := filepath.Join(dir, m.FileName()+ext)
			if err := m.Save(path); err != nil {
				return err
			}
			s.app.progress.logf("wrote %s", path)
		}
	}
	return nil
}
