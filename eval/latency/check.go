package latency

import (
	"fmt"
	"math"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat/combin"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// outputTolerance bounds the relative error of a head's output: a device
// rounds the weights of bf16 values to bf16.
const outputTolerance = 3e-3

// nearTie is how far apart, relatively, the values of two reranked candidates
// must be for their order to be certain. Devices sum logits in float32, or by
// tensor cores with queries in two bf16 parts: a logit of 256 normal numbers is
// then off by up to about 1e-5 (TestNearTieCoversBF16Parts), and so, relatively,
// is its mass; of two values, twice. The rest is for other orders of sums.
const nearTie = 1e-4

// cutChoices bounds the token sets tried where several candidates lie near the
// cut.
const cutChoices = 1000

// check runs the device's operation on poisoned output and gives every
// sequence's part to compare, with a reference device of its own.
func (b *attentionBench) check(run func(), compare func(i int, ref *kernels.Reference, got []float32) error) error {
	poison := make([]float32, b.out.Len())
	for i := range poison {
		poison[i] = float32(math.NaN())
	}
	if err := b.Device.Upload(b.out, dtype.Bytes(poison)); err != nil {
		return err
	}
	run()
	got := make([]float32, b.out.Len())
	if err := b.Device.Download(dtype.Bytes(got), b.out); err != nil {
		return err
	}
	for i, v := range got {
		if math.IsNaN(float64(v)) {
			return fmt.Errorf("output %d was not written", i)
		}
	}
	var checks errgroup.Group
	checks.SetLimit(runtime.GOMAXPROCS(0))
	width := b.shape.QueryHeads * b.shape.HeadDim
	for i := range b.refQ {
		checks.Go(func() error {
			if err := compare(i, kernels.NewReference(), got[i*width:][:width]); err != nil {
				return fmt.Errorf("sequence %d, %w", i, err)
			}
			return nil
		})
	}
	return checks.Wait()
}

// checkDense compares dense attention with the reference's.
func (b *attentionBench) checkDense(run func()) error {
	return b.check(run, func(i int, ref *kernels.Reference, got []float32) error {
		batch, err := b.batch(ref, b.refCaches[i:i+1], nil)
		if err != nil {
			return err
		}
		want := make([]float32, len(got))
		ref.Attend(hostTensor(dtype.F32, dtype.Bytes(want), b.refQ[i].Shape...), b.refQ[i], 0, batch, b.scale, 0)
		return equalHeads(got, want, b.shape.HeadDim)
	})
}

// worstHead is the head whose output differs most, and by how much.
func worstHead(got, want []float32, headDim int) (head int, worst float64) {
	for at := 0; at < len(want); at += headDim {
		if e := eval.RelativeError(got[at:at+headDim], want[at:at+headDim]); !(e <= worst) {
			head, worst = at/headDim, e
		}
		if math.IsNaN(worst) {
			break // nothing is worse
		}
	}
	return head, worst
}

func equalHeads(got, want []float32, headDim int) error {
	if head, e := worstHead(got, want, headDim); !(e <= outputTolerance) {
		return fmt.Errorf("head %d differs from the reference by %.2g", head, e)
	}
	return nil
}

// checkHash compares the fused step with the reference's. Codes are computed
// in another order of sums there, so the reference takes the device's codes:
// bits whose z is almost 0 would differ without meaning anything.
func (b *attentionBench) checkHash(s *stages, whole func()) error {
	weights := make([]byte, s.weights.Len())
	b.Device.EncodeKeys(s.encode, 0, s.batch) // as the step does: devices may encode both at once
	b.Device.EncodeQueries(s.weights, kernels.Tensor{}, s.query.Encoder, b.q, s.query.Bits)
	if err := b.Device.Download(weights, s.weights); err != nil {
		return err
	}
	codes := make([]kernels.Tensor, b.shape.Batch)
	for i, segment := range s.batch.Segments {
		t := segment.Index.Layers[0][0]
		host := make([]byte, 4*t.Len())
		if err := b.Device.Download(host, t); err != nil {
			return err
		}
		codes[i] = hostTensor(dtype.U32, host, t.Shape...)
	}
	each := len(weights) / b.shape.Batch
	return b.check(whole, func(i int, ref *kernels.Reference, got []float32) error {
		index := &kernels.Index{Layers: [][]kernels.Tensor{{codes[i]}}}
		batch, err := b.batch(ref, b.refCaches[i:i+1], []*kernels.Index{index})
		if err != nil {
			return err
		}
		n, sel := b.shape.Context, s.selection
		alloc := func(shape ...int) kernels.Tensor {
			x, e := ref.Alloc(dtype.I32, shape...)
			if e != nil {
				err = e
			}
			return x
		}
		scores, selected := alloc(1, sel.Heads, n), alloc(1, sel.Heads, max(1, sel.Scored(n)))
		if err != nil {
			return err
		}
		ref.ScanHash(scores, hostTensor(dtype.I8, weights[i*each:(i+1)*each], 1, s.weights.Dim(1), s.weights.Dim(2)), 0, batch)
		ref.TopK(selected, scores, batch, sel)
		if sel.Reranks() {
			return b.checkReranked(i, ref, got, selected, sel)
		}
		want := make([]float32, len(got))
		ref.AttendSelected(hostTensor(dtype.F32, dtype.Bytes(want), b.refQ[i].Shape...), b.refQ[i], 0, batch, b.scale, selected, sel)
		return equalHeads(got, want, b.shape.HeadDim)
	})
}

// checkReranked compares the sets of sequence i one by one, given the
// candidates of all.
func (b *attentionBench) checkReranked(i int, ref *kernels.Reference, got []float32, candidates kernels.Tensor, sel kernels.Selection) error {
	heads, d := b.shape.QueryHeads/sel.Heads, b.shape.HeadDim
	width, list := heads*d, candidates.Dim(2)
	for set := range sel.Heads {
		kv := set * heads / (b.shape.QueryHeads / b.shape.KVHeads)
		r := reranked{
			ref: ref, first: set * heads, scale: b.scale, candidates: candidates.I32()[set*list:][:list],
			q:     hostTensor(dtype.F32, dtype.Bytes(b.refQ[i].F32()[set*width:][:width]), 1, heads, d),
			cache: oneHead(b.refCaches[i], kv), selection: sel,
		}
		r.selection.Heads, r.selection.Budget, r.selection.Budgets = 1, sel.Of(set), nil
		if err := r.check(got[set*width:][:width]); err != nil {
			return fmt.Errorf("heads %d to %d: %w", set*heads, set*heads+heads-1, err)
		}
	}
	return nil
}

// oneHead is a cache of one of c's KV heads, in the same memory.
func oneHead(c *kernels.Cache, head int) *kernels.Cache {
	one := &kernels.Cache{CacheSpec: c.CacheSpec, Len: c.Len}
	one.KVHeads = 1
	for _, side := range []struct {
		all kernels.Tensor
		one *[]kernels.Tensor
	}{{c.K[0], &one.K}, {c.V[0], &one.V}} {
		raw := side.all.Bytes()
		size := len(raw) / c.KVHeads
		*side.one = []kernels.Tensor{hostTensor(side.all.Type, raw[head*size:][:size], 1, c.Capacity, c.HeadDim)}
	}
	return one
}

// reranked is the reference's view of one token set of a sequence.
type reranked struct {
	ref        *kernels.Reference
	first      int            // query head of the set
	q          kernels.Tensor // [1, heads of the set, headDim]
	cache      *kernels.Cache // of the set's KV head
	scale      float32
	candidates []int32
	selection  kernels.Selection // of one head
}

// check compares the outputs of the set's heads with attention over the
// candidates of the largest values. Where they differ, those within nearTie of
// one on the other side of the cut may change sides.
func (r *reranked) check(got []float32) error {
	var batch kernels.Batch
	if err := r.ref.SetBatch(&batch, []kernels.Segment{{Cache: r.cache, Start: r.cache.Len - 1, Len: 1}}); err != nil {
		return err
	}
	order, value, err := r.rank(&batch)
	if err != nil {
		return err
	}
	keep := r.selection.Kept(0, r.cache.Len, len(order))
	want := make([]float32, len(got))
	compare := func(kept []int32) (int, float64) {
		list := append(slices.Clone(kept), -1) // a tensor has at least one
		r.ref.AttendSelected(hostTensor(dtype.F32, dtype.Bytes(want), r.q.Shape...), r.q, 0, &batch, r.scale,
			hostTensor(dtype.I32, dtype.Bytes(list), 1, 1, len(list)), r.selection)
		return worstHead(got, want, r.q.Dim(2))
	}
	head, worst := compare(order[:keep])
	if worst <= outputTolerance {
		return nil
	}
	problem := fmt.Sprintf("head %d differs from the reference by %.2g", r.first+head, worst)
	if keep == 0 || keep == len(order) {
		return fmt.Errorf("%s, though all of the candidates are kept or none", problem)
	}
	problem += fmt.Sprintf("; at the rerank cut, %d of %d candidates, values are %.2g apart relatively", keep, len(order), value[keep-1]-value[keep])
	// Beyond the tolerance the search goes on to say what went wrong.
	for within := nearTie; ; within *= 2 {
		sure, doubtful := near(value, keep, within)
		switch most := combin.GeneralizedBinomial(float64(doubtful), float64(keep-sure)); {
		case most <= cutChoices:
		case within == nearTie:
			return fmt.Errorf("%s: %d candidates lie within %.2g, which make more sets than the %d that are tried: cannot tell ties from an error", problem, doubtful, nearTie, cutChoices)
		default:
			return fmt.Errorf("%s, and no choice among those within %.2g of each other gives the output", problem, within/2)
		}
		found := anyChoice(order[:sure], order[sure:sure+doubtful], keep, func(kept []int32) bool {
			_, e := compare(kept)
			return e <= outputTolerance
		})
		switch {
		case found && within == nearTie:
			return nil
		case found:
			return fmt.Errorf("%s; another choice among those within %.2g of each other gives the output, but only below %.2g is it a tie", problem, within, nearTie)
		case doubtful == len(order):
			return fmt.Errorf("%s, and no choice of candidates gives the output", problem)
		}
	}
}

// anyChoice says whether try takes one of the sets of keep tokens that hold all
// that are sure and else doubtful ones.
func anyChoice(sure, doubtful []int32, keep int, try func(kept []int32) bool) bool {
	for choices := combin.NewCombinationGenerator(len(doubtful), keep-len(sure)); choices.Next(); {
		kept := slices.Clone(sure)
		for _, c := range choices.Combination(nil) {
			kept = append(kept, doubtful[c])
		}
		if try(kept) {
			return true
		}
	}
	return false
}

// rank gives the candidates in the order of their values, best first, and the
// values' logarithms, whose differences are relative. A value is the softmax
// summed over the heads, which orders one head's candidates as its logits do.
func (r *reranked) rank(batch *kernels.Batch) (order []int32, value []float64, err error) {
	n, heads := r.cache.Len, r.q.Dim(1)
	logits, err := r.ref.Alloc(dtype.F32, 1, heads, n)
	if err != nil {
		return nil, nil, err
	}
	r.ref.ScanDot(logits, r.q, 0, -1, batch, r.scale)
	order = slices.Clone(r.selection.List(r.candidates, r.selection.ScoredOf(0, n)))
	read := slices.Clone(order)
	lo, hi := r.selection.Range(n)
	for p := range n {
		if p < lo || p >= hi {
			read = append(read, int32(p))
		}
	}
	of := make([]float64, n) // of each position
	for h := range heads {
		l := logits.F32()[h*n:][:n]
		all := make([]float64, len(read)) // the softmax is over what is read
		for i, p := range read {
			all[i] = float64(l[p])
		}
		total := floats.LogSumExp(all)
		for _, p := range order {
			of[p] += math.Exp(float64(l[p]) - total)
		}
	}
	slices.SortFunc(order, func(p, q int32) int {
		switch {
		case of[p] > of[q]:
			return -1
		case of[p] < of[q]:
			return 1
		}
		return int(q - p) // as devices do
	})
	for _, p := range order {
		value = append(value, math.Log(of[p]))
	}
	return order, value, nil
}

// near is how many of the sorted values are certain to lie above the cut at
// keep, if the order of values within a distance is not, and how many behind
// them may lie on either side.
func near(value []float64, keep int, within float64) (sure, doubtful int) {
	for i, v := range value {
		switch {
		case i < keep && v > value[keep]+within:
			sure++
		case v >= value[keep-1]-within:
			doubtful++
		}
	}
	return sure, doubtful
}
