package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashattn/hashattn/configs/texts"
	"github.com/hashattn/hashattn/eval/pipeline"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/model/atomicfile"
)

// stages are the experiment's stages in order. What each depends on is said
// here and nowhere else: a key that changes a stage's outputs must be in its
// Config, a file in its Inputs. Versions are raised with the code.
func (s *session) stages() ([]pipeline.Stage, error) {
	device, err := s.openDevice()
	if err != nil {
		return nil, err
	}
	// Numbers of one kind of device agree; latencies belong to one machine.
	kind, machine := device.Info().Kind, device.Info()
	calibration, err := s.textHashes(s.Data.Calibration, s.Capture.Documents)
	if err != nil {
		return nil, err
	}
	heldout, err := s.textHashes(s.Data.Heldout, s.Capture.Heldout)
	if err != nil {
		return nil, err
	}
	likely, err := s.textHashes(s.Data.Heldout, s.Eval.Perplexity.Documents)
	if err != nil {
		return nil, err
	}
	mappings := make([]string, len(s.Train.Presets))
	for i, p := range s.Train.Presets {
		mappings[i] = filepath.Join("mappings", p+".safetensors")
	}
	// PQ and Double Sparsity calibrate themselves on the same trace.
	measured := func(more ...string) func() ([]string, error) {
		return func() ([]string, error) {
			return append(append([]string{}, more...), append(mappings, "traces/calibration")...), nil
		}
	}
	withModel := func(inputs func() ([]string, error)) func() ([]string, error) {
		return func() ([]string, error) {
			m, err := s.modelFile()
			if err != nil || inputs == nil {
				return m, err
			}
			more, err := inputs()
			return append(m, more...), err
		}
	}
	list := []pipeline.Stage{
		{
			Name: "pull", Version: 1, Config: map[string]any{"model": s.Model, "there": s.modelThere()},
			Outputs: []string{"model.json"}, Run: s.pullStage,
		},
		{
			Name: "capture-calibration", Version: 1, Config: []any{kind, s.Capture.Context, s.Capture.Layers, calibration}, Inputs: withModel(nil),
			Outputs: []string{"traces/calibration"},
			Run: func(ctx context.Context) error {
				_, err := s.capture(ctx, "calibration", s.path("traces", "calibration"))
				return err
			},
		},
		{
			Name: "capture-heldout", Version: 1, Config: []any{kind, s.Capture.Context, s.Capture.Layers, heldout, s.measuredPositions(int(s.Capture.Context))}, Inputs: withModel(nil),
			Outputs: []string{"traces/heldout"},
			Run: func(ctx context.Context) error {
				_, err := s.capture(ctx, "heldout", s.path("traces", "heldout"))
				return err
			},
		},
	}
	for i, preset := range s.Train.Presets {
		config, err := s.trainHere(preset)
		if err != nil {
			return nil, err
		}
		var depends any = config
		if s.Train.Calibrate {
			depends = []any{config, s.Train.Calibration, kind}
		}
		list = append(list, pipeline.Stage{
			Name: "train-" + preset, Version: 1, Config: depends, Inputs: func() ([]string, error) { return []string{"traces/calibration"}, nil },
			// The folder of checkpoints knows by itself what still holds.
			Outputs: []string{mappings[i], filepath.Join("train", preset, "losses.jsonl")},
			Run: func(ctx context.Context) error {
				_, err := s.train(ctx, preset, s.path("traces", "calibration"), s.path("train", preset), s.path(mappings[i]))
				return err
			},
		})
	}
	recall := recallOptions{measureOptions: measureOptions{mappings: s.paths(mappings)}}
	recall.fill(s)
	perplexity := perplexityOptions{measureOptions: measureOptions{mappings: s.paths(mappings)}}
	perplexity.fill(s)
	list = append(list,
		pipeline.Stage{
			Name: "eval-recall", Version: 3, Config: []any{kind, s.recallConfig()}, Inputs: measured("traces/heldout"), Outputs: []string{"recall.json"},
			Run: func(ctx context.Context) error { _, err := s.recall(ctx, recall); return err },
		},
		pipeline.Stage{
			Name: "eval-perplexity", Version: 3, Config: []any{kind, s.perplexityConfig(), likely}, Inputs: withModel(measured()),
			Outputs: []string{"perplexity.json"}, Work: []string{"perplexity.jsonl"},
			Run: func(ctx context.Context) error { _, err := s.perplexity(ctx, perplexity); return err },
		},
	)
	if len(s.LongBench.Tasks) > 0 {
		stage, err := s.longBenchStage(kind, s.paths(mappings), withModel(measured()))
		if err != nil {
			return nil, err
		}
		list = append(list, stage)
	}
	list = append(list,
		pipeline.Stage{
			Name: "bench", Version: 1, Config: []any{machine, s.benchConfig(benchOptions{})}, Inputs: withModel(func() ([]string, error) { return mappings, nil }),
			Outputs: []string{"bench.json"},
			Run: func(ctx context.Context) error {
				_, err := s.bench(ctx, benchOptions{out: s.path("bench.json"), mappings: s.paths(mappings)})
				return err
			},
		},
		pipeline.Stage{
			Name: "report", Version: 1, Config: result.Versions()["revision"],
			Inputs: func() ([]string, error) {
				inputs := []string{"recall.json", "perplexity.json", "bench.json"}
				if len(s.LongBench.Tasks) > 0 {
					inputs = append(inputs, "scores.json")
				}
				for _, p := range s.Train.Presets {
					inputs = append(inputs, filepath.Join("train", p, "losses.jsonl"))
				}
				return inputs, nil
			},
			Outputs: []string{"report.md", "report.html", "plots", "csv"}, Run: s.writeReport,
		},
	)
	return list, nil
}

// paths are files of the run as paths from here.
func (s *session) paths(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = s.path(n)
	}
	return out
}

// textHashes identify the documents that a stage reads.
func (s *session) textHashes(sources []string, n int) ([]string, error) {
	docs, err := texts.Read(sources...)
	if err != nil {
		return nil, asInput(err)
	}
	return documentHashes(texts.Spread(docs, n)), nil
}

// modelFile is the checkpoint that the pull stage found.
func (s *session) modelFile() ([]string, error) {
	raw, err := os.ReadFile(s.path("model.json"))
	if err != nil {
		return nil, err
	}
	var m pulledModel
	if err := json.Unmarshal(raw, &m); err != nil || m.Path == "" {
		return nil, errNoModel
	}
	return []string{m.Path}, nil
}

// modelThere says whether the checkpoint found before is still there: a
// cleared cache is filled again.
func (s *session) modelThere() bool {
	files, err := s.modelFile()
	if err != nil {
		// It was never found: after the pull it will be there.
		return errors.Is(err, fs.ErrNotExist)
	}
	_, err = os.Stat(files[0])
	return err == nil
}

func writeModel(path string, m pulledModel) error {
	raw, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Replace(path, append(raw, '\n'))
}
