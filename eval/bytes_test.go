package eval_test

import (
	"context"
	"math"
	"testing"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// Every measurement counts the bytes of a step alike, and a budget of
// everything reads what dense attention does beside the index.
func TestStepBytes(t *testing.T) {
	m := load(t, "qwen2")
	tr := capture(t, m, 160)
	methods := settings(t, m, tr, "oracle", "streaming", "lsh:bits=32", "quest:page=4")
	methods[2].Selection.Candidates = 2
	quarter, all := kernels.Budget{Num: 1, Den: 4}, kernels.Budget{Num: 1, Den: 1}
	budgets := []kernels.Budget{quarter, all}
	// means over steps that see so many tokens
	want := func(s eval.Setting, b kernels.Budget, cached []int) (sum, dense float64) {
		selection := s.Selection
		selection.Budget, selection.Heads = b, s.Scorer.Heads(0)
		for _, n := range cached {
			r := kernels.StepRead{KVHeads: m.KVHeads, HeadDim: m.HeadDim, Bits: s.Scorer.Bits(), Keys: s.Selector == "oracle", Cached: n}
			sum += r.Sparse(selection, nil) / float64(len(cached))
			dense += r.Dense() / float64(len(cached))
		}
		return sum, dense
	}
	check := func(what string, s eval.Setting, b kernels.Budget, cached []int, got result.StepRead) {
		t.Helper()
		bytes, dense := want(s, b, cached)
		if !(math.Abs(got.StepBytes-bytes) < 1e-6*bytes) || !(math.Abs(got.DenseStepBytes-dense) < 1e-6*dense) {
			t.Errorf("%s, %s %s: %+v, want %v of %v", what, s.Selector, b, got, bytes, dense)
		}
		index := s.Scorer.Bits() / 8 * dense / float64(4*m.HeadDim)
		if s.Selector == "oracle" {
			index = 0
		}
		if b == all && !(math.Abs(got.StepBytes-dense-index) < 1e-6*dense) {
			t.Errorf("%s, %s: everything reads %v, dense %v and the index %v", what, s.Selector, got.StepBytes, dense, index)
		}
	}

	rows, err := eval.Recall(context.Background(), eval.RecallOptions{
		Device: m.Device, Trace: tr, Contexts: []int{160}, Window: 8, PerHead: true, Settings: methods, Budgets: budgets,
	})
	if err != nil {
		t.Fatal(err)
	}
	document, err := tr.Document(0)
	if err != nil {
		t.Fatal(err)
	}
	var seen []int
	for _, p := range document.Positions {
		if p >= 160-8 {
			seen = append(seen, int(p)+1)
		}
	}
	means := 0
	for _, r := range rows {
		if r.Layer != nil {
			if r.StepRead != (result.StepRead{}) {
				t.Errorf("a head's row has a layer's bytes: %+v", r.StepRead)
			}
			continue
		}
		switch once := r.DistinctStepBytes; {
		case r.Selector == "streaming" || r.Budget == "1/1": // sets are per KV head, or hold everything
			if math.Abs(once-r.StepBytes) > 1e-6*once {
				t.Errorf("%s %s: %v bytes with rows read once, %v by sets", r.Selector, r.Budget, once, r.StepBytes)
			}
		case !(once < r.StepBytes && once > r.StepBytes/float64(m.QueryHeads/m.KVHeads)):
			t.Errorf("%s %s: %v bytes with rows read once, %v by sets of %d heads", r.Selector, r.Budget, once, r.StepBytes, m.QueryHeads/m.KVHeads)
		}
		check("recall", methods[means/2], budgets[means%2], seen, r.StepRead)
		means++
	}
	if means != 8 {
		t.Errorf("%d means, want 8", means)
	}

	likely, err := eval.Perplexity(context.Background(), eval.PerplexityOptions{
		Model: m, Documents: []eval.Document{{ID: "a", Tokens: text(m, 3, 140)}}, Settings: methods, Budgets: budgets,
		Contexts: []int{140}, Tokens: 20, CacheType: dtype.F32,
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := likely[0]; d.StepBytes != d.DenseStepBytes || d.StepBytes == 0 {
		t.Errorf("dense reads %+v", d.StepRead)
	}
	seen = nil
	for n := 120; n < 140; n++ {
		seen = append(seen, n)
	}
	for i, r := range likely[1:] {
		check("perplexity", methods[i/2], budgets[i%2], seen, r.StepRead)
	}

	// One dense layer of two counts as such; sets cut at a mass are then not known.
	half := methods[1]
	half.DenseLayers = []int{0}
	sparse, err := half.SparseFor(m, quarter)
	if err != nil {
		t.Fatal(err)
	}
	bytes, dense := want(half, quarter, []int{100})
	if got, want := sparse.StepBytes([]int{0, 1}, 100, .5), (bytes+dense)/2; got != want {
		t.Errorf("a dense layer and a sparse one read %v, want %v", got, want)
	}
	cut := methods[0]
	cut.Selection.Mass = .5
	if sparse, err = cut.SparseFor(m, all); err != nil {
		t.Fatal(err)
	}
	keys, values := float64(100*m.KVHeads*2*m.HeadDim), float64(m.QueryHeads*20+m.KVHeads*12)*float64(2*m.HeadDim)
	if got := sparse.StepBytes([]int{0, 1}, 100, .32); math.Abs(got-keys-values) > 1e-6*got {
		t.Errorf("sets of 20 beside 12 read %v, want %v", got, keys+values)
	}
	cut.DenseLayers = []int{0}
	if sparse, err = cut.SparseFor(m, all); err != nil {
		t.Fatal(err)
	}
	if got := sparse.StepBytes([]int{0, 1}, 100, .32); got != 0 {
		t.Errorf("cut sets beside a dense layer read %v, want unknown", got)
	}
}
