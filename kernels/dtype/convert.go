package dtype

import (
	"encoding/binary"
	"fmt"
	"math"
)

// ToF32 converts the len(dst) values that src holds in format t. Quantised
// formats give the same bits as the Python gguf package's dequantize; 64-bit
// ones are rounded to the nearest float32; a Bool is 0 or 1. It is an error
// when src is not exactly as long as that many values, or t is unknown.
func ToF32(dst []float32, t Type, src []byte) error {
	want, err := t.Bytes(len(dst))
	if err != nil {
		return err
	}
	if len(src) != want {
		return fmt.Errorf("%d %v values take %d bytes, have %d", len(dst), t, want, len(src))
	}
	decoders[t](dst, src)
	return nil
}

// decoders hold one entry for each layout; lengths were checked by ToF32.
var decoders = map[Type]func(dst []float32, src []byte){
	F32: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	},
	F64: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	},
	F16: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = F32FromF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	},
	BF16: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = F32FromBF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	},
	I8: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(int8(src[i]))
		}
	},
	I16: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(int16(binary.LittleEndian.Uint16(src[2*i:])))
		}
	},
	I32: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(int32(binary.LittleEndian.Uint32(src[4*i:])))
		}
	},
	I64: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(int64(binary.LittleEndian.Uint64(src[8*i:])))
		}
	},
	U8: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(src[i])
		}
	},
	U16: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	},
	U32: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(binary.LittleEndian.Uint32(src[4*i:]))
		}
	},
	U64: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(binary.LittleEndian.Uint64(src[8*i:]))
		}
	},
	Bool: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = 0
			if src[i] != 0 {
				dst[i] = 1
			}
		}
	},
	Q4_0: blocks32(18, q4_0), Q4_1: blocks32(20, q4_1), Q5_0: blocks32(22, q5_0), Q5_1: blocks32(24, q5_1), Q8_0: blocks32(34, q8_0),
	Q2_K: blocks256(84, q2_K), Q3_K: blocks256(110, q3_K), Q4_K: blocks256(144, q4_K), Q5_K: blocks256(176, q5_K), Q6_K: blocks256(210, q6_K),
}

func blocks32(size int, decode func(y *[32]float32, b []byte)) func([]float32, []byte) {
	return func(dst []float32, src []byte) {
		for len(dst) > 0 {
			decode((*[32]float32)(dst), src[:size])
			dst, src = dst[32:], src[size:]
		}
	}
}

func blocks256(size int, decode func(y *[256]float32, b []byte)) func([]float32, []byte) {
	return func(dst []float32, src []byte) {
		for len(dst) > 0 {
			decode((*[256]float32)(dst), src[:size])
			dst, src = dst[256:], src[size:]
		}
	}
}
