package latency

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// projections makes random maps of a preset's shape.
func (h HashShape) projections(s Shape) (key, query kernels.Projection, heads int, err error) {
	rng := rand.New(rand.NewPCG(2, 3))
	affine := func(heads, in, out int) kernels.Affine {
		a := kernels.Affine{In: in, Out: out, Weight: make([]float32, heads*in*out), Bias: make([]float32, heads*out)}
		for i := range a.Weight {
			a.Weight[i] = float32(rng.NormFloat64() / math.Sqrt(float64(in)))
		}
		return a
	}
	// what training stores of a group's query map
	half := func(a kernels.Affine) kernels.Affine {
		for i, v := range a.Weight {
			a.Weight[i] = dtype.F32FromBF16(dtype.BF16FromF32(v))
		}
		return a
	}
	const width = 128 // of the paper's MLP
	d, group := s.HeadDim, s.QueryHeads/s.KVHeads
	key = kernels.Projection{Name: h.Preset + " key", Heads: s.KVHeads}
	query = kernels.Projection{Name: h.Preset + " query", Heads: s.QueryHeads}
	heads = s.QueryHeads
	switch h.Preset {
	case "paper":
		key.Heads = s.QueryHeads
		key.Layers = []kernels.Affine{affine(key.Heads, d, width), affine(key.Heads, width, width), affine(key.Heads, width, h.Bits)}
		query.Layers = []kernels.Affine{affine(query.Heads, d, width), affine(query.Heads, width, width), affine(query.Heads, width, h.Bits)}
	case "shared", "grouped":
		a := affine(key.Heads, d, h.Bits)
		key.Skip, key.BlockBits = &a, 4
		key.Feedback = make([]float32, key.Heads*h.Bits*h.Bits)
		for i := range key.Feedback {
			key.Feedback[i] = float32(rng.NormFloat64() / 8)
		}
		in := d
		if h.Preset == "grouped" {
			heads, in = s.KVHeads, group*d
			query.Heads = s.KVHeads
			query.Layers = []kernels.Affine{half(affine(query.Heads, in, 2*d)), half(affine(query.Heads, 2*d, 2*d)), half(affine(query.Heads, 2*d, h.Bits))}
		}
		skip := affine(query.Heads, in, h.Bits)
		if h.Preset == "grouped" {
			skip = half(skip)
		}
		query.Skip = &skip
	default:
		err = fmt.Errorf("preset %q (paper, shared and grouped are known)", h.Preset)
	}
	return key, query, heads, err
}

// stages is one hash selection on one device.
type stages struct {
	device    kernels.Device
	encode    kernels.Encoder
	query     kernels.HashQuery
	selection kernels.Selection
	batch     *kernels.Batch
	weights   kernels.Tensor
	scores    kernels.Tensor
	selected  kernels.Tensor
	kept      kernels.Tensor
}

// stages loads the maps on a device and encodes all cached keys.
func (b *attentionBench) stages(d kernels.Device, h HashShape, budget kernels.Budget, caches []*kernels.Cache) (*stages, error) {
	key, query, heads, err := h.projections(b.shape)
	if err != nil {
		return nil, err
	}
	s := &stages{device: d, selection: kernels.Selection{Heads: heads, Sink: h.Sink, Local: h.Local, Budget: budget, Candidates: h.Candidates}}
	s.query.Bits = h.QueryBits
	if h.Preset == "paper" {
		s.query.Bits = 1
	}
	if s.encode, err = d.LoadProjection(key); err != nil {
		return nil, err
	}
	if s.query.Encoder, err = d.LoadProjection(query); err != nil {
		return nil, err
	}
	indexes := make([]*kernels.Index, len(caches))
	for i, c := range caches {
		codes, err := d.Alloc(dtype.U32, key.Heads, c.Capacity, key.Words())
		if err != nil {
			return nil, err
		}
		indexes[i] = &kernels.Index{Layers: [][]kernels.Tensor{{codes}}}
		const step = 4096
		for from := 0; from < c.Len; from += step {
			var part kernels.Batch
			segment := kernels.Segment{Cache: c, Index: indexes[i], Start: from, Len: min(step, c.Len-from)}
			if err := d.SetBatch(&part, []kernels.Segment{segment}); err != nil {
				return nil, err
			}
			d.EncodeKeys(s.encode, 0, &part)
		}
	}
	if s.batch, err = b.batch(d, caches, indexes); err != nil {
		return nil, err
	}
	n := b.shape.Context
	for _, t := range []struct {
		into  *kernels.Tensor
		kind  dtype.Type
		shape []int
	}{
		{&s.weights, dtype.I8, []int{len(caches), query.Heads, query.Out()}},
		{&s.scores, dtype.I32, []int{len(caches), heads, n}},
		{&s.selected, dtype.I32, []int{len(caches), heads, max(1, s.selection.Scored(n))}},
		{&s.kept, dtype.I32, []int{len(caches), heads, max(1, s.selection.Chosen(n))}},
	} {
		if *t.into, err = d.Alloc(t.kind, t.shape...); err != nil {
			return nil, err
		}
	}
	if b.Skewed {
		if err := s.skew(b.q); err != nil {
			return nil, err
		}
	}
	return s, d.Synchronize()
}

