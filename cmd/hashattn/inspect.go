package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/configs"
	"github.com/hashattn/hashattn/eval/report"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/gguf"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/safetensors"
	"github.com/hashattn/hashattn/model/shape"
	"github.com/hashattn/hashattn/model/trace"
)

type inspectOptions struct {
	tensors, quick bool
}

// inspection is what a file holds, and what is wrong with it.
type inspection struct {
	Path     string       `json:"path"`
	Kind     string       `json:"kind"`
	Sound    bool         `json:"sound"`
	Checked  string       `json:"checked"` // how far
	Facts    []fact       `json:"facts"`
	Model    *shape.Model `json:"model,omitempty"` // of a checkpoint, as traces and mappings record it
	Tensors  []tensorFact `json:"tensors,omitempty"`
	Problems []string     `json:"problems,omitempty"`
}

type fact struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

func (i *inspection) add(name string, value any) { i.Facts = append(i.Facts, fact{name, value}) }

func (i *inspection) problem(err error) {
	if err != nil {
		i.Problems = append(i.Problems, err.Error())
	}
}

func (a *app) inspectCommand() *cobra.Command {
	var o inspectOptions
	c := &cobra.Command{
		Use:   "inspect FILE...",
		Short: "Say what a file or folder holds and whether it is sound",
		Long: `inspect tells what a GGUF or safetensors file, a Hugging Face folder, a trace,
a mapping, a result file, an experiment file or the folder of a run holds. It
reads all of it: truncated files, wrong shapes, values that are not finite and
wrong checksums are found. A file that is not sound gives exit code 3.
` + exitHelp,
		Example: `  hashattn inspect model.gguf
  hashattn inspect runs/quickstart/traces/calibration
  hashattn inspect --tensors --quick mapping.safetensors`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, paths []string) error { return a.runInspect(c.Context(), o, paths) },
	}
	c.Flags().BoolVar(&o.tensors, "tensors", false, "list the tensors")
	c.Flags().BoolVar(&o.quick, "quick", false, "check headers and shapes only, not every value")
	return c
}

func (a *app) runInspect(ctx context.Context, o inspectOptions, paths []string) error {
	var all []*inspection
	for _, p := range paths {
		i, err := a.inspect(ctx, o, p)
		if err != nil {
			return err
		}
		i.Sound = len(i.Problems) == 0
		all = append(all, i)
	}
	if a.json {
		if err := a.printJSON(all); err != nil {
			return err
		}
	} else {
		for _, i := range all {
			a.printInspection(i)
		}
	}
	for _, i := range all {
		if !i.Sound {
			return inputError{fmt.Errorf("%s is not sound: %s", i.Path, i.Problems[0])}
		}
	}
	return nil
}

func (a *app) printInspection(i *inspection) {
	a.printf("%s: %s\n", i.Path, i.Kind)
	for _, f := range i.Facts {
		a.printf("  %-16s %v\n", f.Name, f.Value)
	}
	for _, t := range i.Tensors {
		a.printf("  %-48s %-6s %v\n", t.Name, t.Type, t.Shape)
	}
	for _, p := range i.Problems {
		a.printf("  PROBLEM          %s\n", p)
	}
	if i.Sound {
		a.printf("  sound            %s\n", i.Checked)
	}
}

// inspect finds out what lies at path and looks at it.
func (a *app) inspect(ctx context.Context, o inspectOptions, path string) (*inspection, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, inputError{err}
	}
	i := &inspection{Path: path, Checked: "headers and shapes"}
	if !o.quick {
		i.Checked = "all of it was read"
	}
	look := a.inspectFile
	if info.IsDir() {
		look = a.inspectFolder
	}
	i.problem(look(ctx, o, i))
	return i, ctx.Err()
}

func exists(parts ...string) bool {
	_, err := os.Stat(filepath.Join(parts...))
	return err == nil
}

