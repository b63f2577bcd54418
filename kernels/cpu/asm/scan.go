package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// scan is the kernels that rank cached tokens. Those for AVX-512 need VBMI.
func scan() {
	scanCodes("scanNarrow", 1)
	scanCodes("scanWide", 2)
	cut("cutI32", false)
	cut("cutF32", true)
	scanTransposed()
	cutBits("cutI32", false)
	cutBits("cutF32", true)
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

// scanTransposed scores 32 codes at once with AVX2: bytes of the same place go
// to one register, whose nibbles are looked up in tables of 16 two-byte entries.
func scanTransposed() {
	s := avx2
	s.text("scan", "func(n int, codes *uint32, tables *byte, bias int32, scores *int32, add int)",
		"is scanWide for a multiple of 32 codes whose entries sum up to at most 65535.")
	n, codes, tables, scores, add := param("n"), param("codes"), param("tables"), param("scores"), param("add")
	order := s.vec()
	VBROADCASTI128(table("byplace", []uint32{0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703}), order)
	nibble, bias := s.broadcast(0x0f0f0f0f), s.broadcastParam("bias")
	Label("loop")
	v, t := s.vecs(4), s.vecs(4)
	for i := range v {
		VMOVDQU(at(codes, 32*i), v[i])
		VPSHUFB(order, v[i], v[i]) // dword p of a lane: bytes of place p
	}
	// four by four dwords in each lane
	VPUNPCKLDQ(v[1], v[0], t[0])
	VPUNPCKHDQ(v[1], v[0], t[1])
	VPUNPCKLDQ(v[3], v[2], t[2])
	VPUNPCKHDQ(v[3], v[2], t[3])
	sums := s.vecs(2)
	for _, x := range sums {
		s.zero(x)
	}
	for place := range 4 {
		bytes := s.vec()
		if place%2 == 0 {
			VPUNPCKLQDQ(t[place/2+2], t[place/2], bytes)
		} else {
			VPUNPCKHQDQ(t[place/2+2], t[place/2], bytes)
		}
		for half := range 2 {
			index := s.vec()
			if half == 0 {
				VPAND(nibble, bytes, index)
			} else {
				VPSRLD(Imm(4), bytes, index)
				VPAND(nibble, index, index)
			}
			first, second, pair := s.vec(), s.vec(), s.vec()
			VBROADCASTI128(at(tables, 64*half+16*place), first)
			VBROADCASTI128(at(tables, 128+64*half+16*place), second)
			VPSHUFB(index, first, first)
			VPSHUFB(index, second, second)
			VPUNPCKLBW(second, first, pair)
			VPADDW(pair, sums[0], sums[0])
			VPUNPCKHBW(second, first, pair)
			VPADDW(pair, sums[1], sums[1])
		}
	}
	out := make([]VecVirtual, 0, 4)
	for i := range sums {
		VPERMQ(Imm(0xD8), sums[i], sums[i]) // the lanes hold every other four
		low, high, upper := s.vec(), s.vec(), XMM()
		VEXTRACTI128(Imm(1), sums[i], upper)
		VPMOVZXWD(sums[i].AsX(), low)
		VPMOVZXWD(upper, high)
		VPADDD(bias, low, low)
		VPADDD(bias, high, high)
		out = append(out, low, high)
	}
	TESTQ(add, add)
	JZ(LabelRef("store"))
	for i, x := range out {
		VPADDD(at(scores, 32*i), x, x)
	}
	Label("store")
	for i, x := range out {
		VMOVDQU(x, at(scores, 32*i))
	}
	ADDQ(U32(128), codes)
	ADDQ(U32(128), scores)
	SUBQ(Imm(32), n)
	JG(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// cutBits is cut with AVX2: eight scores at once, then one by one those that
// reach the threshold.
func cutBits(name string, float bool) {
	s := avx2
	kind := "int32"
	if float {
		kind = "float32"
	}
	s.text(name, "func(n int, scores *"+kind+", threshold "+kind+", first int, positions *int32, kept *"+kind+") int",
		"writes the scores of at least threshold among n, a multiple of 8, to kept and first + their index to positions, and returns their number.")
	n, scores, first, positions, kept := param("n"), param("scores"), param("first"), param("positions"), param("kept")
	threshold := s.broadcastParam("threshold")
	start := GP64()
	MOVQ(positions, start)
	Label("loop")
	v, hits := s.vec(), GP32()
	VMOVUPS(at(scores, 0), v)
	if float {
		VCMPPS(Imm(0x1d), threshold, v, v) // at least, false for NaN
		VMOVMSKPS(v, hits)
	} else {
		VPCMPGTD(v, threshold, v) // threshold > v
		VMOVMSKPS(v, hits)
		XORL(Imm(0xff), hits)
	}
	TESTL(hits, hits)
	JZ(LabelRef("next"))
	Label("hit")
	bit, position, score := GP32(), GP32(), GP32()
	TZCNTL(hits, bit)
	MOVL(Mem{Base: scores, Index: bit.As64(), Scale: 4}, score)
	LEAL(Mem{Base: first, Index: bit.As64(), Scale: 1}, position)
	MOVL(score, at(kept, 0))
	MOVL(position, at(positions, 0))
	ADDQ(Imm(4), kept)
	ADDQ(Imm(4), positions)
	BLSRL(hits, hits)
	JNZ(LabelRef("hit"))
	Label("next")
	ADDQ(Imm(32), scores)
	ADDQ(Imm(8), first)
	SUBQ(Imm(8), n)
	JG(LabelRef("loop"))
	SUBQ(start, positions)
	SHRQ(Imm(2), positions)
	VZEROUPPER()
	Store(positions, ReturnIndex(0))
	RET()
}
