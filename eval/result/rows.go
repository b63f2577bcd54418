package result

import (
	"errors"
	"fmt"
	"math"
)

// Recall is recall.json: how much of exact attention a selector's choice keeps.
type Recall struct {
	Header
	Rows []RecallRow `json:"rows"`
}

// StepRead is the bytes of index, keys and values that a decode step must read
// in a layer under the row's setting and under dense attention, as
// kernels.StepRead counts them; 0 where they are not known. They are means over
// the layers that a recall row is of, and over all layers without a window
// elsewhere.
type StepRead struct {
	StepBytes      float64 `json:"step_bytes,omitempty"`
	DenseStepBytes float64 `json:"dense_step_bytes,omitempty"`
}

// check reports bytes that no step reads.
func (s StepRead) check(row int) error {
	return errors.Join(finite(row, "step_bytes", s.StepBytes, 0, 1e15), finite(row, "dense_step_bytes", s.DenseStepBytes, 0, 1e15))
}

// RecallRow is one selector at one context and budget. A row without Layer is
// the mean over layers and heads.
type RecallRow struct {
	Selector     string  `json:"selector"`
	Preset       string  `json:"preset,omitempty"`
	BitsPerToken float64 `json:"bits_per_token"` // kept per KV-head token, beside K and V
	Context      int     `json:"context"`
	Budget       string  `json:"budget"`  // "1/32" or "512"
	Density      float64 `json:"density"` // share of cached tokens really read
	Recall       float64 `json:"recall"`  // of the exact top 32
	Mass         float64 `json:"mass"`    // of attention on the tokens read
	Error        float64 `json:"error"`   // relative, of attention's output
	Documents    int     `json:"documents,omitempty"`
	StepRead
	// DistinctStepBytes is StepBytes if rows that several sets of a KV head
	// chose were read once: what memory must give to a kernel that shares them.
	// Where per-head sets are reranked, their candidates are taken to overlap as
	// what was kept of them does.
	DistinctStepBytes float64 `json:"distinct_step_bytes,omitempty"`
	Layer             *int    `json:"layer,omitempty"`
	Head              *int    `json:"head,omitempty"` // query head
}

// Perplexity is perplexity.json: what sparse decoding does to the likelihood
// of the same tokens.
type Perplexity struct {
	Header
	Rows []PerplexityRow `json:"rows"`
}

// PerplexityRow is one selector at one context and budget, in nats per token.
type PerplexityRow struct {
	Selector  string  `json:"selector"`
	Preset    string  `json:"preset,omitempty"`
	Context   int     `json:"context"`
	Budget    string  `json:"budget"`
	Density   float64 `json:"density"`
	NLL       float64 `json:"nll"`
	NLLDense  float64 `json:"nll_dense"`
	Delta     float64 `json:"delta"`  // NLL - NLLDense
	StdErr    float64 `json:"stderr"` // of Delta, over documents
	Documents int     `json:"documents,omitempty"`
	Tokens    int     `json:"tokens,omitempty"` // measured, over all documents
	StepRead
}

// Bench is bench.json: latencies beside dense ones.
type Bench struct {
	Header
	// Bandwidth is the device's measured memory bandwidth in bytes/s.
	Bandwidth float64    `json:"bandwidth,omitempty"`
	Rows      []BenchRow `json:"rows"`
}

// BenchRow is one timing.
type BenchRow struct {
	Part     string  `json:"part"`   // "attention" (one layer's step), "decode" (a token) or "prefill"
	Device   string  `json:"device"` // kind of device
	Shape    string  `json:"shape"`  // e.g. "32q/8kv d128 bf16", or the model's name
	Batch    int     `json:"batch"`
	Context  int     `json:"context"`
	Budget   string  `json:"budget,omitempty"` // empty for dense
	Selector string  `json:"selector"`         // "dense", "hash", ...
	Preset   string  `json:"preset,omitempty"`
	Stage    string  `json:"stage,omitempty"` // "encode", "scan", "select", "attend"; empty for the whole
	Median   float64 `json:"median_us"`
	P10      float64 `json:"p10_us"`
	P90      float64 `json:"p90_us"`
	Runs     int     `json:"runs"`
	Dense    float64 `json:"dense_us,omitempty"` // the dense median of the same shape
	Speedup  float64 `json:"speedup,omitempty"`  // Dense / Median
	Density  float64 `json:"density,omitempty"`
	Tokens   float64 `json:"tokens_per_second,omitempty"` // decode and prefill
	Bytes    int64   `json:"bytes,omitempty"`             // that must be read, of one layer as kernels.StepRead counts them
	// BandwidthShare is Bytes / Median / the measured bandwidth.
	BandwidthShare float64 `json:"bandwidth_share,omitempty"`
	Checked        bool    `json:"checked"` // the output was compared before timing
	// Projected marks a row computed by a formula, not timed.
	Projected bool   `json:"projected,omitempty"`
	Note      string `json:"note,omitempty"`
}

