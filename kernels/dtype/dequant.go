package dtype

import "encoding/binary"

// The block decoders below follow ggml-quants.c's dequantize_row functions.
// Each product is rounded before the offset is added (the float32 conversion
// forbids a fused multiply-add), so that all machines give the same bits.

// half reads the float16 scale at the start of b.
func half(b []byte) float32 { return F32FromF16(binary.LittleEndian.Uint16(b)) }

// q4_0: d, then 16 bytes: low nibbles are values 0..15, high ones 16..31; y = d*(q-8).
func q4_0(y *[32]float32, b []byte) {
	d, q := half(b), (*[16]byte)(b[2:])
	for i, v := range q {
		y[i] = d * float32(int(v&15)-8)
		y[i+16] = d * float32(int(v>>4)-8)
	}
}

// q4_1: d, m, nibbles as in q4_0; y = d*q + m.
func q4_1(y *[32]float32, b []byte) {
	d, m, q := half(b), half(b[2:]), (*[16]byte)(b[4:])
	for i, v := range q {
		y[i] = float32(d*float32(v&15)) + m
		y[i+16] = float32(d*float32(v>>4)) + m
	}
}

// q5_0: d, 32 fifth bits, nibbles; y = d*(q-16).
func q5_0(y *[32]float32, b []byte) {
	d, high, q := half(b), binary.LittleEndian.Uint32(b[2:]), (*[16]byte)(b[6:])
	for i, v := range q {
		y[i] = d * float32(int(v&15|byte(high>>i&1)<<4)-16)
		y[i+16] = d * float32(int(v>>4|byte(high>>(i+16)&1)<<4)-16)
	}
}

// q5_1: d, m, 32 fifth bits, nibbles; y = d*q + m.
func q5_1(y *[32]float32, b []byte) {
	d, m, high, q := half(b), half(b[2:]), binary.LittleEndian.Uint32(b[4:]), (*[16]byte)(b[8:])
	for i, v := range q {
		y[i] = float32(d*float32(v&15|byte(high>>i&1)<<4)) + m
		y[i+16] = float32(d*float32(v>>4|byte(high>>(i+16)&1)<<4)) + m
	}
}

// q8_0: d, 32 signed bytes; y = d*q.
func q8_0(y *[32]float32, b []byte) {
	d, q := half(b), (*[32]byte)(b[2:])
	for i, v := range q {
		y[i] = d * float32(int8(v))
	}
}

// q2_K: 16 bytes of scale (low nibble) and minimum (high) for 16 sub-blocks of
// 16, 64 bytes of 2-bit values, d, dmin; y = d*scale*q - dmin*minimum.
func q2_K(y *[256]float32, b []byte) {
	d, dmin := half(b[80:]), half(b[82:])
	for sub := range 16 {
		scale, minimum := d*float32(b[sub]&15), float32(dmin*float32(b[sub]>>4))
		q := b[16+sub/8*32+sub%2*16:][:16]
		shift := sub % 8 / 2 * 2
		out := y[sub*16:][:16]
		for i, v := range q {
			out[i] = float32(scale*float32(v>>shift&3)) - minimum
		}
	}
}

// q3_K: 32 bytes of third bits, 64 bytes of 2-bit values, 16 packed 6-bit
// scales, d; y = d*(scale-32)*q, q in -4..3 (a clear third bit subtracts 4).
func q3_K(y *[256]float32, b []byte) {
	d := half(b[108:])
	for sub := range 16 {
		low := b[96+sub%8] >> (sub / 8 * 4) & 15
		high := b[104+sub%4] >> (sub / 4 * 2) & 3
		scale := d * float32(int(low|high<<4)-32)
		third := b[sub%2*16:][:16]
		q := b[32+sub/8*32+sub%2*16:][:16]
		shift := sub % 8 / 2 * 2
		out := y[sub*16:][:16]
		for i, v := range q {
			out[i] = scale * float32(int(v>>shift&3|third[i]>>(sub/2)&1<<2)-4)
		}
	}
}

// scaleMin unpacks the 6-bit scale and minimum of sub-block j of 8, which
// q4_K and q5_K share (get_scale_min_k4).
func scaleMin(s []byte, j int) (scale, minimum byte) {
	if j < 4 {
		return s[j] & 63, s[j+4] & 63
	}
	return s[j+4]&15 | s[j-4]>>6<<4, s[j+4]>>4 | s[j]>>6<<4
}

// q4_K: d, dmin, 12 bytes of scales and minima of 8 sub-blocks of 32, 128
// bytes of nibbles; y = d*scale*q - dmin*minimum.
func q4_K(y *[256]float32, b []byte) {
	d, dmin := half(b), half(b[2:])
	for sub := range 8 {
		s, m := scaleMin(b[4:16], sub)
		scale, minimum := d*float32(s), float32(dmin*float32(m))
		q := b[16+sub/2*32:][:32]
		shift := sub % 2 * 4
		out := y[sub*32:][:32]
		for i, v := range q {
			out[i] = float32(scale*float32(v>>shift&15)) - minimum
		}
	}
}

// q5_K: like q4_K, with 32 bytes of fifth bits (bit sub of byte i) before the
// nibbles.
func q5_K(y *[256]float32, b []byte) {
	d, dmin := half(b), half(b[2:])
	fifth := b[16:48]
	for sub := range 8 {
		s, m := scaleMin(b[4:16], sub)
		scale, minimum := d*float32(s), float32(dmin*float32(m))
		q := b[48+sub/2*32:][:32]
		shift := sub % 2 * 4
		out := y[sub*32:][:32]
		for i, v := range q {
			out[i] = float32(scale*float32(v>>shift&15|fifth[i]>>sub&1<<4)) - minimum
		}
	}
}

// q6_K: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed
// scales, d; y = d*scale*(q-32).
func q6_K(y *[256]float32, b []byte) {
	d := half(b[208:])
	for sub := range 16 {
		scale := d * float32(int8(b[192+sub]))
		side, pos := sub/8, sub%8*16 // half of the block, first value within it
		low := b[side*64+pos%64:][:16]
		high := b[128+side*32+pos%32:][:16]
		lowShift, highShift := pos/64*4, pos/32*2
		out := y[sub*16:][:16]
		for i, v := range low {
			out[i] = scale * float32(int(v>>lowShift&15|high[i]>>highShift&3<<4)-32)
		}
	}
}
