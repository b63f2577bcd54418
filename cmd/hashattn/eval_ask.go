package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/hashattn/hashattn/eval/benchmark"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/model"
)

// besidePredictions is said of the file of scores.
const besidePredictions = "; predictions go to a folder beside it"

// question asks a benchmark: how it is made for a model, and by what protocol
// it is asked.
type question struct {
	name     string // of the command
	config   any    // what the scores depend on beside model, samples and mappings
	make     func(context.Context, *model.Model) (*benchmark.Benchmark, error)
	protocol func(*benchmark.Options)
}

// ask answers a benchmark's questions under dense attention and the
// experiment's selectors, and writes the scores.
func (s *session) ask(ctx context.Context, q question, o measureOptions) (*result.Scores, error) {
	begin := time.Now()
	m, err := s.openModel(ctx)
	if err != nil {
		return nil, err
	}
	settings, files, err := s.modelSettings(m, o.mappings, o.calibration)
	if err != nil {
		return nil, err
	}
	b, err := q.make(ctx, m)
	if err != nil {
		return nil, asInput(err)
	}
	task := s.app.progress.task("eval "+q.name, false)
	defer task.end()
	options := benchmark.Options{
		Model: m, Settings: settings, Budgets: s.budgets(), CacheType: cacheType(s.Device), Chunk: chunk(s.Device, m.Device),
		Memory: int64(s.LongBench.Memory), Dir: filepath.Join(filepath.Dir(o.out), "predictions"),
		QuestionSparse: s.LongBench.QuestionSparse, PrefillOffset: s.LongBench.PrefillOffset,
		Notice:   func(text string) { s.app.progress.logf("%s", text) },
		Progress: func(p benchmark.Progress) { task.updateLeft(p.Done, p.Total, p.Remaining) },
	}
	if options.Memory == 0 {
		options.Memory = m.Device.Info().Memory / 2
	}
	if q.protocol != nil {
		q.protocol(&options)
	}
	out, err := benchmark.Run(ctx, b, options)
	if err != nil {
		return nil, err
	}
	task.end()
	f := &result.Scores{Rows: out.Rows}
	config := map[string]any{
		"benchmark": q.config, "selectors": s.Selectors, "sparsities": s.Sparsities, "sink": s.Train.Sink, "local": s.Train.Local,
		"denseLayers": s.Train.DenseLayers, "cache": s.Device.Numbers(), "mappings": fileHashes(files),
		"questionSparse": options.QuestionSparse, "prefillOffset": options.PrefillOffset,
	}
	if f.Header, err = s.header(result.KindScores, config, out.Samples, m.Shape(), m.Device, begin); err != nil {
		return nil, err
	}
	return f, s.finish(o.out, f)
}
