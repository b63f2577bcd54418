package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/shape"
	"github.com/hashattn/hashattn/model/trace"
)

var tiny = shape.Model{Name: "tiny", Fingerprint: "f00d", Layers: 3, QueryHeads: 4, KVHeads: 2, HeadDim: 16}

// synthetic writes a trace of keys around a few topics, with queries that ask
// for one topic: structure that codes can learn. It has layers 0 and 2. Heads
// ask for topics of their own, or if they agree, the heads of a group for one.
func synthetic(t *testing.T, documents int, agree bool, spoil func(layer int, k []uint16)) *trace.Reader {
	t.Helper()
	const n = 640
	dir := t.TempDir()
	w, err := trace.Create(dir, trace.Header{Model: tiny, Tokenizer: "t", Context: n, Captured: []int{0, 2}, Scale: trace.DefaultScale(tiny.HeadDim)})
	if err != nil {
		t.Fatal(err)
	}
	d := tiny.HeadDim
	topics := rand.New(rand.NewPCG(5, 5))
	// topics in coarse groups: the largest differences are not those that matter
	coarse, centre := make([][]float64, 3), make([][]float64, 24)
	for i := range coarse {
		for range d {
			coarse[i] = append(coarse[i], 2*topics.NormFloat64())
		}
	}
	for i := range centre {
		for j := range d {
			centre[i] = append(centre[i], coarse[i%len(coarse)][j]+topics.NormFloat64())
		}
	}
	for doc := range documents {
		rng := rand.New(rand.NewPCG(9, uint64(doc)))
		around := func(heads, rows, together int) []uint16 {
			x := make([]uint16, 0, heads*rows*d)
			topic := make([]int, rows)
			for h := range heads {
				for r := range rows {
					if h%together == 0 {
						topic[r] = rng.IntN(len(centre))
					}
					c := centre[topic[r]]
					for j := range d {
						// a strong direction that says nothing, as real keys have
						v := c[j] + 0.4*rng.NormFloat64()
						if j == h%d {
							v = 6 * rng.NormFloat64()
						}
						x = append(x, dtype.BF16FromF32(float32(v)))
					}
				}
			}
			return x
		}
		var positions []int32
		for p := 256; p < n; p++ {
			positions = append(positions, int32(p))
		}
		together := 1
		if agree {
			together = tiny.Group()
		}
		err := w.Add(trace.Document{ID: fmt.Sprint("doc", doc), Hash: fmt.Sprintf("%064d", doc), Kind: "test", Tokens: make([]int32, n), Positions: positions,
			Layer: func(l int) (q, k, v []uint16, err error) {
				q, k = around(tiny.QueryHeads, len(positions), together), around(tiny.KVHeads, n, 1)
				for i := range q { // queries do not care for the strong direction
					if h := i / d / len(positions); i%d == h/tiny.Group() {
						q[i] = 0
					}
				}
				if spoil != nil {
					spoil(l, k)
				}
				return q, k, k, nil
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

// small is a preset at a size that tests can afford.
func small(t *testing.T, preset string, steps int) Config {
	t.Helper()
	c, err := Preset(preset)
	if err != nil {
		t.Fatal(err)
	}
	c.Bits, c.Sink, c.Local, c.Steps, c.Documents, c.Queries, c.Keys = 8, 8, 8, steps, 2, 16, 256
	return c
}

// recall is the share of each query's 16 keys of highest logit that are among
// the 64 of highest score, over a document.
func recall(t *testing.T, r *trace.Reader, m *mapping.Mapping, document int) float64 {
	t.Helper()
	doc, err := r.Document(document)
	if err != nil {
		t.Fatal(err)
	}
	device := kernels.NewReference()
	alloc := func(kind dtype.Type, shape ...int) kernels.Tensor {
		x, err := device.Alloc(kind, shape...)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	s := m.Model
	n, d, sum, count := len(doc.Tokens), s.HeadDim, 0.0, 0.0
	for l, layer := range m.Layers {
		if layer == nil {
			continue
		}
		views, err := doc.Layer(l)
		if err != nil {
			t.Fatal(err)
		}
		cache, err := device.NewCache(kernels.CacheSpec{Layers: s.Layers, KVHeads: s.KVHeads, HeadDim: d, Capacity: n, Type: dtype.F32})
		if err != nil {
			t.Fatal(err)
		}
		dtype.F32FromBF16s(cache.K[l].F32(), views.K)
		index := &kernels.Index{Layers: make([][]kernels.Tensor, s.Layers)}
		index.Layers[l] = []kernels.Tensor{alloc(dtype.U32, m.KeyHeads(), n, layer.Key.Words())}
		key, err := device.LoadProjection(layer.Key)
		if err != nil {
			t.Fatal(err)
		}
		query, err := device.LoadProjection(layer.Query)
		if err != nil {
			t.Fatal(err)
		}
		var all, one kernels.Batch
		if err := device.SetBatch(&all, []kernels.Segment{{Cache: cache, Index: index, Len: n}}); err != nil {
			t.Fatal(err)
		}
		device.EncodeKeys(key, l, &all)
		for row := 5; row < doc.Queries; row += 24 {
			position := int(doc.Positions[row])
			if err := device.SetBatch(&one, []kernels.Segment{{Cache: cache, Index: index, Start: position, Len: 1}}); err != nil {
				t.Fatal(err)
			}
			q := alloc(dtype.F32, 1, s.QueryHeads, d)
			for h := range s.QueryHeads {
				dtype.F32FromBF16s(q.F32()[h*d:(h+1)*d], views.Q[(h*doc.Queries+row)*d:][:d])
			}
			sets := m.SelectionHeads(l)
			weights, scores := alloc(dtype.I8, 1, layer.Query.Heads, m.Bits), alloc(dtype.I32, 1, sets, n)
			device.EncodeQueries(weights, kernels.Tensor{}, query, q, m.QueryBits)
			device.ScanHash(scores, weights, l, &one)
			chosen, exact, best := alloc(dtype.I32, 1, sets, 64), alloc(dtype.F32, 1, s.QueryHeads, n), alloc(dtype.I32, 1, s.QueryHeads, 16)
			rule := m.SelectionFor(l, kernels.Budget{Count: 64})
			rule.Candidates = 0
			device.TopK(chosen, scores, &one, rule)
			device.ScanDot(exact, q, l, -1, &one, 1)
			rule.Budget.Count = 16
			device.TopK(best, exact, &one, rule)
			for h := range s.QueryHeads {
				set := chosen.I32()[h*sets/s.QueryHeads*64:][:64]
				for _, p := range best.I32()[h*16 : (h+1)*16] {
					if slices.Contains(set, p) {
						sum++
					}
					count++
				}
			}
		}
	}
	return sum / count
}

func run(t *testing.T, o Options) *mapping.Mapping {
	t.Helper()
	m, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Training must lower every unit's loss, and find more of what attention reads
// on a document that it has not seen; chance is 64 of about 500.
func TestTrainingRaisesRecall(t *testing.T) {
	for _, want := range []struct {
		preset             string
		steps              int
		least, improvement float64
	}{{"shared", 100, 0.65, 0.03}, {"grouped", 100, 0.7, 0.05}, {"paper", 150, 0.5, 0.3}} {
		all := synthetic(t, 9, want.preset == "grouped", nil)
		r := without(t, all, 8)
		c := small(t, want.preset, 1)
		c.BlockBits = 0 // the plain linear code
		c.LearningRate = 1e-9
		before := recall(t, all, run(t, Options{Trace: r, Config: c}), 8)
		c.Steps, c.LearningRate = want.steps, presets[want.preset].LearningRate
		first, last := map[[2]int]float64{}, map[[2]int]float64{}
		m := run(t, Options{Trace: r, Config: c, OnProgress: func(p Progress) {
			unit := [2]int{p.Layer, p.Head}
			if _, ok := first[unit]; !ok {
				first[unit] = p.Loss
			}
			last[unit] = p.Loss
		}})
		for unit, loss := range first {
			if !(last[unit] < loss) {
				t.Errorf("%s: loss of unit %v goes from %v to %v", want.preset, unit, loss, last[unit])
			}
		}
		after := recall(t, all, m, 8)
		t.Logf("%s: recall %.3f, after %d steps %.3f", want.preset, before, want.steps, after)
		if !(after >= want.least && after >= before+want.improvement) {
			t.Errorf("%s: recall %.3f, after %d steps %.3f", want.preset, before, want.steps, after)
		}
	}
}

// without is a trace of all documents but one, which is held out.
func without(t *testing.T, all *trace.Reader, out int) *trace.Reader {
	t.Helper()
	dir := t.TempDir()
	w, err := trace.Create(dir, all.Header)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all.Shards {
		if i == out {
			continue
		}
		doc, err := all.Document(i)
		if err != nil {
			t.Fatal(err)
		}
		err = w.Add(trace.Document{ID: doc.ID, Hash: doc.Hash, Tokens: doc.Tokens, Positions: doc.Positions,
			Layer: func(l int) (q, k, v []uint16, err error) {
				x, err := doc.Layer(l)
				return x.Q, x.K, x.V, err
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

func TestWorkersDoNotMatter(t *testing.T) {
	r := synthetic(t, 2, false, nil)
	c := small(t, "grouped", 12)
	c.PerHeadLayers = []int{2}
	one := run(t, Options{Trace: r, Config: c, Workers: 1})
	four := run(t, Options{Trace: r, Config: c, Workers: 4})
	if !reflect.DeepEqual(one, four) {
		t.Error("four workers learn another mapping than one")
	}
	if !reflect.DeepEqual(one.DenseLayers, []int{1}) || one.Layers[0].Query.Heads != 2 || one.Layers[2].Query.Heads != 4 {
		t.Errorf("dense layers %v, query maps %d and %d", one.DenseLayers, one.Layers[0].Query.Heads, one.Layers[2].Query.Heads)
	}
	c.Seed++
	if reflect.DeepEqual(one, run(t, Options{Trace: r, Config: c})) {
		t.Error("another seed learns the same mapping")
	}
}

// TestMemoryIsFreed: what a unit computes with goes when it is done. All of
// it together would be gigabytes on a real model.
func TestMemoryIsFreed(t *testing.T) {
	c := small(t, "paper", 2)
	r := synthetic(t, 2, false, nil)
	held := func() int64 {
		runtime.GC()
		runtime.GC() // the first runs finalizers, the second frees what they held
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	run(t, Options{Trace: r, Config: c, Workers: 2}) // fills gorgonia's pools
	before := held()
	for range 4 {
		run(t, Options{Trace: r, Config: c, Workers: 2})
	}
	if grown := held() - before; grown > 1<<20 {
		t.Errorf("4 trainings of 8 units left %d KiB behind", grown>>10)
	}
}

// The rule mass trains the maps of preset shared and selects by group.
func TestGroupRuleMass(t *testing.T) {
	r := synthetic(t, 2, false, nil)
	c := small(t, "grouped", 3)
	c.GroupRule = mapping.Mass
	dir := t.TempDir()
	m := run(t, Options{Trace: r, Config: c, CheckpointDir: dir})
	if m.GroupRule != mapping.Mass || m.SelectionHeads(0) != tiny.KVHeads || m.Layers[0].Query.Heads != tiny.QueryHeads {
		t.Errorf("rule %s, %d selection heads, %d query maps", m.GroupRule, m.SelectionHeads(0), m.Layers[0].Query.Heads)
	}
	shared := run(t, Options{Trace: r, Config: small(t, "shared", 3)})
	if !reflect.DeepEqual(m.Layers, shared.Layers) {
		t.Error("the maps differ from those of preset shared")
	}
	if again := run(t, Options{Trace: r, Config: c, CheckpointDir: dir}); !reflect.DeepEqual(m, again) {
		t.Error("the checkpoint gives another mapping")
	}
}

// Each option must train, change what is learnt, and come back from its
// checkpoint.
func TestOptions(t *testing.T) {
	r := synthetic(t, 3, true, nil)
	for name, o := range map[string]struct {
		preset string
		change func(*Config)
	}{
		"64 bits":     {"shared", func(c *Config) { c.Bits = 64 }},
		"query aware": {"shared", func(c *Config) { c.QueryBits, c.QueryAware = 4, true }},
		"key MLP":     {"shared", func(c *Config) { c.KeyHidden = 24 }},
		"mass power":  {"grouped", func(c *Config) { c.MassPower = 0 }},
		"all":         {"grouped", func(c *Config) { c.QueryBits, c.QueryAware, c.KeyHidden, c.MassPower = 4, true, 24, 0.5 }},
	} {
		t.Run(name, func(t *testing.T) {
			c := small(t, o.preset, 6)
			plain := run(t, Options{Trace: r, Config: c})
			o.change(&c)
			dir := t.TempDir()
			m := run(t, Options{Trace: r, Config: c, CheckpointDir: dir})
			if reflect.DeepEqual(m.Layers, plain.Layers) {
				t.Error("the option changes nothing")
			}
			if key := m.Layers[0].Key; (len(key.Layers) > 0) != (c.KeyHidden > 0) || key.Out() != c.Bits || key.Words() != (c.Bits+31)/32 {
				t.Errorf("key map has %d MLP layers and %d bits in %d words", len(key.Layers), key.Out(), key.Words())
			}
			calls := 0
			again := run(t, Options{Trace: r, Config: c, CheckpointDir: dir, OnProgress: func(Progress) { calls++ }})
			if !reflect.DeepEqual(m, again) || calls != 0 {
				t.Errorf("the checkpoint gives another mapping, or trains again (%d calls)", calls)
			}
			path := filepath.Join(dir, "m.safetensors")
			if err := m.Save(path); err != nil {
				t.Fatal(err)
			}
			if back, err := mapping.Load(path); err != nil || !reflect.DeepEqual(back.Layers[2].Key.Feedback, m.Layers[2].Key.Feedback) {
				t.Errorf("the file gives another mapping, %v", err)
			}
		})
	}
}

// Trained with rounded queries, another precision is another training.
func TestQueryAwareHash(t *testing.T) {
	r := synthetic(t, 1, false, nil)
	c := small(t, "shared", 1)
	eight := Hash(r, c)
	c.QueryBits = 4
	if Hash(r, c) != eight {
		t.Error("query bits count though training does not see them")
	}
	c.QueryAware = true
	four := Hash(r, c)
	c.QueryBits = 8
	if Hash(r, c) == four {
		t.Error("query bits do not count though training sees them")
	}
}

func TestResume(t *testing.T) {
	r := synthetic(t, 2, false, nil)
	c := small(t, "shared", 20)
	whole := run(t, Options{Trace: r, Config: c})

	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Run(ctx, Options{Trace: r, Config: c, Workers: 1, CheckpointDir: dir, OnProgress: func(p Progress) {
		if p.UnitsDone == 2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	var last Progress
	resumed := run(t, Options{Trace: r, Config: c, CheckpointDir: dir, OnProgress: func(p Progress) { last = p }})
	if !reflect.DeepEqual(whole, resumed) {
		t.Error("an interrupted run ends with another mapping")
	}
	if last.StepsResumed != 40 || last.UnitsDone != 4 || last.StepsDone != last.TotalSteps {
		t.Errorf("progress %+v", last)
	}
	curve, err := os.ReadFile(filepath.Join(dir, LossFile))
	if err != nil || strings.Count(string(curve), "\n") != 4*2 {
		t.Errorf("loss curves: %v\n%s", err, curve)
	}
	calls := 0
	again := run(t, Options{Trace: r, Config: c, CheckpointDir: dir, OnProgress: func(Progress) { calls++ }})
	if !reflect.DeepEqual(whole, again) || calls != 0 {
		t.Errorf("a finished run trained again (%d calls)", calls)
	}
	// what only matters in use changes no weight and trains nothing
	c.QueryBits, c.Candidates = 4, 3
	used := run(t, Options{Trace: r, Config: c, CheckpointDir: dir, OnProgress: func(Progress) { calls++ }})
	if !reflect.DeepEqual(whole.Layers, used.Layers) || calls != 0 || used.QueryBits != 4 || used.Candidates != 3 {
		t.Errorf("other query bits trained again (%d calls)", calls)
	}
	// a damaged checkpoint is named
	found, _ := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err := os.Truncate(found[0], 40); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(context.Background(), Options{Trace: r, Config: c, CheckpointDir: dir}); err == nil || !strings.Contains(err.Error(), found[0]) {
		t.Errorf("damaged checkpoint: %v", err)
	}
}

func TestNotFinite(t *testing.T) {
	r := synthetic(t, 2, false, nil)
	dir := t.TempDir()
	w, err := trace.Create(dir, r.Header)
	if err != nil {
		t.Fatal(err)
	}
	doc, _ := r.Document(0)
	err = w.Add(trace.Document{ID: "huge", Hash: doc.Hash, Tokens: doc.Tokens, Positions: doc.Positions,
		Layer: func(l int) (q, k, v []uint16, err error) {
			x, err := doc.Layer(l)
			q = slices.Clone(x.Q)
			if l == 2 { // finite, but logits are not
				for i := range q {
					q[i] = dtype.BF16FromF32(1e38)
				}
			}
			return q, x.K, x.V, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	bad, err := trace.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	for _, preset := range []string{"shared", "grouped"} {
		_, err = Run(context.Background(), Options{Trace: bad, Config: small(t, preset, 5), Workers: 1})
		if err == nil || !strings.Contains(err.Error(), "layer 2 KV head 0") {
			t.Errorf("%s: %v", preset, err)
		}
	}
}

func TestConfigCheck(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"preset":       func(c *Config) { c.Preset = "other" },
		"bits":         func(c *Config) { c.Bits = 0 },
		"blockBits":    func(c *Config) { c.BlockBits = 5 },
		"queryBits":    func(c *Config) { c.QueryBits = 3 },
		"groupRule":    func(c *Config) { c.GroupRule = "max" },
		"massPower":    func(c *Config) { c.MassPower = math.NaN() },
		"keyHidden":    func(c *Config) { c.KeyHidden = -1 },
		"queryAware":   func(c *Config) { *c = presets["paper"]; c.QueryAware = true },
		"steps":        func(c *Config) { c.Steps = -1 },
		"learningRate": func(c *Config) { c.LearningRate = math.NaN() },
	} {
		c, err := Preset("grouped")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		change(&c)
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), want+":") {
			t.Errorf("%s: %v", want, err)
		}
	}
	r := synthetic(t, 1, false, nil)
	for want, change := range map[string]func(*Config){
		"layer 1 is not in the trace": func(c *Config) { c.Layers = []int{1} },
		"none is left to train":       func(c *Config) { c.DenseLayers = []int{0, 2} },
		"has no run of 128 queries":   func(c *Config) { c.Queries, c.Local = 128, 600 },
	} {
		c := small(t, "shared", 1)
		change(&c)
		if _, err := Run(context.Background(), Options{Trace: r, Config: c}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestTop(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 5, 33, 100} {
		x, got := make([]float32, n), make([]float32, n)
		for i := range x {
			x[i] = rng.Float32()
		}
		top(got, x, 32)
		sorted := slices.Sorted(slices.Values(x))
		least := sorted[max(0, n-32)]
		for i, v := range x {
			if (got[i] == 1) != (v >= least) {
				t.Errorf("n %d: %v of %v", n, got[i], v)
			}
		}
	}
}

func TestStepDrawsSubsets(t *testing.T) {
	c := Config{Documents: 3, Queries: 64, Keys: 100, Sink: 8, Local: 8, Seed: 4}
	blocks := [][]block{{{document: 0, start: 400, first: 0, len: 128}}, {{document: 1, start: 80, first: 128, len: 100}}}
	a, b := c.step(7, blocks), c.step(7, blocks)
	if !reflect.DeepEqual(a, b) {
		t.Error("a step draws differently the second time")
	}
	if reflect.DeepEqual(a, c.step(8, blocks)) {
		t.Error("two steps draw the same")
	}
	for step := range 20 {
		for _, d := range c.step(step, blocks) {
			if len(d.queries) != 64 || d.queries[0] < d.first || d.queries[63] >= d.first+d.len {
				t.Errorf("queries %v of block %+v", d.queries, d.block)
			}
			if len(d.keys) != min(100, d.start-16) || d.keys[0] < 8 || d.keys[len(d.keys)-1] >= d.start-8 || !slices.IsSorted(d.keys) {
				t.Errorf("%d keys %v of block %+v", len(d.keys), d.keys, d.block)
			}
		}
	}
}
