package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/eval/benchmark"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/longbench/niah"
)

func (a *app) evalNIAHCommand() *cobra.Command {
	return a.benchmarkCommand("niah", "Look for a needle in a haystack, by depth and context", `eval niah hides a sentence at several depths of texts of several lengths and asks
for it, under dense attention and every selector and budget. It prints a heat
map of each and writes niah.json and the maps as SVG and PNG beside it.
`, `  hashattn eval niah --contexts 2K,4K,8K --depths 5 --selectors hash --sparsities 1/32
  hashattn eval niah --haystack essays/`, "niah.json", []string{"eval.niah"}, niahScores)
}

func niahScores(ctx context.Context, s *session, o benchmarkOptions) (*result.Scores, error) {
	text, err := haystack(s.Eval.NIAH.Haystack)
	if err != nil {
		return nil, err
	}
	m, err := s.openModel(ctx)
	if err != nil {
		return nil, err
	}
	b, err := benchmark.NIAH(benchmark.NIAHOptions{
		Tokenizer: m.Tokenizer, Haystack: text, Contexts: s.contexts(s.Eval.NIAH.Contexts), Depths: s.Eval.NIAH.Depths, Needle: niah.SanFrancisco,
	})
	if err != nil {
		return nil, usageError{err}
	}
	f, err := s.ask(ctx, m, b, s.Eval.NIAH, o)
	if err != nil {
		return nil, err
	}
	maps, err := benchmark.HeatMaps(f.Rows)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(filepath.Dir(o.out), "niah")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, h := range maps {
		if !s.app.json {
			s.app.printf("%s\n", h.Text())
		}
		for _, ext := range []string{".svg", ".png"} {
			if err := h.Save(filepath.Join(dir, fileName(h.Title)+ext)); err != nil {
				return nil, err
			}
		}
	}
	s.app.progress.logf("heat maps in %s", dir)
	return f, nil
}

// fileName makes a title fit to name a file.
func fileName(title string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, title)
}

func (a *app) evalRulerCommand() *cobra.Command {
	return a.benchmarkCommand("ruler", "Score answers on RULER's synthetic tasks", `eval ruler generates RULER's samples at a length in the model's tokens (needles,
variable tracking, common and frequent words; questions if SQuAD's or HotpotQA's
file is given), or reads a prepared file, and scores the answers by string match.
The same seed gives the same samples.
`, `  hashattn eval ruler --context 4K --tasks niah_single_1,vt --samples 10
  hashattn eval ruler --file niah_multikey_3.jsonl --tasks niah_multikey_3`, "ruler.json", []string{"eval.ruler"}, rulerScores)
}

func rulerScores(ctx context.Context, s *session, o benchmarkOptions) (*result.Scores, error) {
	r := s.Eval.Ruler
	text, err := haystack(r.Haystack)
	if err != nil {
		return nil, err
	}
	m, err := s.openModel(ctx)
	if err != nil {
		return nil, err
	}
	b, err := benchmark.Ruler(ctx, benchmark.RulerOptions{
		Tokenizer: m.Tokenizer, Context: int(r.Context), Tasks: r.Tasks, Samples: r.Samples, Seed: r.Seed, Haystack: text,
		SQuAD: r.SQuAD, HotpotQA: r.HotpotQA, Prepared: r.File,
	})
	if err != nil {
		return nil, asInput(fmt.Errorf("ruler: %w", err))
	}
	return s.ask(ctx, m, b, r, o)
}
