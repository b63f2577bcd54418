package main

import (
	"io"
	"math"
	"path/filepath"
	"testing"

	"github.com/hashattn/hashattn/configs"
)

// The studies that the project keeps must be such as can run.
func TestShippedStudies(t *testing.T) {
	files, err := filepath.Glob("../../configs/experiments/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("studies %v: %v", files, err)
	}
	presets := map[string]bool{}
	for _, path := range files {
		shippedStudy(t, path, presets)
	}
	if !presets["shared"] || !presets["grouped"] || !presets["paper"] || !presets[""] {
		t.Errorf("presets and methods of the studies: %v", presets)
	}
}

func shippedStudy(t *testing.T, path string, presets map[string]bool) {
	t.Helper()
	plan, err := readStudy(path)
	if err != nil {
		t.Fatal(err)
	}
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
