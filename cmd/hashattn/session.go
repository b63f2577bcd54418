package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/configs"
	"github.com/hashattn/hashattn/configs/texts"
	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/selector"
	"github.com/hashattn/hashattn/model/shape"
	"github.com/hashattn/hashattn/model/trace"
)

// session is one experiment in work: what several of its stages need is opened
// when first asked for, and closed once.
type session struct {
	app *app
	*configs.Experiment
	dir string // of the run

	device kernels.Device
	model  *model.Model
}

func (a *app) session(e *configs.Experiment) *session {
	return &session{app: a, Experiment: e, dir: runDir(e)}
}

// inSession makes a command's run function of one that works in the session of
// the experiment that the command line describes.
func (a *app) inSession(f func(context.Context, *session) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		e, err := a.experiment(c)
		if err != nil {
			return err
		}
		s := a.session(e)
		defer s.Close()
		return f(c.Context(), s)
	}
}

// Close closes what was opened.
func (s *session) Close() {
	// Nothing was written through either, so nothing is lost if one fails.
	if s.model != nil {
		_ = s.model.Close()
		s.model = nil
	}
	if s.device != nil {
		_ = s.device.Close()
		s.device = nil
	}
}

// path is a file of the run.
func (s *session) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// openDevice gives the experiment's device.
func (s *session) openDevice() (kernels.Device, error) {
	if s.device != nil {
		return s.device, nil
	}
	d, err := openDevice(s.Device)
	if err != nil {
		return nil, err
	}
	s.device = d
	return d, nil
}

// openModel gives the experiment's model on its device.
func (s *session) openModel(ctx context.Context) (*model.Model, error) {
	if s.model != nil {
		return s.model, nil
	}
	path, err := s.modelPath(ctx)
	if err != nil {
		return nil, err
	}
	d, err := s.openDevice()
	if err != nil {
		return nil, err
	}
	t := s.app.progress.task("load "+filepath.Base(path), false)
	defer t.end()
	m, err := model.Load(ctx, path, d, model.LoadOptions{Progress: t.update})
	if err != nil {
		return nil, asInput(err)
	}
	s.model = m
	return m, nil
}

// documents gives n texts of the sources as the model's tokens, the first
// context of each. Shorter texts are left out, which the log says: they would
// be measured at another context than the one reported.
func (s *session) documents(m *model.Model, sources []string, n int, context int) ([]texts.Document, []eval.Document, error) {
	docs, err := texts.Read(sources...)
	if err != nil {
		return nil, nil, asInput(err)
	}
	if context > m.Context {
		return nil, nil, beyond(m, context, "capture.context")
	}
	tokens := map[string][]int32{}
	var long []texts.Document
	var short []string
	for _, d := range docs {
		ids := m.Tokenizer.Encode(d.Text, true)
		if len(ids) < context {
			short = append(short, fmt.Sprintf("%s has %d tokens", d.Name, len(ids)))
			continue
		}
		long, tokens[d.Name] = append(long, d), ids[:context]
	}
	switch {
	case len(long) == 0:
		return nil, nil, asInput(fmt.Errorf("no text fills the context of %d tokens (%s); give longer texts or lower capture.context", context, strings.Join(short, ", ")))
	case len(short) > 0:
		s.app.progress.logf("left out, with fewer than the context's %d tokens: %s", context, strings.Join(short, ", "))
	}
	docs = texts.Spread(long, n)
	out := make([]eval.Document, len(docs))
	for i, d := range docs {
		out[i] = eval.Document{ID: d.Name, Tokens: tokens[d.Name]}
	}
	return docs, out, nil
}

// beyond is the error of a context that the model was not trained for.
func beyond(m *model.Model, context int, key string) error {
	return usagef("a context of %d tokens is more than %s was trained for (%d); lower %s", context, m.Name, m.Context, key)
}

// distinct reports a text that is in two of the sets.
func (s *session) distinct() error {
	sets := map[string]string{} // hash of a text -> where it is
	for _, set := range []struct {
		key     string
		sources []string
	}{{"data.calibration", s.Data.Calibration}, {"data.choice", s.Data.Choice}, {"data.heldout", s.Data.Heldout}} {
		if len(set.sources) == 0 {
			continue
		}
		docs, err := texts.Read(set.sources...)
		if err != nil {
			return asInput(err)
		}
		for _, d := range docs {
			if other, ok := sets[d.Hash()]; ok {
				return &configs.KeyError{Key: set.key, Problem: fmt.Sprintf("%s is the same text as %s; results on it would flatter", d.Name, other)}
			}
		}
		for _, d := range docs {
			sets[d.Hash()] = d.Name + " of " + set.key
		}
	}
	return nil
}

