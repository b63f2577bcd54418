package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hashattn/hashattn/configs"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/trace"
	"github.com/hashattn/hashattn/train"
)

type trainOptions struct {
	trace, out, checkpoints, study string
	mappings                       []string
	flags                          *pflag.FlagSet // as given, for a study's record
}

func (a *app) trainCommand() *cobra.Command {
	var o trainOptions
	c := &cobra.Command{
		Use:   "train",
		Short: "Train hash mappings from a trace",
		Long: `train learns one mapping of each preset from a calibration trace and writes it as
PRESET.safetensors. Layers and heads train side by side on all cores; the result
does not depend on how many. A training that was stopped goes on from the last
finished layer and head, whose maps and loss curves are kept as they come.

--calibrate then divides the budget among layers and heads: it measures on the
trace what each token set keeps at several budgets and writes the shares into
the mapping. With --mapping it does so for mappings that are trained already,
whose files stay as they are: it writes into --out, or the folder calibrated of
the run, under the same names.

With --study it trains a table of variants instead, on the experiment's
calibration texts, says which wins on the choice texts and whether that holds on
the held-out texts, and writes study.json and EXPERIMENTS.md. Traces that the
run's folder lacks are captured first.
` + exitHelp,
		Example: `  hashattn train --config quickstart
  hashattn train --trace traces/calibration --presets grouped --steps 400 --out mappings
  hashattn train --presets paper --paper-steps 6400 --workers 8
  hashattn train --config quickstart --calibrate --objective error --per set
  hashattn train --calibrate --mapping shared.safetensors --out calibrated
  hashattn train --study variants.yaml --config qwen2.5-coder-0.5b-4k`,
		Args: args(cobra.NoArgs),
	}
	c.RunE = a.inSession(func(ctx context.Context, s *session) error {
		o.fill(s)
		switch {
		case o.study != "":
			o.flags = c.Flags()
			return s.runStudy(ctx, o, func(more ...configs.Source) (*configs.Experiment, error) { return a.experiment(c, more...) })
		case len(o.mappings) > 0:
			return s.runCalibrate(ctx, o)
		}
		return s.runTrain(ctx, o)
	})
	a.bindKeys(c, "name", "train", "device")
	c.Flags().StringVar(&o.trace, "trace", "", "calibration trace (default: traces/calibration in the run's `folder`)")
	c.Flags().StringVarP(&o.out, "out", "o", "", "`folder` of the mappings (default: mappings in the run's folder, with --mapping calibrated)")
	c.Flags().StringVar(&o.study, "study", "", "`file` of variants to train and compare")
	c.Flags().StringVar(&o.checkpoints, "checkpoints", "", "`folder` of finished parts and loss curves (default: train in the run's folder)")
	c.Flags().StringArrayVar(&o.mappings, "mapping", nil, "trained mapping `file` to calibrate in place of training, may be repeated")
	return c
}

// fill sets what the user left out.
func (o *trainOptions) fill(s *session) {
	if o.trace == "" {
		o.trace = s.path("traces", "calibration")
	}
	if o.checkpoints == "" {
		o.checkpoints = s.path("train")
	}
	switch {
	case o.out != "":
	case o.study != "":
		o.out = s.dir
	case len(o.mappings) > 0:
		o.out = s.path("calibrated")
	default:
		o.out = s.path("mappings")
	}
}

// trained is what train prints of one mapping.
type trained struct {
	Mapping      string  `json:"mapping"`
	Preset       string  `json:"preset"`
	BitsPerToken int     `json:"bitsPerToken"`
	Steps        int     `json:"steps"`
	Layers       int     `json:"layers"`
	Hash         string  `json:"trainingHash"`
	Seconds      float64 `json:"seconds"`
	// Shares are the smallest and the largest of a calibrated budget.
	Shares *[2]float64 `json:"shares,omitempty"`
}

