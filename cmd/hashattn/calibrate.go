package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/trace"
)

// runCalibrate calibrates mappings that are trained already.
func (s *session) runCalibrate(ctx context.Context, o trainOptions) error {
	if !s.Train.Calibrate {
		return usagef("--mapping goes with --calibrate")
	}
	mappings, err := loadMappings(o.mappings)
	if err != nil {
		return err
	}
	outputs, err := calibratedPaths(o.mappings, o.out)
	if err != nil {
		return err
	}
	r, err := trace.Open(o.trace)
	if err != nil {
		return asInput(fmt.Errorf("%w (hashattn capture makes one)", err))
	}
	defer r.Close()
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	type calibrated struct {
		Mapping string      `json:"mapping"`
		Preset  string      `json:"preset"`
		Shares  *[2]float64 `json:"shares"`
	}
	var all []calibrated
	for i, m := range mappings {
		if err := s.calibrate(ctx, r, m); err != nil {
			return err
		}
		if err := m.Save(outputs[i]); err != nil {
			return err
		}
		all = append(all, calibrated{outputs[i], m.Preset, extremes(m)})
	}
	if s.app.json {
		return s.app.printJSON(all)
	}
	for _, c := range all {
		s.app.printf("%s: %s, shares of %.3g to %.3g mean budgets\n", c.Mapping, c.Preset, c.Shares[0], c.Shares[1])
	}
	return nil
}

// calibratedPaths are the files in dir that calibrated mappings go to. None may
// replace a mapping that it is made from, or another.
func calibratedPaths(mappings []string, dir string) ([]string, error) {
	out := make([]string, len(mappings))
	for i, from := range mappings {
		to := filepath.Join(dir, filepath.Base(from))
		if j := slices.Index(out[:i], to); j >= 0 {
			return nil, usagef("%s and %s would both go to %s: calibrate them one by one, each with its own --out", mappings[j], from, to)
		}
		out[i] = to
		there, err := os.Stat(to)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, m := range mappings {
			if own, err := os.Stat(m); err == nil && os.SameFile(own, there) {
				return nil, usagef("the calibrated mapping would replace %s, which it is made from; name another folder by --out", m)
			}
		}
	}
	return out, nil
}

// calibrate measures a mapping's token sets on a trace and gives it shares of
// the budget.
func (s *session) calibrate(ctx context.Context, r *trace.Reader, m *mapping.Mapping) error {
	if err := m.CheckModel(r.Model); err != nil {
		return asInput(err)
	}
	d, err := s.openDevice()
	if err != nil {
		return err
	}
	task := s.app.progress.task("calibrate "+m.Preset, false)
	defer task.end()
	c := s.Train.Calibration
	parts := func(share float64) int { return int(math.Round(share * mapping.ShareUnit)) }
	found, err := eval.Calibrate(ctx, eval.CalibrateOptions{
		Device: d, Trace: r, Mapping: m, Budget: c.Budget.Budget, Objective: c.Objective, Per: c.Per,
		Least: parts(c.Least), Most: parts(c.Most), Queries: c.Positions, Progress: task.update,
	})
	if err != nil {
		return err
	}
	task.end()
	m.Shares = found.Shares
	s.app.progress.logf("calibrated %s at %s on %d documents: mass %.4f to %.4f, error %.4f to %.4f",
		m.Preset, c.Budget, len(r.Shards), found.Uniform.Mass, found.Divided.Mass, found.Uniform.Error, found.Divided.Error)
	return nil
}

// extremes are a mapping's smallest and largest share in mean budgets.
func extremes(m *mapping.Mapping) *[2]float64 {
	if m.Shares == nil {
		return nil
	}
	all := slices.Concat(m.Shares.Layers...)
	return &[2]float64{float64(slices.Min(all)) / mapping.ShareUnit, float64(slices.Max(all)) / mapping.ShareUnit}
}
