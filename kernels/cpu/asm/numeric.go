package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// numeric is the elementwise kernels and those of the softmax.
func numeric() {
	pause()
	for _, s := range isas {
		maximum(s)
		expSum(s)
		softmaxColumns(s)
		scaleColumns(s)
		gate(s)
		scaleBy(s)
		addTo(s)
		widen(s)
		readAll(s)
	}
}

func pause() {
	TEXT("pause", NOSPLIT, "func(n int)")
	Doc("pause spins for n pause instructions.")
	n := param("n")
	Label("loop")
	PAUSE()
	DECQ(n)
	JNZ(LabelRef("loop"))
	RET()
}

// exponential holds the constants of exp: the range reduction by ln 2 in two
// parts and the polynomial of Cephes' expf (relative error below 2 ulp).
type exponential struct {
	isa
	low, high, log2e, ln2hi, ln2lo, one VecVirtual
	poly                                []VecVirtual
}

func newExponential(s isa) exponential {
	e := exponential{isa: s, low: s.float(-87.33), high: s.float(88.37), log2e: s.float(1.44269504088896341),
		ln2hi: s.float(0.693359375), ln2lo: s.float(-2.12194440e-4), one: s.float(1)}
	if s.lanes == 8 { // registers are short: the polynomial is read from memory
		return e
	}
	for _, c := range expPoly {
		e.poly = append(e.poly, s.float(c))
	}
	return e
}

var expPoly = []float64{1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1}

func (e exponential) coefficient(i int) Op {
	if e.poly != nil {
		return e.poly[i]
	}
	bits := make([]uint32, 8)
	for j := range bits {
		bits[j] = floatBits(expPoly[i])
	}
	return table(tableName("exp", i), bits)
}

// apply is exp(x) in place; below -87.33 the result is 0. NaN stays.
func (e exponential) apply(x VecVirtual) {
	n, y, zero := e.vec(), e.vec(), e.vec()
	if e.masks {
		k := K()
		VCMPPS(Imm(1), e.low, x, k) // x < low
		VMAXPS(x, e.low, x)
		VMINPS(x, e.high, x)
		e.reduce(x, n, y)
		VSCALEFPS(n, y, x)
		e.zero(zero)
		VMOVAPS(zero, k, x)
		return
	}
	VCMPPS(Imm(1), e.low, x, zero)
	VMAXPS(x, e.low, x)
	VMINPS(x, e.high, x)
	e.reduce(x, n, y)
	VCVTPS2DQ(n, n)
	VPSLLD(Imm(23), n, n)
	VPADDD(n, y, y) // y is in [0.7, 1.42]: the exponent takes n
	VANDNPS(y, zero, x)
}

// reduce sets n to the rounded binary exponent of exp(x) and y to exp of the rest.
func (e exponential) reduce(x, n, y VecVirtual) {
	VMULPS(e.log2e, x, n)
	if e.masks {
		VRNDSCALEPS(Imm(0), n, n)
	} else {
		VROUNDPS(Imm(0), n, n)
	}
	VFNMADD231PS(e.ln2hi, n, x)
	VFNMADD231PS(e.ln2lo, n, x)
	VMOVUPS(e.coefficient(0), y)
	for i := 1; i < len(expPoly); i++ {
		VFMADD213PS(e.coefficient(i), x, y)
	}
	square := e.vec()
	VMULPS(x, x, square)
	VFMADD213PS(x, square, y)
	VADDPS(e.one, y, y)
}

func maximum(s isa) {
	s.text("maximum", "func(n int, x *float32) float32", "is the largest of n values, a multiple of the register width.")
	n, x := param("n"), param("x")
	best := s.vec()
	VMOVUPS(at(x, 0), best)
	Label("loop")
	// of a number and NaN the second operand is taken: NaN does not spread
	v := s.vec()
	VMOVUPS(at(x, 0), v)
	VMAXPS(best, v, best)
	ADDQ(U32(s.bytes()), x)
	SUBQ(U32(s.lanes), n)
	JG(LabelRef("loop"))
	r := XMM()
	v = best
	if s.lanes == 16 {
		h := YMM()
		VEXTRACTF64X4(Imm(1), v, h)
		VMAXPS(h, v.AsY(), h)
		VEXTRACTF32X4(Imm(1), h, r)
		VMAXPS(r, h.AsX(), r)
	} else {
		VEXTRACTF128(Imm(1), v, r)
		VMAXPS(r, v.AsX(), r)
	}
	t := XMM()
	VMOVHLPS(r, r, t)
	VMAXPS(t, r, r)
	VMOVSHDUP(r, t)
	VMAXSS(t, r, r)
	VZEROUPPER()
	Store(r, ReturnIndex(0))
	RET()
}

