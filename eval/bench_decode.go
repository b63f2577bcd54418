package eval

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
)

// BenchModelOptions says what BenchDecode and BenchPrefill time.
type BenchModelOptions struct {
	Model *model.Model
	// Tokens is text to prefill, at least the longest context and Runs more.
	Tokens    []int32
	Contexts  []int
	Settings  []Setting
	Budgets   []kernels.Budget
	Runs      int // decode steps, or prefills
	Rows      int // tokens of one prefill pass
	CacheType dtype.Type
	Bandwidth float64
	Progress  func(done, total int)
}

func (o BenchModelOptions) row(part string, context int) result.BenchRow {
	return result.BenchRow{Part: part, Device: o.Model.Device.Info().Kind, Shape: o.Model.Name, Batch: 1, Context: context, Selector: "dense", Density: 1}
}

// BenchPrefill times dense prefills of each context: tokens per second.
func BenchPrefill(ctx context.Context, o BenchModelOptions) ([]result.BenchRow, error) {
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

// BenchDecode times decode steps behind each context, dense and under every
// setting and budget. Before a setting is timed its sparse path is run with a
// budget of everything and must give the dense logits.
func BenchDecode(ctx context.Context, o BenchModelOptions) ([]result.BenchRow, error) {
	var rows []result.BenchRow
	r, err := o.Model.NewRunner(o.Rows, 1)
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
		s, err := o.Model.NewSequence(context+o.Runs+1, o.CacheType)
		if err != nil {
			return nil, err
		}
		if err := r.Prefill(ctx, s, o.Tokens[:context], model.Dense{Model: o.Model}, true); err != nil {
			return nil, err
		}
		dense, logits, err := o.decode(ctx, r, s, context, model.Dense{Model: o.Model}, o.row("decode", context))
		if err != nil {
			return nil, err
		}
		dense.Dense, dense.Speedup = dense.Median, 1
		rows = append(rows, dense)
		step()
		for _, set := range o.Settings {
			if err := o.checkSetting(r, s, context, set, logits); err != nil {
				return nil, fmt.Errorf("bench decode, %s, %d tokens: %w", set.Selector, context, err)
			}
			for _, b := range o.Budgets {
				if err := s.Rewind(context); err != nil {
					return nil, err
				}
				sparse, err := set.SparseFor(o.Model, b)
				if err != nil {
					return nil, err
				}
				if s.Index, err = sparse.Build(s.Cache); err != nil {
					return nil, err
				}
				row := o.row("decode", context)
				row.Selector, row.Preset, row.Budget = set.Selector, set.Preset, b.String()
				if row, _, err = o.decode(ctx, r, s, context, sparse, row); err != nil {
					return nil, err
				}
				row.Dense, row.Speedup = dense.Median, dense.Median/row.Median
				rows = append(rows, row)
				s.DropIndex(o.Model.Device)
				step()
			}
		}
		s.Free(o.Model.Device)
	}
	return rows, nil
}

// decode times Runs steps after one that is not counted, whose logits it gives.
func (o BenchModelOptions) decode(ctx context.Context, r *model.Runner, s *model.Sequence, context int, a model.Attention, row result.BenchRow) (result.BenchRow, []float32, error) {
	next := func(i int) error {
		return r.Decode([]*model.Sequence{s}, o.Tokens[context+i:context+i+1], a)
	}
	if err := next(0); err != nil {
		return row, nil, err
	}
	logits, err := r.Logits(0)
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
		if err := next(1 + i); err != nil {
			return row, nil, err
		}
		seconds = append(seconds, time.Since(start).Seconds())
	}
	if err := finiteLogits(r); err != nil {
		return row, nil, err
	}
	row = timed(row, sorted(seconds))
	row.Tokens, row.Checked = 1e6/row.Median, true
	row.Density = o.Model.Device.Reads().Density()
	return row, logits, nil
}

// checkSetting compares the sparse path with a budget of everything to dense
// logits of the first decoded token.
func (o BenchModelOptions) checkSetting(r *model.Runner, s *model.Sequence, context int, set Setting, want []float32) error {
	if err := s.Rewind(context); err != nil {
		return err
	}
	sparse, err := set.SparseAll(o.Model)
	if err != nil {
		return err
	}
	if s.Index, err = sparse.Build(s.Cache); err != nil {
		return err
	}
	defer s.DropIndex(o.Model.Device)
	if err := r.Decode([]*model.Sequence{s}, o.Tokens[context:context+1], sparse); err != nil {
		return err
	}
	got, err := r.Logits(0)
	if err != nil {
		return err
	}
	if e := relativeError(got, want); !(e <= 1e-2) {
		return fmt.Errorf("logits with a budget of everything differ from dense by %.2g", e)
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
