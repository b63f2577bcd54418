package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/hashattn/hashattn/configs"
	"github.com/hashattn/hashattn/configs/texts"
	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/model/atomicfile"
	"github.com/hashattn/hashattn/model/selector"
	"github.com/hashattn/hashattn/model/trace"
	"github.com/hashattn/hashattn/train"
)

// study is a table of variants of training: each is trained on the calibration
// texts, compared with another on the choice texts, and measured once on the
// held-out texts, which took no part in choosing.
type study struct {
	About    string         `yaml:"about"`
	Variants []studyVariant `yaml:"variants"`
}

// studyVariant is a row: a preset with other settings, or a rival method.
type studyVariant struct {
	Name string `yaml:"name"`
	// Against names the variant that this one must beat; empty for those that
	// others are compared with.
	Against string `yaml:"against"`
	// Preset is what is trained, with the keys of the experiment's train
	// section in Set; or Method describes a selector without training.
	Preset string         `yaml:"preset"`
	Set    map[string]any `yaml:"set"`
	Method string         `yaml:"method"`
	Rerank int            `yaml:"rerank"` // candidates in budgets; 0: none
	// QueryMetric gives a method keys and queries in the basis that
	// train.QueryMetric fits for that many parts; 0: as they are.
	QueryMetric int `yaml:"queryMetric"`
}

