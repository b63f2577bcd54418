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
	scanCut("scanCutNarrow", 1)
	scanCut("scanCutWide", 2)
	cut("cutI32", false)
	cut("cutF32", true)
	scanTransposed()
	cutBits("cutI32", false)
	cutBits("cutF32", true)
	toFloat()
	reach()
	choose()
}

// iota is 0, 1, 2, ... in the lanes.
func iota16() VecVirtual {
	return avx512.lanesTable("iota", func(i int) uint32 { return uint32(i) })
}

// scorer scores 16 codes of 32 bits at once. A byte permutation looks each
// nibble up in a table of 64: 16 entries for each of the word's four bytes. The
// entries are sums of four weights, made positive, of one or two bytes; products
// with ones add a word's entries up. Of one byte, no two may exceed 255.
type scorer struct {
	entryBytes                        int
	tables                            []VecVirtual
	bias, nibble, place, ones, ones16 VecVirtual
}

// entries says in a doc comment what a scorer looks up.
func entries(entryBytes int) string {
	text := "bias + the table entries of each code's nibbles: 64 bytes for low nibbles, 64 for high ones"
	if entryBytes == 2 {
		text += ", then their second bytes"
	}
	return text
}

// newScorer loads the parameters tables and bias.
func newScorer(entryBytes int) scorer {
	s := avx512
	r := scorer{entryBytes: entryBytes, tables: s.vecs(2 * entryBytes)}
	from := param("tables")
	for i, t := range r.tables {
		VMOVDQU32(at(from, 64*i), t)
	}
	r.bias = s.broadcastParam("bias")
	r.nibble, r.place = s.broadcast(0x0f0f0f0f), s.broadcast(0x30201000)
	r.ones, r.ones16 = s.broadcast(0x01010101), s.broadcast(0x00010001)
	return r
}

// score is the scores of the codes at codes.
func (r scorer) score(codes GPVirtual, lanes OpmaskVirtual) VecVirtual {
	s := avx512
	low, high, sum := s.vec(), s.vec(), s.vec()
	VMOVDQU32_Z(at(codes, 0), lanes, low)
	VPSRLD(Imm(4), low, high)
	VPTERNLOGD(Imm(0xEA), r.place, r.nibble, low) // (code & nibble) | place
	VPTERNLOGD(Imm(0xEA), r.place, r.nibble, high)
	look := func(i int) VecVirtual { // the sums of a word's low and high entries
		a, b := s.vec(), s.vec()
		VPERMB(r.tables[i], low, a)
		VPERMB(r.tables[i+1], high, b)
		if r.entryBytes == 1 {
			VPADDB(b, a, a)
			VPMADDUBSW(r.ones, a, a)
		} else {
			VPMADDUBSW(r.ones, a, a)
			VPMADDUBSW(r.ones, b, b)
			VPADDW(b, a, a)
		}
		VPMADDWD(r.ones16, a, a)
		return a
	}
	VPADDD(look(0), r.bias, sum)
	if r.entryBytes == 2 {
		second := look(2)
		VPSLLD(Imm(8), second, second)
		VPADDD(second, sum, sum)
	}
	return sum
}

// blocks runs body for n lanes of memory, 16 at a time and then those left, and
// moves the pointers on.
func blocks(n GPVirtual, pointers []GPVirtual, body func(lanes OpmaskVirtual)) {
	all, all16 := GP32(), K()
	MOVL(U32(0xffff), all)
	KMOVW(all, all16)
	Label("loop")
	CMPQ(n, Imm(16))
	JL(LabelRef("tail"))
	body(all16)
	for _, p := range pointers {
		ADDQ(Imm(64), p)
	}
	SUBQ(Imm(16), n)
	JMP(LabelRef("loop"))
	Label("tail")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	rest := K()
	lanesBelow(n, rest)
	body(rest)
	Label("done")
}

// scanCodes stores the scores.
func scanCodes(name string, entryBytes int) {
	s := avx512
	s.text(name, "func(n int, codes *uint32, tables *byte, bias int32, scores *int32, add int)",
		"sets scores, or adds to them if add is not 0, to "+entries(entryBytes)+".")
	n, codes, scores, add := param("n"), param("codes"), param("scores"), param("add")
	r := newScorer(entryBytes)
	all, zero := GP32(), GP32()
	MOVL(U32(0xffff), all)
	keep := K() // lanes of old scores to add: all or none
	XORL(zero, zero)
	CMPQ(add, Imm(0))
	CMOVLNE(all, zero)
	KMOVW(zero, keep)
	blocks(n, []GPVirtual{codes, scores}, func(lanes OpmaskVirtual) {
		sum, old, both := r.score(codes, lanes), s.vec(), K()
		KANDW(keep, lanes, both)
		VMOVDQU32_Z(at(scores, 0), both, old)
		VPADDD(old, sum, sum)
		VMOVDQU32(sum, lanes, at(scores, 0))
	})
	VZEROUPPER()
	RET()
}

// scanCut is scanCodes and cut at once: the scores are never stored.
func scanCut(name string, entryBytes int) {
	s := avx512
	s.text(name, "func(n int, codes *uint32, tables *byte, bias, threshold int32, first int, positions, kept *int32) int",
		"writes the scores of at least threshold to kept and first + their code's index to positions, and returns their number. Both have room for 16 more. A score is "+entries(entryBytes)+".")
	n, codes := param("n"), param("codes")
	r := newScorer(entryBytes)
	w := newKeeper()
	blocks(n, []GPVirtual{codes}, func(lanes OpmaskVirtual) {
		sum, hits := r.score(codes, lanes), K()
		VPCMPD(Imm(5), w.threshold, sum, lanes, hits)
		w.keep(sum, hits)
	})
	w.finish()
}

