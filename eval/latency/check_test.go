package latency

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// tiedSet is a set of 2 heads over 80 tokens that keeps 12 of 24 candidates,
// of which the first `copies` behind the cut have the key of the last before
// it, moved so that their values are about gap less.
func tiedSet(t *testing.T, copies int, gap float64) *reranked {
	t.Helper()
	const heads, d, n, candidates, keep = 2, 16, 80, 24, 12
	rng := rand.New(rand.NewPCG(5, 6))
	ref := kernels.NewReference()
	cache, err := ref.NewCache(kernels.CacheSpec{Layers: 1, KVHeads: 1, HeadDim: d, Capacity: n, Type: dtype.F32})
	if err != nil {
		t.Fatal(err)
	}
	cache.Len = n
	q := hostTensor(dtype.F32, make([]byte, 4*heads*d), 1, heads, d)
	for _, values := range [][]float32{q.F32(), cache.K[0].F32(), cache.V[0].F32()} {
		for i := range values {
			values[i] = float32(rng.NormFloat64())
		}
	}
	r := &reranked{
		ref: ref, first: 6, q: q, cache: cache, scale: 0.25,
		selection: kernels.Selection{Heads: 1, Sink: 4, Local: 4, Budget: kernels.Budget{Count: keep}, Candidates: 2},
	}
	for p := range candidates {
		r.candidates = append(r.candidates, int32(8+3*p))
	}
	order, _ := r.ranked(t)
	keys := cache.K[0].F32()
	last := keys[order[keep-1]*d:][:d]
	// along the sum of the queries one step lowers all heads' logits
	sum, norm := make([]float64, d), 0.0
	for i := range sum {
		sum[i] = float64(q.F32()[i]) + float64(q.F32()[d+i])
		norm += sum[i] * sum[i]
	}
	for _, p := range order[keep : keep+copies] {
		for i := range d {
			keys[int(p)*d+i] = last[i] - float32(2*gap*sum[i]/(norm*float64(r.scale)))
		}
	}
	return r
}

func (r *reranked) batch(t *testing.T) *kernels.Batch {
	t.Helper()
	b := &kernels.Batch{}
	if err := r.ref.SetBatch(b, []kernels.Segment{{Cache: r.cache, Start: r.cache.Len - 1, Len: 1}}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (r *reranked) ranked(t *testing.T) ([]int32, []float64) {
	t.Helper()
	order, value, err := r.rank(r.batch(t))
	if err != nil {
		t.Fatal(err)
	}
	return order, value
}

// attend is the output where the candidates of these ranks are kept.
func (r *reranked) attend(t *testing.T, ranks ...int) []float32 {
	t.Helper()
	order, _ := r.ranked(t)
	kept := hostTensor(dtype.I32, make([]byte, 4*len(ranks)), 1, 1, len(ranks))
	for i, rank := range ranks {
		kept.I32()[i] = order[rank]
	}
	out := hostTensor(dtype.F32, make([]byte, 4*r.q.Len()), r.q.Shape...)
	r.ref.AttendSelected(out, r.q, 0, r.batch(t), r.scale, kept, r.selection)
	return out.F32()
}

func TestRerankedCheck(t *testing.T) {
	best := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	swapped := append(slices.Clone(best[:11]), 12)
	tests := []struct {
		name   string
		copies int
		gap    float64
		kept   []int
		error  string
	}{
		{"the best", 1, 5e-5, best, ""},
		{"the other of a near tie", 1, 5e-5, swapped, ""},
		{"either of a tie", 1, 0, swapped, ""},
		{"some of several ties", 5, 5e-5, append(slices.Clone(best[:11]), 15), ""},
		{"the other beyond a tie", 1, 1e-3, swapped, "another choice among those within 0.0016 of each other gives the output, but only below 0.0001 is it a tie"},
		{"a wrong one", 1, 5e-5, append(slices.Clone(best[1:]), 23), "no choice"},
		{"one kept for another that is sure", 1, 5e-5, append(slices.Clone(best[1:]), 12), "no choice"},
	}
	for _, test := range tests {
		r := tiedSet(t, test.copies, test.gap)
		if _, value := r.ranked(t); math.Abs(value[11]-value[12]-test.gap) > 0.5*test.gap+1e-6 {
			t.Fatalf("%s: the gap is %v, want about %v", test.name, value[11]-value[12], test.gap)
		}
		err := r.check(r.attend(t, test.kept...))
		if (test.error == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.error) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.error)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "head 6 differs") && !strings.HasPrefix(err.Error(), "head 7 differs") {
			t.Errorf("%s: error %v names no head", test.name, err)
		}
	}

	r := tiedSet(t, 12, 0)
	out := r.attend(t, best...)
	out[3] += 1
	if err := r.check(out); err == nil || !strings.Contains(err.Error(), "no choice") {
		t.Errorf("a wrong value: error %v", err)
	}
	order, _ := r.ranked(t)
	for _, p := range order {
		copy(r.cache.K[0].F32()[p*16:][:16], r.cache.K[0].F32()[order[0]*16:][:16])
	}
	if err := r.check(out); err == nil || !strings.Contains(err.Error(), "24 candidates lie within 0.0001, which make more sets than the 1000") {
		t.Errorf("all equal: error %v", err)
	}
}