func (s *session) runTrain(ctx context.Context, o trainOptions) error {
	var all []trained
	for _, preset := range s.Train.Presets {
		begin := time.Now()
		path := filepath.Join(o.out, preset+".safetensors")
		m, err := s.train(ctx, preset, o.trace, filepath.Join(o.checkpoints, preset), path)
		if err != nil {
			return err
		}
		layers := 0
		for _, l := range m.Layers {
			if l != nil {
				layers++
			}
		}
		all = append(all, trained{path, preset, m.BitsPerToken(), s.steps(preset), layers, m.TrainingHash, time.Since(begin).Seconds(), extremes(m)})
	}
	if s.app.json {
		return s.app.printJSON(all)
	}
	for _, t := range all {
		s.app.printf("%s: %s, %d bits per KV-head token, %d layers, %d steps, %s\n", t.Mapping, t.Preset, t.BitsPerToken, t.Layers, t.Steps, elapsed(time.Duration(t.Seconds*float64(time.Second))))
	}
	return nil
}

// steps are a preset's training steps.
func (s *session) steps(preset string) int {
	if preset == "paper" {
		return s.Train.PaperSteps
	}
	return s.Train.Steps
}

// trainConfig is the recipe of a preset with the experiment's numbers.
func (s *session) trainConfig(preset string) (train.Config, error) {
	c, err := train.Preset(preset)
	if err != nil {
		return c, usageError{err}
	}
	t := s.Train
	c.Bits, c.Steps, c.Seed = t.Bits, s.steps(preset), t.Seed
	c.Sink, c.Local = t.Sink, t.Local
	c.Documents, c.Queries, c.Keys = t.Documents, t.Queries, t.Keys
	c.DenseLayers = t.DenseLayers
	if t.LearningRate > 0 {
		c.LearningRate = t.LearningRate
	}
	switch preset {
	case "paper":
		c.Keys, c.Documents, c.Decay = t.PaperKeys, t.PaperDocs, t.PaperDecay
	case "grouped":
		c.Candidates, c.PerHeadLayers = t.Candidates, t.PerHeadLayers
		c.GroupRule, c.MassPower = mapping.GroupRule(t.GroupRule), t.MassPower
		fallthrough
	default:
		c.BlockBits, c.KeyHidden = t.BlockBits, t.KeyHidden
		c.QueryBits, c.QueryAware = t.QueryBits, t.QueryAware
	}
	if err := c.Check(); err != nil {
		return c, usageError{fmt.Errorf("train of %s: %w", preset, err)}
	}
	return c, nil
}

// trainHere is trainConfig on the experiment's device.
func (s *session) trainHere(preset string) (train.Config, error) {
	c, err := s.trainConfig(preset)
	if err != nil {
		return c, err
	}
	d, err := s.openDevice()
	if err != nil {
		return c, err
	}
	if kind := d.Info().Kind; kind == train.CUDA {
		c.Device = kind
	}
	return c, nil
}

// train trains one preset and writes its mapping.
func (s *session) train(ctx context.Context, preset, traceDir, checkpoints, path string) (*mapping.Mapping, error) {
	c, err := s.trainHere(preset)
	if err != nil {
		return nil, err
	}
	r, err := trace.Open(traceDir)
	if err != nil {
		return nil, asInput(fmt.Errorf("%w (hashattn capture makes one)", err))
	}
	defer r.Close()
	for _, dir := range []string{checkpoints, filepath.Dir(path)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	task := s.app.progress.task("train "+preset, false)
	defer task.end()
	m, err := train.Run(ctx, train.Options{
		Trace: r, Config: c, Workers: s.Train.Workers, CheckpointDir: checkpoints,
		OnProgress: func(p train.Progress) { task.update64(p.StepsDone, p.TotalSteps) },
	})
	if err != nil {
		return nil, err
	}
	if s.Train.Calibrate {
		if err := s.calibrate(ctx, r, m); err != nil {
			return nil, err
		}
	}
	return m, m.Save(path)
}
