package main

import (
	"io"
	"math"
	"testing"

	"github.com/hashattn/hashattn/configs"
)

// The study that the project keeps must be one that can run.
func TestShippedStudy(t *testing.T) {
	const path = "../../configs/experiments/variants.yaml"
	plan, err := readStudy(path)
	if err != nil {
		t.Fatal(err)
	}
	presets := map[string]bool{}
	for _, v := range plan.Variants {
		e, err := v.with(func(more ...configs.Source) (*configs.Experiment, error) {
			return configs.Load(path, nil, nil, more...)
		})
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		presets[v.Preset] = true
		if v.Preset == "" {
			continue
		}
		if _, err := newApp(io.Discard, io.Discard).session(e).trainConfig(v.Preset); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	if !presets["shared"] || !presets["grouped"] || !presets[""] {
		t.Errorf("presets and methods of the study: %v", presets)
	}
}

func TestJudge(t *testing.T) {
	row := func(choice, heldout []float64) *studyRow {
		r := &studyRow{}
		for _, e := range choice {
			r.Choice = append(r.Choice, studyScore{Error: e})
		}
		for _, e := range heldout {
			r.Heldout = append(r.Heldout, studyScore{Error: e})
		}
		return r
	}
	base := row([]float64{0.2, 0.4}, []float64{0.2, 0.3, 0.4})
	for want, r := range map[string]*studyRow{
		"not chosen":           row([]float64{0.3, 0.35}, []float64{0.1, 0.1, 0.1}),
		"chosen, kept":         row([]float64{0.1, 0.4}, []float64{0.11, 0.2, 0.3}),
		"chosen, within noise": row([]float64{0.1, 0.4}, []float64{0.05, 0.3, 0.45}),
		"chosen, lost":         row([]float64{0.1, 0.4}, []float64{0.3, 0.4, 0.5}),
	} {
		if got := judge(base, r); got != want {
			t.Errorf("judged %q, want %q", got, want)
		}
	}
	mean, deviation := paired(base.Heldout, row(nil, []float64{0.1, 0.3, 0.5}).Heldout)
	if !(math.Abs(mean) <= 1e-12 && math.Abs(deviation-0.1/math.Sqrt(3)) <= 1e-12) {
		t.Errorf("difference %v ± %v", mean, deviation)
	}
}
