package latency

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/selector"
)

// ModelOptions says what Decode and Prefill time.
type ModelOptions struct {
	Model *model.Model
	// Tokens is text to prefill, at least the longest context and Runs more.
	Tokens   []int32
	Contexts []int
	Settings []eval.Setting
	Budgets  []kernels.Budget
	// Batch is the sequences that decode at once; below 1 it is 1.
	Batch int
	// Fill decodes behind random keys and values in place of a prefill of
	// Tokens: for random weights.
	Fill      bool
	Runs      int // decode steps, or prefills
	Rows      int // tokens of one prefill pass
	CacheType dtype.Type
	Bandwidth float64
	Progress  func(done, total int)
}

func (o ModelOptions) row(part string, context int) result.BenchRow {
	return result.BenchRow{Part: part, Device: o.Model.Device.Info().Kind, Shape: o.Model.Name, Batch: 1, Context: context, Selector: "dense", Density: 1}
}

// Prefill times dense prefills of each context: tokens per second.
func Prefill(ctx context.Context, o ModelOptions) ([]result.BenchRow, error) {
	var rows []result.BenchRow
	r, err := o.Model.NewRunner(o.Rows, 1)
	if err != nil {
		return nil, err
	}
	for i, context := range o.Contexts {
		if len(o.Tokens) < context {
			return nil, fmt.Errorf("bench prefill: a text of %d tokens for a context of %d", len(o.Tokens), context)
		}
		s, err := o.Model.NewSequence(context, o.CacheType)
		if err != nil {
			return nil, err
		}
		var seconds []float64
		for range o.Runs {
			if err := s.Rewind(0); err != nil {
				return nil, err
			}
			start := time.Now()
			if err := r.Prefill(ctx, s, o.Tokens[:context], model.Dense{Model: o.Model}, true); err != nil {
				return nil, err
			}
			seconds = append(seconds, time.Since(start).Seconds())
		}
		if err := finiteLogits(r); err != nil {
			return nil, fmt.Errorf("bench prefill, %d tokens: %w", context, err)
		}
		row := timed(o.row("prefill", context), sorted(seconds))
		row.Tokens, row.Checked = float64(context)/(row.Median/1e6), true
		rows = append(rows, row)
		s.Free(o.Model.Device)
		if o.Progress != nil {
			o.Progress(i+1, len(o.Contexts))
		}
	}
	return rows, nil
}

// Decode times decode steps behind each context, dense and under every
// setting and budget. Before a setting is timed its sparse path is run with a
// budget of everything and must give the dense logits.
func Decode(ctx context.Context, o ModelOptions) ([]result.BenchRow, error) {
	var rows []result.BenchRow
	o.Batch = max(1, o.Batch)
	r, err := o.Model.NewRunner(max(o.Rows, o.Batch), o.Batch)
	if err != nil {
		return nil, err
	}
	done, total := 0, len(o.Contexts)*(1+len(o.Settings)*len(o.Budgets))
	step := func() {
		done++
		if o.Progress != nil {
			o.Progress(done, total)
		}
	}
	for _, context := range o.Contexts {
		if len(o.Tokens) < context+o.Runs+1 {
			return nil, fmt.Errorf("bench decode: a text of %d tokens for a context of %d and %d steps", len(o.Tokens), context, o.Runs)
		}
		all, err := o.sequences(ctx, r, context)
		if err != nil {
			return nil, err
		}
		free := func() {
			for _, s := range all {
				s.Free(o.Model.Device)
			}
		}
		dense, logits, err := o.decode(ctx, r, all, context, model.Dense{Model: o.Model}, o.row("decode", context))
		if err != nil {
			return nil, err
		}
		dense.Dense, dense.Speedup = dense.Median, 1
		rows = append(rows, dense)
		step()
		for _, set := range o.Settings {
			if err := o.checkSetting(r, all, context, set, logits); err != nil {
				return nil, fmt.Errorf("bench decode, %s, %d tokens: %w", set.Selector, context, err)
			}
			for _, b := range o.Budgets {
				sparse, err := set.SparseFor(o.Model, b)
				if err != nil {
					return nil, err
				}
				if err := o.index(all, context, sparse); err != nil {
					return nil, err
				}
				row := o.row("decode", context)
				row.Selector, row.Preset, row.Budget = set.Selector, set.Preset, b.String()
				if row, _, err = o.decode(ctx, r, all, context, sparse, row); err != nil {
					return nil, err
				}
				row.Dense, row.Speedup = dense.Median, dense.Median/row.Median
				rows = append(rows, row)
				o.dropIndexes(all)
				step()
			}
		}
		free()
	}
	return rows, nil
}

