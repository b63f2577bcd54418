package dtype

import "math"

// F32FromBF16 widens a brain float. It is exact.
func F32FromBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// BF16FromF32 rounds to the nearest brain float, ties to even. What is too
// large becomes infinite; a NaN stays a (quiet) NaN.
func BF16FromF32(x float32) uint16 {
	b := math.Float32bits(x)
	if b&0x7fffffff > 0x7f800000 { // NaN: rounding could carry it into infinity
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// F32FromF16 widens an IEEE half float. It is exact.
func F32FromF16(h uint16) float32 {
	const (
		rebias   = (127 - 15) << 23
		expMask  = 0x1f << 23
		smallest = 113 << 23 // 2^-14, the exponent under which halves are subnormal
	)
	sign := uint32(h>>15) << 31
	b := uint32(h&0x7fff) << 13
	switch exp := b & (0x1f << 23); exp {
	case expMask: // infinity, NaN
		b += rebias + (128-16)<<23
	case 0: // zero, subnormal: let the FPU normalise it
		b += rebias + 1<<23
		b = math.Float32bits(math.Float32frombits(b) - math.Float32frombits(smallest))
	default:
		b += rebias
	}
	return math.Float32frombits(sign | b)
}

// F16FromF32 rounds to the nearest IEEE half float, ties to even. What is too
// large becomes infinite; a NaN stays a (quiet) NaN.
func F16FromF32(x float32) uint16 {
	b := math.Float32bits(x)
	sign := uint16(b >> 16 & 0x8000)
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00 | uint16(b>>13&0x1ff)
	case b >= 0x47800000: // 2^16 and more
		return sign | 0x7c00
	case b < 0x38800000: // under 2^-14: adding 1/2 shifts the last bit kept to float32's last bit
		sum := math.Float32bits(math.Float32frombits(b) + 0.5)
		return sign | uint16(sum-0x3f000000)
	}
	b += 0xfff + b>>13&1
	return sign | uint16((b-(127-15)<<23)>>13)
}

// F32FromBF16s widens all of src into dst, which must be as long.
func F32FromBF16s(dst []float32, src []uint16) {
	mustMatch(len(dst), len(src))
	for i, h := range src {
		dst[i] = math.Float32frombits(uint32(h) << 16)
	}
}

// BF16FromF32s rounds all of src into dst, which must be as long.
func BF16FromF32s(dst []uint16, src []float32) {
	mustMatch(len(dst), len(src))
	for i, x := range src {
		dst[i] = BF16FromF32(x)
	}
}

// F32FromF16s widens all of src into dst, which must be as long.
func F32FromF16s(dst []float32, src []uint16) {
	mustMatch(len(dst), len(src))
	for i, h := range src {
		dst[i] = F32FromF16(h)
	}
}

// F16FromF32s rounds all of src into dst, which must be as long.
func F16FromF32s(dst []uint16, src []float32) {
	mustMatch(len(dst), len(src))
	for i, x := range src {
		dst[i] = F16FromF32(x)
	}
}

func mustMatch(dst, src int) {
	if dst != src {
		panic("dtype: destination and source differ in length")
	}
}