// readStudy reads a study file, strictly.
func readStudy(path string) (*study, error) {
	raw, err := configs.ReadFile(path)
	if err != nil {
		return nil, usageError{err}
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	var s study
	if err := d.Decode(&s); err != nil {
		return nil, usagef("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(s.Variants) == 0 {
		return nil, usagef("%s: variants: there is none", path)
	}
	seen := map[string]bool{}
	for i, v := range s.Variants {
		at := fmt.Sprintf("%s: variants[%d] (%s)", path, i, v.Name)
		switch {
		case v.Name == "" || seen[v.Name]:
			return nil, usagef("%s: name: want one that no other has", at)
		case (v.Preset == "") == (v.Method == ""):
			return nil, usagef("%s: want either preset or method", at)
		case v.Method != "" && len(v.Set) > 0:
			return nil, usagef("%s: set: a method is not trained", at)
		case v.Against != "" && !seen[v.Against]:
			return nil, usagef("%s: against: %q is no variant before it", at, v.Against)
		case v.Rerank < 0:
			return nil, usagef("%s: rerank: %d is below 0", at, v.Rerank)
		case v.QueryMetric < 0 || v.QueryMetric > 0 && v.Method == "":
			return nil, usagef("%s: queryMetric: want a number of parts, with a method", at)
		case v.Method != "":
			if err := selector.Check(v.Method); err != nil {
				return nil, usagef("%s: method: %v", at, err)
			}
		}
		seen[v.Name] = true
	}
	return &s, nil
}

// with is the experiment with the variant's settings.
func (v studyVariant) with(base func(...configs.Source) (*configs.Experiment, error)) (*configs.Experiment, error) {
	var sources []configs.Source
	for _, key := range slices.Sorted(maps.Keys(v.Set)) {
		text := fmt.Sprint(v.Set[key])
		if list, ok := v.Set[key].([]any); ok {
			var items []string
			for _, item := range list {
				items = append(items, fmt.Sprint(item))
			}
			text = strings.Join(items, ",")
		}
		sources = append(sources, configs.Source{Name: "variant " + v.Name, Key: "train." + key, Value: text})
	}
	return base(sources...)
}

// studyRow is a measured variant.
type studyRow struct {
	Name    string  `json:"name"`
	Against string  `json:"against,omitempty"`
	Preset  string  `json:"preset,omitempty"`
	Hash    string  `json:"hash"` // of all that the row depends on
	Bits    float64 `json:"bits_per_token"`
	Steps   int     `json:"steps"`
	// Seconds is what training took, of all workers at once; 0 if it was
	// resumed and its time is not known.
	Seconds float64 `json:"seconds"`
	Workers int     `json:"workers"`

	Choice  []studyScore `json:"choice"` // per document
	Heldout []studyScore `json:"heldout"`
}

// studyScore is what a variant reads of exact attention in one document.
type studyScore struct {
	Document string  `json:"document"`
	Recall   float64 `json:"recall"`
	Mass     float64 `json:"mass"`
	Error    float64 `json:"error"`
	Density  float64 `json:"density"`
}

// studyFile is study.json.
type studyFile struct {
	Command  string      `json:"command"`
	About    string      `json:"about"`
	Model    string      `json:"model"`
	Context  int         `json:"context"`
	Budget   string      `json:"budget"`
	Layers   []int       `json:"layers"`
	Device   string      `json:"device"`
	Versions any         `json:"versions"`
	Rows     []*studyRow `json:"rows"`
}

// runStudy does all of a study, keeping each row as it comes.
func (s *session) runStudy(ctx context.Context, o trainOptions, base func(...configs.Source) (*configs.Experiment, error)) error {
	if err := s.distinct(); err != nil {
		return err
	}
	plan, err := readStudy(o.study)
	if err != nil {
		return err
	}
	experiments := make([]*configs.Experiment, len(plan.Variants))
	for i, v := range plan.Variants {
		if experiments[i], err = v.with(base); err != nil {
			return err
		}
		if v.Preset != "" {
			one := &session{app: s.app, Experiment: experiments[i], dir: s.dir}
			if _, err := one.trainConfig(v.Preset); err != nil {
				return fmt.Errorf("variant %s: %w", v.Name, err)
			}
		}
	}
	if len(s.Sparsities) != 1 {
		return usagef("sparsities: a study compares at one budget, give one, such as --set sparsities=1/32")
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	traces := map[string]*trace.Reader{}
	for _, set := range []string{"calibration", "choice", "heldout"} {
		if traces[set], err = s.studyTrace(ctx, set); err != nil {
			return err
		}
		defer traces[set].Close()
	}
	// The model is not needed any more; a large one leaves its memory to training.
	s.Close()
	device, err := s.openDevice()
	if err != nil {
		return err
	}
	path := filepath.Join(o.out, "study.json")
	old, err := readStudyFile(path)
	if err != nil {
		return err
	}
	heldout := traces["heldout"]
	out := &studyFile{
		Command: s.studyCommand(o.study, o.flags), About: plan.About, Model: heldout.Model.Name, Context: heldout.Context, Budget: s.Sparsities[0].String(),
		Layers: s.measuredLayers(heldout), Device: device.Info().Name, Versions: result.Versions(),
	}
	for i, v := range plan.Variants {
		one := &session{app: s.app, Experiment: experiments[i], dir: s.dir, device: device}
		row, err := one.studyVariant(ctx, v, o, traces, old)
		if err != nil {
			return fmt.Errorf("variant %s: %w", v.Name, err)
		}
		out.Rows = append(out.Rows, row)
		raw, err := json.MarshalIndent(out, "", " ")
		if err != nil {
			return err
		}
		// Rows that are still to come are kept, in case this ends early.
		keep := *out
		for _, r := range old {
			if !slices.ContainsFunc(keep.Rows, func(k *studyRow) bool { return k.Name == r.Name }) {
				keep.Rows = append(keep.Rows[:len(keep.Rows):len(keep.Rows)], r)
			}
		}
		if i+1 < len(plan.Variants) {
			if raw, err = json.MarshalIndent(keep, "", " "); err != nil {
				return err
			}
		}
		if err := atomicfile.Replace(path, append(raw, '\n')); err != nil {
			return err
		}
		if err := atomicfile.Replace(filepath.Join(o.out, "EXPERIMENTS.md"), out.markdown()); err != nil {
			return err
		}
	}
	if s.app.json {
		return s.app.printJSON(out)
	}
	s.app.printf("%s", out.markdown())
	return nil
}

// studyCommand is what to type for the same study, wherever files lie; flags are
// those given.
func (s *session) studyCommand(study string, flags *pflag.FlagSet) string {
	command := "hashattn train --study " + filepath.Base(study)
	if s.app.file != "" {
		command += " --config " + strings.TrimSuffix(filepath.Base(s.app.file), ".yaml")
	}
	for _, set := range s.app.sets {
		if !strings.HasPrefix(set, "model=") {
			command += " --set " + set
		}
	}
	flags.Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "study", "config", "set", "out", "trace", "checkpoints", "name", "workers", "threads", "quiet", "json":
		default:
			command += " --" + f.Name + " " + f.Value.String()
		}
	})
	return command
}

// measuredLayers are the layers that recall is measured in where no mapping
// leaves more dense.
func (s *session) measuredLayers(r *trace.Reader) []int {
	layers := s.Eval.Recall.Layers
	if len(layers) == 0 {
		layers = r.Captured
	}
	return slices.DeleteFunc(slices.Clone(layers), func(l int) bool { return slices.Contains(s.Train.DenseLayers, l) })
}

// studyTrace opens a set's trace, capturing it first unless it is whole.
func (s *session) studyTrace(ctx context.Context, set string) (*trace.Reader, error) {
	dir := s.path("traces", set)
	sources, n := s.textsOf(set)
	docs, err := texts.Read(sources...)
	if err != nil {
		return nil, asInput(err)
	}
	docs = texts.Spread(docs, n)
	if r, err := trace.Open(dir); err == nil {
		whole := len(r.Shards) == len(docs)
		for _, d := range docs {
			whole = whole && slices.ContainsFunc(r.Shards, func(s trace.Shard) bool { return s.Hash == d.Hash() })
		}
		if whole && r.Context == int(s.Capture.Context) {
			return r, nil
		}
		r.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, asInput(err)
	}
	if _, err := s.capture(ctx, set, dir); err != nil {
		return nil, err
	}
	return trace.Open(dir)
}

