package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// streamAhead is how many bytes before their use the rows of a cache are asked
// for, into the second-level cache: the hardware notices a stream too late
// where keys and values alternate, and the first level has room for too few
// requests. Measured on a Zen 4 core: 20 GB/s, against 10 into the first level.
const streamAhead = 16384

// dots is the kernels of few queries: scores of rows against queries, and sums
// of rows weighted by probabilities.
func dots() {
	ask()
	for _, s := range isas {
		for _, e := range []element{f32, bf16} {
			project(s, e)
		}
	}
	for _, s := range isas {
		for _, e := range []element{f32, bf16} {
			for queries := 1; queries <= 4; queries++ {
				for _, gathered := range []bool{false, true} {
					dot(s, e, queries, gathered)
					mix(s, e, queries, gathered)
				}
			}
		}
	}
}

// asking is what gathering kernels do beside their work.
const asking = "rows at[i], and asks for those rowsAhead and rowsAgain further down the list of listed entries,"

// dot computes the dot products of rows with 1 to 4 queries. s.keys rows are
// read at once so that a load of the query serves all of them; rows behind the
// last repeat the last, and out has room for them. Rows are neighbours, or
// gathered: those that a list names. Gathered rows need no copy, and those
// further down the list are on their way from memory meanwhile.
func dot(s isa, e element, queries int, gathered bool) {
	name, list, which := "dot", "ahead int, ", "for rows i, and asks for the memory ahead bytes behind what it reads,"
	if gathered {
		name, list, which = "dotAt", "listed int, at *int32, ", asking+" of k"
	}
	s.text(fmt.Sprintf("%s%s%d", name, e.name, queries), "func(width, rows int, "+list+"k *byte, ldk int, q *float32, ldq int, out *float32, ldo int)",
		fmt.Sprintf("sets out[j*ldo+i] to q[j].k[i] %s and %d queries j; width is a multiple of %d. Values up to the next multiple of %d rows are overwritten.", which, queries, s.lanes, s.keys))
	// what the inner loop does not need is loaded where it is used: registers are short
	ldq := param("ldq")
	SHLQ(Imm(2), ldq)
	unscaled := argument("ldk")
	stride := GP64()
	MOVQ(unscaled, stride)
	SHLQ(Imm(uint64(e.bytes/2)), stride) // to bytes
	MOVQ(stride, unscaled)
	var place GPVirtual // in the list, or the first row of a group
	if gathered {
		place = param("at")
	} else {
		place = param("k")
	}
	qs := make([]Mem, queries)
	ldq3 := GP64()
	if queries == 4 {
		LEAQ(Mem{Base: ldq, Index: ldq, Scale: 2}, ldq3)
	}
	Label("rows")
	row, next := make([]GPVirtual, s.keys), make([]GPVirtual, s.keys) // next: what is asked for
	if gathered {
		listedAsk("again", place, rowsAgain, s.keys, PREFETCHT1)
		listedAsk("near", place, s.keys, s.keys, PREFETCHT0)
		listedRows(row, place)
		listedAhead(next, row, place)
	} else {
		for i := range row {
			row[i] = GP64()
			if i == 0 {
				MOVQ(place, row[0])
				continue
			}
			step := param("ldk")
			ADDQ(row[i-1], step)
			MOVQ(row[i-1], row[i]) // behind the last row, that row again
			CMPQ(argument("rows"), U32(i))
			CMOVQGT(step, row[i])
		}
		next[0] = param("ahead")
	}
	acc := s.vecs(s.keys * queries)
	for _, v := range acc {
		s.zero(v)
	}
	n, from := param("width"), param("q")
	qs[0] = at(from, 0)
	for j := 1; j < queries; j++ {
		switch j {
		case 1:
			qs[j] = Mem{Base: from, Index: ldq, Scale: 1}
		case 2:
			qs[j] = Mem{Base: from, Index: ldq, Scale: 2}
		case 3:
			qs[j] = Mem{Base: from, Index: ldq3, Scale: 1}
		}
	}
	Label("width")
	keys := make([]VecVirtual, s.keys)
	for i := range keys {
		keys[i] = s.load(e, at(row[i], 0))
		if gathered {
			PREFETCHT1(at(next[i], 0))
			ADDQ(U32(s.lanes*e.bytes), next[i])
		} else {
			PREFETCHT1(at(row[i], streamAhead))
			PREFETCHT1(Mem{Base: row[i], Index: next[0], Scale: 1})
		}
		ADDQ(U32(s.lanes*e.bytes), row[i])
	}
	for j := range queries {
		v := s.vec()
		VMOVUPS(qs[j], v)
		for i := range keys {
			VFMADD231PS(v, keys[i], acc[j*s.keys+i])
		}
	}
	ADDQ(U32(s.bytes()), from)
	SUBQ(U32(s.lanes), n)
	JG(LabelRef("width"))

	to, ldo := param("out"), param("ldo")
	SHLQ(Imm(2), ldo)
	for j := range queries {
		s.storeSums(acc[j*s.keys:][:s.keys], at(to, 0))
		if j < queries-1 {
			ADDQ(ldo, to)
		}
	}
	ADDQ(Imm(uint64(4*s.keys)), argument("out"))
	if gathered {
		ADDQ(Imm(uint64(4*s.keys)), place)
		SUBQ(Imm(uint64(s.keys)), argument("listed"))
	} else {
		step := param("ldk")
		LEAQ(Mem{Base: place, Index: step, Scale: uint8(s.keys)}, place)
	}
	SUBQ(Imm(uint64(s.keys)), argument("rows"))
	JG(LabelRef("rows"))
	VZEROUPPER()
	RET()
}