// settings makes the experiment's selectors on a device: hash stands for each
// of the mappings. calibration may be nil.
func (s *session) settings(d kernels.Device, at selector.Shape, mappings []*mapping.Mapping, calibration *trace.Reader) ([]eval.Setting, error) {
	var samples selector.Samples
	dense := slices.Clone(s.Train.DenseLayers)
	if calibration != nil {
		samples = eval.TraceSamples{Reader: calibration}
		// Mappings are trained for the captured layers; the rivals, too, leave
		// the others dense, so that all read alike.
		for l := range at.Layers {
			if !slices.Contains(calibration.Captured, l) && !slices.Contains(dense, l) {
				dense = append(dense, l)
			}
		}
	}
	var out []eval.Setting
	add := func(src eval.Source) error {
		set, err := eval.NewSetting(d, at.Model, at.Scale, src, samples)
		if err != nil {
			return asInput(err)
		}
		out = append(out, set)
		return nil
	}
	for _, sel := range s.Selectors {
		if sel.Name != "hash" {
			src := eval.Source{Method: sel.Description(), Sink: s.Train.Sink, Local: s.Train.Local, Candidates: sel.Rerank, DenseLayers: dense, Mass: sel.P}
			if err := add(src); err != nil {
				return nil, err
			}
			continue
		}
		used := 0
		for _, m := range mappings {
			if sel.Preset != "" && sel.Preset != m.Preset {
				continue
			}
			used++
			if err := add(s.mappingSource(m, sel)); err != nil {
				return nil, err
			}
		}
		if used == 0 {
			return nil, usagef("selector %s needs a mapping; train one, or name its file with --mapping", sel)
		}
	}
	return out, nil
}

// mappingSource is a mapping under the rule of use that a selector names.
func (s *session) mappingSource(m *mapping.Mapping, sel configs.Selector) eval.Source {
	dense := slices.Concat(m.DenseLayers, s.Train.DenseLayers)
	slices.Sort(dense)
	src := eval.Source{Mapping: m, Sink: -1, Local: -1, Candidates: -1, DenseLayers: slices.Compact(dense), Mass: sel.P, Uniform: sel.Uniform}
	if sel.Rerank > 0 {
		src.Candidates = sel.Rerank
	}
	return src
}

// modelSettings makes the experiment's selectors for a loaded model, from the
// mapping files named or those of the run, and the calibration trace in a
// folder if there is one. It gives the files that it used.
func (s *session) modelSettings(m *model.Model, named []string, calibration string) ([]eval.Setting, []string, error) {
	files, err := s.mappingFiles(named)
	if err != nil {
		return nil, nil, err
	}
	mappings, err := loadMappings(files)
	if err != nil {
		return nil, nil, err
	}
	r, err := openCalibration(calibration, m.Shape())
	if err != nil {
		return nil, nil, err
	}
	if r != nil {
		// The selectors keep what they learn from it, not the trace.
		defer r.Close()
	}
	settings, err := s.settings(m.Device, selector.Shape{Model: m.Shape(), Scale: m.QueryScale}, mappings, r)
	return settings, files, err
}

// openCalibration opens the trace that selectors calibrate themselves on; nil
// if there is none: those that need it say so.
func openCalibration(dir string, m shape.Model) (*trace.Reader, error) {
	r, err := trace.Open(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, asInput(err)
	}
	if err := r.CheckModel(m); err != nil {
		r.Close()
		return nil, asInput(err)
	}
	return r, nil
}

// budgets are the experiment's sparsities.
func (s *session) budgets() []kernels.Budget {
	out := make([]kernels.Budget, len(s.Sparsities))
	for i, b := range s.Sparsities {
		out[i] = b.Budget
	}
	return out
}

// loadMappings reads mapping files.
func loadMappings(paths []string) ([]*mapping.Mapping, error) {
	var out []*mapping.Mapping
	for _, p := range paths {
		m, err := mapping.Load(p)
		if err != nil {
			return nil, asInput(err)
		}
		out = append(out, m)
	}
	return out, nil
}

// contexts are ints, the captured context where none is given.
func (s *session) contexts(list []configs.Tokens) []int {
	if len(list) == 0 {
		return []int{int(s.Capture.Context)}
	}
	out := make([]int, len(list))
	for i, c := range list {
		out[i] = int(c)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// header starts a result file. samples identifies what is measured on.
func (s *session) header(kind string, config any, samples any, m shape.Model, d kernels.Device, begin time.Time) (result.Header, error) {
	h, err := result.NewHeader(kind, config)
	if err != nil {
		return h, err
	}
	raw, err := json.Marshal(samples)
	if err != nil {
		return h, err
	}
	h.Samples = result.Hash(raw)
	h.Model = result.Model{Name: m.Name, Fingerprint: m.Fingerprint, Layers: m.Layers, QueryHeads: m.QueryHeads, KVHeads: m.KVHeads, HeadDim: m.HeadDim}
	h.Device = deviceOf(d)
	h.Seconds = time.Since(begin).Seconds()
	return h, nil
}
