package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// format is a weight format: how one block becomes registers of float32. The
// layouts are described in package dtype.
type format struct {
	name        string
	length      int // values in a block, or taken at once of a plain format
	bytes       int
	decode      func(d decoder)
	constantsOf func(s isa) map[string]VecVirtual
}

// decoder is one block being decoded: its address, and where values go.
type decoder struct {
	isa
	block  GPVirtual
	value  func(first int, v VecVirtual) // takes values first to first+lanes-1
	consts map[string]VecVirtual
	local  Mem // 128 bytes
}

func (d decoder) at(offset int) Mem { return at(d.block, offset) }

var formats = []format{
	{"F32", 32, 128, plain(4, func(d decoder, m Mem) VecVirtual { return d.load(f32, m) }), nil},
	{"BF16", 32, 64, plain(2, func(d decoder, m Mem) VecVirtual { return d.load(bf16, m) }), nil},
	{"F16", 32, 64, plain(2, func(d decoder, m Mem) VecVirtual {
		v := d.vec()
		VCVTPH2PS(m, v)
		return v
	}), nil},
	{"Q8_0", 32, 34, q8_0, nil},
	{"Q4_0", 32, 18, nibbles(2, 0, -8), nibbleConstants(-8)},
	{"Q4_1", 32, 20, nibbles(4, 0, 0), nibbleConstants(0)},
	{"Q5_0", 32, 22, nibbles(6, 2, -16), nibbleConstants(-16)},
	{"Q5_1", 32, 24, nibbles(8, 4, 0), nibbleConstants(0)},
	{"Q2_K", 256, 84, q2_K, func(s isa) map[string]VecVirtual {
		return map[string]VecVirtual{"3": s.broadcast(3)}
	}},
	{"Q3_K", 256, 110, q3_K, func(s isa) map[string]VecVirtual {
		return map[string]VecVirtual{"3": s.broadcast(3), "4": s.broadcast(4)}
	}},
	{"Q4_K", 256, 144, q45_K(16, 0), nibbleConstants(0)},
	{"Q5_K", 256, 176, q45_K(48, 16), nibbleConstants(0)},
	{"Q6_K", 256, 210, q6_K, func(s isa) map[string]VecVirtual {
		return map[string]VecVirtual{"15": s.broadcast(15), "48": s.broadcast(48)}
	}},
}

func quant() {
	for _, s := range isas {
		for _, f := range formats {
			dequantize(s, f)
			product(s, f)
		}
	}
}

func (f format) decoder(s isa) decoder {
	d := decoder{isa: s, local: AllocLocal(128)}
	if f.constantsOf != nil {
		d.consts = f.constantsOf(s)
	}
	return d
}