func (s isa) broadcastParam(name string) VecVirtual {
	v := s.vec()
	VBROADCASTSS(argument(name), v)
	return v
}

func expSum(s isa) {
	s.text("expSum", "func(n int, x *float32, scale, shift float32) float32",
		"replaces n values, a multiple of the register width, by exp(x*scale - shift) and returns their sum.")
	n, x := param("n"), param("x")
	scale, shift := s.broadcastParam("scale"), s.broadcastParam("shift")
	e := newExponential(s)
	sum := s.vec()
	s.zero(sum)
	Label("loop")
	v := s.vec()
	VMOVUPS(at(x, 0), v)
	VFMSUB213PS(shift, scale, v)
	e.apply(v)
	VMOVUPS(v, at(x, 0))
	VADDPS(v, sum, sum)
	ADDQ(U32(s.bytes()), x)
	SUBQ(U32(s.lanes), n)
	JG(LabelRef("loop"))
	r := s.sum(sum)
	VZEROUPPER()
	Store(r, ReturnIndex(0))
	RET()
}

// softmaxColumns is a step of the online softmax (Milakov & Gimelshein 2018)
// over a block of scores in which a query is a column.
func softmaxColumns(s isa) {
	s.text("softmaxColumns", "func(rows int, x *float32, scale float32, top, sum, shrink *float32)",
		"replaces each column's scores x by exp(x*scale - top'), top' the larger of top and the column's largest x*scale; sum becomes sum*shrink + the column's sum, shrink = exp(top - top'), top = top'. Two registers of columns.")
	scale := s.broadcastParam("scale")
	e := newExponential(s)
	for half := range 2 {
		offset := half * s.bytes()
		rows, x := param("rows"), param("x")
		topAt, sumAt, shrinkAt := param("top"), param("sum"), param("shrink")
		top, v, shrink, sum := s.vec(), s.vec(), s.vec(), s.vec()
		VMOVUPS(at(topAt, offset), top)
		VMOVUPS(top, shrink)
		name := []string{"left", "right"}[half]
		Label(name + "max")
		VMULPS(at(x, offset), scale, v)
		VMAXPS(v, top, top)
		ADDQ(U32(2*s.bytes()), x)
		DECQ(rows)
		JNZ(LabelRef(name + "max"))
		VMOVUPS(top, at(topAt, offset))
		VSUBPS(top, shrink, shrink)
		e.apply(shrink)
		VMOVUPS(shrink, at(shrinkAt, offset))
		VMULPS(at(sumAt, offset), shrink, sum)
		rows, x = param("rows"), param("x")
		Label(name + "exp")
		VMOVUPS(at(x, offset), v)
		VFMSUB213PS(top, scale, v)
		e.apply(v)
		VMOVUPS(v, at(x, offset))
		VADDPS(v, sum, sum)
		ADDQ(U32(2*s.bytes()), x)
		DECQ(rows)
		JNZ(LabelRef(name + "exp"))
		VMOVUPS(sum, at(sumAt, offset))
	}
	VZEROUPPER()
	RET()
}

