// Package train learns hash mappings from traces.
//
// Run cuts the work into units, one KV head of one layer (or one query head in
// the paper's recipe), and trains them side by side. A unit draws batches of
// queries and past keys from the trace (batch.go), starts from a code fitted
// to the keys (initial.go), and follows the gradient of a ranking loss through
// a gorgonia graph (unit.go) made of fused operations (ops*.go). Their
// arithmetic is an engine's (engine.go): a core's or a GPU's. The maps are kept
// in a checkpoint folder as they come, and joined to one mapping.
//
// What a unit learns depends on the configuration, the seed, the trace and the
// kind of device alone, not on how many workers there are or where it was
// interrupted.
package train

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/trace"
)

// Options are what Run needs.
type Options struct {
	Trace  *trace.Reader
	Config Config
	// Workers is the number of units trained at a time, 0 for one a core or, on
	// a GPU, as many as keep it busy.
	Workers int
	// CheckpointDir keeps finished units and loss curves, so that a run that
	// was interrupted goes on; "" for none. It may be used again with another
	// configuration or trace, which finds nothing of use in it.
	CheckpointDir string
	// OnProgress is called, by one goroutine at a time, as training goes on.
	OnProgress func(Progress)
}

// Progress says how far a run is.
type Progress struct {
	Layer, Head int     // what was worked on last
	Step, Steps int     // of that unit
	Loss        float64 // of that unit, mean over its last steps

	Units, UnitsDone      int
	TotalSteps, StepsDone int64 // over all units, with those of an earlier run
	StepsResumed          int64 // of StepsDone, those of an earlier run
	Elapsed               time.Duration
}

// Remaining estimates the time left from the pace of this run.
func (p Progress) Remaining() time.Duration {
	done := p.StepsDone - p.StepsResumed
	if done <= 0 {
		return 0
	}
	return time.Duration(float64(p.Elapsed) / float64(done) * float64(p.TotalSteps-p.StepsDone))
}

// Run trains a mapping. When ctx ends it returns soon, with ctx's error; what
// was finished by then stays in the checkpoint folder.
func Run(ctx context.Context, o Options) (*mapping.Mapping, error) {
	c := o.Config
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	layers, err := c.layers(o.Trace.Captured)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	blocks, err := blocksOf(o.Trace, c)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	units := unitsOf(o.Trace, c, layers, blocks)
	store, err := openStore(o.CheckpointDir, o.Trace, c)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	useBLAS()

	results := make([]trained, len(units))
	var todo []int
	r := newReporter(o, len(units))
	for i, u := range units {
		found, err := store.load(u, &results[i])
		if err != nil {
			return nil, fmt.Errorf("train: %w", err)
		}
		if found {
			r.resumed()
			continue
		}
		todo = append(todo, i)
	}
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
		if c.Device == CUDA {
			workers = min(workers, gpuWorkers)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan int)
	var wg sync.WaitGroup
	for range min(workers, len(todo)) {
		wg.Go(func() {
			on, done, err := c.engine()
			if err != nil {
				cancel(err)
				return
			}
			defer done()
			for i := range queue {
				m, curve, err := units[i].train(ctx, on, r.point)
				if err == nil {
					err = store.save(units[i], m, curve)
				}
				if err != nil {
					cancel(err) // the first cause stays
					continue
				}
				results[i] = m
				r.finished()
			}
		})
	}
	for _, i := range todo {
		select {
		case queue <- i:
		case <-ctx.Done():
		}
	}
	close(queue)
	wg.Wait()
	if ctx.Err() != nil {
		err := context.Cause(ctx)
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return nil, err
		}
		return nil, fmt.Errorf("train: %w", err)
	}
	if err := store.join(units); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	return join(o.Trace, c, layers, units, results, store.hash)
}

// gpuWorkers units at a time keep a GPU busy: each has a queue of its own.
const gpuWorkers = 8

