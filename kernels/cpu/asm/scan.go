package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// scan is the kernels that rank cached tokens. Scans and cuts need AVX-512 with
// VBMI; other processors use tables of bytes in Go.
func scan() {
	scanCodes("scanNarrow", 1)
	scanCodes("scanWide", 2)
	cut("cutI32", false)
	cut("cutF32", true)
	toFloat()
}

// iota is 0, 1, 2, ... in the lanes.
func iota16() VecVirtual {
	return avx512.lanesTable("iota", func(i int) uint32 { return uint32(i) })
}

// scanCodes scores 16 codes of 32 bits at once. A byte permutation looks each
// nibble up in a table of 64: 16 entries for each of the word's four bytes. The
// entries are sums of four weights, made positive, of one or two bytes; products
// with ones add a word's entries up. Of one byte, no two may exceed 255.
func scanCodes(name string, entryBytes int) {
	s := avx512
	s.text(name, "func(n int, codes *uint32, tables *byte, bias int32, scores *int32, add int)",
		"sets scores, or adds to them if add is not 0, to bias + the table entries of each code's nibbles: 64 bytes for low nibbles, 64 for high ones"+
			map[int]string{1: ".", 2: ", then their second bytes."}[entryBytes])
	n, codes, from, scores, add := param("n"), param("codes"), param("tables"), param("scores"), param("add")
	tables := s.vecs(2 * entryBytes)
	for i, t := range tables {
		VMOVDQU32(at(from, 64*i), t)
	}
	bias := s.broadcastParam("bias")
	nibble, place := s.broadcast(0x0f0f0f0f), s.broadcast(0x30201000)
	ones, ones16 := s.broadcast(0x01010101), s.broadcast(0x00010001)
	all := GP32()
	all16 := K()
	MOVL(U32(0xffff), all)
	KMOVW(all, all16)
	keep := K() // lanes of old scores to add: all or none
	zero := GP32()
	XORL(zero, zero)
	CMPQ(add, Imm(0))
	CMOVLNE(all, zero)
	KMOVW(zero, keep)
	body := func(lanes OpmaskVirtual) {
		low, high, sum := s.vec(), s.vec(), s.vec()
		VMOVDQU32_Z(at(codes, 0), lanes, low)
		VPSRLD(Imm(4), low, high)
		VPTERNLOGD(Imm(0xEA), place, nibble, low) // (code & nibble) | place
		VPTERNLOGD(Imm(0xEA), place, nibble, high)
		look := func(i int) VecVirtual { // the sums of a word's low and high entries
			a, b := s.vec(), s.vec()
			VPERMB(tables[i], low, a)
			VPERMB(tables[i+1], high, b)
			if entryBytes == 1 {
				VPADDB(b, a, a)
				VPMADDUBSW(ones, a, a)
			} else {
				VPMADDUBSW(ones, a, a)
				VPMADDUBSW(ones, b, b)
				VPADDW(b, a, a)
			}
			VPMADDWD(ones16, a, a)
			return a
		}
		VPADDD(look(0), bias, sum)
		if entryBytes == 2 {
			second := look(2)
			VPSLLD(Imm(8), second, second)
			VPADDD(second, sum, sum)
		}
		old := s.vec()
		both := K()
		KANDW(keep, lanes, both)
		VMOVDQU32_Z(at(scores, 0), both, old)
		VPADDD(old, sum, sum)
		VMOVDQU32(sum, lanes, at(scores, 0))
	}
	Label("loop")
	CMPQ(n, Imm(16))
	JL(LabelRef("tail"))
	body(all16)
	ADDQ(Imm(64), codes)
	ADDQ(Imm(64), scores)
	SUBQ(Imm(16), n)
	JMP(LabelRef("loop"))
	Label("tail")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	rest := K()
	lanesBelow(n, rest)
	body(rest)
	Label("done")
	VZEROUPPER()
	RET()
}

// lanesBelow sets k to the lanes below n < 16.
func lanesBelow(n GPVirtual, k OpmaskVirtual) {
	bits := GP32()
	MOVL(U32(0xffff), bits)
	BZHIL(n.As32(), bits, bits)
	KMOVW(bits, k)
}

// cut keeps the scores from a threshold on.
func cut(name string, float bool) {
	s := avx512
	kind := "int32"
	if float {
		kind = "float32"
	}
	s.text(name, "func(n int, scores *"+kind+", threshold "+kind+", first int, positions *int32, kept *"+kind+") int",
		"writes the scores of at least threshold to kept and first + their index to positions, and returns their number. Both have room for 16 more.")
	n, scores, first, positions, kept := param("n"), param("scores"), param("first"), param("positions"), param("kept")
	threshold := s.broadcastParam("threshold")
	position, step := s.vec(), s.broadcast(16)
	VPBROADCASTD(first.As32(), position)
	VPADDD(iota16(), position, position)
	start := GP64()
	MOVQ(positions, start)
	all, all16 := GP32(), K()
	MOVL(U32(0xffff), all)
	KMOVW(all, all16)
	body := func(lanes OpmaskVirtual) {
		v, hits, count := s.vec(), K(), GP32()
		VMOVDQU32_Z(at(scores, 0), lanes, v)
		if float {
			VCMPPS(Imm(0x1d), threshold, v, lanes, hits) // at least, false for NaN
		} else {
			VPCMPD(Imm(5), threshold, v, lanes, hits)
		}
		KMOVW(hits, count)
		POPCNTL(count, count)
		a, b := s.vec(), s.vec()
		VPCOMPRESSD_Z(position, hits, a)
		VPCOMPRESSD_Z(v, hits, b)
		VMOVDQU32(a, at(positions, 0))
		VMOVDQU32(b, at(kept, 0))
		LEAQ(Mem{Base: positions, Index: count.As64(), Scale: 4}, positions)
		LEAQ(Mem{Base: kept, Index: count.As64(), Scale: 4}, kept)
		VPADDD(step, position, position)
	}
	Label("loop")
	CMPQ(n, Imm(16))
	JL(LabelRef("tail"))
	body(all16)
	ADDQ(Imm(64), scores)
	SUBQ(Imm(16), n)
	JMP(LabelRef("loop"))
	Label("tail")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	rest := K()
	lanesBelow(n, rest)
	body(rest)
	Label("done")
	SUBQ(start, positions)
	SHRQ(Imm(2), positions)
	VZEROUPPER()
	Store(positions, ReturnIndex(0))
	RET()
}

func toFloat() {
	for _, s := range isas {
		s.text("toFloat", "func(n int, dst *float32, src *int32)", "converts n integers, a multiple of the register width.")
		n, dst, src := param("n"), param("dst"), param("src")
		Label("loop")
		v := s.vec()
		VCVTDQ2PS(at(src, 0), v)
		VMOVUPS(v, at(dst, 0))
		ADDQ(U32(s.bytes()), dst)
		ADDQ(U32(s.bytes()), src)
		SUBQ(U32(s.lanes), n)
		JG(LabelRef("loop"))
		VZEROUPPER()
		RET()
	}
}