// inspectFolder tells traces, checkpoints and runs apart by the files that
// each must have.
func (a *app) inspectFolder(ctx context.Context, o inspectOptions, i *inspection) error {
	switch {
	case exists(i.Path, "index.json"):
		return inspectTrace(ctx, o, i)
	case exists(i.Path, "config.json"):
		i.Kind = "Hugging Face folder"
		if err := inspectModel(i); err != nil {
			return err
		}
		m, err := safetensors.OpenModel(i.Path)
		if err != nil {
			return err
		}
		defer m.Close()
		return a.inspectTensors(ctx, o, i, safetensorsList(m.Tensors))
	}
	for _, kind := range result.Kinds {
		if exists(i.Path, kind+".json") {
			return inspectRun(i)
		}
	}
	i.Kind = "unknown folder"
	return errors.New("it is no trace (index.json), no checkpoint (config.json), no run (recall.json and the like)")
}

func (a *app) inspectFile(ctx context.Context, o inspectOptions, i *inspection) error {
	f, err := os.Open(i.Path)
	if err != nil {
		return err
	}
	head := make([]byte, 16)
	n, _ := f.Read(head) // an empty file reads nothing and is told below
	f.Close()
	head = head[:n]
	switch {
	case gguf.IsGGUF(i.Path):
		return a.inspectGGUF(ctx, o, i)
	case len(head) > 8 && head[8] == '{':
		return a.inspectSafetensors(ctx, o, i)
	case slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(i.Path)):
		return inspectExperiment(i)
	case filepath.Ext(i.Path) == ".jsonl":
		return inspectLosses(i)
	case bytes.HasPrefix(bytes.TrimSpace(head), []byte("{")):
		return inspectResult(i)
	}
	i.Kind = "unknown file"
	return fmt.Errorf("it begins with %q: no GGUF, safetensors, result or experiment file", head)
}