func dequantize(s isa, f format) {
	s.text("dequant"+f.name, "func(blocks int, w *byte, dst *float32)", fmt.Sprintf("sets dst to blocks of %d %s values.", f.length, f.name))
	blocks, dst := param("blocks"), param("dst")
	d := f.decoder(s)
	d.block = param("w")
	Label("loop")
	d.value = func(first int, v VecVirtual) { VMOVUPS(v, at(dst, 4*first)) }
	f.decode(d)
	ADDQ(U32(f.bytes), d.block)
	ADDQ(U32(4*f.length), dst)
	DECQ(blocks)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func product(s isa, f format) {
	s.text("product"+f.name, "func(rows, blocks int, w *byte, x, y *float32)",
		fmt.Sprintf("sets y[i] to the dot product of x and row i of w, rows of blocks of %d %s values.", f.length, f.name))
	rows, y := param("rows"), param("y")
	d := f.decoder(s)
	d.block = param("w")
	Label("rows")
	blocks, x := param("blocks"), param("x")
	acc := s.vecs(4)
	for _, v := range acc {
		s.zero(v)
	}
	Label("blocks")
	d.value = func(first int, v VecVirtual) {
		VFMADD231PS(at(x, 4*first), v, acc[first/s.lanes%4])
	}
	f.decode(d)
	ADDQ(U32(f.bytes), d.block)
	ADDQ(U32(4*f.length), x)
	DECQ(blocks)
	JNZ(LabelRef("blocks"))
	VADDPS(acc[1], acc[0], acc[0])
	VADDPS(acc[3], acc[2], acc[2])
	VADDPS(acc[2], acc[0], acc[0])
	VMOVSS(s.sum(acc[0]), at(y, 0))
	ADDQ(Imm(4), y)
	DECQ(rows)
	JNZ(LabelRef("rows"))
	VZEROUPPER()
	RET()
}

func plain(bytes int, load func(d decoder, m Mem) VecVirtual) func(d decoder) {
	return func(d decoder) {
		for i := 0; i < 32; i += d.lanes {
			d.value(i, load(d, d.at(i*bytes)))
		}
	}
}

func q8_0(d decoder) {
	scale := d.half(d.at(0))
	for i := 0; i < 32; i += d.lanes {
		v := d.vec()
		VPMOVSXBD(d.at(2+i), v)
		VCVTDQ2PS(v, v)
		VMULPS(scale, v, v)
		d.value(i, v)
	}
}

// lanesTable is the values f(0), f(1), ... one per lane.
func (s isa) lanesTable(name string, f func(i int) uint32) VecVirtual {
	words := make([]uint32, s.lanes)
	for i := range words {
		words[i] = f(i)
	}
	v := s.vec()
	VMOVUPS(table(name+s.name, words), v)
	return v
}

// nibbleConstants are those of the 4- and 5-bit formats. With AVX-512 a nibble
// selects its value among 16 in a register ("values", from offset on).
func nibbleConstants(offset int) func(s isa) map[string]VecVirtual {
	return func(s isa) map[string]VecVirtual {
		if s.lanes == 16 {
			return map[string]VecVirtual{
				"values": s.lanesTable(tableName("nibble", -offset), func(i int) uint32 { return floatBits(float64(i + offset)) }),
				"16.0":   s.float(16),
			}
		}
		return map[string]VecVirtual{"15": s.broadcast(15)}
	}
}

// nibbles decodes the 4- and 5-bit formats with blocks of 32: d, perhaps m,
// perhaps the fifth bits at byte fifth, the nibbles at byte at.
func nibbles(from, fifth, offset int) func(d decoder) {
	return func(d decoder) {
		scale := d.half(d.at(0))
		var minimum VecVirtual
		if offset == 0 {
			minimum = d.half(d.at(2))
		}
		if d.lanes == 16 {
			values := d.vec()
			if offset == 0 {
				VMOVAPS(d.consts["values"], values)
				VFMADD213PS(minimum, scale, values)
			} else {
				VMULPS(d.consts["values"], scale, values)
			}
			q := d.vec()
			VPMOVZXBD(d.at(from), q)
			var high VecVirtual
			if fifth > 0 {
				high = d.vec()
				VMULPS(d.consts["16.0"], scale, high)
			}
			for half := range 2 {
				v := d.vec()
				if half == 1 {
					VPSRLD(Imm(4), q, q)
				}
				VPERMPS(values, q, v)
				if fifth > 0 {
					k := K()
					KMOVW(d.at(fifth+2*half), k)
					VADDPS(high, v, k, v)
				}
				d.value(16*half, v)
			}
			return
		}
		add := minimum
		if offset != 0 {
			add = d.vec()
			VMULPS(d.float(float64(offset)), scale, add)
		}
		for i := 0; i < 16; i += 8 {
			q := d.vec()
			VPMOVZXBD(d.at(from+i), q)
			for half := range 2 {
				v := d.vec()
				if half == 0 {
					VPAND(d.consts["15"], q, v)
				} else {
					VPSRLD(Imm(4), q, v)
				}
				if fifth > 0 {
					b, bit := d.vec(), 16*half+i
					VPBROADCASTD(d.at(fifth), b)
					bits := make([]uint32, 8)
					for lane := range bits {
						bits[lane] = 1 << (bit + lane)
					}
					m := table(tableName("bits", bit), bits)
					VPAND(m, b, b)
					VPCMPEQD(m, b, b) // all ones where the bit is set
					VPSRLD(Imm(31), b, b)
					VPSLLD(Imm(4), b, b)
					VPOR(b, v, v)
				}
				VCVTDQ2PS(v, v)
				VFMADD213PS(add, scale, v)
				d.value(16*half+i, v)
			}
		}
	}
}

// scales writes n/8 registers of 8 integers times factor to the local memory.
func (d decoder) scales(at int, integers VecVirtual, factor VecVirtual) {
	VCVTDQ2PS(integers, integers)
	VMULPS(factor, integers, integers)
	VMOVUPS(integers, d.local.Offset(at))
}

func (d decoder) localScale(i int) VecVirtual {
	v := d.vec()
	VBROADCASTSS(d.local.Offset(4*i), v)
	return v
}

// q45_K decodes Q4_K and, with fifth bits, Q5_K.
func q45_K(from, fifth int) func(d decoder) {
	return func(d decoder) {
		// the 12 bytes of 6-bit scales and minima, as ggml unpacks them
		a, b, c, t := GP32(), GP32(), GP32(), GP32()
		MOVL(d.at(4), a)
		MOVL(d.at(8), b)
		MOVL(d.at(12), c)
		and := func(mask uint32, r Register) { ANDL(U32(mask), r) }
		lo, hi := GP32(), GP32()
		MOVL(a, lo) // scales 4 to 7
		SHRL(Imm(6), lo)
		and(0x03030303, lo)
		SHLL(Imm(4), lo)
		MOVL(c, t)
		and(0x0f0f0f0f, t)
		ORL(t, lo)
		MOVL(b, hi) // minima 4 to 7
		SHRL(Imm(6), hi)
		and(0x03030303, hi)
		SHLL(Imm(4), hi)
		SHRL(Imm(4), c)
		and(0x0f0f0f0f, c)
		ORL(c, hi)
		and(0x3f3f3f3f, a)
		and(0x3f3f3f3f, b)
		for i, pair := range [2][2]GPVirtual{{a, lo}, {b, hi}} {
			x, y := XMM(), YMM()
			VMOVD(pair[0], x)
			VPINSRD(Imm(1), pair[1], x, x)
			VPMOVZXBD(x, y)
			d.scales(32*i, y, halfY(d.at(2*i)))
		}
		if d.lanes == 16 {
			var high [2]VecVirtual
			for i := range high {
				if fifth > 0 {
					high[i] = d.vec()
					VPMOVZXBD(d.at(fifth+16*i), high[i])
				}
			}
			for chunk := range 4 {
				var q [2]VecVirtual
				for i := range q {
					q[i] = d.vec()
					VPMOVZXBD(d.at(from+32*chunk+16*i), q[i])
				}
				for half := range 2 {
					sub := 2*chunk + half
					values := d.localScale(sub)
					var bit VecVirtual
					if fifth > 0 {
						bit = d.vec()
						VMULPS(d.consts["16.0"], values, bit)
					}
					VFMSUB213PS_BCST(d.local.Offset(32+4*sub), d.consts["values"], values)
					for i := range q {
						v := d.vec()
						if half == 1 {
							VPSRLD(Imm(4), q[i], q[i])
						}
						VPERMPS(values, q[i], v)
						if fifth > 0 {
							k := K()
							VPTESTMD_BCST(constant(1<<sub), high[i], k)
							VADDPS(bit, v, k, v)
						}
						d.value(32*sub+16*i, v)
					}
				}
			}
			return
		}
		for chunk := range 4 {
			for half := range 2 {
				sub := 2*chunk + half
				scale, minimum := d.localScale(sub), d.localScale(8+sub)
				for i := 0; i < 32; i += 8 {
					v := d.vec()
					VPMOVZXBD(d.at(from+32*chunk+i), v)
					if half == 0 {
						VPAND(d.consts["15"], v, v)
					} else {
						VPSRLD(Imm(4), v, v)
					}
					if fifth > 0 {
						b := d.vec()
						VPMOVZXBD(d.at(fifth+i), b)
						VPSLLD(Imm(uint64(31-sub)), b, b)
						VPSRLD(Imm(31), b, b)
						VPSLLD(Imm(4), b, b)
						VPOR(b, v, v)
					}
					VCVTDQ2PS(v, v)
					VFMSUB213PS(minimum, scale, v)
					d.value(32*sub+i, v)
				}
			}
		}
	}
}

func q6_K(d decoder) {
	scale := halfY(d.at(208))
	for i := range 2 {
		y := YMM()
		VPMOVSXBD(d.at(192+8*i), y)
		VCVTDQ2PS(y, y)
		VMULPS(scale, y, y)
		VMOVUPS(y, d.local.Offset(32*i))
		// the offset of -32 becomes an addend per sub-block
		m := YMM()
		VBROADCASTSS(constant(floatBits(-32)), m)
		VMULPS(m, y, y)
		VMOVUPS(y, d.local.Offset(64+32*i))
	}
	for side := range 2 {
		for i := 0; i < 32; i += d.lanes {
			var low [2]VecVirtual
			for j := range low {
				low[j] = d.vec()
				VPMOVZXBD(d.at(64*side+32*j+i), low[j])
			}
			high := d.vec()
			VPMOVZXBD(d.at(128+32*side+i), high)
			for quarter := range 4 { // values i, i+32, i+64, i+96
				v, h := d.vec(), d.vec()
				if quarter < 2 {
					d.and(d.consts["15"], low[quarter%2], v)
				} else {
					VPSRLD(Imm(4), low[quarter%2], v)
				}
				switch quarter {
				case 0:
					VPSLLD(Imm(4), high, h)
				case 1:
					VPSLLD(Imm(2), high, h)
				case 2:
					h = high
				case 3:
					VPSRLD(Imm(2), high, h)
				}
				masked := d.vec()
				d.and(d.consts["48"], h, masked)
				d.or(masked, v, v)
				VCVTDQ2PS(v, v)
				sub := 8*side + 2*quarter + i/16
				VFMADD213PS(d.localScale(16+sub), d.localScale(sub), v)
				d.value(128*side+32*quarter+i, v)
			}
		}
	}
}

func q2_K(d decoder) {
	for i := range 2 {
		factor := halfY(d.at(80 + 2*i))
		for j := range 2 {
			y := YMM()
			VPMOVZXBD(d.at(8*j), y)
			if i == 0 {
				m := YMM()
				VPBROADCASTD(constant(15), m)
				VPAND(m, y, y)
			} else {
				VPSRLD(Imm(4), y, y)
			}
			d.scales(64*i+32*j, y, factor)
		}
	}
	for side := range 2 {
		for i := 0; i < 32; i += d.lanes {
			q := d.vec()
			VPMOVZXBD(d.at(16+32*side+i), q)
			for quarter := range 4 {
				v := d.vec()
				if quarter > 0 {
					VPSRLD(Imm(2), q, q)
				}
				d.and(d.consts["3"], q, v)
				VCVTDQ2PS(v, v)
				sub := 8*side + 2*quarter + i/16
				VFMSUB213PS(d.localScale(16+sub), d.localScale(sub), v)
				d.value(128*side+32*quarter+i, v)
			}
		}
	}
}

func q3_K(d decoder) {
	scale := halfY(d.at(108))
	shifts := YMM()
	for i := range 2 { // sub-blocks 8i to 8i+7
		low, high, m := YMM(), YMM(), YMM()
		VPMOVZXBD(d.at(96), low)
		VPBROADCASTD(constant(15), m)
		if i == 1 {
			VPSRLD(Imm(4), low, low)
		}
		VPAND(m, low, low)
		VPBROADCASTD(d.at(104), high)
		words := make([]uint32, 8)
		for lane := range words {
			words[lane] = uint32(lane%4*8 + (8*i+lane)/4*2)
		}
		VMOVDQU(table(tableName("shifts", i), words), shifts)
		VPSRLVD(shifts, high, high)
		VPBROADCASTD(constant(3), m)
		VPAND(m, high, high)
		VPSLLD(Imm(4), high, high)
		VPOR(high, low, low)
		VPBROADCASTD(constant(32), m)
		VPSUBD(m, low, low)
		d.scales(32*i, low, scale)
		four := YMM()
		VBROADCASTSS(constant(floatBits(-4)), four)
		VMULPS(four, low, low)
		VMOVUPS(low, d.local.Offset(64+32*i))
	}
	for i := 0; i < 32; i += d.lanes {
		third := d.vec()
		VPMOVZXBD(d.at(i), third)
		for side := range 2 {
			q := d.vec()
			VPMOVZXBD(d.at(32+32*side+i), q)
			for quarter := range 4 {
				v, t := d.vec(), d.vec()
				if quarter > 0 {
					VPSRLD(Imm(2), q, q)
				}
				d.and(d.consts["3"], q, v)
				bit := 4*side + quarter // bit sub/2 of the third bits
				if bit < 2 {
					VPSLLD(Imm(uint64(2-bit)), third, t)
				} else {
					VPSRLD(Imm(uint64(bit-2)), third, t)
				}
				d.and(d.consts["4"], t, t)
				d.or(t, v, v)
				VCVTDQ2PS(v, v)
				sub := 8*side + 2*quarter + i/16
				VFMADD213PS(d.localScale(16+sub), d.localScale(sub), v)
				d.value(128*side+32*quarter+i, v)
			}
		}
	}
}