// engine starts what the units of one worker compute on; done ends it.
func (c Config) engine() (on engine[float32], done func(), err error) {
	if c.Device != CUDA {
		return &host[float32]{}, func() {}, nil
	}
	if on, done, err = openGPU(); err != nil {
		return nil, nil, fmt.Errorf("device %s: %w", c.Device, err)
	}
	return on, done, nil
}

// unitsOf lists the units by layer and head.
func unitsOf(r *trace.Reader, c Config, layers []int, blocks [][]block) []*unit {
	group := r.Model.Group()
	var units []*unit
	for _, l := range layers {
		for kv := range r.Model.KVHeads {
			u := unit{config: c, trace: r, blocks: blocks, layer: l, kvHead: kv, queryHead: kv * group, heads: group, dim: r.Model.HeadDim}
			u.joint = c.Preset == "grouped" && c.GroupRule != mapping.Mass && !slices.Contains(c.PerHeadLayers, l)
			if c.Preset != "paper" {
				units = append(units, &u)
				continue
			}
			for h := range group {
				one := u
				one.queryHead, one.heads = kv*group+h, 1
				units = append(units, &one)
			}
		}
	}
	return units
}

// join puts the units' maps together, heads in order.
func join(r *trace.Reader, c Config, layers []int, units []*unit, results []trained, hash string) (*mapping.Mapping, error) {
	m := &mapping.Mapping{Config: c.mapping(r.Model, layers), Layers: make([]*mapping.Layer, r.Model.Layers)}
	m.TrainingHash = hash
	for i, u := range units {
		if m.Layers[u.layer] == nil {
			m.Layers[u.layer] = &mapping.Layer{}
		}
		layer := m.Layers[u.layer]
		extend(&layer.Key, results[i].key, fmt.Sprintf("layers.%d.key", u.layer))
		extend(&layer.Query, results[i].query, fmt.Sprintf("layers.%d.query", u.layer))
	}
	return m, m.Check()
}

// extend adds the heads of more behind those of p.
func extend(p *kernels.Projection, more kernels.Projection, name string) {
	if p.Heads == 0 {
		*p = kernels.Projection{Name: name, BlockBits: more.BlockBits, Layers: make([]kernels.Affine, len(more.Layers))}
		if more.Skip != nil {
			p.Skip = &kernels.Affine{}
		}
	}
	p.Heads += more.Heads
	add := func(to *kernels.Affine, a kernels.Affine) {
		to.In, to.Out = a.In, a.Out
		to.Weight, to.Bias = append(to.Weight, a.Weight...), append(to.Bias, a.Bias...)
	}
	for i, a := range more.Layers {
		add(&p.Layers[i], a)
	}
	if more.Skip != nil {
		add(p.Skip, *more.Skip)
	}
	p.Feedback = append(p.Feedback, more.Feedback...)
}

// reporter counts what the workers do.
type reporter struct {
	mu    sync.Mutex
	p     Progress
	steps int
	start time.Time
	seen  map[[2]int]int // steps done of the units in work
	call  func(Progress)
}

func newReporter(o Options, units int) *reporter {
	r := &reporter{steps: o.Config.Steps, start: time.Now(), seen: map[[2]int]int{}, call: o.OnProgress}
	r.p = Progress{Steps: o.Config.Steps, Units: units, TotalSteps: int64(units) * int64(o.Config.Steps)}
	return r
}

func (r *reporter) resumed() {
	r.p.UnitsDone++
	r.p.StepsDone += int64(r.steps)
	r.p.StepsResumed += int64(r.steps)
}

func (r *reporter) point(p point) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := [2]int{p.Layer, p.Head}
	r.p.StepsDone += int64(p.Step - r.seen[at])
	r.seen[at] = p.Step
	r.p.Layer, r.p.Head, r.p.Step, r.p.Loss = p.Layer, p.Head, p.Step, p.Loss
	r.send()
}

func (r *reporter) finished() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p.UnitsDone++
	r.send()
}

func (r *reporter) send() {
	if r.call != nil {
		r.p.Elapsed = time.Since(r.start)
		r.call(r.p)
	}
}