func (a *app) inspectGGUF(ctx context.Context, o inspectOptions, i *inspection) error {
	i.Kind = "GGUF checkpoint"
	f, err := gguf.Open(i.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	i.add("version", f.Version)
	if err := inspectModel(i); err != nil {
		return err
	}
	tensors := make([]tensorFact, len(f.Tensors))
	for j, t := range f.Tensors {
		tensors[j] = tensorFact{t.Name, t.Type.String(), t.Shape, t.Type, t.Data}
	}
	return a.inspectTensors(ctx, o, i, tensors)
}

// inspectModel reads a checkpoint's configuration and tokenizer.
func inspectModel(i *inspection) error {
	c, tok, fingerprint, err := model.Inspect(i.Path)
	if c.Architecture != "" {
		i.add("architecture", c.Architecture)
		i.add("layers", c.Layers)
		i.add("heads", fmt.Sprintf("%d query, %d KV, headDim %d", c.QueryHeads, c.KVHeads, c.HeadDim))
		i.add("width", fmt.Sprintf("%d, feed-forward %d", c.Width, c.FeedForward))
		i.add("context", c.Context)
	}
	if err != nil {
		return err
	}
	i.add("vocabulary", fmt.Sprintf("%d tokens, %d rows", tok.VocabSize(), c.Vocabulary))
	i.add("tokenizer", tok.Hash())
	i.add("fingerprint", fingerprint)
	at := (&model.Model{Config: c, Fingerprint: fingerprint}).Shape()
	i.Model = &at
	return c.Check()
}

func (a *app) inspectSafetensors(ctx context.Context, o inspectOptions, i *inspection) error {
	i.Kind = "safetensors file"
	f, err := safetensors.Open(i.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.Metadata["format"] == "hashattn-mapping" {
		i.Kind = "mapping"
		m, err := mapping.Load(i.Path)
		if err != nil {
			return err
		}
		i.add("preset", m.Preset)
		i.add("model", m.Model.Name)
		i.add("fingerprint", m.Model.Fingerprint)
		i.add("heads", fmt.Sprintf("%d query, %d KV, headDim %d", m.Model.QueryHeads, m.Model.KVHeads, m.Model.HeadDim))
		i.add("bits", fmt.Sprintf("%d, %d per KV-head token", m.Bits, m.BitsPerToken()))
		i.add("keys", m.Keys)
		i.add("selection", m.Config.Selection)
		i.add("score", fmt.Sprintf("%s, query bits %d", m.Score, m.QueryBits))
		i.add("sink, local", fmt.Sprintf("%d, %d", m.Sink, m.Local))
		i.add("candidates", m.Candidates)
		if x := extremes(m); x != nil {
			i.add("shares", fmt.Sprintf("%.3g to %.3g mean budgets per %s, by %s at %s", x[0], x[1], m.Shares.Measured.Per, m.Shares.Measured.Objective, m.Shares.Measured.Budget))
		}
		i.add("layers", fmt.Sprintf("%d, dense %v, per head %v", len(m.Layers), m.DenseLayers, m.PerHeadLayers))
		i.add("training", m.TrainingHash)
	} else if len(f.Metadata) > 0 {
		keys := []string{}
		for k := range f.Metadata {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		i.add("metadata", strings.Join(keys, ", "))
	}
	return a.inspectTensors(ctx, o, i, safetensorsList(f.Tensors))
}

func inspectTrace(ctx context.Context, o inspectOptions, i *inspection) error {
	i.Kind = "trace"
	r, err := trace.Open(i.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	tokens, queries, size := 0, 0, int64(0)
	kinds := map[string]int{}
	for _, s := range r.Shards {
		tokens, queries, size = tokens+s.Tokens, queries+s.Queries, size+s.Bytes
		kinds[s.Kind]++
	}
	i.add("model", r.Model.Name)
	i.add("fingerprint", r.Model.Fingerprint)
	i.add("heads", fmt.Sprintf("%d query, %d KV, headDim %d", r.Model.QueryHeads, r.Model.KVHeads, r.Model.HeadDim))
	i.add("layers", fmt.Sprint(r.Captured))
	i.add("context", r.Context)
	i.add("documents", fmt.Sprintf("%d %v", len(r.Shards), kinds))
	i.add("tokens", tokens)
	i.add("queries", queries)
	i.add("bytes", size)
	if o.quick {
		return nil
	}
	return r.Verify(ctx)
}

func inspectResult(i *inspection) error {
	i.Kind = "JSON file"
	f, err := result.Read(i.Path)
	if err != nil {
		return err
	}
	h := f.Head()
	i.Kind = h.Kind + " results"
	i.add("model", h.Model.Name)
	i.add("device", h.Device.Name)
	i.add("created", h.Created)
	i.add("config hash", h.ConfigHash)
	i.add("samples", h.Samples)
	i.add("versions", h.Versions)
	switch f := f.(type) {
	case *result.Recall:
		i.add("rows", len(f.Rows))
	case *result.Perplexity:
		i.add("rows", len(f.Rows))
	case *result.Bench:
		i.add("rows", len(f.Rows))
	case *result.Scores:
		i.add("rows", len(f.Rows))
	}
	return nil
}

func inspectRun(i *inspection) error {
	i.Kind = "run"
	r, err := report.Load(i.Path)
	if err != nil {
		return err
	}
	for _, kind := range result.Kinds {
		if f, ok := r.Files[kind]; ok {
			i.add(kind, fmt.Sprintf("%s, %s, %s", f.Head().Model.Name, f.Head().Device.Name, f.Head().Created.Format("2006-01-02 15:04")))
		}
	}
	stages, err := filepath.Glob(filepath.Join(i.Path, "stages", "*.started.json"))
	if err != nil {
		return err
	}
	for _, s := range stages {
		i.add("unfinished", strings.TrimSuffix(filepath.Base(s), ".started.json"))
	}
	return nil
}

func inspectExperiment(i *inspection) error {
	i.Kind = "experiment file"
	raw, err := configs.ReadFile(i.Path)
	if err != nil {
		return err
	}
	e, err := configs.Load(i.Path, raw, nil)
	if err != nil {
		return errors.New(err.Error()) // here it is a damaged file, not wrong usage
	}
	i.add("name", e.Name)
	i.add("model", e.Model)
	i.add("presets", e.Train.Presets)
	i.add("selectors", e.Selectors)
	i.add("sparsities", e.Sparsities)
	return nil
}

func inspectLosses(i *inspection) error {
	i.Kind = "JSON lines"
	rows, err := result.ReadLosses(i.Path)
	if err != nil {
		return err
	}
	i.Kind = "loss curve"
	last := 0
	for _, r := range rows {
		last = max(last, r.Step)
	}
	i.add("rows", len(rows))
	i.add("last step", last)
	if len(rows) == 0 {
		return fs.ErrInvalid
	}
	return nil
}
