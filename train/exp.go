package train

import "math"

// exp is e^x: for float32 within 2 units in the last place, saturating at
// +-87; for float64 the library's.
func exp[T number](x T) T {
	if _, ok := any(x).(float32); ok {
		return T(exp32(float32(x)))
	}
	return T(math.Exp(float64(x)))
}

// exp32 splits x into n ln 2 + r and takes a polynomial in r (Cephes expf).
func exp32(x float32) float32 {
	if x < -87 {
		x = -87
	} else if x > 88 {
		x = 88
	}
	const round = 1.5 * (1 << 23) // adding it rounds to an integer
	n := x*1.44269504 + round
	bits := int32(math.Float32bits(n)) << 23
	n -= round
	r := x - n*0.693359375 + n*2.12194440e-4
	p := ((((1.9875691500e-4*r+1.3981999507e-3)*r+8.3334519073e-3)*r+4.1665795894e-2)*r+1.6666665459e-1)*r + 5.0000001201e-1
	y := p*r*r + r + 1
	return math.Float32frombits(uint32(int32(math.Float32bits(y)) + bits))
}
