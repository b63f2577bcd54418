package kerneltest

import (
	"math"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

func testRerank(s *suite) {
	for _, shape := range shapes {
		for _, heads := range []int{shape.kv, shape.kv * shape.group} {
			for _, n := range []int{1, 33, 99, 400} {
				a, b := s.cache(shape.kv, shape.d, n, dtype.BF16), s.cache(shape.kv, shape.d, 80, dtype.BF16)
				a.tokens(n-1, 1)
				b.tokens(60, 4)
				want, got := s.batch(a, b)
				sel := kernels.Selection{Heads: heads, Sink: 5, Local: 7, Budget: kernels.Budget{Num: 1, Den: 8}, Candidates: 3}
				scores := s.normal(want.Tokens, heads, want.Longest)
				scored, chosen := 1, 1
				want.Row(func(_ int, _ *kernels.Segment, p int) {
					scored, chosen = max(scored, sel.Scored(p+1)), max(chosen, sel.Chosen(p+1))
				})
				candidates := s.alloc(dtype.I32, want.Tokens, heads, scored)
				s.want.TopK(candidates.want, scores.want, want, sel)
				s.send(candidates)
				q := s.normal(want.Tokens, shape.kv*shape.group, shape.d)
				kept := s.poison(s.alloc(dtype.I32, want.Tokens, heads, chosen))
				s.want.Rerank(kept.want, candidates.want, q.want, 0, want, 0.125, sel)
				s.got.Rerank(kept.got, candidates.got, q.got, 0, got, 0.125, sel)
				s.equal(label("%+v, %d sets, %d tokens", shape, heads, n), kept)
			}
		}
	}
}

// hashCase is a preset's shape: who has codes, maps and sets.
type hashCase struct {
	name              string
	keyHeads, qHeads  int // of 2 KV heads with groups of 4: 2 or 8
	sets              int
	bits, queryBits   int
	candidates        int
	mass              bool
	keyKind, querKind string
}

var hashCases = []hashCase{
	{"paper", 8, 8, 8, 32, 1, 0, false, "mlp", "mlp"},
	{"paper with sets by group", 8, 8, 2, 32, 1, 0, false, "mlp", "mlp"},
	{"shared", 2, 8, 8, 32, 4, 0, false, "residual", "linear"},
	{"shared, 8 bits, reranked", 2, 8, 8, 32, 8, 2, false, "residual", "linear"},
	{"grouped", 2, 2, 2, 32, 8, 0, false, "residual", "joint"},
	{"grouped, reranked", 2, 2, 2, 32, 4, 2, false, "residual", "joint"},
	{"grouped, 64 bits", 2, 2, 2, 64, 8, 2, false, "residual", "joint"},
	{"grouped, 128 bits", 2, 2, 2, 128, 4, 0, false, "residual", "joint"},
	{"group from heads", 2, 8, 2, 32, 8, 0, false, "residual", "linear"},
	{"mass", 2, 8, 2, 32, 8, 0, true, "residual", "linear"},
	{"mass, reranked", 2, 8, 2, 32, 4, 2, true, "residual", "linear"},
}

func testAttendHash(s *suite) {
	for _, c := range hashCases {
		s.sub(c.name, func(s *suite) {
			for _, n := range []int{1, 20, 99, 400} {
				s.attendHash(c, 64+64*(n%2), n)
			}
			// enough tokens that a device may estimate the cut before it scans
			if !quick() && (c.name == "shared" || c.name == "grouped" || c.name == "mass") {
				s.attendHash(c, 64, 5003)
			}
		})
	}
}

func (s *suite) attendHash(c hashCase, d, n int) {
	s.Helper()
	s.attendHashWith(c, d, n, kernels.Selection{Budget: kernels.Budget{Num: 1, Den: 8}})
}

// attendHashWith is attendHash with the budgets and the mass of sel.
func (s *suite) attendHashWith(c hashCase, d, n int, sel kernels.Selection) {
	s.Helper()
	const kv, group = 2, 4
	in := d * kv * group / c.qHeads
	keys, gotKeys := s.encoder(projection(s.rand, c.keyKind, c.keyHeads, d, c.bits))
	queries, gotQueries := s.encoder(projection(s.rand, c.querKind, c.qHeads, in, c.bits))
	a, b := s.cache(kv, d, n, dtype.BF16), s.cache(kv, d, 80, dtype.BF16)
	for _, q := range []*sequence{&a, &b} {
		q.index(s.alloc(dtype.U32, c.keyHeads, q.want.Cache.Capacity, (c.bits+31)/32))
		q.tokens(0, q.want.Cache.Capacity)
		want, got := s.batch(*q)
		s.want.EncodeKeys(keys, 0, want)
		s.got.EncodeKeys(gotKeys, 0, got)
		// the codes are compared elsewhere: here both devices use the same
		s.send(pair{q.want.Index.Layers[0][0], q.got.Index.Layers[0][0]})
	}
	a.tokens(n-1, 1)
	b.tokens(60, 3)
	want, got := s.batch(a, b)
	sel.Heads, sel.Sink, sel.Local, sel.Candidates = c.sets, 6, 10, c.candidates
	q := s.normal(want.Tokens, kv*group, d)
	out := s.poison(s.alloc(dtype.F32, want.Tokens, kv*group, d))
	s.want.ResetReads()
	s.got.ResetReads()
	s.want.AttendHash(out.want, q.want, 0, want, 0.125, kernels.HashQuery{Encoder: queries, Bits: c.queryBits, Mass: c.mass}, sel)
	s.got.AttendHash(out.got, q.got, 0, got, 0.125, kernels.HashQuery{Encoder: gotQueries, Bits: c.queryBits, Mass: c.mass}, sel)
	s.reads()
	x, y := out.want.F32(), s.receive(out).F32()
	// A float score at the cut may fall either way, and then one token of the
	// set differs: a share of the outputs may be further off.
	off := 0
	for i := range x {
		if !(math.Abs(float64(x[i])-float64(y[i])) <= s.tol.Attention*4) {
			off++
		}
	}
	allowed := 0
	if c.mass || c.candidates > 1 || s.tol.Bits > 0 {
		allowed = len(x) / 50
	}
	if off > allowed {
		s.Fatalf("%d tokens, d %d: %d of %d outputs differ", n, d, off, len(x))
	}
}
