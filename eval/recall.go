package eval

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/selector"
	"github.com/hashattn/hashattn/model/trace"
)

// recallTop is how many of the exact best tokens recall asks for.
const recallTop = 32

// RecallOptions says what Recall measures.
type RecallOptions struct {
	Device   kernels.Device
	Trace    *trace.Reader
	Settings []Setting
	Budgets  []kernels.Budget
	// Contexts are prefixes of the documents; the queries measured are those
	// the trace holds among the last Window positions of each.
	Contexts []int
	Window   int
	// Queries bounds the queries of one document and context, spread evenly.
	Queries int
	// Layers of those captured; nil for all.
	Layers []int
	// Documents of the trace by index; nil for all.
	Documents []int
	PerHead   bool // rows for each layer and head beside the means
	Progress  func(done, total int)
}

// Recall measures, per setting, context and budget, how much of exact
// attention the chosen tokens keep: the share of each query's exact top 32
// outside sink and local that is read, the attention mass read, and the
// relative error of the output, |o - o'| / |o|. Rows are means over documents,
// queries, heads and layers.
func Recall(ctx context.Context, o RecallOptions) ([]result.RecallRow, error) {
	layers := o.Layers
	if layers == nil {
		layers = o.Trace.Captured
	}
	for _, l := range layers {
		if !slices.Contains(o.Trace.Captured, l) {
			return nil, fmt.Errorf("recall: layer %d is not in the trace (it has %v)", l, o.Trace.Captured)
		}
	}
	if err := distinct(o.Settings); err != nil {
		return nil, fmt.Errorf("recall: %w", err)
	}
	r := recall{RecallOptions: o, layers: layers, sums: map[recallKey]*recallSum{}}
	for _, s := range o.Settings {
		var byBudget []*selector.Sparse
		for _, b := range o.Budgets {
			sparse, err := s.Sparse(o.Device, o.Trace.Model, o.Trace.Scale, b)
			if err != nil {
				return nil, fmt.Errorf("recall: %s: %w", s.Selector, err)
			}
			byBudget = append(byBudget, sparse)
		}
		r.sparse = append(r.sparse, byBudget)
	}
	documents := o.Documents
	if documents == nil {
		for i := range o.Trace.Shards {
			documents = append(documents, i)
		}
	}
	total := len(documents) * len(layers)
	for i, d := range documents {
		document, err := o.Trace.Document(d)
		if err != nil {
			return nil, err
		}
		for j, l := range layers {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := r.layer(document, l); err != nil {
				return nil, fmt.Errorf("recall: document %s, layer %d: %w", document.ID, l, err)
			}
			if o.Progress != nil {
				o.Progress(i*len(layers)+j+1, total)
			}
		}
	}
	return r.rows()
}

type recall struct {
	RecallOptions
	layers []int
	sparse [][]*selector.Sparse // per setting and budget
	sums   map[recallKey]*recallSum
}

type recallKey struct{ setting, context, budget, layer int }

// recallSum adds up over documents and queries, per query head.
type recallSum struct {
	recall, mass, err []float64
	read              []float64
	cached            float64
	// bytes that a decode step must read; distinct if sets of a KV head shared
	// what they have in common
	bytes, distinct, dense float64
	queries                int
	documents              map[string]bool
}

// layer measures one layer of one document.
func (r *recall) layer(document *trace.Loaded, layer int) error {
	m := r.Trace.Model
	data, err := document.Layer(layer)
	if err != nil {
		return err
	}
	n := len(document.Tokens)
	cache := &kernels.Cache{
		CacheSpec: kernels.CacheSpec{Layers: m.Layers, KVHeads: m.KVHeads, HeadDim: m.HeadDim, Capacity: n, Type: dtype.BF16},
		Len:       n, K: make([]kernels.Tensor, m.Layers), V: make([]kernels.Tensor, m.Layers),
	}
	for _, part := range []struct {
		into *kernels.Tensor
		from []uint16
	}{{&cache.K[layer], data.K}, {&cache.V[layer], data.V}} {
		if *part.into, err = r.Device.Alloc(dtype.BF16, m.KVHeads, n, m.HeadDim); err != nil {
			return err
		}
		if err = r.Device.Upload(*part.into, dtype.Bytes(part.from)); err != nil {
			return err
		}
		defer r.Device.Free(*part.into)
	}
	exact := make([]*exactLayer, len(r.Contexts))
	for i, context := range r.Contexts {
		at := r.pick(document.Positions, context)
		if n < context || len(at) == 0 {
			continue
		}
		if exact[i], err = r.exact(document, data.Q, cache, layer, at); err != nil {
			return err
		}
		defer r.Device.Free(exact[i].q)
	}
	for si, set := range r.Settings {
		if len(r.Budgets) == 0 || !r.sparse[si][0].Covers(layer) {
			continue // a dense layer says nothing about the selector
		}
		ix, err := r.index(r.sparse[si][0], cache, layer)
		if err != nil {
			return fmt.Errorf("%s: %w", set.Selector, err)
		}
		for ci, x := range exact {
			if x == nil {
				continue
			}
			b, err := r.batch(cache, ix, x.positions)
			if err != nil {
				return err
			}
			for bi, sparse := range r.sparse[si] {
				if err := r.measure(x, b, layer, sparse, recallKey{si, ci, bi, layer}, document.ID); err != nil {
					return fmt.Errorf("%s: %w", set.Selector, err)
				}
			}
		}
		for _, t := range ix.Layers[layer] {
			r.Device.Free(t)
		}
	}
	return nil
}