// project multiplies a matrix with one vector. The matrix lies in the order in
// which it is read, registers of s.keys rows in turn: to the hardware that is
// one stream, which it fetches twice as fast as what a program may ask for.
func project(s isa, e element) {
	s.text("project"+e.name, "func(rows, width int, w *byte, x, y *float32)",
		fmt.Sprintf("sets y to the product of w [rows, width] and x. Of every %d rows, of which there is a multiple, and width, a multiple of %d, runs of %d columns follow each other in turn.", s.keys, s.lanes, s.lanes))
	rows, w, y := param("rows"), param("w"), param("y")
	Label("rows")
	acc := s.vecs(s.keys)
	for _, v := range acc {
		s.zero(v)
	}
	n, x := param("width"), param("x")
	Label("width")
	v := s.vec()
	VMOVUPS(at(x, 0), v)
	for i, a := range acc {
		VFMADD231PS(v, s.load(e, at(w, i*s.lanes*e.bytes)), a)
	}
	ADDQ(U32(s.bytes()), x)
	ADDQ(U32(s.keys*s.lanes*e.bytes), w)
	SUBQ(U32(s.lanes), n)
	JG(LabelRef("width"))
	s.storeSums(acc, at(y, 0))
	ADDQ(Imm(uint64(4*s.keys)), y)
	SUBQ(U32(s.keys), rows)
	JG(LabelRef("rows"))
	VZEROUPPER()
	RET()
}

// storeSums stores the sum of each accumulator's lanes, one behind the other.
func (s isa) storeSums(a []VecVirtual, to Mem) {
	if s.keys != 4 {
		t, x := s.vec(), XMM()
		VHADDPS(a[1], a[0], t)
		VHADDPS(t, t, t)
		VEXTRACTF128(Imm(1), t, x)
		VADDPS(x, t.AsX(), x)
		VMOVSD(x, to)
		return
	}
	t, u := s.vecs(2), s.vecs(2)
	for i := range t { // t[i]: pairs of rows 2i, 2i+1
		VUNPCKLPS(a[2*i+1], a[2*i], t[i])
		VUNPCKHPS(a[2*i+1], a[2*i], u[i])
		VADDPS(u[i], t[i], t[i])
	}
	VUNPCKLPD(t[1], t[0], u[0])
	VUNPCKHPD(t[1], t[0], u[1])
	VADDPS(u[1], u[0], u[0]) // each 128-bit lane: four rows
	y, x := YMM(), XMM()
	VEXTRACTF64X4(Imm(1), u[0], y)
	VADDPS(y, u[0].AsY(), y)
	VEXTRACTF32X4(Imm(1), y, x)
	VADDPS(x, y.AsX(), x)
	VMOVUPS(x, to)
}