// studyVariant trains and measures a variant, or gives the row of an earlier
// run with the same settings and traces.
func (s *session) studyVariant(ctx context.Context, v studyVariant, o trainOptions, traces map[string]*trace.Reader, old []*studyRow) (*studyRow, error) {
	row := &studyRow{Name: v.Name, Against: v.Against, Preset: v.Preset, Workers: s.Train.Workers}
	depends := []any{s.recallConfig(), v.Method, v.QueryMetric, v.Rerank, traces["choice"].Shards, traces["heldout"].Shards, traces["heldout"].Captured}
	var config train.Config
	if v.Preset != "" {
		var err error
		if config, err = s.trainHere(v.Preset); err != nil {
			return nil, err
		}
		row.Steps = config.Steps
		depends = append(depends, config, train.Hash(traces["calibration"], config))
	} else {
		depends = append(depends, traces["calibration"].Shards)
	}
	raw, err := json.Marshal(depends)
	if err != nil {
		return nil, err
	}
	row.Hash = result.Hash(raw)
	for _, r := range old {
		if r.Hash == row.Hash {
			r.Name, r.Against = v.Name, v.Against
			s.app.progress.logf("variant %s: measured before", v.Name)
			return r, nil
		}
	}
	dense := slices.Clone(s.Train.DenseLayers)
	for l := range traces["calibration"].Model.Layers {
		if !slices.Contains(traces["calibration"].Captured, l) && !slices.Contains(dense, l) {
			dense = append(dense, l)
		}
	}
	source := eval.Source{Method: v.Method, Sink: s.Train.Sink, Local: s.Train.Local, Candidates: v.Rerank, DenseLayers: dense}
	if v.Preset != "" {
		begin, resumed := time.Now(), false
		task := s.app.progress.task("train "+v.Name, false)
		m, err := train.Run(ctx, train.Options{
			Trace: traces["calibration"], Config: config, Workers: s.Train.Workers, CheckpointDir: filepath.Join(o.checkpoints, v.Preset),
			OnProgress: func(p train.Progress) {
				resumed = resumed || p.StepsResumed > 0
				task.update64(p.StepsDone, p.TotalSteps)
			},
		})
		task.end()
		if err != nil {
			return nil, err
		}
		row.Seconds = time.Since(begin).Seconds()
		if resumed {
			row.Seconds = 0
		}
		source.Mapping, source.DenseLayers = m, m.DenseLayers
	}
	var samples selector.Samples = eval.TraceSamples{Reader: traces["calibration"]}
	choice, heldout := traces["choice"], traces["heldout"]
	if v.QueryMetric > 0 {
		metric, err := train.FitQueryMetric(traces["calibration"], s.Train.Sink, v.QueryMetric)
		if err != nil {
			return nil, err
		}
		samples = metric.Samples(samples)
		for set, r := range map[string]**trace.Reader{"choice": &choice, "heldout": &heldout} {
			if *r, err = metric.Rewrite(traces[set], s.path("traces", fmt.Sprintf("%s-metric%d", set, v.QueryMetric))); err != nil {
				return nil, err
			}
			defer (*r).Close()
		}
	}
	set, err := eval.NewSetting(s.device, heldout.Model, heldout.Scale, source, samples)
	if err != nil {
		return nil, asInput(err)
	}
	row.Bits = set.Scorer.Bits()
	if row.Choice, err = s.studyScores(ctx, set, choice); err != nil {
		return nil, err
	}
	if row.Heldout, err = s.studyScores(ctx, set, heldout); err != nil {
		return nil, err
	}
	s.app.progress.logf("variant %s: held-out %s, trained in %s", v.Name, scores(row.Heldout), elapsed(time.Duration(row.Seconds*float64(time.Second))))
	return row, nil
}

// studyScores measures a setting on each document of a trace.
func (s *session) studyScores(ctx context.Context, set eval.Setting, r *trace.Reader) ([]studyScore, error) {
	task := s.app.progress.task("measure", false)
	defer task.end()
	var out []studyScore
	for i, shard := range r.Shards {
		rows, err := eval.Recall(ctx, eval.RecallOptions{
			Device: s.device, Trace: r, Settings: []eval.Setting{set}, Budgets: s.budgets(), Contexts: []int{r.Context},
			Window: s.recallWindow(), Queries: s.Eval.Recall.Queries, Layers: s.Eval.Recall.Layers, Documents: []int{i},
		})
		if err != nil {
			return nil, err
		}
		out = append(out, studyScore{shard.ID, rows[0].Recall, rows[0].Mass, rows[0].Error, rows[0].Density})
		task.update(i+1, len(r.Shards))
	}
	return out, nil
}

// readStudyFile gives the rows of an earlier run; none is no error.
func readStudyFile(path string) ([]*studyRow, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f studyFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, asInput(fmt.Errorf("%s: %w: remove it to measure again", path, err))
	}
	return f.Rows, nil
}
