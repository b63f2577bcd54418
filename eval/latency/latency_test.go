package latency_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/latency"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
)

func TestAttention(t *testing.T) {
	d := kernels.NewReference()
	rows, err := latency.Attention(context.Background(), latency.AttentionOptions{
		Device: d, Runs: 3, Bandwidth: 1e10,
		Shapes: []latency.Shape{{QueryHeads: 4, KVHeads: 2, HeadDim: 16, Batch: 2, Context: 300}},
		Hashes: []latency.HashShape{
			{Preset: "paper", Bits: 32, Sink: 8, Local: 8}, {Preset: "shared", Bits: 32, QueryBits: 8, Sink: 8, Local: 8},
			{Preset: "grouped", Bits: 64, QueryBits: 4, Candidates: 2, Sink: 8, Local: 8},
		},
		Budgets: []kernels.Budget{{Num: 1, Den: 8}},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = latency.Attention(context.Background(), latency.AttentionOptions{
		Device: d, Runs: 3, Skewed: true, Budgets: []kernels.Budget{{Num: 1, Den: 32}},
		Shapes: []latency.Shape{{QueryHeads: 4, KVHeads: 2, HeadDim: 16, Batch: 2, Context: 300}},
		Hashes: []latency.HashShape{{Preset: "grouped", Bits: 32, QueryBits: 4, Sink: 8, Local: 8}},
	})
	if err != nil {
		t.Error(err)
	}
	// dense; each preset whole and in 4 stages, grouped with one more
	if len(rows) != 1+5+5+6 {
		t.Errorf("%d rows of attention", len(rows))
	}
	for _, r := range rows {
		if r.Median <= 0 || !r.Checked || r.P10 > r.Median || r.P90 < r.Median {
			t.Errorf("row %+v", r)
		}
	}
}

func TestModel(t *testing.T) {
	m, err := model.Load(context.Background(), filepath.Join("..", "..", "model", "testdata", "tiny", "qwen2"), kernels.NewReference(), model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	oracle, err := eval.NewSetting(m.Device, m.Shape(), m.QueryScale, eval.Source{Method: "oracle", Sink: 4, Local: 8}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens := make([]int32, 100)
	for i := range tokens {
		tokens[i] = int32(3 + i%(m.Vocabulary-3))
	}
	o := latency.ModelOptions{
		Model: m, Tokens: tokens, Contexts: []int{80}, Runs: 3, Rows: 32, CacheType: dtype.BF16,
		Settings: []eval.Setting{oracle}, Budgets: []kernels.Budget{{Num: 1, Den: 8}},
	}
	rows, err := latency.Decode(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[1].Density > 0.4 || rows[1].Tokens <= 0 {
		t.Errorf("rows of decode: %+v", rows)
	}
	if rows, err = latency.Prefill(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0].Tokens <= 0 {
		t.Errorf("rows of prefill: %+v", rows)
	}
}

func TestAttentionCountsStepBytes(t *testing.T) {
	h := latency.HashShape{Preset: "shared", Bits: 32, QueryBits: 8, Sink: 8, Local: 8, Candidates: 2}
	rows, err := latency.Attention(context.Background(), latency.AttentionOptions{
		Device: kernels.NewReference(), Runs: 3, Shapes: []latency.Shape{{QueryHeads: 4, KVHeads: 2, HeadDim: 16, Batch: 3, Context: 300}},
		Hashes: []latency.HashShape{h}, Budgets: []kernels.Budget{{Num: 1, Den: 8}},
	})
	if err != nil {
		t.Fatal(err)
	}
	read := kernels.StepRead{KVHeads: 2, HeadDim: 16, Bits: 32, Cached: 300}
	s := kernels.Selection{Heads: 4, Sink: 8, Local: 8, Budget: kernels.Budget{Num: 1, Den: 8}, Candidates: 2}
	if got, want := rows[0].Bytes, 3*int64(read.Dense()); got != want {
		t.Errorf("dense reads %d bytes, want %d", got, want)
	}
	if got, want := rows[1].Bytes, 3*int64(read.Sparse(s, nil)); got != want {
		t.Errorf("hash reads %d bytes, want %d", got, want)
	}
}
