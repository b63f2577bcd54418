package model

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// Attention is how a layer attends: it sets out from q, both
// [T, queryHeads, headDim], over the tokens cached so far, the batch's own
// included. Dense attends to all; selectors give sparse ones.
type Attention interface {
	Attend(out, q kernels.Tensor, layer int, b *kernels.Batch)
	// Key tells recorded steps apart: attentions of one key queue the same
	// operations for batches of the same shape. Steps of key nil are not
	// recorded.
	Key() any
}

// Observer sees a layer's queries [T, queryHeads, headDim], keys and values
// [T, kvHeads, headDim] after RoPE, before attention.
type Observer func(layer int, q, k, v kernels.Tensor, b *kernels.Batch)

// Runner does forward passes. It owns the activations for batches of up to
// Rows tokens.
type Runner struct {
	Model *Model
	Rows  int
	// Observe, if set, is called in every layer.
	Observe Observer

	batch              kernels.Batch
	tokens             kernels.Tensor // i32 [rows]
	x, h               kernels.Tensor // residual stream, normalised copy [rows, width]
	q, attended        kernels.Tensor // [rows, queryHeads*headDim]
	k, v               kernels.Tensor // [rows, kvHeads*headDim]
	gate, up           kernels.Tensor // [rows, feedForward]
	cos, sin           kernels.Tensor // [rows, headDim/2]
	localCos, localSin kernels.Tensor
	logits             kernels.Tensor // [logitRows, vocabulary]
	targets, nll       kernels.Tensor // [logitRows]
}

// NewRunner allocates activations for up to rows tokens a pass and logits for
// up to logitRows of them.
func (m *Model) NewRunner(rows, logitRows int) (*Runner, error) {
	r := &Runner{Model: m, Rows: rows}
	logitRows = min(logitRows, rows)
	half := m.HeadDim / 2
	for _, t := range []struct {
		into  *kernels.Tensor
		rows  int
		width int
	}{
		{&r.x, rows, m.Width}, {&r.h, rows, m.Width},
		{&r.q, rows, m.QueryHeads * m.HeadDim}, {&r.attended, rows, m.QueryHeads * m.HeadDim},
		{&r.k, rows, m.KVHeads * m.HeadDim}, {&r.v, rows, m.KVHeads * m.HeadDim},
		{&r.gate, rows, m.FeedForward}, {&r.up, rows, m.FeedForward},
		{&r.cos, rows, half}, {&r.sin, rows, half}, {&r.localCos, rows, half}, {&r.localSin, rows, half},
		{&r.logits, logitRows, m.Vocabulary}, {&r.nll, logitRows, 1},
	} {
		var err error
		if *t.into, err = m.Device.Alloc(dtype.F32, t.rows, t.width); err != nil {
			return nil, fmt.Errorf("activations for %d tokens: %w", rows, err)
		}
	}
	for _, t := range []struct {
		into *kernels.Tensor
		rows int
	}{{&r.tokens, rows}, {&r.targets, logitRows}} {
		var err error
		if *t.into, err = m.Device.Alloc(dtype.I32, t.rows); err != nil {
			return nil, fmt.Errorf("activations for %d tokens: %w", rows, err)
		}
	}
	return r, nil
}

// Forward runs tokens, one row each, through the model. The segments say whose
// they are. The keys and values join the caches, whose Len grows; logits of
// rows from logitsFrom on can then be read.
func (r *Runner) Forward(tokens []int32, segments []kernels.Segment, a Attention, logitsFrom int) error {
	m, d := r.Model, r.Model.Device
	n := len(tokens)
	if n < 1 || n > r.Rows || n-logitsFrom > r.logits.Dim(0) {
		return fmt.Errorf("forward pass of %d tokens, %d with logits: room for %d and %d", n, n-logitsFrom, r.Rows, r.logits.Dim(0))
	}
	for i, id := range tokens {
		if id < 0 || int(id) >= m.Vocabulary {
			return fmt.Errorf("token %d at row %d: the vocabulary has %d", id, i, m.Vocabulary)
		}
	}
	if err := d.SetBatch(&r.batch, segments); err != nil {
		return err
	}
	if r.batch.Tokens != n {
		return fmt.Errorf("%d tokens for segments of %d", n, r.batch.Tokens)
	}
	if err := d.Upload(r.tokens.Rows(0, n), i32Bytes(tokens)); err != nil {
		return err
	}
	step := func() { r.pass(n, a, logitsFrom) }
	if r.Observe != nil || n > len(segments) || a.Key() == nil {
		step()
	} else {
		d.Record(recordKey{r, n, logitsFrom, a.Key()}, step)
	}
	for i := range segments {
		s := &segments[i]
		s.Cache.Len = max(s.Cache.Len, s.Start+s.Len)
	}
	return d.Synchronize()
}