// sequences are Batch sequences that hold context tokens.
func (o ModelOptions) sequences(ctx context.Context, r *model.Runner, context int) ([]*model.Sequence, error) {
	m := o.Model
	spec := kernels.CacheSpec{Layers: m.Layers, KVHeads: m.KVHeads, HeadDim: m.HeadDim, Capacity: context + o.Runs + 1, Type: o.CacheType}
	if need, have := spec.Bytes()*int64(o.Batch), m.Device.Info().Memory; have > 0 && need > have {
		return nil, fmt.Errorf("bench decode: the caches of %d sequences of %d tokens take %d MiB, the device has %d MiB", o.Batch, context, need>>20, have>>20)
	}
	rng := rand.New(rand.NewPCG(3, uint64(context)))
	var all []*model.Sequence
	for range o.Batch {
		s, err := m.NewSequence(spec.Capacity, o.CacheType)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
		if !o.Fill {
			if err := r.Prefill(ctx, s, o.Tokens[:context], model.Dense{Model: m}, true); err != nil {
				return nil, err
			}
			continue
		}
		for _, t := range slices.Concat(s.Cache.K, s.Cache.V) {
			if err := fillRandom(m.Device, t, rng); err != nil {
				return nil, err
			}
		}
		s.Cache.Len = context
	}
	return all, nil
}

// fillRandom sets a cache's tensor to normal numbers.
func fillRandom(d kernels.Device, t kernels.Tensor, rng *rand.Rand) error {
	values := randomBF16(rng, t.Len())
	if t.Type == dtype.BF16 {
		return d.Upload(t, dtype.Bytes(values))
	}
	wide := make([]float32, len(values))
	dtype.F32FromBF16s(wide, values)
	return d.Upload(t, dtype.Bytes(wide))
}

// index rewinds the sequences and builds a selector's indexes of them.
func (o ModelOptions) index(all []*model.Sequence, context int, sparse *selector.Sparse) (err error) {
	for _, s := range all {
		if err := s.Rewind(context); err != nil {
			return err
		}
		if s.Index, err = sparse.Build(s.Cache); err != nil {
			return err
		}
	}
	return nil
}

func (o ModelOptions) dropIndexes(all []*model.Sequence) {
	for _, s := range all {
		s.DropIndex(o.Model.Device)
	}
}

// next decodes the i-th token behind the context in all sequences.
func (o ModelOptions) next(r *model.Runner, all []*model.Sequence, i int, a model.Attention) error {
	tokens := make([]int32, len(all))
	for j := range tokens {
		tokens[j] = o.Tokens[i]
	}
	return r.Decode(all, tokens, a)
}

// decode times Runs steps after one that is not counted, whose logits it gives.
func (o ModelOptions) decode(ctx context.Context, r *model.Runner, all []*model.Sequence, context int, a model.Attention, row result.BenchRow) (result.BenchRow, [][]float32, error) {
	if err := o.next(r, all, context, a); err != nil {
		return row, nil, err
	}
	logits, err := logitsOf(r, len(all))
	if err != nil {
		return row, nil, err
	}
	o.Model.Device.ResetReads()
	var seconds []float64
	for i := range o.Runs {
		if err := ctx.Err(); err != nil {
			return row, nil, err
		}
		start := time.Now()
		if err := o.next(r, all, context+1+i, a); err != nil {
			return row, nil, err
		}
		seconds = append(seconds, time.Since(start).Seconds())
	}
	if err := finiteLogits(r); err != nil {
		return row, nil, err
	}
	row = timed(row, sorted(seconds))
	row.Batch = len(all)
	row.Tokens, row.Checked = float64(len(all))*1e6/row.Median, true
	row.Density = o.Model.Device.Reads().Density()
	return row, logits, nil
}

// logitsOf are the logits of the last pass's n sequences.
func logitsOf(r *model.Runner, n int) ([][]float32, error) {
	out := make([][]float32, n)
	for i := range out {
		row, err := r.Logits(i)
		if err != nil {
			return nil, err
		}
		out[i] = slices.Clone(row)
	}
	return out, nil
}

// checkSetting compares the sparse path with a budget of everything to dense
// logits of the first decoded token of every sequence.
func (o ModelOptions) checkSetting(r *model.Runner, all []*model.Sequence, context int, set eval.Setting, want [][]float32) error {
	sparse, err := set.SparseAll(o.Model)
	if err != nil {
		return err
	}
	if err := o.index(all, context, sparse); err != nil {
		return err
	}
	defer o.dropIndexes(all)
	if err := o.next(r, all, context, sparse); err != nil {
		return err
	}
	got, err := logitsOf(r, len(all))
	if err != nil {
		return err
	}
	for i := range got {
		if e := eval.RelativeError(got[i], want[i]); !(e <= 1e-2) {
			return fmt.Errorf("sequence %d: logits with a budget of everything differ from dense by %.2g", i, e)
		}
	}
	return nil
}

// finiteLogits reports a pass that went wrong in silence.
func finiteLogits(r *model.Runner) error {
	logits, err := r.Logits(0)
	if err != nil {
		return err
	}
	for i, v := range logits {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("logit %d is %v", i, v)
		}
	}
	return nil
}
