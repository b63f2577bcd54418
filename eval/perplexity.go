package eval

import (
	"context"
	"fmt"
	"math"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/selector"
)

// Document is a tokenised text to measure on.
type Document struct {
	ID     string
	Tokens []int32
}

// PerplexityOptions says what Perplexity measures.
type PerplexityOptions struct {
	Model     *model.Model
	Documents []Document
	Settings  []Setting
	Budgets   []kernels.Budget
	Contexts  []int
	// Tokens is how many tokens before the end of the context are predicted
	// under sparse attention; those before them are prefilled densely.
	Tokens    int
	CacheType dtype.Type
	Chunk     int // tokens of one prefill pass
	// Done, if set, is asked before and told after each document and context,
	// so that a stopped measurement can continue.
	Done     PerplexityLog
	Progress func(done, total int)
}

// DocumentNLL is one document's mean negative log-likelihoods, nats per token.
type DocumentNLL struct {
	Document string  `json:"document"`
	Context  int     `json:"context"`
	Selector string  `json:"selector"` // "dense" for the baseline
	Preset   string  `json:"preset,omitempty"`
	Budget   string  `json:"budget,omitempty"`
	NLL      float64 `json:"nll"`
	Density  float64 `json:"density"`
	Tokens   int     `json:"tokens"`
	result.StepRead
}

// PerplexityLog keeps finished documents.
type PerplexityLog interface {
	// Load gives a finished document's rows, nil if it is not finished.
	Load(document string, context int) []DocumentNLL
	Save(rows []DocumentNLL) error
}

// scoredRows is the tokens of one pass with logits: enough for matrix products to
// be efficient, few enough for the logits of large vocabularies.
const scoredRows = 128

// Perplexity measures what sparse attention does to the likelihood of the last
// tokens of each document's context. One dense prefill of a document serves
// all settings and budgets: the cache is rewound between them. The mean and
// standard error are over documents, of the paired difference to dense.
func Perplexity(ctx context.Context, o PerplexityOptions) ([]result.PerplexityRow, error) {
	if err := distinct(o.Settings); err != nil {
		return nil, fmt.Errorf("perplexity: %w", err)
	}
	r, err := o.Model.NewRunner(max(o.Chunk, scoredRows), scoredRows)
	if err != nil {
		return nil, err
	}
	var all []DocumentNLL
	done, total := 0, len(o.Documents)*len(o.Contexts)*(1+len(o.Settings)*len(o.Budgets))
	step := func() {
		done++
		if o.Progress != nil {
			o.Progress(done, total)
		}
	}
	for _, context := range o.Contexts {
		if o.Tokens >= context {
			return nil, fmt.Errorf("perplexity: %d measured tokens in a context of %d", o.Tokens, context)
		}
		for _, d := range o.Documents {
			if len(d.Tokens) < context {
				return nil, fmt.Errorf("perplexity: document %s has %d tokens, the context asks for %d", d.ID, len(d.Tokens), context)
			}
			if o.Done != nil {
				if rows := o.Done.Load(d.ID, context); rows != nil {
					all = append(all, rows...)
					for range rows {
						step()
					}
					continue
				}
			}
			rows, err := o.document(ctx, r, d, context, step)
			if err != nil {
				return nil, fmt.Errorf("perplexity: document %s: %w", d.ID, err)
			}
			if o.Done != nil {
				if err := o.Done.Save(rows); err != nil {
					return nil, err
				}
			}
			all = append(all, rows...)
		}
	}
	return perplexityRows(all), nil
}