type recordKey struct {
	runner        *Runner
	n, logitsFrom int
	attention     any
}

// pass queues the operations of one forward pass over n rows.
func (r *Runner) pass(n int, a Attention, logitsFrom int) {
	m, d, w := r.Model, r.Model.Device, &r.Model.weights
	x := r.x.Rows(0, n) // [n, width]

	d.Embed(x, w.embed, r.tokens.Rows(0, n), m.EmbedScale)
	d.RopeTable(r.cos.Rows(0, n), r.sin.Rows(0, n), w.freq, &r.batch)
	if m.Window > 0 {
		d.RopeTable(r.localCos.Rows(0, n), r.localSin.Rows(0, n), w.local, &r.batch)
	}
	for i := range w.layers {
		r.attention(x, i, a)
		r.feedForward(x, i)
	}
	if logitsFrom < n {
		h := r.h.Rows(0, n-logitsFrom)
		d.RMSNorm(h, x.Rows(logitsFrom, n), w.outputNorm, m.NormEps)
		d.Linear(r.logits.Rows(0, n-logitsFrom), h, w.output, kernels.Tensor{}, false)
	}
}

// attention adds layer i's attention to the residual stream x [n, width].
func (r *Runner) attention(x kernels.Tensor, i int, a Attention) {
	m, d, w := r.Model, r.Model.Device, &r.Model.weights.layers[i]
	n := x.Dim(0)
	h := r.h.Rows(0, n)                                                   // [n, width]
	q := r.q.Rows(0, n).Reshape(n, m.QueryHeads, m.HeadDim)               // [n, queryHeads, headDim]
	k := r.k.Rows(0, n).Reshape(n, m.KVHeads, m.HeadDim)                  // [n, kvHeads, headDim]
	v := r.v.Rows(0, n).Reshape(n, m.KVHeads, m.HeadDim)                  // [n, kvHeads, headDim]
	attended := r.attended.Rows(0, n).Reshape(n, m.QueryHeads, m.HeadDim) // [n, queryHeads, headDim]

	d.RMSNorm(h, x, w.attnNorm, m.NormEps)
	d.Linear(q, h, w.q, w.qBias, false)
	d.Linear(k, h, w.k, w.kBias, false)
	d.Linear(v, h, w.v, w.vBias, false)
	if m.QKNorm {
		d.RMSNorm(q, q, w.qNorm, m.NormEps)
		d.RMSNorm(k, k, w.kNorm, m.NormEps)
	}
	cos, sin := r.cos, r.sin
	window := m.LayerWindow(i)
	if window > 0 {
		cos, sin = r.localCos, r.localSin
	}
	d.Rope(q, cos.Rows(0, n), sin.Rows(0, n))
	d.Rope(k, cos.Rows(0, n), sin.Rows(0, n))
	d.Append(i, k, v, &r.batch)
	if r.Observe != nil {
		r.Observe(i, q, k, v, &r.batch)
	}
	if window > 0 {
		d.Attend(attended, q, i, &r.batch, m.QueryScale, window)
	} else {
		a.Attend(attended, q, i, &r.batch)
	}
	r.project(x, attended, w.output, w.postAttnNorm)
}

