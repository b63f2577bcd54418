package eval_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/cpu"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/shape"
	"github.com/hashattn/hashattn/model/trace"
)

var unlike = shape.Model{Name: "unlike", Fingerprint: "f00d", Layers: 2, QueryHeads: 4, KVHeads: 2, HeadDim: 16}

// unlikeTrace has heads that clearly differ: the queries of KV head 0 look at a
// few tokens, those of KV head 1 at all of them a little; in layer 1 less so.
func unlikeTrace(t *testing.T, seed uint64) *trace.Reader {
	t.Helper()
	const n = 512
	dir := t.TempDir()
	w, err := trace.Create(dir, trace.Header{Model: unlike, Scale: 0.25, Tokenizer: "t", Context: n, Captured: []int{0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	positions := trace.Tail(n, 32, 4)
	normal := func(count int, scale float64) []uint16 {
		x := make([]uint16, count)
		for i := range x {
			x[i] = dtype.BF16FromF32(float32(rng.NormFloat64() * scale))
		}
		return x
	}
	for d := range 2 {
		err := w.Add(trace.Document{ID: fmt.Sprint("doc", d), Hash: fmt.Sprintf("%064d", d), Kind: "test", Tokens: make([]int32, n), Positions: positions,
			Layer: func(l int) (q, k, v []uint16, err error) {
				for h := range unlike.QueryHeads {
					scale := 3.0
					if h >= unlike.Group() {
						scale = 0.4 + 0.4*float64(l)
					}
					q = append(q, normal(len(positions)*unlike.HeadDim, scale)...)
				}
				size := unlike.KVHeads * n * unlike.HeadDim
				return q, normal(size, 1), normal(size, 1), nil
			}})
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := trace.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// planes is a mapping of random hyperplanes, selecting by sharing.
func planes(t *testing.T, selection mapping.Sharing, perHead ...int) *mapping.Mapping {
	t.Helper()
	const bits = 64
	c := mapping.Config{
		Preset: "shared", Bits: bits, Keys: mapping.KVGroup, Selection: selection, Score: mapping.Asymmetric, QueryBits: 8,
		GroupRule: mapping.Sum, Sink: 4, Local: 4, Model: unlike, PerHeadLayers: perHead,
	}
	rng := rand.New(rand.NewPCG(3, 3))
	m := &mapping.Mapping{Config: c}
	for range unlike.Layers {
		one := make([]float32, bits*unlike.HeadDim)
		for i := range one {
			one[i] = float32(rng.NormFloat64() / 8)
		}
		side := func(heads int) kernels.Projection {
			a := kernels.Affine{In: unlike.HeadDim, Out: bits, Bias: make([]float32, heads*bits)}
			for range heads {
				a.Weight = append(a.Weight, one...)
			}
			return kernels.Projection{Name: "planes", Heads: heads, Skip: &a}
		}
		m.Layers = append(m.Layers, &mapping.Layer{Key: side(unlike.KVHeads), Query: side(unlike.QueryHeads)})
	}
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	return m
}

func device(t *testing.T) kernels.Device {
	t.Helper()
	d, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func calibrateOptions(t *testing.T, m *mapping.Mapping, objective, per string) eval.CalibrateOptions {
	t.Helper()
	return eval.CalibrateOptions{
		Device: device(t), Trace: unlikeTrace(t, 1), Mapping: m, Budget: kernels.Budget{Num: 1, Den: 16},
		Objective: objective, Per: per, Least: 4, Most: 128, Queries: 24,
	}
}

// mean is the row of the mean over layers and heads.
func mean(t *testing.T, rows []result.RecallRow, selector string) result.RecallRow {
	t.Helper()
	for _, r := range rows {
		if r.Layer == nil && r.Selector == selector {
			return r
		}
	}
	t.Fatalf("no row of %s in %+v", selector, rows)
	return result.RecallRow{}
}

// A calibrated mapping, stored and read again, beats even budgets on documents
// that the calibration has not seen, at the same density.
func TestCalibratedBeatsUniform(t *testing.T) {
	held := unlikeTrace(t, 2)
	for _, selection := range []mapping.Sharing{mapping.QueryHead, mapping.KVGroup} {
		for _, objective := range []string{eval.ObjectiveMass, eval.ObjectiveError} {
			for _, per := range []string{eval.PerSet, eval.PerKVHead, eval.PerLayer} {
				name := fmt.Sprintf("%s sets, %s per %s", selection, objective, per)
				o := calibrateOptions(t, planes(t, selection), objective, per)
				found, err := eval.Calibrate(context.Background(), o)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				m := planes(t, selection)
				m.Shares = found.Shares
				path := filepath.Join(t.TempDir(), "m.safetensors")
				if err := m.Save(path); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if m, err = mapping.Load(path); err != nil {
					t.Fatal(err)
				}
				var both []eval.Setting
				for _, uniform := range []bool{true, false} {
					s, err := eval.NewSetting(o.Device, unlike, o.Trace.Scale, eval.Source{Mapping: m, Sink: -1, Local: -1, Candidates: -1, Uniform: uniform}, nil)
					if err != nil {
						t.Fatal(err)
					}
					both = append(both, s)
				}
				if both[0].Identity == both[1].Identity {
					t.Errorf("%s: even and calibrated budgets have one identity", name)
				}
				rows, err := eval.Recall(context.Background(), eval.RecallOptions{
					Device: o.Device, Trace: held, Settings: both, Budgets: []kernels.Budget{o.Budget}, Contexts: []int{512}, Window: 128, Queries: 32,
				})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				even, divided := mean(t, rows, "hash"), mean(t, rows, "hash+calibrated")
				if divided.Density > even.Density+1e-9 || divided.Density < even.Density-0.003 {
					t.Errorf("%s: density %v, even %v", name, divided.Density, even.Density)
				}
				better := divided.Mass > even.Mass
				if objective == eval.ObjectiveError {
					better = divided.Error < even.Error
				}
				if per != eval.PerLayer && !better {
					t.Errorf("%s: mass %.4f, error %.4f; even %.4f, %.4f", name, divided.Mass, divided.Error, even.Mass, even.Error)
				}
				if per != eval.PerLayer && found.Largest/found.Smallest < 1.5 {
					t.Errorf("%s: shares of %v to %v for heads that differ", name, found.Smallest, found.Largest)
				}
			}
		}
	}
}

// Shares of a mapping whose layers differ in the number of sets still sum to
// the budget, within their bounds.
func TestCalibrateMixedLayers(t *testing.T) {
	o := calibrateOptions(t, planes(t, mapping.KVGroup, 1), eval.ObjectiveMass, eval.PerSet)
	found, err := eval.Calibrate(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for l, sets := range []int{2, 4} {
		if len(found.Shares.Layers[l]) != sets {
			t.Errorf("layer %d has %d shares, want %d", l, len(found.Shares.Layers[l]), sets)
		}
		for _, p := range found.Shares.Layers[l] {
			if p < o.Least || p > o.Most {
				t.Errorf("layer %d: share %d", l, p)
			}
			sum += p
		}
	}
	if sum != 6*mapping.ShareUnit {
		t.Errorf("shares sum to %d", sum)
	}
}

// Scores that estimate the mass cut sets short, more where few tokens hold it.
func TestMassCut(t *testing.T) {
	held, d := unlikeTrace(t, 2), device(t)
	var settings []eval.Setting
	for _, p := range []float64{0, 0.5, 0.8, 1} {
		s, err := eval.NewSetting(d, unlike, 0.25, eval.Source{Method: "oracle", Sink: 4, Local: 4, Mass: p}, nil)
		if err != nil {
			t.Fatal(err)
		}
		settings = append(settings, s)
	}
	rows, err := eval.Recall(context.Background(), eval.RecallOptions{
		Device: d, Trace: held, Settings: settings, Budgets: []kernels.Budget{{Num: 1, Den: 4}}, Contexts: []int{512}, Window: 128, Queries: 32, PerHead: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	all, half, most, one := mean(t, rows, "oracle"), mean(t, rows, "oracle+p0.5"), mean(t, rows, "oracle+p0.8"), mean(t, rows, "oracle+p1")
	one.Selector = all.Selector
	if one != all {
		t.Errorf("a cut at all of the mass changes %+v to %+v", all, one)
	}
	if !(half.Density < most.Density && most.Density < all.Density) {
		t.Errorf("densities %v, %v, %v for p 0.5, 0.8 and none", half.Density, most.Density, all.Density)
	}
	density := map[int]float64{}
	for _, r := range rows {
		if r.Layer != nil && *r.Layer == 0 && r.Selector == "oracle+p0.8" {
			density[*r.Head] = r.Density
		}
	}
	if !(density[0] < density[3]/2) {
		t.Errorf("head 0, which looks at few tokens, reads %v, head 3 %v", density[0], density[3])
	}
	if _, err := eval.NewSetting(d, unlike, 0.25, eval.Source{Method: "streaming", Mass: 0.5, Local: 1}, nil); err != nil {
		t.Fatal(err)
	}
	s, _ := eval.NewSetting(d, unlike, 0.25, eval.Source{Method: "streaming", Mass: 0.5, Local: 1}, nil)
	if _, err := s.Sparse(d, unlike, 0.25, kernels.Budget{Count: 3}); err == nil || !strings.Contains(err.Error(), "do not estimate attention mass") {
		t.Errorf("streaming cut by mass: error %v", err)
	}
}