// document measures all settings on one document at one context.
func (o PerplexityOptions) document(ctx context.Context, r *model.Runner, d Document, context int, step func()) ([]DocumentNLL, error) {
	m := o.Model
	s, err := m.NewSequence(context, o.CacheType)
	if err != nil {
		return nil, err
	}
	defer s.Free(m.Device)
	// the last prefilled token predicts the first measured one
	prefix := context - o.Tokens - 1
	if err := r.Prefill(ctx, s, d.Tokens[:prefix], model.Dense{Model: m}, false); err != nil {
		return nil, err
	}
	row := DocumentNLL{Document: d.ID, Context: context, Tokens: o.Tokens, Selector: "dense", Density: 1}
	if row.NLL, err = o.score(ctx, r, s, d.Tokens[prefix:context], model.Dense{Model: m}); err != nil {
		return nil, err
	}
	row.StepRead = stepRead(m, nil, prefix+1, context, 1)
	rows := []DocumentNLL{row}
	step()
	for _, set := range o.Settings {
		for _, b := range o.Budgets {
			if err := s.Rewind(prefix); err != nil {
				return nil, err
			}
			sparse, err := set.SparseFor(m, b)
			if err != nil {
				return nil, err
			}
			if s.Index, err = sparse.Build(s.Cache); err != nil {
				return nil, err
			}
			m.Device.ResetReads()
			row := DocumentNLL{Document: d.ID, Context: context, Tokens: o.Tokens, Selector: set.Selector, Preset: set.Preset, Budget: b.String()}
			if row.NLL, err = o.score(ctx, r, s, d.Tokens[prefix:context], sparse); err != nil {
				return nil, err
			}
			row.Density = m.Device.Reads().Density()
			row.StepRead = stepRead(m, sparse, prefix+1, context, row.Density)
			s.DropIndex(m.Device)
			rows = append(rows, row)
			step()
		}
	}
	return rows, nil
}

// stepRead is what the decode steps that see from to below to tokens must read,
// a mean over them and over the layers without a window; dense if sparse is nil.
func stepRead(m *model.Model, sparse *selector.Sparse, from, to int, density float64) (mean result.StepRead) {
	layers, steps := m.GlobalLayers(), float64(to-from)
	for n := from; n < to; n++ {
		dense := kernels.StepRead{KVHeads: m.KVHeads, HeadDim: m.HeadDim, Cached: n}.Dense()
		bytes := dense
		if sparse != nil {
			bytes = sparse.StepBytes(layers, n, density)
		}
		mean.StepBytes += bytes / steps
		mean.DenseStepBytes += dense / steps
	}
	return mean
}

// score is the mean negative log-likelihood of tokens[1:], each given the
// sequence and the tokens before it.
func (o PerplexityOptions) score(ctx context.Context, r *model.Runner, s *model.Sequence, tokens []int32, a model.Attention) (float64, error) {
	sum := 0.0
	for from := 0; from < len(tokens)-1; from += scoredRows {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n := min(scoredRows, len(tokens)-1-from)
		if err := r.Extend(s, tokens[from:from+n], a); err != nil {
			return 0, err
		}
		nll, err := r.NegLogLikelihoods(tokens[from+1 : from+1+n])
		if err != nil {
			return 0, err
		}
		for i, v := range nll {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return 0, fmt.Errorf("likelihood of token %d is %v", from+1+i, v)
			}
			sum += float64(v)
		}
	}
	return sum / float64(len(tokens)-1), nil
}

// perplexityRows pairs every setting's documents with dense.
func perplexityRows(all []DocumentNLL) []result.PerplexityRow {
	type at struct {
		document string
		context  int
	}
	type setting struct {
		selector, preset, budget string
		context                  int
	}
	dense := map[at]float64{}
	for _, d := range all {
		if d.Selector == "dense" {
			dense[at{d.Document, d.Context}] = d.NLL
		}
	}
	var order []setting
	groups := map[setting][]DocumentNLL{}
	for _, d := range all {
		key := setting{d.Selector, d.Preset, d.Budget, d.Context}
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], d)
	}
	var rows []result.PerplexityRow
	for _, key := range order {
		row := result.PerplexityRow{Selector: key.selector, Preset: key.preset, Context: key.context, Budget: key.budget}
		var deltas []float64
		n, counted := float64(len(groups[key])), true
		for _, d := range groups[key] {
			base := dense[at{d.Document, d.Context}]
			row.NLL += d.NLL / n
			row.NLLDense += base / n
			row.Density += d.Density / n
			row.StepBytes += d.StepBytes / n
			row.DenseStepBytes += d.DenseStepBytes / n
			// A log that an earlier version began has documents without.
			counted = counted && d.StepBytes > 0
			row.Documents++
			row.Tokens += d.Tokens
			deltas = append(deltas, d.NLL-base)
		}
		if !counted {
			row.StepRead = result.StepRead{}
		}
		row.Delta = row.NLL - row.NLLDense
		row.StdErr = standardError(deltas)
		rows = append(rows, row)
	}
	return rows
}

// standardError is that of the mean of x, 0 for fewer than two.
func standardError(x []float64) float64 {
	if len(x) < 2 {
		return 0
	}
	mean, sum := 0.0, 0.0
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		sum += (v - mean) * (v - mean)
	}
	return math.Sqrt(sum / float64(len(x)-1) / float64(len(x)))
}