// pick is the indexes of the captured queries to measure at a context.
func (r *recall) pick(positions []int32, context int) []int {
	var all []int
	for i, p := range positions {
		if int(p) < context && int(p) >= context-r.Window {
			all = append(all, i)
		}
	}
	if r.Queries <= 0 || len(all) <= r.Queries {
		return all
	}
	few := make([]int, r.Queries)
	for i := range few {
		few[i] = all[(i+1)*len(all)/r.Queries-1]
	}
	return few
}

// exactLayer is exact attention of the measured queries.
type exactLayer struct {
	q         kernels.Tensor // f32 [T, queryHeads, headDim]
	positions []int32
	logits    []float32 // [T, queryHeads, stride]
	stride    int
	lse       []float64 // [T, queryHeads] log of the sum of exp(logits)
	out       []float32 // [T, queryHeads, headDim]
	tops      []topCut  // [T, queryHeads], of the last sink and local asked for
}

// topCut is where the recallTop largest logits of [lo, hi) begin: those above
// cut and ties that equal it.
type topCut struct {
	lo, hi, top int
	cut         float32
	ties        int
}

// topOf is the cut of row at's logits, found once for all budgets.
func (x *exactLayer) topOf(at int, logits []float32, lo, hi int) topCut {
	if t := x.tops[at]; t.top > 0 && t.lo == lo && t.hi == hi {
		return t
	}
	x.tops[at] = newTopCut(logits, lo, hi)
	return x.tops[at]
}

func (r *recall) exact(document *trace.Loaded, q []uint16, cache *kernels.Cache, layer int, at []int) (*exactLayer, error) {
	m, d := r.Trace.Model, r.Device
	x := &exactLayer{}
	values := make([]float32, 0, len(at)*m.QueryHeads*m.HeadDim)
	for _, i := range at {
		x.positions = append(x.positions, document.Positions[i])
		for h := range m.QueryHeads {
			for _, v := range q[(h*len(document.Positions)+i)*m.HeadDim:][:m.HeadDim] {
				values = append(values, dtype.F32FromBF16(v))
			}
		}
	}
	var err error
	if x.q, err = d.Alloc(dtype.F32, len(at), m.QueryHeads, m.HeadDim); err != nil {
		return nil, err
	}
	if err := d.Upload(x.q, dtype.Bytes(values)); err != nil {
		return nil, err
	}
	b, err := r.batch(cache, nil, x.positions)
	if err != nil {
		return nil, err
	}
	x.stride = b.Longest
	scores, err := d.Alloc(dtype.F32, len(at), m.QueryHeads, x.stride)
	if err != nil {
		return nil, err
	}
	defer d.Free(scores)
	d.ScanDot(scores, x.q, layer, -1, b, r.Trace.Scale)
	x.logits = make([]float32, scores.Len())
	if err := d.Download(dtype.Bytes(x.logits), scores); err != nil {
		return nil, err
	}
	out, err := d.Alloc(dtype.F32, len(at), m.QueryHeads, m.HeadDim)
	if err != nil {
		return nil, err
	}
	defer d.Free(out)
	d.Attend(out, x.q, layer, b, r.Trace.Scale, 0)
	x.out = make([]float32, out.Len())
	if err := d.Download(dtype.Bytes(x.out), out); err != nil {
		return nil, err
	}
	x.lse, x.tops = make([]float64, len(at)*m.QueryHeads), make([]topCut, len(at)*m.QueryHeads)
	eachRow(len(at), func(i int) {
		for h := range m.QueryHeads {
			at := i*m.QueryHeads + h
			x.lse[at] = logSumExp(x.logits[at*x.stride:][:x.positions[i]+1])
		}
	})
	return x, nil
}