// misranking is a device whose reranking keeps the oldest candidates.
type misranking struct{ *kernels.Reference }

func (d misranking) Rerank(selected, candidates, _ kernels.Tensor, _ int, _ *kernels.Batch, _ float32, _ kernels.Selection) {
	k := selected.Dim(2)
	for set := range selected.Len() / k {
		copy(selected.I32()[set*k:][:k], candidates.I32()[set*candidates.Dim(2):])
	}
}

func (d misranking) AttendHash(out, q kernels.Tensor, layer int, b *kernels.Batch, scale float32, h kernels.HashQuery, s kernels.Selection) {
	kernels.ComposeAttendHash(d, out, q, layer, b, scale, h, s)
}

// TestBenchRefusesWrongRerank has the bench meet such a device.
func TestBenchRefusesWrongRerank(t *testing.T) {
	_, err := Attention(context.Background(), AttentionOptions{
		Device: misranking{kernels.NewReference()}, Runs: 1, Budgets: []kernels.Budget{{Num: 1, Den: 8}},
		Shapes: []Shape{{QueryHeads: 4, KVHeads: 2, HeadDim: 16, Batch: 1, Context: 200}},
		Hashes: []HashShape{{Preset: "grouped", Bits: 32, QueryBits: 4, Candidates: 2, Sink: 8, Local: 8}},
	})
	const want = "bench attention 4q/2kv d16, grouped, 200 tokens: sequence 0, heads 0 to 1: head "
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "at the rerank cut, 25 of 50 candidates, values are") {
		t.Errorf("error %v", err)
	}
}

// TestNearTieCoversBF16Parts measures what nearTie allows for, with a margin of
// 2: logits in float32 of queries split in two bf16 parts.
func TestNearTieCoversBF16Parts(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	const d, scale = 256, 1.0 / 16
	bf16 := func(v float32) float32 { return dtype.F32FromBF16(dtype.BF16FromF32(v)) }
	worst := 0.0
	for range 20000 {
		exact, sum := 0.0, float32(0)
		for range d {
			q, k := float32(rng.NormFloat64()), bf16(float32(rng.NormFloat64()))
			exact += float64(q) * float64(k)
			high := bf16(q)
			sum += high*k + bf16(q-high)*k
		}
		worst = math.Max(worst, math.Abs(exact-float64(sum))*scale)
	}
	t.Logf("logits are off by up to %.2g", worst)
	if !(worst <= nearTie/4) || worst == 0 {
		t.Errorf("logits are off by up to %.2g, nearTie expects %.2g", worst, nearTie/4)
	}
}
