package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/configs"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/mapping"
)

type exportOptions struct {
	out         string
	model       string
	sink, local int
	candidates  int
	queryBits   int
	dense       []int
	perHead     []int
	uniform     bool
}

func (a *app) exportCommand() *cobra.Command {
	var o exportOptions
	c := &cobra.Command{
		Use:   "export MAPPING",
		Short: "Check a mapping and write it with other rules of use",
		Long: `export reads a mapping, checks all of it (against a model too, with --model), and
writes it as one safetensors file, which scripts/load_mapping.py reads in
Python. The flags change how the maps are used; the maps themselves stay.
` + exitHelp,
		Example: `  hashattn export runs/quickstart/mappings/shared.safetensors --out shared.safetensors
  hashattn export shared.safetensors --candidates 2 --dense-layers 0 --out shared-rerank.safetensors
  hashattn export shared.safetensors --model smollm2-135m --out checked.safetensors`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, paths []string) error { return a.runExport(c, o, paths[0]) },
	}
	f := c.Flags()
	f.StringVarP(&o.out, "out", "o", "", "`file` to write (required)")
	f.StringVar(&o.model, "model", "", "`model` that the mapping must fit: alias, GGUF file or folder")
	f.IntVar(&o.sink, "sink", 0, "first tokens always read")
	f.IntVar(&o.local, "local", 0, "last tokens always read")
	f.IntVar(&o.candidates, "candidates", 0, "candidates reranked by exact logits, in budgets; below 2: none")
	f.IntVar(&o.queryBits, "query-bits", 0, "bits of a query weight: 4 or 8")
	f.IntSliceVar(&o.dense, "dense-layers", nil, "layers that are to stay dense; their maps are left out")
	f.IntSliceVar(&o.perHead, "per-head-layers", nil, "layers that are to select per query head; they need a query map for each")
	f.BoolVar(&o.uniform, "uniform-budgets", false, "leave out the shares of a calibrated budget")
	return c
}

func (a *app) runExport(c *cobra.Command, o exportOptions, path string) error {
	if o.out == "" {
		return usagef("name the file to write by --out")
	}
	m, err := mapping.Load(path)
	if err != nil {
		return asInput(err)
	}
	if changed(c, "sink") {
		m.Sink = o.sink
	}
	if changed(c, "local") {
		m.Local = o.local
	}
	if changed(c, "candidates") {
		m.Candidates = o.candidates
	}
	if changed(c, "query-bits") {
		if m.Score == mapping.Hamming {
			return usagef("--query-bits: %s scores by Hamming distance, its queries have 1 bit", m.Preset)
		}
		m.QueryBits = o.queryBits
	}
	if o.uniform {
		m.Shares = nil
	}
	if m.Shares != nil && len(o.dense)+len(o.perHead) > 0 {
		return usagef("--dense-layers and --per-head-layers change which token sets share the calibrated budget: add --uniform-budgets, then calibrate again")
	}
	for _, l := range o.dense {
		if l < 0 || l >= len(m.Layers) {
			return usagef("--dense-layers: %d is no layer of a model of %d", l, len(m.Layers))
		}
		m.Layers[l] = nil
		if !slices.Contains(m.DenseLayers, l) {
			m.DenseLayers = append(m.DenseLayers, l)
		}
	}
	slices.Sort(m.DenseLayers)
	for _, l := range o.perHead {
		if l < 0 || l >= len(m.Layers) {
			return usagef("--per-head-layers: %d is no layer of a model of %d", l, len(m.Layers))
		}
		m.PerHeadLayers = append(m.PerHeadLayers, l)
	}
	slices.Sort(m.PerHeadLayers)
	m.PerHeadLayers = slices.Compact(m.PerHeadLayers)
	m.PerHeadLayers = slices.DeleteFunc(m.PerHeadLayers, func(l int) bool { return slices.Contains(m.DenseLayers, l) })
	if err := m.Check(); err != nil {
		return usageError{err}
	}
	if o.model != "" {
		if err := a.fitsModel(c.Context(), m, o.model); err != nil {
			return err
		}
	}
	if err := m.Save(o.out); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"mapping": o.out, "config": m.Config})
	}
	a.printf("%s: %s for %s, %d bits per KV-head token, sink %d, local %d\n", o.out, m.Preset, m.Model.Name, m.BitsPerToken(), m.Sink, m.Local)
	return nil
}

// fitsModel checks a mapping against a checkpoint, whose weights stay on disk.
func (a *app) fitsModel(ctx context.Context, m *mapping.Mapping, ref string) error {
	e := configs.Default()
	e.Model = ref
	path, err := a.session(e).modelPath(ctx)
	if err != nil {
		return err
	}
	config, _, fingerprint, err := model.Inspect(path)
	if err != nil {
		return asInput(err)
	}
	at := &model.Model{Config: config, Fingerprint: fingerprint}
	if err := m.CheckModel(at.Shape()); err != nil {
		return asInput(fmt.Errorf("mapping and %s do not fit: %w", path, err))
	}
	return nil
}