// listedRows sets row to the addresses of the next rows of the list; behind
// the last row, to that row's again.
func listedRows(row []GPVirtual, place GPVirtual) {
	for i := range row {
		row[i] = GP64()
		entry := GP64()
		MOVQ(place, entry)
		if i > 0 {
			later := GP64()
			LEAQ(at(place, 4*i), later)
			CMPQ(argument("rows"), U32(i))
			CMOVQGT(later, entry)
			for before := i - 1; before > 0; before-- {
				LEAQ(at(place, 4*before), later)
				CMPQ(argument("rows"), U32(before+1))
				CMOVQEQ(later, entry)
			}
		}
		MOVLQSX(at(entry, 0), row[i])
		IMULQ(argument("ldk"), row[i])
		ADDQ(argument("k"), row[i])
	}
}

// listedAsk asks, by hint, for the group of keys rows that is entries further
// down the list.
func listedAsk(name string, place GPVirtual, entries, keys int, hint func(Op)) {
	CMPQ(argument("listed"), U32(entries+keys))
	JL(LabelRef(name))
	for i := range keys {
		row, end := GP64(), GP64()
		MOVLQSX(at(place, 4*(entries+i)), row)
		IMULQ(argument("ldk"), row)
		ADDQ(argument("k"), row)
		MOVQ(argument("ldk"), end)
		ADDQ(row, end)
		askRow(tableName(name, i), row, end, hint)
	}
	Label(name)
}

// askRow asks for the lines from row to end. In their order the hardware would
// take the lines of a row for a stream and fetch what follows it.
func askRow(name string, row, end GPVirtual, hint func(Op)) {
	SUBQ(U32(256), end)
	CMPQ(row, end)
	JHI(LabelRef(name + "rest"))
	Label(name + "lines")
	for _, line := range []int{2, 0, 3, 1} {
		hint(at(row, 64*line))
	}
	ADDQ(U32(256), row)
	CMPQ(row, end)
	JLS(LabelRef(name + "lines"))
	Label(name + "rest")
	ADDQ(U32(256), end)
	CMPQ(row, end)
	JCC(LabelRef(name + "end"))
	Label(name + "line")
	hint(at(row, 0))
	ADDQ(Imm(64), row)
	CMPQ(row, end)
	JCS(LabelRef(name + "line"))
	Label(name + "end")
}

// listedAhead sets next to the addresses of the rows rowsAhead further down the
// list, or to row where the list ends.
func listedAhead(next, row []GPVirtual, place GPVirtual) {
	for i := range row {
		next[i] = GP64()
		MOVQ(row[i], next[i])
	}
	CMPQ(argument("listed"), U32(rowsAhead+len(row)))
	JL(LabelRef("asked"))
	for i := range row {
		MOVLQSX(at(place, 4*(rowsAhead+i)), next[i])
		IMULQ(argument("ldk"), next[i])
		ADDQ(argument("k"), next[i])
	}
	Label("asked")
}