func scaleColumns(s isa) {
	s.text("scaleColumns", "func(rows int, x, factor *float32)", "multiplies every row of x, two registers wide, by factor.")
	rows, x, factor := param("rows"), param("x"), param("factor")
	f, v := s.vecs(2), s.vecs(2)
	for i := range f {
		VMOVUPS(at(factor, i*s.bytes()), f[i])
	}
	Label("loop")
	for i := range v {
		VMULPS(at(x, i*s.bytes()), f[i], v[i])
		VMOVUPS(v[i], at(x, i*s.bytes()))
	}
	ADDQ(U32(2*s.bytes()), x)
	DECQ(rows)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// gate covers SiLU (a 1, b 0) and GELU in the tanh form, which equals
// x*sigmoid(x*(a + b*x^2)) with a = sqrt(8/pi), b = 0.044715*a.
func gate(s isa) {
	s.text("gate", "func(n int, out, x, up *float32, a, b float32)",
		"sets out = x/(1+exp(-x*(a+b*x*x)))*up for n values, a multiple of the register width.")
	n, out, x, up := param("n"), param("out"), param("x"), param("up")
	a, b := s.broadcastParam("a"), s.broadcastParam("b")
	e := newExponential(s)
	Label("loop")
	g, z := s.vec(), s.vec()
	VMOVUPS(at(x, 0), g)
	VMULPS(g, g, z)
	VFMADD213PS(a, b, z)
	VMULPS(g, z, z)
	negative := s.vec()
	s.zero(negative)
	VSUBPS(z, negative, z)
	e.apply(z)
	VADDPS(e.one, z, z)
	VDIVPS(z, g, z)
	VMULPS(at(up, 0), z, z)
	VMOVUPS(z, at(out, 0))
	for _, p := range []GPVirtual{out, x, up} {
		ADDQ(U32(s.bytes()), p)
	}
	SUBQ(U32(s.lanes), n)
	JG(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func scaleBy(s isa) {
	s.text("scaleBy", "func(n int, out, x, gain *float32, scale float32)", "sets out = x*scale*gain for n values, a multiple of the register width.")
	n, out, x, gain := param("n"), param("out"), param("x"), param("gain")
	scale := s.broadcastParam("scale")
	Label("loop")
	v := s.vec()
	VMULPS(at(x, 0), scale, v)
	VMULPS(at(gain, 0), v, v)
	VMOVUPS(v, at(out, 0))
	for _, p := range []GPVirtual{out, x, gain} {
		ADDQ(U32(s.bytes()), p)
	}
	SUBQ(U32(s.lanes), n)
	JG(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func addTo(s isa) {
	s.text("addTo", "func(n int, x, y *float32)", "adds n values of y, a multiple of the register width, to x.")
	n, x, y := param("n"), param("x"), param("y")
	Label("loop")
	v := s.vec()
	VMOVUPS(at(x, 0), v)
	VADDPS(at(y, 0), v, v)
	VMOVUPS(v, at(x, 0))
	for _, p := range []GPVirtual{x, y} {
		ADDQ(U32(s.bytes()), p)
	}
	SUBQ(U32(s.lanes), n)
	JG(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func widen(s isa) {
	s.text("widen", "func(n int, dst *float32, src *uint16)", "sets dst to n bfloat16 values, a multiple of the register width.")
	n, dst, src := param("n"), param("dst"), param("src")
	Label("loop")
	v := s.load(bf16, at(src, 0))
	VMOVUPS(v, at(dst, 0))
	ADDQ(U32(s.bytes()), dst)
	ADDQ(U32(2*s.lanes), src)
	SUBQ(U32(s.lanes), n)
	JG(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// readAll is what a measurement of the memory's read bandwidth repeats.
func readAll(s isa) {
	s.text("readAll", "func(n int, p *byte) uint64", "reads n bytes, a multiple of 512, and returns the first word of their OR.")
	n, p := param("n"), param("p")
	acc := s.vecs(8)
	for _, v := range acc {
		s.zero(v)
	}
	Label("loop")
	for i := range 512 / s.bytes() {
		s.or(at(p, i*s.bytes()), acc[i%8], acc[i%8])
	}
	ADDQ(U32(512), p)
	SUBQ(U32(512), n)
	JG(LabelRef("loop"))
	for _, v := range acc[1:] {
		s.or(v, acc[0], acc[0])
	}
	r := GP64()
	VMOVQ(acc[0].AsX(), r)
	VZEROUPPER()
	Store(r, ReturnIndex(0))
	RET()
}
