package kerneltest

import (
	"math/bits"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// testTogether runs sequences of operations that a device may launch together:
// what each writes must be there afterwards.
func testTogether(s *suite) {
	for _, tokens := range []int{1, 3, 9, 16, 17} {
		for _, cols := range []int{32, 40, 352} {
			for _, act := range []kernels.Activation{kernels.SiLU, kernels.GELUTanh} {
				s.gated(tokens, 96, cols, act)
			}
		}
	}
	for _, t := range []dtype.Type{dtype.BF16, dtype.F32} {
		for _, shape := range []struct{ kv, group, d, rotated int }{{1, 1, 64, 64}, {2, 3, 128, 128}, {1, 8, 256, 256}, {3, 2, 64, 32}} {
			s.rotateAndAppend(t, shape.kv, shape.kv*shape.group, shape.d, shape.rotated)
		}
	}
	for _, shape := range []struct{ kv, group, d, width, tokens int }{
		{2, 2, 64, 96, 1}, {1, 3, 128, 300, 1}, {1, 8, 256, 1536, 2}, {2, 1, 64, 1028, 5}, {3, 2, 40, 288, 9}, {2, 2, 64, 50, 1}, {2, 2, 64, 96, 19},
	} {
		for _, t := range []dtype.Type{dtype.BF16, dtype.F32} {
			s.layerHalf(t, shape.kv, shape.kv*shape.group, shape.d, shape.width, shape.tokens)
		}
		s.normed(shape.tokens, shape.width, 72)
	}
	for _, tokens := range []int{1, 2, 8, 9, 33} {
		s.encodeStep("residual", "joint", 2, 2, 4*64, 64, tokens)
		s.encodeStep("mlp", "mlp", 6, 6, 64, 64, tokens)
		s.encodeStep("residual", "linear", 1, 8, 256, 256, tokens)
	}
	s.encodeStep("residual", "joint", 1, 1, 8*256, 256, 8)
}

// gated is a feed-forward layer's first half.
func (s *suite) gated(tokens, width, cols int, act kernels.Activation) {
	s.Helper()
	x := s.normal(tokens, width)
	g, u, out := s.poison(s.alloc(dtype.F32, tokens, cols)), s.poison(s.alloc(dtype.F32, tokens, cols)), s.alloc(dtype.F32, tokens, 64)
	wantGate, gotGate := s.matrix(dtype.BF16, cols, width)
	wantUp, gotUp := s.matrix(dtype.BF16, cols, width)
	wantDown, gotDown := s.matrix(dtype.BF16, 64, cols)
	bias := s.normal(cols)
	for _, inPlace := range []bool{false, true} {
		to := g
		if !inPlace {
			to = s.poison(s.alloc(dtype.F32, tokens, cols))
		}
		s.want.Linear(g.want, x.want, wantGate, bias.want, false)
		s.want.Linear(u.want, x.want, wantUp, kernels.Tensor{}, false)
		s.want.Gate(to.want, g.want, u.want, act)
		s.want.Linear(out.want, to.want, wantDown, kernels.Tensor{}, true)
		s.got.Linear(g.got, x.got, gotGate, bias.got, false)
		s.got.Linear(u.got, x.got, gotUp, kernels.Tensor{}, false)
		s.got.Gate(to.got, g.got, u.got, act)
		s.got.Linear(out.got, to.got, gotDown, kernels.Tensor{}, true)
		what := label("%d tokens to %d, activation %d, in place %v", tokens, cols, act, inPlace)
		s.near(what+": gate", g, s.tol.Dense)
		s.near(what+": up", u, s.tol.Dense)
		s.near(what+": product", to, s.tol.Dense)
		s.near(what+": down", out, 2*s.tol.Dense)
	}
}

// rotateAndAppend is what happens to queries, keys and values ahead of attention.
func (s *suite) rotateAndAppend(t dtype.Type, kv, heads, d, rotated int) {
	s.Helper()
	a, b := s.cache(kv, d, 50, t), s.cache(kv, d, 20, t)
	a.tokens(49, 1)
	b.tokens(7, 3)
	want, got := s.batch(a, b)
	q, k, v := s.normal(4, heads, d), s.normal(4, kv, d), s.normal(4, kv, d)
	cos, sin := s.normal(4, rotated/2), s.normal(4, rotated/2)
	s.want.Rope(q.want, cos.want, sin.want)
	s.want.Rope(k.want, cos.want, sin.want)
	s.want.Append(0, k.want, v.want, want)
	s.got.Rope(q.got, cos.got, sin.got)
	s.got.Rope(k.got, cos.got, sin.got)
	s.got.Append(0, k.got, v.got, got)
	what := label("%v, %d of %d heads of %d, %d rotated", t, kv, heads, d, rotated)
	s.near(what+": queries", q, s.tol.Dense)
	s.near(what+": keys", k, s.tol.Dense)
	for _, c := range []sequence{a, b} {
		s.near(what+": cached keys", pair{c.want.Cache.K[0], c.got.Cache.K[0]}, max(s.tol.Dense, 1.0/128)) // one bit of bf16
		s.equal(what+": cached values", pair{c.want.Cache.V[0], c.got.Cache.V[0]})
	}
}

// layerHalf is a layer of a decode step up to attention.
func (s *suite) layerHalf(t dtype.Type, kv, heads, d, width, tokens int) {
	s.Helper()
	c := s.cache(kv, d, 50, t)
	c.tokens(50-tokens, tokens)
	want, got := s.batch(c)
	x, gain := s.scaled(3, tokens, width), s.normal(width)
	cos, sin := s.normal(tokens, d/2), s.normal(tokens, d/2)
	h := s.poison(s.alloc(dtype.F32, tokens, width))
	q, k, v := s.poison(s.alloc(dtype.F32, tokens, heads, d)), s.poison(s.alloc(dtype.F32, tokens, kv, d)), s.poison(s.alloc(dtype.F32, tokens, kv, d))
	wantQ, gotQ := s.matrix(dtype.BF16, heads*d, width)
	wantK, gotK := s.matrix(dtype.BF16, kv*d, width)
	wantV, gotV := s.matrix(dtype.BF16, kv*d, width)
	bias := s.normal(kv * d)
	for _, side := range []struct {
		d                                kernels.Device
		x, gain, h, q, k, v, cos, sin, b kernels.Tensor
		wq, wk, wv                       kernels.Weight
		batch                            *kernels.Batch
	}{
		{s.want, x.want, gain.want, h.want, q.want, k.want, v.want, cos.want, sin.want, bias.want, wantQ, wantK, wantV, want},
		{s.got, x.got, gain.got, h.got, q.got, k.got, v.got, cos.got, sin.got, bias.got, gotQ, gotK, gotV, got},
	} {
		side.d.RMSNorm(side.h, side.x, side.gain, 1e-5)
		side.d.Linear(side.q, side.h, side.wq, kernels.Tensor{}, false)
		side.d.Linear(side.k, side.h, side.wk, side.b, false)
		side.d.Linear(side.v, side.h, side.wv, side.b, false)
		side.d.Rope(side.q, side.cos, side.sin)
		side.d.Rope(side.k, side.cos, side.sin)
		side.d.Append(0, side.k, side.v, side.batch)
	}
	what := label("%v, %d tokens of %d, %d of %d heads of %d", t, tokens, width, kv, heads, d)
	s.near(what+": normed", h, s.tol.Dense)
	s.near(what+": queries", q, s.tol.Dense)
	s.near(what+": keys", k, s.tol.Dense)
	s.near(what+": values", v, s.tol.Dense)
	s.near(what+": cached keys", pair{c.want.Cache.K[0], c.got.Cache.K[0]}, s.tol.Dense+1.0/128)
	s.near(what+": cached values", pair{c.want.Cache.V[0], c.got.Cache.V[0]}, s.tol.Dense+1.0/128)
}

// normed reads a norm by one layer, then again after its input has changed, and
// writes a layer's output over that input.
func (s *suite) normed(tokens, width, rows int) {
	s.Helper()
	x, gain := s.normal(tokens, width), s.normal(width)
	h, out := s.poison(s.alloc(dtype.F32, tokens, width)), s.poison(s.alloc(dtype.F32, tokens, rows))
	wantW, gotW := s.matrix(dtype.BF16, rows, width)
	wantX, gotX := s.matrix(dtype.BF16, width, width)
	for _, side := range []struct {
		d               kernels.Device
		x, gain, h, out kernels.Tensor
		w, wx           kernels.Weight
	}{{s.want, x.want, gain.want, h.want, out.want, wantW, wantX}, {s.got, x.got, gain.got, h.got, out.got, gotW, gotX}} {
		side.d.RMSNorm(side.h, side.x, side.gain, 1e-5)
		side.d.Linear(side.x, side.h, side.wx, kernels.Tensor{}, true)
		side.d.Linear(side.out, side.h, side.w, kernels.Tensor{}, false)
		side.d.RMSNorm(side.h, side.x, side.gain, 1e-5)
		side.d.RMSNorm(side.h, side.h, side.gain, 1e-5)
		side.d.Linear(side.out, side.h, side.w, kernels.Tensor{}, true)
	}
	what := label("norm of %d tokens of %d", tokens, width)
	s.near(what+": residual", x, s.tol.Dense)
	s.near(what+": normed", h, s.tol.Dense)
	s.near(what+": product", out, s.tol.Dense)
}

// encodeStep encodes a step's keys and queries one after the other.
func (s *suite) encodeStep(keyKind, queryKind string, keyHeads, maps, in, d, tokens int) {
	s.Helper()
	const out = 32
	wantKeys, gotKeys := s.encoder(projection(s.rand, keyKind, keyHeads, d, out))
	wantQueries, gotQueries := s.encoder(projection(s.rand, queryKind, maps, in, out))
	kv := keyHeads
	if keyKind == "mlp" {
		kv = keyHeads / 3
	}
	c := s.cache(kv, d, 70, dtype.BF16)
	c.index(s.alloc(dtype.U32, keyHeads, c.want.Cache.Capacity, 1))
	c.tokens(70-tokens, tokens)
	want, got := s.batch(c)
	q := s.normal(tokens, maps*in/d, d)
	weights, scales := s.poison(s.alloc(dtype.I8, tokens, maps, out)), s.poison(s.alloc(dtype.F32, tokens, maps))
	s.want.EncodeKeys(wantKeys, 0, want)
	s.want.EncodeQueries(weights.want, scales.want, wantQueries, q.want, 8)
	s.got.EncodeKeys(gotKeys, 0, got)
	s.got.EncodeQueries(weights.got, scales.got, gotQueries, q.got, 8)
	what := label("%s keys of %d heads, %s queries of %d maps, %d tokens", keyKind, keyHeads, queryKind, maps, tokens)
	s.near(what+": scales", scales, 1e-5)
	wrong := 0
	x, y := weights.want.I8(), s.receive(weights).I8()
	for i := range x {
		if x[i] != y[i] {
			wrong++
		}
	}
	if float64(wrong) > s.tol.Bits*float64(len(x))+1 {
		s.Fatalf("%s: %d of %d weights differ", what, wrong, len(x))
	}
	wrong = 0
	codes := pair{c.want.Index.Layers[0][0], c.got.Index.Layers[0][0]}
	for i, w := range s.receive(codes).U32() {
		wrong += bits.OnesCount32(w ^ codes.want.U32()[i])
	}
	if float64(wrong) > s.tol.Bits*float64(keyHeads*tokens*out)+1 {
		s.Fatalf("%s: %d bits of the codes differ", what, wrong)
	}
}
