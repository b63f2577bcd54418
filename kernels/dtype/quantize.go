package dtype

import (
	"encoding/binary"
	"fmt"
	"math"
)

// QuantizeQ8_0 rounds src to Q8_0 blocks: scale = largest magnitude / 127, the
// same bytes as the Python gguf package's quantize. It is an error when src is
// not a whole number of blocks, dst does not fit it exactly, or a value is NaN
// or beyond what the block's float16 scale can hold.
func QuantizeQ8_0(dst []byte, src []float32) error {
	return quantize(Q8_0, dst, src, func(b []byte, x []float32, peak float32) float32 {
		d := float32(math.Abs(float64(peak))) / 127
		inverse := reciprocal(d)
		for i, v := range x {
			b[2+i] = byte(int8(math.Round(float64(v * inverse))))
		}
		return d
	})
}

// QuantizeQ4_0 rounds src to Q4_0 blocks: scale = the value of largest
// magnitude / -8, the same bytes as the Python gguf package's quantize. Errors
// are QuantizeQ8_0's.
func QuantizeQ4_0(dst []byte, src []float32) error {
	return quantize(Q4_0, dst, src, func(b []byte, x []float32, peak float32) float32 {
		d := peak / -8
		inverse := reciprocal(d)
		nibble := func(v float32) byte { return byte(min(15, float32(v*inverse)+8.5)) }
		for i := range 16 {
			b[2+i] = nibble(x[i]) | nibble(x[i+16])<<4
		}
		return d
	})
}

// quantize runs one block encoder, which fills everything but the scale and
// returns that, over all of src. peak is the first value of the largest
// magnitude.
func quantize(t Type, dst []byte, src []float32, block func(b []byte, x []float32, peak float32) float32) error {
	want, err := t.Bytes(len(src))
	if err != nil {
		return err
	}
	if len(dst) != want {
		return fmt.Errorf("%d %v values take %d bytes, the destination has %d", len(src), t, want, len(dst))
	}
	n, size := t.BlockLen(), t.BlockBytes()
	for at := 0; at < len(src); at += n {
		x, b := src[at:at+n], dst[at/n*size:][:size]
		var peak float32
		for i, v := range x {
			if v != v {
				return fmt.Errorf("value %d is NaN: %v cannot hold it", at+i, t)
			}
			if math.Abs(float64(v)) > math.Abs(float64(peak)) {
				peak = v
			}
		}
		scale := F16FromF32(block(b, x, peak))
		if scale&0x7fff == 0x7c00 {
			return fmt.Errorf("values %d to %d reach %g: too large for a %v block", at, at+n-1, peak, t)
		}
		binary.LittleEndian.PutUint16(b, scale)
	}
	return nil
}

// reciprocal is 1/d, or 0 where that overflows: such a scale is 0 as a float16.
func reciprocal(d float32) float32 {
	r := 1 / d
	if math.IsInf(float64(r), 0) {
		return 0
	}
	return r
}