// keeper writes the lanes that reach the parameter threshold, and their
// positions from the parameter first on.
type keeper struct {
	threshold, position, step VecVirtual
	positions, kept, start    GPVirtual
}

func newKeeper() keeper {
	s := avx512
	w := keeper{s.broadcastParam("threshold"), s.vec(), s.broadcast(16), param("positions"), param("kept"), GP64()}
	VPBROADCASTD(param("first").As32(), w.position)
	VPADDD(iota16(), w.position, w.position)
	MOVQ(w.positions, w.start)
	return w
}

// keep does without a branch on the hits, which nobody could predict.
func (w keeper) keep(v VecVirtual, hits OpmaskVirtual) {
	count, a, b := GP32(), avx512.vec(), avx512.vec()
	KMOVW(hits, count)
	POPCNTL(count, count)
	VPCOMPRESSD_Z(w.position, hits, a)
	VPCOMPRESSD_Z(v, hits, b)
	VMOVDQU32(a, at(w.positions, 0))
	VMOVDQU32(b, at(w.kept, 0))
	LEAQ(Mem{Base: w.positions, Index: count.As64(), Scale: 4}, w.positions)
	LEAQ(Mem{Base: w.kept, Index: count.As64(), Scale: 4}, w.kept)
	VPADDD(w.step, w.position, w.position)
}

// finish returns how many lanes were kept.
func (w keeper) finish() {
	SUBQ(w.start, w.positions)
	SHRQ(Imm(2), w.positions)
	VZEROUPPER()
	Store(w.positions, ReturnIndex(0))
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
	n, scores := param("n"), param("scores")
	w := newKeeper()
	blocks(n, []GPVirtual{scores}, func(lanes OpmaskVirtual) {
		v, hits := s.vec(), K()
		VMOVDQU32_Z(at(scores, 0), lanes, v)
		if float {
			VCMPPS(Imm(0x1d), w.threshold, v, lanes, hits) // at least, false for NaN
		} else {
			VPCMPD(Imm(5), w.threshold, v, lanes, hits)
		}
		w.keep(v, hits)
	})
	w.finish()
}

// reach counts the keys from a threshold on: what a bisection for the n-th best
// asks.
func reach() {
	for _, s := range isas {
		s.text("reach", "func(n int, keys *int32, threshold int32) int",
			"is how many of n keys, a multiple of the register width, are at least threshold.")
		n, keys := param("n"), param("keys")
		threshold, below := s.broadcastParam("threshold"), s.vec() // below: minus the keys that are not
		s.zero(below)
		total := GP64()
		MOVQ(n, total)
		ones := s.vec()
		if s.masks {
			VPTERNLOGD(Imm(0xff), ones, ones, ones)
		}
		Label("loop")
		if s.masks {
			hits := K()
			VPCMPD(Imm(6), at(keys, 0), threshold, hits) // threshold > key
			VPADDD(ones, below, hits, below)
		} else {
			v := s.vec()
			VPCMPGTD(at(keys, 0), threshold, v)
			VPADDD(v, below, below)
		}
		ADDQ(U32(s.bytes()), keys)
		SUBQ(U32(s.lanes), n)
		JG(LabelRef("loop"))
		if s.lanes == 16 {
			h := YMM()
			VEXTRACTI64X4(Imm(1), below, h)
			VPADDD(h, below.AsY(), h)
			below = h
		}
		x, t := XMM(), XMM()
		VEXTRACTI128(Imm(1), below, x)
		VPADDD(x, below.AsX(), x)
		VPSHUFD(Imm(0x4e), x, t)
		VPADDD(t, x, x)
		VPSHUFD(Imm(0xb1), x, t)
		VPADDD(t, x, x)
		sum := GP32()
		VMOVD(x, sum)
		wide := GP64()
		MOVLQSX(sum, wide)
		ADDQ(wide, total)
		VZEROUPPER()
		Store(total, ReturnIndex(0))
		RET()
	}
}

// choose drops the positions whose keys do not reach a threshold.
func choose() {
	s := avx512
	s.text("choose", "func(n int, keys *int32, threshold int32, positions *int32) int",
		"moves the positions whose keys are at least threshold to the front, in their order, and returns their number. Behind them there is room up to the next multiple of 16.")
	n, keys, positions := param("n"), param("keys"), param("positions")
	threshold := s.broadcastParam("threshold")
	to := GP64()
	MOVQ(positions, to)
	blocks(n, []GPVirtual{keys, positions}, func(lanes OpmaskVirtual) {
		v, hits, count := s.vec(), K(), GP32()
		VMOVDQU32_Z(at(keys, 0), lanes, v)
		VPCMPD(Imm(5), threshold, v, lanes, hits)
		KMOVW(hits, count)
		POPCNTL(count, count)
		VMOVDQU32_Z(at(positions, 0), lanes, v)
		VPCOMPRESSD_Z(v, hits, v)
		VMOVDQU32(v, at(to, 0)) // never beyond what was read
		LEAQ(Mem{Base: to, Index: count.As64(), Scale: 4}, to)
	})
	SUBQ(argument("positions"), to)
	SHRQ(Imm(2), to)
	VZEROUPPER()
	Store(to, ReturnIndex(0))
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
