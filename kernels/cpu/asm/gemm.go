package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func gemm() {
	for _, s := range isas {
		tile(s)
		transpose(s)
	}
}

// tile is the matrix multiplication's inner kernel: rows x 2 registers of C
// stay in registers while k runs. A is read by broadcast through two strides,
// so it needs no packing and may be transposed; B is packed, two registers per k.
func tile(s isa) {
	const width = 2
	s.text("tile", "func(kc int, a *float32, rs, ks int, b, c *float32, ldc, add int)",
		"sets (add 0) or adds to C, stride ldc, the product of A, element (i, k) at a[i*rs+k*ks], and packed B.")
	kc, b, c, ldc := param("kc"), param("b"), param("c"), param("ldc")
	rs, ks := param("rs"), param("ks")
	SHLQ(Imm(2), rs)
	SHLQ(Imm(2), ks)
	SHLQ(Imm(2), ldc)
	rs3 := GP64()
	LEAQ(Mem{Base: rs, Index: rs, Scale: 2}, rs3)
	// one pointer per four rows; the addressing modes reach the rows between
	pointers := make([]GPVirtual, (s.rows+3)/4)
	pointers[0] = param("a")
	for i := 1; i < len(pointers); i++ {
		pointers[i] = GP64()
		LEAQ(Mem{Base: pointers[i-1], Index: rs, Scale: 4}, pointers[i])
	}
	element := func(row int) Mem {
		p := pointers[row/4]
		switch row % 4 {
		case 1:
			return Mem{Base: p, Index: rs, Scale: 1}
		case 2:
			return Mem{Base: p, Index: rs, Scale: 2}
		case 3:
			return Mem{Base: p, Index: rs3, Scale: 1}
		}
		return at(p, 0)
	}
	acc := s.vecs(s.rows * width)
	for _, v := range acc {
		s.zero(v)
	}
	columns := s.vecs(width)
	scalars := s.vecs(2)
	Label("loop")
	for j, v := range columns {
		VMOVUPS(at(b, j*s.bytes()), v)
	}
	PREFETCHT0(at(b, 1024))
	if s.lanes == 16 {
		PREFETCHT0(at(b, 1024+64))
	}
	for i := range s.rows {
		a := scalars[i%2]
		VBROADCASTSS(element(i), a)
		for j, v := range columns {
			VFMADD231PS(a, v, acc[i*width+j])
		}
	}
	for _, p := range pointers {
		ADDQ(ks, p)
	}
	ADDQ(U32(width*s.bytes()), b)
	DECQ(kc)
	JNZ(LabelRef("loop"))

	add := param("add")
	TESTQ(add, add)
	JZ(LabelRef("store"))
	to := GP64()
	MOVQ(c, to)
	for i := range s.rows {
		for j := range width {
			VADDPS(at(to, j*s.bytes()), acc[i*width+j], acc[i*width+j])
		}
		ADDQ(ldc, to)
	}
	Label("store")
	for i := range s.rows {
		for j := range width {
			VMOVUPS(acc[i*width+j], at(c, j*s.bytes()))
		}
		ADDQ(ldc, c)
	}
	VZEROUPPER()
	RET()
}

// transpose turns a square of lanes x lanes values.
func transpose(s isa) {
	s.text("transpose", "func(dst *float32, ldd int, src *float32, lds int)",
		"sets a square of dst, stride ldd, to the transposed square of src, stride lds.")
	dst, ldd, src, lds := param("dst"), param("ldd"), param("src"), param("lds")
	SHLQ(Imm(2), ldd)
	SHLQ(Imm(2), lds)
	groups := s.lanes / 4
	// quads[g][c]: 128-bit lane L holds column 4L+c of rows 4g to 4g+3
	quads := make([][4]VecVirtual, groups)
	for g := range quads {
		r, t := s.vecs(4), s.vecs(4)
		for i := range r {
			VMOVUPS(at(src, 0), r[i])
			ADDQ(lds, src)
		}
		VUNPCKLPS(r[1], r[0], t[0])
		VUNPCKHPS(r[1], r[0], t[1])
		VUNPCKLPS(r[3], r[2], t[2])
		VUNPCKHPS(r[3], r[2], t[3])
		for c := range 4 {
			quads[g][c] = s.vec()
			if c%2 == 0 {
				VUNPCKLPD(t[c/2+2], t[c/2], quads[g][c])
			} else {
				VUNPCKHPD(t[c/2+2], t[c/2], quads[g][c])
			}
		}
	}
	columns := make([]VecVirtual, s.lanes)
	for c := range 4 {
		if groups == 2 {
			for lane, imm := range []uint64{0x20, 0x31} {
				columns[4*lane+c] = s.vec()
				VPERM2F128(Imm(imm), quads[1][c], quads[0][c], columns[4*lane+c])
			}
			continue
		}
		for half, imm := range []uint64{0x44, 0xEE} {
			a, b := s.vec(), s.vec()
			VSHUFF32X4(Imm(imm), quads[1][c], quads[0][c], a)
			VSHUFF32X4(Imm(imm), quads[3][c], quads[2][c], b)
			for odd, pick := range []uint64{0x88, 0xDD} {
				v := s.vec()
				columns[4*(2*half+odd)+c] = v
				VSHUFF32X4(Imm(pick), b, a, v)
			}
		}
	}
	for _, v := range columns {
		VMOVUPS(v, at(dst, 0))
		ADDQ(ldd, dst)
	}
	VZEROUPPER()
	RET()
}