// eachRow calls f for every row below n, on all cores.
func eachRow(n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// batch is one segment of one token per position.
func (r *recall) batch(cache *kernels.Cache, ix *kernels.Index, positions []int32) (*kernels.Batch, error) {
	segments := make([]kernels.Segment, len(positions))
	for i, p := range positions {
		segments[i] = kernels.Segment{Cache: cache, Index: ix, Start: int(p), Len: 1}
	}
	b := &kernels.Batch{}
	return b, r.Device.SetBatch(b, segments)
}

// measure adds one setting at one budget to the sums.
func (r *recall) measure(x *exactLayer, b *kernels.Batch, layer int, sparse *selector.Sparse, key recallKey, document string) error {
	m, d := r.Trace.Model, r.Device
	selection := sparse.Selection(layer)
	chosen := sparse.Select(x.q, layer, b)
	sets := make([]int32, chosen.Len())
	if err := d.Download(dtype.Bytes(sets), chosen); err != nil {
		return err
	}
	out, err := d.Alloc(dtype.F32, x.q.Shape...)
	if err != nil {
		return err
	}
	defer d.Free(out)
	d.AttendSelected(out, x.q, layer, b, r.Trace.Scale, chosen, selection)
	got := make([]float32, out.Len())
	if err := d.Download(dtype.Bytes(got), out); err != nil {
		return err
	}
	sum := r.sums[key]
	if sum == nil {
		sum = &recallSum{
			recall: make([]float64, m.QueryHeads), mass: make([]float64, m.QueryHeads), err: make([]float64, m.QueryHeads),
			read: make([]float64, m.QueryHeads), documents: map[string]bool{},
		}
		r.sums[key] = sum
	}
	sum.documents[document] = true
	k := chosen.Dim(2)
	sizes := make([]float64, selection.Heads) // of the sets
	union := newUnion(m.KVHeads, x.stride)
	merged := selection // one set for each KV head
	merged.Heads, merged.Budget, merged.Budgets = m.KVHeads, kernels.Budget{Num: 1, Den: 1}, nil
	setOf := func(i, h int) (at int, set []int32) {
		at = h * selection.Heads / m.QueryHeads
		return at, selection.List(sets[(i*selection.Heads+at)*k:], selection.ChosenOf(at, int(x.positions[i])+1))
	}
	type score struct{ recall, mass, err float64 }
	scores := make([]score, len(x.lse))
	eachRow(len(x.positions), func(i int) {
		n := int(x.positions[i]) + 1
		lo, hi := selection.Range(n)
		for h := range m.QueryHeads {
			_, set := setOf(i, h)
			at := i*m.QueryHeads + h
			logits := x.logits[at*x.stride:][:n]
			scores[at] = score{x.topOf(at, logits, lo, hi).share(logits, set), massOf(logits, lo, hi, set, x.lse[at]),
				RelativeError(got[at*m.HeadDim:][:m.HeadDim], x.out[at*m.HeadDim:][:m.HeadDim])}
		}
	})
	for i, p := range x.positions {
		n := int(p) + 1
		sum.queries++
		union.clear()
		sum.cached += float64(n)
		for h := range m.QueryHeads {
			at, set := setOf(i, h)
			lo, hi := selection.Range(n)
			sum.read[h] += float64(lo + len(set) + n - hi)
			sizes[at] = float64(len(set))
			union.add(at*m.KVHeads/selection.Heads, set)
			of := scores[i*m.QueryHeads+h]
			sum.recall[h] += of.recall
			sum.mass[h] += of.mass
			sum.err[h] += of.err
		}
		step := sparse.StepRead(n)
		sum.bytes += step.Sparse(selection, sizes)
		sum.distinct += step.Sparse(merged, union.sizes)
		sum.dense += step.Dense()
	}
	return nil
}

// index builds a setting's index of this layer.
func (r *recall) index(sparse *selector.Sparse, cache *kernels.Cache, layer int) (*kernels.Index, error) {
	ix, err := sparse.NewIndex(cache.Capacity, []int{layer})
	if err != nil {
		return nil, err
	}
	var all kernels.Batch
	if err := r.Device.SetBatch(&all, []kernels.Segment{{Cache: cache, Index: ix, Start: 0, Len: cache.Len}}); err != nil {
		return nil, err
	}
	sparse.Update(layer, &all)
	return ix, r.Device.Synchronize()
}

// union counts the tokens that are in any of a KV head's sets.
type union struct {
	sizes []float64 // per KV head
	seen  [][]int   // per KV head and token, the query that it was last seen for
	query int
}

func newUnion(kvHeads, tokens int) *union {
	u := &union{sizes: make([]float64, kvHeads), seen: make([][]int, kvHeads)}
	for i := range u.seen {
		u.seen[i] = make([]int, tokens)
	}
	return u
}

// clear begins another query.
func (u *union) clear() {
	u.query++
	clear(u.sizes)
}

func (u *union) add(kv int, set []int32) {
	for _, p := range set {
		if u.seen[kv][p] != u.query {
			u.seen[kv][p] = u.query
			u.sizes[kv]++
		}
	}
}

func newTopCut(logits []float32, lo, hi int) topCut {
	t := topCut{lo: lo, hi: hi, top: min(recallTop, hi-lo)}
	if t.top == 0 {
		return t
	}
	best := slices.Clone(logits[lo : lo+t.top]) // ascending
	slices.Sort(best)
	for _, v := range logits[lo+t.top : hi] {
		if v <= best[0] {
			continue
		}
		at, _ := slices.BinarySearch(best, v)
		copy(best, best[1:at]) // the smallest goes
		best[at-1] = v
	}
	t.cut, t.ties = best[0], t.top
	for _, v := range best {
		if v > t.cut {
			t.ties--
		}
	}
	return t
}

// share is the share of the largest logits in set; of equal ones the most
// recent count first. It is 1 where there is nothing to choose from.
func (t topCut) share(logits []float32, set []int32) float64 {
	if t.top == 0 {
		return 1
	}
	hit := 0
	for _, p := range set {
		if logits[p] > t.cut {
			hit++
		}
	}
	ties := t.ties
	for p := t.hi - 1; p >= t.lo && ties > 0; p-- {
		if logits[p] == t.cut {
			ties--
			if _, ok := slices.BinarySearch(set, int32(p)); ok {
				hit++
			}
		}
	}
	return float64(hit) / float64(t.top)
}

// massOf is the attention mass on sink, local and set.
func massOf(logits []float32, lo, hi int, set []int32, lse float64) float64 {
	mass := 0.0
	for _, v := range logits[:lo] {
		mass += math.Exp(float64(v) - lse)
	}
	for _, p := range set {
		mass += math.Exp(float64(logits[p]) - lse)
	}
	for _, v := range logits[hi:] {
		mass += math.Exp(float64(v) - lse)
	}
	return mass
}

// RelativeError is the length of got - want by that of want, 0 for a want of
// zeros.
func RelativeError(got, want []float32) float64 {
	diff, norm := 0.0, 0.0
	for i, w := range want {
		e := float64(got[i]) - float64(w)
		diff += e * e
		norm += float64(w) * float64(w)
	}
	if norm == 0 {
		return 0
	}
	return math.Sqrt(diff / norm)
}

func logSumExp(x []float32) float64 {
	top := float64(slices.Max(x))
	sum := 0.0
	for _, v := range x {
		sum += math.Exp(float64(v) - top)
	}
	return top + math.Log(sum)
}

// rows turns the sums into means.
func (r *recall) rows() ([]result.RecallRow, error) {
	if len(r.sums) == 0 {
		return nil, fmt.Errorf("recall: the trace holds no queries within %d positions before any of the contexts %v", r.Window, r.Contexts)
	}
	var rows, perHead []result.RecallRow
	heads := r.Trace.Model.QueryHeads
	for si, s := range r.Settings {
		for ci, context := range r.Contexts {
			for bi, b := range r.Budgets {
				row := result.RecallRow{
					Selector: s.Selector, Preset: s.Preset, BitsPerToken: s.Scorer.Bits(), Context: context, Budget: b.String(),
				}
				var read, cached float64 // means over heads
				layers := 0
				documents := map[string]bool{}
				for _, l := range r.layers {
					sum := r.sums[recallKey{si, ci, bi, l}]
					if sum == nil {
						continue
					}
					layers++
					cached += sum.cached
					for id := range sum.documents {
						documents[id] = true
					}
					n := float64(sum.queries)
					row.StepBytes += sum.bytes / n
					row.DenseStepBytes += sum.dense / n
					row.DistinctStepBytes += sum.distinct / n
					for h := range heads {
						one := row
						one.StepRead, one.DistinctStepBytes = result.StepRead{}, 0 // heads of a layer read together
						one.Recall, one.Mass, one.Error = sum.recall[h]/n, sum.mass[h]/n, sum.err[h]/n
						one.Density, one.Documents = sum.read[h]/sum.cached, len(sum.documents)
						read += sum.read[h] / float64(heads)
						one.Layer, one.Head = &l, &h
						perHead = append(perHead, one)
						row.Recall += one.Recall
						row.Mass += one.Mass
						row.Error += one.Error
					}
				}
				if layers == 0 {
					continue
				}
				n := float64(layers * heads)
				row.Recall, row.Mass, row.Error = row.Recall/n, row.Mass/n, row.Error/n
				row.Density, row.Documents = read/cached, len(documents)
				row.StepBytes /= float64(layers)
				row.DenseStepBytes /= float64(layers)
				row.DistinctStepBytes /= float64(layers)
				rows = append(rows, row)
			}
		}
	}
	if r.PerHead {
		rows = append(rows, perHead...)
	}
	return rows, nil
}