// skew overwrites the codes of a run of tokens in the middle with the signs of
// the query's own weights, of a group the first head's: no code scores higher.
func (s *stages) skew(q kernels.Tensor) error {
	s.device.EncodeQueries(s.weights, kernels.Tensor{}, s.query.Encoder, q, s.query.Bits)
	weights := make([]byte, s.weights.Len())
	if err := s.device.Download(weights, s.weights); err != nil {
		return err
	}
	maps, bits := s.weights.Dim(1), s.weights.Dim(2)
	for i, segment := range s.batch.Segments {
		t := segment.Index.Layers[0][0]
		codes := make([]uint32, t.Len())
		if err := s.device.Download(dtype.Bytes(codes), t); err != nil {
			return err
		}
		heads, tokens, words := t.Dim(0), t.Dim(1), t.Dim(2)
		for h := range heads {
			best := make([]uint32, words)
			for j, w := range weights[(i*maps+h*maps/heads)*bits:][:bits] {
				if int8(w) > 0 {
					best[j/32] |= 1 << (j % 32)
				}
			}
			for p := tokens / 2; p < tokens/2+tokens/16; p++ {
				copy(codes[(h*tokens+p)*words:], best)
			}
		}
		if err := s.device.Upload(t, dtype.Bytes(codes)); err != nil {
			return err
		}
	}
	return nil
}

func (s *stages) free() {
	for _, t := range []kernels.Tensor{s.weights, s.scores, s.selected, s.kept} {
		s.device.Free(t)
	}
	for _, segment := range s.batch.Segments {
		s.device.Free(segment.Index.Layers[0][0])
	}
}

// hash times a preset at a budget: the whole step, then its stages one by one.
func (b *attentionBench) hash(h HashShape, budget kernels.Budget, dense float64) ([]result.BenchRow, error) {
	s, err := b.stages(b.Device, h, budget, b.caches)
	if err != nil {
		return nil, err
	}
	defer s.free()
	d, q, n := b.Device, b.q, b.shape.Context
	whole := func() {
		d.EncodeKeys(s.encode, 0, s.batch)
		d.AttendHash(b.out, q, 0, s.batch, b.scale, s.query, s.selection)
	}
	if err := b.checkHash(s, whole); err != nil {
		return nil, err
	}
	row := b.row()
	row.Selector, row.Preset, row.Budget, row.Checked = "hash", h.Preset, budget.String(), true
	if s.selection.Reranks() {
		row.Selector = fmt.Sprintf("hash+rerank%dx", s.selection.Candidates)
	}
	row.Dense = dense
	row.Density = float64(s.selection.Read(n)) / float64(n)
	kept := s.selected
	cut := []stage{
		{"encode", func() {
			d.EncodeKeys(s.encode, 0, s.batch)
			d.EncodeQueries(s.weights, kernels.Tensor{}, s.query.Encoder, q, s.query.Bits)
		}},
		{"scan", func() { d.ScanHash(s.scores, s.weights, 0, s.batch) }},
		{"select", func() { d.TopK(s.selected, s.scores, s.batch, s.selection) }},
	}
	if s.selection.Reranks() {
		kept = s.kept
		cut = append(cut, stage{"rerank", func() { d.Rerank(s.kept, s.selected, q, 0, s.batch, b.scale, s.selection) }})
	}
	cut = append(cut, stage{"attend", func() { d.AttendSelected(b.out, q, 0, s.batch, b.scale, kept, s.selection) }})

	seconds, err := b.watch.time(whole)
	if err != nil {
		return nil, err
	}
	all := timed(row, seconds)
	all.Speedup, all.Bytes = dense/all.Median, int64(b.shape.Batch)*int64(b.read(s.bits(b.shape.KVHeads)).Sparse(s.selection, nil))
	b.share(&all)
	rows := []result.BenchRow{all}
	for _, c := range cut {
		if seconds, err = b.watch.time(c.run); err != nil {
			return nil, err
		}
		part := timed(row, seconds)
		part.Stage = c.name
		rows = append(rows, part)
	}
	return rows, nil
}

// stage is one of the operations that make a hash selection.
type stage struct {
	name string
	run  func()
}

// bits are those of the packed codes per KV-head token.
func (s *stages) bits(kvHeads int) float64 {
	p := s.encode.Projection()
	return float64(p.Heads * p.Words() * 32 / kvHeads)
}