// feedForward adds layer i's gated feed-forward to x [n, width].
func (r *Runner) feedForward(x kernels.Tensor, i int) {
	m, d, w := r.Model, r.Model.Device, &r.Model.weights.layers[i]
	n := x.Dim(0)
	h, gate, up := r.h.Rows(0, n), r.gate.Rows(0, n), r.up.Rows(0, n)

	d.RMSNorm(h, x, w.ffnNorm, m.NormEps)
	d.Linear(gate, h, w.gate, kernels.Tensor{}, false)
	d.Linear(up, h, w.up, kernels.Tensor{}, false)
	d.Gate(gate, gate, up, m.Activation)
	r.project(x, gate, w.down, w.postFFNNorm)
}

// project adds y's projection to x, normalised first where the model says so.
func (r *Runner) project(x, y kernels.Tensor, w kernels.Weight, norm kernels.Tensor) {
	d := r.Model.Device
	if norm.None() {
		d.Linear(x, y, w, kernels.Tensor{}, true)
		return
	}
	h := r.h.Rows(0, x.Dim(0))
	d.Linear(h, y, w, kernels.Tensor{}, false)
	d.RMSNorm(h, h, norm, r.Model.NormEps)
	d.Add(x, h)
}

// Logits is row i of the last pass's logits, counted from its logitsFrom.
func (r *Runner) Logits(i int) ([]float32, error) {
	row := make([]byte, 4*r.Model.Vocabulary)
	if err := r.Model.Device.Download(row, r.logits.Rows(i, i+1)); err != nil {
		return nil, err
	}
	return floatsOf(row), nil
}

// ArgMax is the most likely token of each of the last pass's first n logits
// rows; of equally likely ones the first.
func (r *Runner) ArgMax(n int) ([]int32, error) {
	d, best := r.Model.Device, r.targets.Rows(0, n)
	d.ArgMax(best, r.logits.Rows(0, n))
	raw := make([]byte, 4*n)
	if err := d.Download(raw, best); err != nil {
		return nil, err
	}
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out, nil
}

// NegLogLikelihoods is -log p(target) of each target under the last pass's
// logits rows, counted from its logitsFrom.
func (r *Runner) NegLogLikelihoods(targets []int32) ([]float32, error) {
	d, n := r.Model.Device, len(targets)
	t, nll := r.targets.Rows(0, n), r.nll.Rows(0, n)
	if err := d.Upload(t, i32Bytes(targets)); err != nil {
		return nil, err
	}
	d.NegLogLikelihood(nll, r.logits.Rows(0, n), t)
	out := make([]byte, 4*n)
	if err := d.Download(out, nll); err != nil {
		return nil, err
	}
	return floatsOf(out), nil
}

func floatsOf(b []byte) []float32 {
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

// Dense is attention to all cached tokens.
type Dense struct{ Model *Model }

// Attend implements Attention.
func (a Dense) Attend(out, q kernels.Tensor, layer int, b *kernels.Batch) {
	a.Model.Device.Attend(out, q, layer, b, a.Model.QueryScale, 0)
}

// Key implements Attention.
func (a Dense) Key() any { return "dense" }

// Prefill runs tokens of one sequence behind those it holds, in passes of up
// to Rows, so that memory stays bounded. If logits is true the last token's
// can be read afterwards. It stops between passes when ctx ends.
func (r *Runner) Prefill(ctx context.Context, s *Sequence, tokens []int32, a Attention, logits bool) error {
	for len(tokens) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(r.Rows, len(tokens))
		from := n
		if logits && n == len(tokens) {
			from = n - 1
		}
		if err := r.Forward(tokens[:n], []kernels.Segment{s.segment(n)}, a, from); err != nil {
			return err
		}
		tokens = tokens[n:]
	}
	return nil
}

// Decode runs one token of each sequence and leaves their logits to be read.
func (r *Runner) Decode(sequences []*Sequence, tokens []int32, a Attention) error {
	segments := make([]kernels.Segment, len(sequences))
	for i, s := range sequences {
		segments[i] = s.segment(1)
	}
	return r.Forward(tokens, segments, a, 0)
}

// Extend runs tokens of one sequence in one pass and leaves the logits of all
// of them to be read.
func (r *Runner) Extend(s *Sequence, tokens []int32, a Attention) error {
	return r.Forward(tokens, []kernels.Segment{s.segment(len(tokens))}, a, 0)
}
