package selector_test

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/selector"
)

// load opens a tiny checkpoint: 7 layers, of which only layer 5 is global, or
// 2 global ones.
func load(t *testing.T, name string) *model.Model {
	t.Helper()
	m, err := model.Load(context.Background(), filepath.Join("..", "testdata", "tiny", name), kernels.NewReference(), model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func env(m *model.Model) selector.Env {
	return selector.Env{Device: m.Device, Shape: shapeOf(m), Samples: samples{m}}
}

func shapeOf(m *model.Model) selector.Shape {
	return selector.Shape{Model: m.Shape(), Scale: m.QueryScale}
}

// samples is random calibration data.
type samples struct{ m *model.Model }

func (s samples) Layer(layer int) (q, k [][]float32, err error) {
	rng := rand.New(rand.NewPCG(uint64(layer), 9))
	make := func(heads int) [][]float32 {
		all := make([][]float32, heads)
		for h := range all {
			for range 300 * s.m.HeadDim {
				all[h] = append(all[h], float32(rng.NormFloat64()))
			}
		}
		return all
	}
	return make(s.m.QueryHeads), make(s.m.KVHeads), nil
}

// randomMapping has random maps of a preset's shape; layers in dense have none.
func randomMapping(m *model.Model, preset string, rule mapping.GroupRule, dense ...int) *mapping.Mapping {
	c := mapping.Config{
		Preset: preset, Bits: 32, Keys: mapping.KVGroup, Selection: mapping.QueryHead, Score: mapping.Asymmetric, QueryBits: 4,
		BlockBits: 4, GroupRule: rule, Sink: 4, Local: 8, Model: m.Shape(), DenseLayers: dense,
	}
	keyHeads, queryHeads, queryIn := m.KVHeads, m.QueryHeads, m.HeadDim
	switch preset {
	case "paper":
		c.Keys, c.Score, c.QueryBits, c.BlockBits = mapping.QueryHead, mapping.Hamming, 1, 0
		keyHeads = m.QueryHeads
	case "grouped":
		c.Selection = mapping.KVGroup
		if rule == mapping.Sum {
			queryHeads, queryIn = m.KVHeads, m.Group()*m.HeadDim
		}
	}
	rng := rand.New(rand.NewPCG(5, 6))
	affine := func(heads, in, out int) *kernels.Affine {
		a := &kernels.Affine{In: in, Out: out, Weight: make([]float32, heads*in*out), Bias: make([]float32, heads*out)}
		for i := range a.Weight {
			a.Weight[i] = float32(rng.NormFloat64())
		}
		return a
	}
	mm := &mapping.Mapping{Config: c}
	for l := range m.Layers {
		if c.Dense(l) {
			mm.Layers = append(mm.Layers, nil)
			continue
		}
		key := kernels.Projection{Name: "key", Heads: keyHeads, Skip: affine(keyHeads, m.HeadDim, 32), BlockBits: c.BlockBits}
		if c.BlockBits > 0 {
			key.Feedback = affine(keyHeads, 32, 32).Weight
		}
		query := kernels.Projection{Name: "query", Heads: queryHeads, Skip: affine(queryHeads, queryIn, 32)}
		mm.Layers = append(mm.Layers, &mapping.Layer{Key: key, Query: query})
	}
	return mm
}

// scorers is one scorer of every kind.
func scorers(t *testing.T, m *model.Model) map[string]selector.Scorer {
	t.Helper()
	all := map[string]selector.Scorer{}
	for _, d := range []string{"oracle", "oracle:per=group", "streaming", "lsh:bits=64", "quest:page=4", "doublesparsity:channels=4", "pq:parts=4,bits=3"} {
		s, err := selector.New(env(m), d)
		if err != nil {
			t.Fatal(err)
		}
		all[d] = s
	}
	for _, x := range []struct {
		preset string
		rule   mapping.GroupRule
	}{{"paper", mapping.Sum}, {"shared", mapping.Sum}, {"grouped", mapping.Sum}, {"grouped", mapping.Mass}} {
		mm := randomMapping(m, x.preset, x.rule)
		if err := mm.Check(); err != nil {
			t.Fatal(err)
		}
		s, err := selector.NewHash(m.Device, shapeOf(m), mm)
		if err != nil {
			t.Fatal(err)
		}
		all[x.preset+"/"+string(x.rule)] = s
	}
	return all
}

func text(m *model.Model, n int) []int32 {
	rng := rand.New(rand.NewPCG(1, 2))
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(3 + rng.IntN(m.Vocabulary-3))
	}
	return tokens
}

// logits is the logits of the last tokens of a text, those from sparseFrom on
// run under the attention, the others dense.
func logits(t *testing.T, m *model.Model, tokens []int32, sparseFrom int, a model.Attention, build func(*model.Sequence)) [][]float32 {
	t.Helper()
	r, err := m.NewRunner(len(tokens), len(tokens))
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.NewSequence(len(tokens), dtype.F32)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Prefill(context.Background(), s, tokens[:sparseFrom], model.Dense{Model: m}, false); err != nil {
		t.Fatal(err)
	}
	if build != nil {
		build(s)
	}
	m.Device.ResetReads()
	if err := r.Extend(s, tokens[sparseFrom:], a); err != nil {
		t.Fatal(err)
	}
	var rows [][]float32
	for i := range len(tokens) - sparseFrom {
		row, err := r.Logits(i)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	return rows
}

func sparse(t *testing.T, m *model.Model, s selector.Scorer, sel kernels.Selection, dense ...int) *selector.Sparse {
	t.Helper()
	a, err := selector.NewSparse(m.Device, shapeOf(m), s, sel, dense)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func build(t *testing.T, a *selector.Sparse) func(*model.Sequence) {
	return func(s *model.Sequence) {
		t.Helper()
		ix, err := a.Build(s.Cache)
		if err != nil {
			t.Fatal(err)
		}
		s.Index = ix
	}
}

func farthest(a, b [][]float32) float64 {
	worst := 0.0
	for i := range a {
		for j := range a[i] {
			worst = math.Max(worst, math.Abs(float64(a[i][j])-float64(b[i][j])))
		}
	}
	return worst
}

// TestEverythingIsDense: with a budget of everything every selector's
// attention is dense attention, reranked or not.
func TestEverythingIsDense(t *testing.T) {
	m := load(t, "qwen2")
	tokens := text(m, 60)
	want := logits(t, m, tokens, 50, model.Dense{Model: m}, nil)
	for name, s := range scorers(t, m) {
		for _, candidates := range []int{0, 2} {
			a := sparse(t, m, s, kernels.Selection{Sink: 4, Local: 8, Budget: kernels.Budget{Num: 1, Den: 1}, Candidates: candidates})
			got := logits(t, m, tokens, 50, a, build(t, a))
			if e := farthest(got, want); !(e <= 1e-4) {
				t.Errorf("%s, candidates %d: logits differ by %.2g", name, candidates, e)
			}
			if d := m.Device.Reads().Density(); d != 1 {
				t.Errorf("%s: read %.3f of the tokens, want all", name, d)
			}
		}
	}
}

// TestDensityIsRead: the device counts just the tokens that the selection
// allows, and the result is not the dense one.
func TestDensityIsRead(t *testing.T) {
	m := load(t, "qwen2")
	tokens := text(m, 60)
	dense := logits(t, m, tokens, 50, model.Dense{Model: m}, nil)
	for name, s := range scorers(t, m) {
		sel := kernels.Selection{Sink: 4, Local: 8, Budget: kernels.Budget{Num: 1, Den: 8}, Candidates: 2}
		a := sparse(t, m, s, sel)
		got := logits(t, m, tokens, 50, a, build(t, a))
		read, cached := 0, 0
		for n := 51; n <= 60; n++ {
			read += 4 + 8 + n/8
			cached += n
		}
		if d, want := m.Device.Reads().Density(), float64(read)/float64(cached); math.Abs(d-want) > 1e-9 {
			t.Errorf("%s: read %.4f of the tokens, want %.4f", name, d, want)
		}
		// a dense layer weighs as much as a sparse one, however many sets that has
		half := sparse(t, m, s, sel, 0)
		logits(t, m, tokens, 50, half, build(t, half))
		if d, want := m.Device.Reads().Density(), float64(cached+(m.Shape().Layers-1)*read)/float64(m.Shape().Layers*cached); math.Abs(d-want) > 1e-9 {
			t.Errorf("%s: beside a dense layer read %.4f of the tokens, want %.4f", name, d, want)
		}
		if farthest(got, dense) < 1e-3 {
			t.Errorf("%s: sparse attention gave the dense logits", name)
		}
	}
}

// TestTokenByToken: an index that grows with the tokens is the one built over
// all of them.
func TestTokenByToken(t *testing.T) {
	m := load(t, "qwen2")
	tokens := text(m, 60)
	for name, s := range scorers(t, m) {
		a := sparse(t, m, s, kernels.Selection{Sink: 4, Local: 8, Budget: kernels.Budget{Count: 6}})
		want := logits(t, m, tokens, 50, a, build(t, a))
		r, err := m.NewRunner(60, 1)
		if err != nil {
			t.Fatal(err)
		}
		seq, err := m.NewSequence(60, dtype.F32)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Prefill(context.Background(), seq, tokens[:50], model.Dense{Model: m}, false); err != nil {
			t.Fatal(err)
		}
		build(t, a)(seq)
		var got [][]float32
		for _, id := range tokens[50:] {
			if err := r.Decode([]*model.Sequence{seq}, []int32{id}, a); err != nil {
				t.Fatal(err)
			}
			row, err := r.Logits(0)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, row)
		}
		if e := farthest(got, want); !(e <= 1e-4) {
			t.Errorf("%s: token by token differs by %.2g from one pass", name, e)
		}
	}
}

// TestDenseLayers: with all layers dense, nothing is sparse; a sliding-window
// model's local layers never are.
func TestDenseLayers(t *testing.T) {
	m := load(t, "gemma3")
	tokens := text(m, 60)
	want := logits(t, m, tokens, 50, model.Dense{Model: m}, nil)
	s, err := selector.New(env(m), "streaming")
	if err != nil {
		t.Fatal(err)
	}
	sel := kernels.Selection{Sink: 2, Local: 4, Budget: kernels.Budget{Count: 1}}
	a := sparse(t, m, s, sel, 5)
	if e := farthest(logits(t, m, tokens, 50, a, build(t, a)), want); e != 0 {
		t.Errorf("dense layer 5: logits differ by %.2g", e)
	}
	a = sparse(t, m, s, sel)
	if e := farthest(logits(t, m, tokens, 50, a, build(t, a)), want); e < 1e-3 {
		t.Errorf("sparse layer 5 gave the dense logits")
	}
	partly := randomMapping(load(t, "qwen2"), "shared", mapping.Sum, 1)
	q := load(t, "qwen2")
	h, err := selector.NewHash(q.Device, shapeOf(q), partly)
	if err != nil {
		t.Fatal(err)
	}
	b := sparse(t, q, h, sel)
	if got := b.Layers(); len(got) != 1 || got[0] != 0 {
		t.Errorf("layers %v are sparse, want [0]", got)
	}
}

// TestOtherModelIsRefused: a mapping belongs to the weights it was trained on.
func TestOtherModelIsRefused(t *testing.T) {
	m := load(t, "qwen2")
	mm := randomMapping(m, "shared", mapping.Sum)
	other := shapeOf(m)
	other.Fingerprint = "another"
	if _, err := selector.NewHash(m.Device, other, mm); err == nil || !strings.Contains(err.Error(), "fingerprint") {
		t.Errorf("error %v, want one about the fingerprint", err)
	}
}

func TestBadDescriptions(t *testing.T) {
	m := load(t, "qwen2")
	for description, want := range map[string]string{
		"qwest":          "unknown",
		"quest:page":     "key=value",
		"quest:page=0":   "whole number from 2",
		"quest:pages=16": `option "pages" is unknown`,
		"oracle:per=cat": "one of head, group",
		"pq:parts=3":     "3 parts of a head of 16",
		"streaming:x=1":  `option "x" is unknown`,
	} {
		if _, err := selector.New(env(m), description); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", description, err, want)
		}
	}
	e := env(m)
	e.Samples = nil
	for _, d := range []string{"pq", "doublesparsity"} {
		if _, err := selector.New(e, d); err == nil || !strings.Contains(err.Error(), "needs a trace") {
			t.Errorf("%s without a trace: error %v", d, err)
		}
	}
}

// plain is a device whose sets all have one size.
type plain struct{ kernels.Device }

// TestShares: token sets read their own shares of the budget, and a device
// that cannot do so says so.
func TestShares(t *testing.T) {
	m := load(t, "qwen2")
	tokens := text(m, 60)
	mm := randomMapping(m, "shared", mapping.Sum)
	shares := &mapping.Shares{Layers: make([][]int, m.Layers)}
	for l := range shares.Layers {
		for h := range m.QueryHeads {
			shares.Layers[l] = append(shares.Layers[l], 16+32*(h%2)) // 1/2 and 3/2
		}
	}
	mm.Shares = shares
	if err := mm.Check(); err != nil {
		t.Fatal(err)
	}
	h, err := selector.NewHash(m.Device, shapeOf(m), mm)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range []kernels.Selection{{}, {Mass: 1}, {Candidates: 2}, {Mass: 1, Candidates: 2}, {Mass: 1, Candidates: 16}} {
		a := sparse(t, m, h, kernels.Selection{Sink: 4, Local: 8, Budget: kernels.Budget{Num: 1, Den: 8}, Mass: rule.Mass, Candidates: rule.Candidates})
		if err := a.Divide(shares); err != nil {
			t.Fatal(err)
		}
		logits(t, m, tokens, 50, a, build(t, a))
		read, cached := 0, 0
		for n := 51; n <= 60; n++ {
			read += 2*(4+8) + n/16 + 3*n/16
			cached += 2 * n
		}
		if d, want := m.Device.Reads().Density(), float64(read)/float64(cached); math.Abs(d-want) > 1e-9 {
			t.Errorf("%+v: read %.4f of the tokens, want %.4f", rule, d, want)
		}
	}
	sel := kernels.Selection{Sink: 4, Local: 8, Budget: kernels.Budget{Num: 1, Den: 8}}
	other, err := selector.NewSparse(plain{m.Device}, shapeOf(m), h, sel, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Divide(shares); err == nil || !strings.Contains(err.Error(), "per=layer") {
		t.Errorf("a device with sets of one size: error %v", err)
	}
	layers := &mapping.Shares{Layers: make([][]int, m.Layers)}
	for l := range layers.Layers {
		for range m.QueryHeads {
			layers.Layers[l] = append(layers.Layers[l], 16+32*(l%2))
		}
	}
	if err := other.Divide(layers); err != nil {
		t.Errorf("shares per layer: %v", err)
	}
	if b := other.Selection(1); b.Uneven() || b.Budget != (kernels.Budget{Num: 3, Den: 16}) {
		t.Errorf("layer 1 of shares per layer selects by %+v", b)
	}
	sel.Mass = 0.9
	if _, err := selector.NewSparse(plain{m.Device}, shapeOf(m), h, sel, nil); err == nil || !strings.Contains(err.Error(), "equally many tokens") {
		t.Errorf("a cut by mass on a device with sets of one size: error %v", err)
	}
	sel.Mass = 0
	dense := sparse(t, m, h, sel, 0)
	if err := dense.Divide(shares); err == nil || !strings.Contains(err.Error(), "budgets=uniform") {
		t.Errorf("shares of a layer made dense: error %v", err)
	}
}

// TestMassCutsSets: the scores of every estimator cut sets short, reranked or
// not, and say so in what is read.
func TestMassCutsSets(t *testing.T) {
	m := load(t, "qwen2")
	tokens := text(m, 60)
	for name, s := range scorers(t, m) {
		for _, candidates := range []int{0, 2} {
			density := func(p float64) float64 {
				a, err := selector.NewSparse(m.Device, shapeOf(m), s, kernels.Selection{Sink: 4, Local: 8, Budget: kernels.Budget{Num: 1, Den: 3}, Candidates: candidates, Mass: p}, nil)
				if err != nil {
					if !strings.Contains(err.Error(), "do not estimate") || name == "oracle" || strings.Contains(name, "/") || strings.HasPrefix(name, "pq") {
						t.Errorf("%s: %v", name, err)
					}
					return math.NaN()
				}
				logits(t, m, tokens, 50, a, build(t, a))
				return m.Device.Reads().Density()
			}
			few, all := density(1e-6), density(1)
			if !math.IsNaN(few) && !(few < all) {
				t.Errorf("%s, candidates %d: reads %.3f for p 1e-6, %.3f for 1", name, candidates, few, all)
			}
		}
	}
}
