package kerneltest

import (
	"math"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

func testMemory(s *suite) {
	p := s.normal(5, 7)
	s.equal("what was uploaded", p)
	rows := pair{p.want.Rows(1, 3), p.got.Rows(1, 3)}
	s.equal("rows", rows)
	copied := s.poison(s.alloc(dtype.F32, 3, 7))
	s.want.Copy(copied.want.Rows(1, 3), p.want.Rows(2, 4))
	s.got.Copy(copied.got.Rows(1, 3), p.got.Rows(2, 4))
	s.equal("copied rows", pair{copied.want.Rows(1, 3), copied.got.Rows(1, 3)})
	large := s.normal(3, 100003) // some devices copy such in parts
	into := s.poison(s.alloc(dtype.F32, 3, 100003))
	s.want.Copy(into.want, large.want)
	s.got.Copy(into.got, large.got)
	s.equal("a large copy", into)
	z := s.alloc(dtype.BF16, 3, 33)
	s.equal("new memory", z)
	if err := s.got.Upload(p.got, make([]byte, 5)); err == nil {
		s.Error("an upload of another length is no error")
	}
	if err := s.got.Download(make([]byte, 5), p.got); err == nil {
		s.Error("a download of another length is no error")
	}
	if _, err := s.got.Alloc(dtype.F32, 1<<40, 1<<40); err == nil {
		s.Error("a tensor of 2^80 elements is no error")
	}
	if _, err := s.got.Alloc(dtype.Q8_0, 33); err == nil {
		s.Error("33 elements of Q8_0 are no error")
	}
	if _, err := s.got.LoadMatrix(kernels.Matrix{Name: "w", Type: dtype.F32, Rows: 2, Cols: 2, Data: make([]byte, 15)}); err == nil {
		s.Error("a matrix of 15 bytes for [2 2] F32 is no error")
	}
	if _, err := s.got.NewCache(kernels.CacheSpec{Layers: 1, KVHeads: 1, HeadDim: 64, Capacity: 1, Type: dtype.I8}); err == nil {
		s.Error("an I8 cache is no error")
	}
	if s.got.Info().Kind == "" || s.got.Info().Name == "" {
		s.Errorf("device does not name itself: %+v", s.got.Info())
	}
}

var weightFormats = []dtype.Type{dtype.F32, dtype.F16, dtype.BF16, dtype.Q8_0, dtype.Q4_0, dtype.Q4_1, dtype.Q5_0, dtype.Q5_1,
	dtype.Q2_K, dtype.Q3_K, dtype.Q4_K, dtype.Q5_K, dtype.Q6_K}

// halves is where a block of each format holds float16 values.
var halves = map[dtype.Type][]int{
	dtype.Q8_0: {0}, dtype.Q4_0: {0}, dtype.Q4_1: {0, 2}, dtype.Q5_0: {0}, dtype.Q5_1: {0, 2},
	dtype.Q2_K: {80, 82}, dtype.Q3_K: {108}, dtype.Q4_K: {0, 2}, dtype.Q5_K: {0, 2}, dtype.Q6_K: {208},
}

// matrix is a weight of random blocks: every bit pattern of the integers, and
// moderate scales.
func (s *suite) matrix(t dtype.Type, rows, cols int) (want, got kernels.Weight) {
	s.Helper()
	size, err := t.Bytes(rows * cols)
	if err != nil {
		s.Fatal(err)
	}
	data := make([]byte, size)
	put := func(at int, v uint16) { data[at], data[at+1] = byte(v), byte(v>>8) }
	switch t {
	case dtype.F32, dtype.F16, dtype.BF16:
		for i := range rows * cols {
			v := float32(s.rand.NormFloat64())
			switch t {
			case dtype.F32:
				b := math.Float32bits(v)
				put(4*i, uint16(b))
				put(4*i+2, uint16(b>>16))
			case dtype.F16:
				put(2*i, dtype.F16FromF32(v))
			case dtype.BF16:
				put(2*i, dtype.BF16FromF32(v))
			}
		}
	default:
		for i := range data {
			data[i] = byte(s.rand.Uint32())
		}
		for b := 0; b < size; b += t.BlockBytes() {
			for _, h := range halves[t] {
				put(b+h, dtype.F16FromF32(float32(s.rand.NormFloat64()*0.05)))
			}
		}
	}
	m := kernels.Matrix{Name: "w", Type: t, Rows: rows, Cols: cols, Data: data}
	if want, err = s.want.LoadMatrix(m); err != nil {
		s.Fatal(err)
	}
	if got, err = s.got.LoadMatrix(m); err != nil {
		s.Fatal(err)
	}
	if r, c := got.Shape(); r != rows || c != cols {
		s.Fatalf("shape of a [%d %d] weight is [%d %d]", rows, cols, r, c)
	}
	return want, got
}

func testEmbed(s *suite) {
	for _, t := range weightFormats {
		cols := 512
		if t.BlockLen() == 1 {
			cols = 99
		}
		want, got := s.matrix(t, 33, cols)
		for _, n := range []int{1, 17} {
			tokens, out := s.ints(33, n), s.poison(s.alloc(dtype.F32, n, cols))
			s.want.Embed(out.want, want, tokens.want, 1.5)
			s.got.Embed(out.got, got, tokens.got, 1.5)
			s.near(t.String(), out, max(2e-6, s.tol.Weights))
		}
	}
}

func testLinear(s *suite) {
	for _, t := range weightFormats {
		s.sub(t.String(), func(s *suite) {
			block := max(32, t.BlockLen())
			shapes := [][2]int{{9, block}, {33, 3 * block}, {99, 2 * block}, {130, 512}}
			if t.BlockLen() == 1 {
				shapes = append(shapes, [2]int{7, 1}, [2]int{40, 33}, [2]int{64, 300})
			}
			if t == dtype.Q8_0 || t == dtype.Q5_0 || t == dtype.F32 {
				shapes = append(shapes, [2]int{64, 576})
			}
			for _, shape := range shapes {
				rows, cols := shape[0], shape[1]
				want, got := s.matrix(t, rows, cols)
				for _, n := range []int{1, 2, 3, 5, 8, 13, 33, 70} {
					if quick() && n != 1 && n != 3 && n != 13 {
						continue
					}
					x, bias := s.normal(n, cols), s.normal(rows)
					for _, add := range []bool{false, true} {
						for _, b := range []pair{none, bias} {
							out := s.normal(n, rows)
							if !add {
								s.poison(out)
							}
							s.want.Linear(out.want, x.want, want, b.want, add)
							s.got.Linear(out.got, x.got, got, b.got, add)
							s.near(label("[%d %d] x %d tokens, bias %v, add %v", rows, cols, n, !b.want.None(), add), out, s.tol.Dense)
						}
					}
				}
			}
		})
	}
}

func testRMSNorm(s *suite) {
	for _, width := range []int{1, 31, 33, 64, 576, 1000} {
		for _, n := range []int{1, 3, 77} {
			for _, size := range []float64{1, 1e-6, 1e4} {
				x, gain, out := s.scaled(size, n, width), s.normal(width), s.poison(s.alloc(dtype.F32, n, width))
				s.want.RMSNorm(out.want, x.want, gain.want, 1e-6)
				s.got.RMSNorm(out.got, x.got, gain.got, 1e-6)
				s.near(label("[%d %d] of size %g", n, width, size), out, s.tol.Dense)
				s.want.RMSNorm(x.want, x.want, gain.want, 1e-6)
				s.got.RMSNorm(x.got, x.got, gain.got, 1e-6)
				s.near(label("[%d %d] in place", n, width), x, s.tol.Dense)
			}
		}
	}
	// rows of heads, as the query and key norms take them
	x, gain := s.normal(5, 3, 64), s.normal(64)
	s.want.RMSNorm(x.want, x.want, gain.want, 1e-5)
	s.got.RMSNorm(x.got, x.got, gain.got, 1e-5)
	s.near("heads", x, s.tol.Dense)
}

func testGate(s *suite) {
	for _, act := range []kernels.Activation{kernels.SiLU, kernels.GELUTanh} {
		for _, shape := range [][2]int{{1, 1}, {1, 31}, {3, 333}, {40, 1000}} {
			for _, size := range []float64{0.01, 1, 30} {
				g, u := s.scaled(size, shape[0], shape[1]), s.normal(shape[0], shape[1])
				out := s.poison(s.alloc(dtype.F32, shape[0], shape[1]))
				s.want.Gate(out.want, g.want, u.want, act)
				s.got.Gate(out.got, g.got, u.got, act)
				s.near(label("activation %d of %v, size %g", act, shape, size), out, s.tol.Dense)
				s.want.Gate(g.want, g.want, u.want, act)
				s.got.Gate(g.got, g.got, u.got, act)
				s.near(label("activation %d in place", act), g, s.tol.Dense)
			}
		}
	}
	x, y := s.normal(3, 333), s.normal(3, 333)
	s.want.Add(x.want, y.want)
	s.got.Add(x.got, y.got)
	s.near("sum", x, 1e-7)
}

func testRope(s *suite) {
	a, b := s.cache(1, 64, 5000, dtype.BF16), s.cache(1, 64, 40, dtype.BF16)
	a.tokens(4990, 3)
	b.tokens(0, 30)
	want, got := s.batch(a, b)
	for _, c := range []struct{ heads, d, rotated int }{{1, 64, 64}, {3, 128, 128}, {5, 256, 256}, {2, 64, 32}} {
		freq := s.alloc(dtype.F32, c.rotated/2)
		for i := range freq.want.F32() {
			freq.want.F32()[i] = float32(math.Pow(10000, -2*float64(i)/float64(c.rotated)))
		}
		s.send(freq)
		cos, sin := s.alloc(dtype.F32, 33, c.rotated/2), s.alloc(dtype.F32, 33, c.rotated/2)
		s.want.RopeTable(cos.want, sin.want, freq.want, want)
		s.got.RopeTable(cos.got, sin.got, freq.got, got)
		s.near("cosines", cos, 1e-6)
		s.near("sines", sin, 1e-6)
		x := s.normal(33, c.heads, c.d)
		s.want.Rope(x.want, cos.want, sin.want)
		s.got.Rope(x.got, cos.got, sin.got)
		s.near(label("%+v", c), x, s.tol.Dense)
	}
}

func testSampling(s *suite) {
	for _, width := range []int{1, 31, 1000, 49152} {
		logits, targets := s.scaled(5, 3, width), s.ints(width, 3)
		best, loss := s.poison(s.alloc(dtype.I32, 3)), s.poison(s.alloc(dtype.F32, 3))
		s.want.ArgMax(best.want, logits.want)
		s.got.ArgMax(best.got, logits.got)
		s.equal("largest", best)
		s.want.NegLogLikelihood(loss.want, logits.want, targets.want)
		s.got.NegLogLikelihood(loss.got, logits.got, targets.got)
		s.near("loss", loss, s.tol.Dense)
	}
	ties := s.alloc(dtype.F32, 1, 100)
	for i := range ties.want.F32() {
		ties.want.F32()[i] = -1
	}
	for _, i := range []int{17, 18, 63, 99} {
		ties.want.F32()[i] = 2
	}
	s.send(ties)
	best := s.alloc(dtype.I32, 1)
	s.want.ArgMax(best.want, ties.want)
	s.got.ArgMax(best.got, ties.got)
	s.equal("first of equal ones", best)
}
