package main

import (
	"context"
	"math/rand/v2"

	"github.com/hashattn/hashattn/configs/texts"
	"github.com/hashattn/hashattn/eval/latency"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/mapping"
)

// benchedModel is the model to time: the experiment's, or one of a published
// shape with random weights.
func (s *session) benchedModel(ctx context.Context) (*model.Model, error) {
	if s.Bench.Shape == "" {
		return s.openModel(ctx)
	}
	d, err := s.openDevice()
	if err != nil {
		return nil, err
	}
	kind := dtype.BF16
	if s.Bench.Weights == "q8_0" {
		kind = dtype.Q8_0
	}
	t := s.app.progress.task("make "+s.Bench.Shape, false)
	defer t.end()
	return model.Random(ctx, s.Bench.Shape, d, model.RandomOptions{Type: kind, Progress: t.update})
}

// benchTokens are need tokens of a shipped text, random ones for random weights.
func (s *session) benchTokens(m *model.Model, need int) ([]int32, error) {
	var tokens []int32
	if s.Bench.Shape != "" {
		rng := rand.New(rand.NewPCG(4, 4))
		for range need {
			tokens = append(tokens, rng.Int32N(int32(m.Vocabulary)))
		}
		return tokens, nil
	}
	if need > m.Context {
		return nil, usagef("bench.decode: a context and its runs are %d tokens, more than %s was trained for (%d)", need, m.Name, m.Context)
	}
	docs, err := texts.Read("heldout/prose", "heldout/memoir")
	if err != nil {
		return nil, err
	}
	for i := 0; len(tokens) < need; i = (i + 1) % len(docs) {
		tokens = append(tokens, m.Tokenizer.Encode(docs[i].Text, len(tokens) == 0)...)
	}
	return tokens, nil
}

// benchMappings are the mappings to decode with: named, of the run, or random.
func (s *session) benchMappings(m *model.Model, o benchOptions) ([]*mapping.Mapping, error) {
	if s.Bench.Shape == "" {
		files, err := s.mappingFiles(o.mappings)
		if err != nil {
			return nil, err
		}
		return loadMappings(files)
	}
	var out []*mapping.Mapping
	for _, h := range s.hashShapes() {
		mp, err := latency.RandomMapping(h, m)
		if err != nil {
			return nil, usageError{err}
		}
		out = append(out, mp)
	}
	return out, nil
}

// project adds to the timed rows those projected for other cards.
func (s *session) project(rows []result.BenchRow, d kernels.Device, bandwidth float64) ([]result.BenchRow, error) {
	if len(s.Bench.Project) == 0 {
		return rows, nil
	}
	more, notes, err := latency.Project(latency.ProjectOptions{Rows: rows, Device: d.Info(), Bandwidth: bandwidth, Targets: s.Bench.Project})
	if err != nil {
		return nil, usageError{err}
	}
	for _, n := range notes {
		s.app.progress.logf("%s", n)
	}
	return append(rows, more...), nil
}
