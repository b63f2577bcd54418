package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// isa is a vector instruction set.
type isa struct {
	name   string // suffix of its kernels
	lanes  int    // float32 values in a register
	rows   int    // of the matrix multiplication's tile
	keys   int    // keys that share a load of the query
	chunks int    // registers of a value row that are summed at once
	masks  bool   // has mask registers
}

var (
	avx512 = isa{"AVX512", 16, 12, 4, 4, true}
	avx2   = isa{"AVX2", 8, 6, 2, 2, false}
	isas   = []isa{avx512, avx2}
)

// vec is a fresh register.
func (s isa) vec() VecVirtual {
	if s.lanes == 16 {
		return ZMM()
	}
	return YMM()
}

func (s isa) vecs(n int) []VecVirtual {
	v := make([]VecVirtual, n)
	for i := range v {
		v[i] = s.vec()
	}
	return v
}

func (s isa) zero(v Op) {
	if s.lanes == 16 {
		VPXORD(v, v, v)
	} else {
		VXORPS(v, v, v)
	}
}

func (s isa) and(a, b, dst Op) {
	if s.lanes == 16 {
		VPANDD(a, b, dst)
	} else {
		VPAND(a, b, dst)
	}
}

func (s isa) or(a, b, dst Op) {
	if s.lanes == 16 {
		VPORD(a, b, dst)
	} else {
		VPOR(a, b, dst)
	}
}

// bytes is the register width in bytes.
func (s isa) bytes() int { return 4 * s.lanes }

// text opens a kernel.
func (s isa) text(name, signature, doc string) {
	TEXT(name+s.name, NOSPLIT, signature)
	Doc(name + s.name + " " + doc)
	Pragma("noescape")
}

// half loads the float16 at m into all lanes.
func (s isa) half(m Mem) VecVirtual {
	v := s.vec()
	if s.lanes == 16 {
		h := YMM()
		VPBROADCASTW(m, h)
		VCVTPH2PS(h, v)
	} else {
		h := XMM()
		VPBROADCASTW(m, h)
		VCVTPH2PS(h, v)
	}
	return v
}

// halfY is half as a 256-bit register in every instruction set.
func halfY(m Mem) VecVirtual {
	h, v := XMM(), YMM()
	VPBROADCASTW(m, h)
	VCVTPH2PS(h, v)
	return v
}

// broadcast is a constant in all lanes, loaded from the data section.
func (s isa) broadcast(bits uint32) VecVirtual {
	v := s.vec()
	VBROADCASTSS(constant(bits), v)
	return v
}

func (s isa) float(x float64) VecVirtual { return s.broadcast(floatBits(x)) }

func floatBits(x float64) uint32 { return math.Float32bits(float32(x)) }

var constants = map[string]Mem{}

// constant is a 32-bit word of the data section.
func constant(bits uint32) Mem { return table(fmt.Sprintf("word%08x", bits), []uint32{bits}) }

func tableName(name string, i int) string { return fmt.Sprintf("%s%d", name, i) }

// table is words of the data section.
func table(name string, words []uint32) Mem {
	if m, ok := constants[name]; ok {
		return m
	}
	m := GLOBL(name, RODATA|NOPTR)
	for i, w := range words {
		DATA(4*i, U32(w))
	}
	constants[name] = m
	return m
}

// element is a number format of cached keys and values, activations or weights.
type element struct {
	name  string
	bytes int
}

var (
	f32  = element{"F32", 4}
	bf16 = element{"BF16", 2}
)

// load reads a register of elements as float32.
func (s isa) load(e element, m Mem) VecVirtual {
	v := s.vec()
	switch e {
	case f32:
		VMOVUPS(m, v)
	case bf16:
		VPMOVZXWD(m, v)
		VPSLLD(Imm(16), v, v)
	}
	return v
}

// sum adds up the lanes of v; the result is lane 0 of the XMM register.
func (s isa) sum(v VecVirtual) VecVirtual {
	x, t := XMM(), XMM()
	if s.lanes == 16 {
		h := YMM()
		VEXTRACTF64X4(Imm(1), v, h)
		VADDPS(h, v.AsY(), h)
		VEXTRACTF32X4(Imm(1), h, x)
		VADDPS(x, h.AsX(), x)
	} else {
		VEXTRACTF128(Imm(1), v, x)
		VADDPS(x, v.AsX(), x)
	}
	VMOVHLPS(x, x, t)
	VADDPS(t, x, x)
	VMOVSHDUP(x, t)
	VADDSS(t, x, x)
	return x
}

// param loads an integer or pointer parameter.
func param(name string) GPVirtual { return Load(Param(name), GP64()).(GPVirtual) }

// argument is a parameter where the caller left it; a kernel may change it
// there.
func argument(name string) Mem {
	m, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return m.Addr
}

// at is the memory at base + offset.
func at(base Register, offset int) Mem { return Mem{Base: base, Disp: offset} }