// Scores is scores.json: benchmark scores of generated answers.
type Scores struct {
	Header
	Rows []ScoreRow `json:"rows"`
}

// ScoreRow is one task under one setting. Task "average" is the mean over
// tasks, "average-no-count" that without passage_count.
type ScoreRow struct {
	Benchmark    string  `json:"benchmark"` // "longbench", "longbench-e", "ruler", "niah"
	Task         string  `json:"task"`
	Selector     string  `json:"selector"`
	Preset       string  `json:"preset,omitempty"`
	BitsPerToken float64 `json:"bits_per_token"`
	Budget       string  `json:"budget,omitempty"`
	Density      float64 `json:"density"`
	Samples      int     `json:"samples"`
	Score        float64 `json:"score"` // 0 to 100
	Dense        float64 `json:"dense"` // dense on the same samples
	Difference   float64 `json:"difference"`
	Low          float64 `json:"low"`  // bootstrap 95% interval of Difference
	High         float64 `json:"high"` //
	StepRead             // behind the prompts
	Context      int     `json:"context,omitempty"`
	Depth        float64 `json:"depth,omitempty"`             // of the needle, 0 to 1
	Latency      float64 `json:"seconds_per_token,omitempty"` // one sequence alone, behind the longest prompt
}

// NIAHTask is the task of the rows of a needle's single depths and contexts.
const NIAHTask = "niah"

// Check implements File.
func (f *Recall) Check() error {
	for i, r := range f.Rows {
		if err := errors.Join(named(i, r.Selector, r.Context, r.Budget),
			finite(i, "density", r.Density, 0, 1), finite(i, "recall", r.Recall, 0, 1+1e-6),
			finite(i, "mass", r.Mass, 0, 1+1e-3), finite(i, "error", r.Error, 0, math.MaxFloat64),
			finite(i, "bits_per_token", r.BitsPerToken, 0, 1<<20), r.check(i), finite(i, "distinct_step_bytes", r.DistinctStepBytes, 0, 1e15)); err != nil {
			return err
		}
	}
	return nil
}

// Check implements File.
func (f *Perplexity) Check() error {
	for i, r := range f.Rows {
		if err := errors.Join(named(i, r.Selector, r.Context, r.Budget),
			finite(i, "density", r.Density, 0, 1), finite(i, "nll", r.NLL, 0, 1e4), finite(i, "nll_dense", r.NLLDense, 0, 1e4),
			finite(i, "delta", r.Delta, -1e4, 1e4), finite(i, "stderr", r.StdErr, 0, 1e4), r.check(i)); err != nil {
			return err
		}
		if !(math.Abs(r.NLL-r.NLLDense-r.Delta) <= 1e-4) {
			return fmt.Errorf("row %d: delta %v is not nll %v - nll_dense %v", i, r.Delta, r.NLL, r.NLLDense)
		}
	}
	return nil
}

// Check implements File.
func (f *Bench) Check() error {
	for i, r := range f.Rows {
		if r.Part == "" || r.Selector == "" || r.Context < 1 || r.Batch < 1 {
			return fmt.Errorf("row %d: part %q, selector %q, context %d, batch %d", i, r.Part, r.Selector, r.Context, r.Batch)
		}
		if err := errors.Join(finite(i, "median_us", r.Median, math.SmallestNonzeroFloat64, 1e15),
			finite(i, "p10_us", r.P10, 0, 1e15), finite(i, "p90_us", r.P90, 0, 1e15),
			finite(i, "speedup", r.Speedup, 0, 1e9), finite(i, "bandwidth_share", r.BandwidthShare, 0, 1e9),
			finite(i, "density", r.Density, 0, 1)); err != nil {
			return err
		}
		if !r.Projected && !r.Checked {
			return fmt.Errorf("row %d: %s of %s at %d was timed but its output was not checked", i, r.Part, r.Selector, r.Context)
		}
	}
	return nil
}

// Check implements File.
func (f *Scores) Check() error {
	for i, r := range f.Rows {
		if r.Benchmark == "" || r.Task == "" || r.Selector == "" {
			return fmt.Errorf("row %d: benchmark %q, task %q, selector %q", i, r.Benchmark, r.Task, r.Selector)
		}
		if err := errors.Join(finite(i, "density", r.Density, 0, 1), finite(i, "score", r.Score, 0, 100), finite(i, "dense", r.Dense, 0, 100),
			finite(i, "difference", r.Difference, -100, 100), finite(i, "low", r.Low, -100, 100), finite(i, "high", r.High, -100, 100), r.check(i)); err != nil {
			return err
		}
	}
	return nil
}

// named checks what identifies a row.
func named(row int, selector string, context int, budget string) error {
	if selector == "" || context < 1 || budget == "" && selector != "dense" {
		return fmt.Errorf("row %d: selector %q, context %d, budget %q", row, selector, context, budget)
	}
	return nil
}
