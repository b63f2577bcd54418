package kerneltest

import (
	"math"
	"math/bits"
	"math/rand/v2"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

func affine(r *rand.Rand, heads, in, out int) kernels.Affine {
	a := kernels.Affine{In: in, Out: out, Weight: make([]float32, heads*in*out), Bias: make([]float32, heads*out)}
	for i := range a.Weight {
		a.Weight[i] = float32(r.NormFloat64() / math.Sqrt(float64(in)))
	}
	for i := range a.Bias {
		a.Bias[i] = float32(r.NormFloat64() * 0.1)
	}
	return a
}

// projection is a random learned map: "linear", "residual" (a linear map with
// the feedback of a residual code), "mlp" (paper's) or "joint" (linear + MLP).
func projection(r *rand.Rand, kind string, heads, in, out int) kernels.Projection {
	p := kernels.Projection{Name: kind, Heads: heads}
	skip := affine(r, heads, in, out)
	switch kind {
	case "linear":
		p.Skip = &skip
	case "residual":
		p.Skip = &skip
		p.BlockBits = 4
		p.Feedback = make([]float32, heads*out*out)
		for i := range p.Feedback {
			p.Feedback[i] = float32(r.NormFloat64() * 0.2)
		}
	case "mlp":
		p.Layers = []kernels.Affine{affine(r, heads, in, in), affine(r, heads, in, in), affine(r, heads, in, out)}
	case "joint":
		p.Skip = &skip
		p.Layers = []kernels.Affine{affine(r, heads, in, 48), affine(r, heads, 48, 40), affine(r, heads, 40, out)}
	}
	return p
}

// encoder loads a projection on both devices.
func (s *suite) encoder(p kernels.Projection) (want, got kernels.Encoder) {
	s.Helper()
	want, err := s.want.LoadProjection(p)
	if err != nil {
		s.Fatal(err)
	}
	if got, err = s.got.LoadProjection(p); err != nil {
		s.Fatal(err)
	}
	return want, got
}

func testEncode(s *suite) {
	for _, kind := range []string{"linear", "residual", "mlp", "joint"} {
		for _, out := range []int{32, 64, 96, 128, 40} {
			for _, shape := range []struct{ kv, group, d int }{{2, 3, 64}, {1, 4, 128}, {1, 2, 256}} {
				if shape.d > 64 && out != 32 {
					continue
				}
				s.sub(label("%s %d bits, kv%d group%d d%d", kind, out, shape.kv, shape.group, shape.d), func(s *suite) {
					for _, heads := range []int{shape.kv, shape.kv * shape.group} {
						s.encodeKeys(projection(s.rand, kind, heads, shape.d, out), shape.kv, shape.d)
					}
					if kind != "residual" {
						s.encodeQueries(projection(s.rand, kind, shape.kv*shape.group, shape.d, out), shape.kv*shape.group, shape.d)
						s.encodeQueries(projection(s.rand, kind, shape.kv, shape.group*shape.d, out), shape.kv*shape.group, shape.d)
					}
				})
			}
		}
	}
	bad := projection(s.rand, "linear", 2, 64, 32)
	bad.Skip.Weight = bad.Skip.Weight[1:]
	if _, err := s.got.LoadProjection(bad); err == nil {
		s.Error("a projection that lacks a weight is no error")
	}
}

func (s *suite) encodeKeys(p kernels.Projection, kv, d int) {
	s.Helper()
	want, got := s.encoder(p)
	a, b := s.cache(kv, d, 100, dtype.BF16), s.cache(kv, d, 40, dtype.F32)
	for _, q := range []*sequence{&a, &b} {
		codes := s.alloc(dtype.U32, p.Heads, q.want.Cache.Capacity, p.Words())
		q.index(codes)
	}
	a.tokens(3, 1)
	b.tokens(11, 17)
	wantBatch, gotBatch := s.batch(a, b)
	s.want.EncodeKeys(want, 0, wantBatch)
	s.got.EncodeKeys(got, 0, gotBatch)
	for _, q := range []sequence{a, b} {
		x, y := q.want.Index.Layers[0][0], s.receive(pair{q.want.Index.Layers[0][0], q.got.Index.Layers[0][0]})
		wrong := 0
		for i, w := range x.U32() {
			wrong += bits.OnesCount32(w ^ y.U32()[i])
		}
		if total := p.Heads * q.want.Len * p.Out(); float64(wrong) > s.tol.Bits*float64(total) {
			s.Fatalf("%d of %d bits of key codes differ", wrong, total)
		}
	}
}

func (s *suite) encodeQueries(p kernels.Projection, heads, d int) {
	s.Helper()
	want, got := s.encoder(p)
	for _, n := range []int{1, 18} {
		q := s.normal(n, heads, d)
		if n == 18 {
			clear(q.want.F32()[:d]) // a query of zeros
			s.send(q)
		}
		for _, queryBits := range []int{1, 4, 8} {
			weights, scales := s.poison(s.alloc(dtype.I8, n, p.Heads, p.Out())), s.poison(s.alloc(dtype.F32, n, p.Heads))
			s.want.EncodeQueries(weights.want, scales.want, want, q.want, queryBits)
			s.got.EncodeQueries(weights.got, scales.got, got, q.got, queryBits)
			s.near(label("scales, %d bits", queryBits), scales, 1e-5)
			x, y, wrong := weights.want.I8(), s.receive(weights).I8(), 0
			for i := range x {
				if x[i] != y[i] {
					wrong++
				}
				if diff := int(x[i]) - int(y[i]); queryBits > 1 && (diff < -1 || diff > 1) {
					s.Fatalf("query weight %d is %d, want %d", i, y[i], x[i])
				}
			}
			if float64(wrong) > s.tol.Bits*float64(len(x)) {
				s.Fatalf("%d of %d query weights of %d bits differ", wrong, len(x), queryBits)
			}
			s.want.EncodeQueries(weights.want, kernels.Tensor{}, want, q.want, queryBits)
			s.got.EncodeQueries(weights.got, kernels.Tensor{}, got, q.got, queryBits)
		}
	}
}
