package eval

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/trace"
)

// The objectives of a calibration: the most attention mass, or the least
// relative error of attention's output, each as the mean over query heads.
const (
	ObjectiveMass  = "mass"
	ObjectiveError = "error"
)

// What has a share of its own: every token set, the sets of a KV head or those
// of a layer together.
const (
	PerSet    = "set"
	PerKVHead = "kv-head"
	PerLayer  = "layer"
)

// CalibrateOptions says how Calibrate divides a budget.
type CalibrateOptions struct {
	Device  kernels.Device
	Trace   *trace.Reader
	Mapping *mapping.Mapping
	// Budget is the mean budget at which the shares are measured.
	Budget    kernels.Budget
	Objective string
	Per       string
	// Least and Most bound a set's budget, in parts of mapping.ShareUnit of
	// the mean budget.
	Least, Most int
	// Queries of each document, spread over the last half of it.
	Queries  int
	Progress func(done, total int)
}

// Calibrated is what a calibration found.
type Calibrated struct {
	Shares *mapping.Shares
	// Uniform and Divided are mean mass and error at the mean budget on the
	// calibration trace, as the curves say.
	Uniform, Divided struct{ Mass, Error float64 }
	// Smallest and Largest are the extreme shares, 1 for the mean budget.
	Smallest, Largest float64
}

// Calibrate measures how much attention each token set of a mapping keeps at
// budgets from Least to Most, chosen by the mapping's own scores and rule, and
// divides the mean budget by allocate.
func Calibrate(ctx context.Context, o CalibrateOptions) (*Calibrated, error) {
	if o.Least < 0 || o.Least > mapping.ShareUnit || o.Most < mapping.ShareUnit {
		return nil, fmt.Errorf("calibrate: shares of %d to %d parts do not span the mean budget of %d", o.Least, o.Most, mapping.ShareUnit)
	}
	if o.Objective != ObjectiveMass && o.Objective != ObjectiveError {
		return nil, fmt.Errorf("calibrate: objective %q, want %s or %s", o.Objective, ObjectiveMass, ObjectiveError)
	}
	set, err := NewSetting(o.Device, o.Trace.Model, o.Trace.Scale, Source{Mapping: o.Mapping, Sink: -1, Local: -1, Candidates: -1, DenseLayers: o.Mapping.DenseLayers, Uniform: true}, nil)
	if err != nil {
		return nil, err
	}
	c := calibration{CalibrateOptions: o, levels: levels(o.Least, o.Most)}
	budgets := make([]kernels.Budget, len(c.levels))
	for i, parts := range c.levels {
		budgets[i] = kernels.Budget{Num: o.Budget.Num * parts, Den: o.Budget.Den * mapping.ShareUnit, Count: o.Budget.Count * parts / mapping.ShareUnit}
		if budgets[i].Num > budgets[i].Den {
			budgets[i].Num = budgets[i].Den
		}
	}
	for l, layer := range o.Mapping.Layers {
		if layer != nil {
			c.layers = append(c.layers, l)
		}
	}
	rows, err := Recall(ctx, RecallOptions{
		Device: o.Device, Trace: o.Trace, Settings: []Setting{set}, Budgets: budgets, Contexts: []int{o.Trace.Context},
		Window: o.Trace.Context / 2, Queries: o.Queries, Layers: c.layers, PerHead: true, Progress: o.Progress,
	})
	if err != nil {
		return nil, fmt.Errorf("calibrate: %w", err)
	}
	c.read(rows)
	return c.divide()
}

// levels are the budgets measured, in parts: about 3 in each factor of 2.
func levels(least, most int) []int {
	out := []int{least, mapping.ShareUnit, most}
	for base := 1; base <= most; base *= 2 {
		for _, p := range []int{base, base * 5 / 4, base * 3 / 2} {
			if p > least && p < most && (p >= 4 || p == base) {
				out = append(out, p)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

type calibration struct {
	CalibrateOptions
	levels []int
	layers []int
	mass   map[[2]int]gain // by layer and query head
	err    map[[2]int]gain
}

// read takes the rows of layers and heads, which come budget by budget.
func (c *calibration) read(rows []result.RecallRow) {
	c.mass, c.err = map[[2]int]gain{}, map[[2]int]gain{}
	for _, r := range rows {
		if r.Layer == nil {
			continue
		}
		at := [2]int{*r.Layer, *r.Head}
		for _, x := range []struct {
			curves map[[2]int]gain
			value  float64
		}{{c.mass, r.Mass}, {c.err, -r.Error}} {
			g := x.curves[at]
			g.value, g.parts = append(g.value, x.value), c.levels
			x.curves[at] = g
		}
	}
}

// divide groups the sets and allocates the budget.
func (c *calibration) divide() (*Calibrated, error) {
	m, model := c.Mapping, c.Mapping.Model
	type place struct{ layer, set int }
	var groups []group
	var members [][]place
	curves := c.mass
	if c.Objective == ObjectiveError {
		curves = c.err
	}
	total := 0
	for _, l := range c.layers {
		sets := m.SelectionHeads(l)
		size := 1
		switch c.Per {
		case PerSet:
		case PerKVHead:
			size = sets / model.KVHeads
		case PerLayer:
			size = sets
		default:
			return nil, fmt.Errorf("calibrate: shares per %q, want %s, %s or %s", c.Per, PerSet, PerKVHead, PerLayer)
		}
		heads := model.QueryHeads / sets // that read a set
		for from := 0; from < sets; from += size {
			g := group{sets: size, gain: gain{c.levels, make([]float64, len(c.levels))}}
			var at []place
			for s := from; s < from+size; s++ {
				at = append(at, place{l, s})
				for h := s * heads; h < (s+1)*heads; h++ {
					for i, v := range curves[[2]int{l, h}].value {
						g.gain.value[i] += v
					}
				}
			}
			groups, members = append(groups, g), append(members, at)
			total += size * mapping.ShareUnit
		}
	}
	parts, err := allocate(groups, total)
	if err != nil {
		return nil, fmt.Errorf("calibrate: %w", err)
	}
	out := &Calibrated{Shares: &mapping.Shares{Layers: make([][]int, model.Layers)}}
	for i, at := range members {
		for _, p := range at {
			if out.Shares.Layers[p.layer] == nil {
				out.Shares.Layers[p.layer] = make([]int, m.SelectionHeads(p.layer))
			}
			out.Shares.Layers[p.layer][p.set] = parts[i]
		}
	}
	out.Smallest, out.Largest = float64(slices.Min(parts))/mapping.ShareUnit, float64(slices.Max(parts))/mapping.ShareUnit
	for _, l := range c.layers {
		for h := range model.QueryHeads {
			share := out.Shares.Layers[l][h*m.SelectionHeads(l)/model.QueryHeads]
			n, at := float64(len(c.layers)*model.QueryHeads), [2]int{l, h}
			out.Uniform.Mass += c.mass[at].at(mapping.ShareUnit) / n
			out.Uniform.Error -= c.err[at].at(mapping.ShareUnit) / n
			out.Divided.Mass += c.mass[at].at(share) / n
			out.Divided.Error -= c.err[at].at(share) / n
		}
	}
	out.Shares.Measured = mapping.Measured{Objective: c.Objective, Per: c.Per, Budget: c.Budget.String(), Context: c.Trace.Context, Queries: c.Queries}
	for _, s := range c.Trace.Shards {
		out.Shares.Measured.Documents = append(out.Shares.Measured.Documents, s.Hash)
	}
	return out, nil
}