// mix adds up rows weighted by 1 to 4 sets of probabilities. It keeps a few
// registers of every output row and walks down the rows, chunk after chunk.
func mix(s isa, e element, queries int, gathered bool) {
	name, list, which := "mix", "", "the rows v[i]"
	if gathered {
		name, list, which = "mixAt", "listed int, at *int32, ", asking+" of v"
	}
	s.text(fmt.Sprintf("%s%s%d", name, e.name, queries), "func(width, rows int, "+list+"v *byte, ldv int, p *float32, ldp int, out *float32, ldo int)",
		fmt.Sprintf("adds to out[j] %s, times p[j*ldp+i] for %d sets j; width is a multiple of %d.", which, queries, s.lanes))
	// rows, p and ldo are loaded where they are used: registers are short
	width, v, ldv, ldp, out := param("width"), param("v"), param("ldv"), param("ldp"), param("out")
	if e.bytes == 4 {
		SHLQ(Imm(2), ldv)
	} else {
		SHLQ(Imm(1), ldv)
	}
	SHLQ(Imm(2), ldp)
	for _, chunks := range []int{s.chunks, 1} {
		loop := fmt.Sprintf("chunk%d", chunks)
		Label(loop)
		CMPQ(width, U32(chunks*s.lanes))
		JL(LabelRef(loop + "done"))
		acc := s.vecs(queries * chunks)
		to, ldo := GP64(), param("ldo")
		MOVQ(out, to)
		SHLQ(Imm(2), ldo)
		for j := range queries {
			for c := range chunks {
				VMOVUPS(at(to, c*s.bytes()), acc[j*chunks+c])
			}
			if j < queries-1 {
				ADDQ(ldo, to)
			}
		}
		n, row, weight := param("rows"), GP64(), param("p")
		var positions, listed GPVirtual
		if gathered {
			positions, listed = param("at"), param("listed")
		} else {
			MOVQ(v, row)
		}
		ldp3 := GP64()
		if queries == 4 {
			LEAQ(Mem{Base: ldp, Index: ldp, Scale: 2}, ldp3)
		}
		Label(loop + "rows")
		if gathered {
			MOVLQSX(at(positions, 0), row)
			IMULQ(ldv, row)
			ADDQ(v, row)
		}
		values := make([]VecVirtual, chunks)
		for c := range values {
			values[c] = s.load(e, at(row, c*s.lanes*e.bytes))
		}
		if !gathered {
			for line := 0; line < chunks*s.lanes*e.bytes; line += 64 {
				PREFETCHT1(at(row, line+streamAhead))
			}
		}
		for j := range queries {
			from := at(weight, 0)
			switch j {
			case 1:
				from = Mem{Base: weight, Index: ldp, Scale: 1}
			case 2:
				from = Mem{Base: weight, Index: ldp, Scale: 2}
			case 3:
				from = Mem{Base: weight, Index: ldp3, Scale: 1}
			}
			w := s.vec()
			VBROADCASTSS(from, w)
			for c := range values {
				VFMADD231PS(w, values[c], acc[j*chunks+c])
			}
		}
		if !gathered {
			ADDQ(ldv, row)
		}
		if gathered { // the same chunk of other rows: all chunks alike keep the memory busy
			lines := func(label string, entries int, ask func(Op)) {
				CMPQ(listed, U32(entries))
				JLE(LabelRef(loop + label))
				MOVLQSX(at(positions, 4*entries), row)
				IMULQ(ldv, row)
				ADDQ(v, row)
				for line := 0; line < chunks*s.lanes*e.bytes; line += 64 {
					ask(at(row, line))
				}
				Label(loop + label)
			}
			lines("near", rowsNear, PREFETCHT0)
			lines("again", rowsAgain, PREFETCHT1)
			lines("ahead", rowsAhead, PREFETCHT1)
			ADDQ(Imm(4), positions)
			DECQ(listed)
		}
		ADDQ(Imm(4), weight)
		DECQ(n)
		JNZ(LabelRef(loop + "rows"))
		MOVQ(out, to)
		ldo = param("ldo")
		SHLQ(Imm(2), ldo)
		for j := range queries {
			for c := range chunks {
				VMOVUPS(acc[j*chunks+c], at(to, c*s.bytes()))
			}
			if j < queries-1 {
				ADDQ(ldo, to)
			}
		}
		ADDQ(U32(chunks*s.bytes()), out)
		ADDQ(U32(chunks*s.lanes*e.bytes), v)
		SUBQ(U32(chunks*s.lanes), width)
		JMP(LabelRef(loop))
		Label(loop + "done")
	}
	VZEROUPPER()
	RET()
}

// rowsAhead is how many rows a gathering kernel is ahead of itself with its
// requests, into the second-level cache; both numbers were measured on a Zen 4
// core.
const rowsAhead = 64

// rowsAgain is how many rows ahead they ask once more: the processor drops
// requests while it waits for too many.
const rowsAgain = 32

// rowsNear is how many rows ahead the summing of values asks for what is in the
// second-level cache to come into the first; the dot products ask for the next
// group. Without it their loads queue behind the requests to memory.
const rowsNear = 4

// ask is how a gathering starts.
func ask() {
	TEXT("ask", NOSPLIT, "func(rows int, at *int32, base *byte, stride int)")
	Doc("ask asks for the rows at[i] of base, of stride bytes.")
	Pragma("noescape")
	rows, positions, base, stride := param("rows"), param("at"), param("base"), param("stride")
	Label("rows")
	row, end := GP64(), GP64()
	MOVLQSX(at(positions, 0), row)
	IMULQ(stride, row)
	ADDQ(base, row)
	LEAQ(Mem{Base: row, Index: stride, Scale: 1}, end)
	Label("line")
	PREFETCHT1(at(row, 0))
	ADDQ(Imm(64), row)
	CMPQ(row, end)
	JCS(LabelRef("line"))
	ADDQ(Imm(4), positions)
	DECQ(rows)
	JNZ(LabelRef("rows"))
	RET()
}
