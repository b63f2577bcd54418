// Package kerneltest is the suite that every device passes: each operation
// against the reference device, with odd sizes, ties and extremes.
package kerneltest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// Tolerance is how far a device's results may be from the reference's, as a
// share of the largest magnitude of the result.
type Tolerance struct {
	Dense     float64 // token-wise operations
	Attention float64
	Scores    float64 // float scores of tokens
	// Weights is the rounding of matrices on the device, e.g. to bf16.
	Weights float64
	// Bits is the share of code bits, and of query weights, that may be off by
	// one because a value lay at the threshold.
	Bits float64
}

// Run runs the suite on devices that open makes.
func Run(t *testing.T, open func(t testing.TB) kernels.Device, tol Tolerance) {
	suite := []struct {
		name string
		run  func(s *suite)
	}{
		{"memory", testMemory},
		{"embed", testEmbed},
		{"linear", testLinear},
		{"rmsnorm", testRMSNorm},
		{"gate", testGate},
		{"rope", testRope},
		{"sampling", testSampling},
		{"append", testAppend},
		{"attend", testAttend},
		{"attendselected", testAttendSelected},
		{"encode", testEncode},
		{"together", testTogether},
		{"scanhash", testScanHash},
		{"scans", testScans},
		{"index", testIndex},
		{"groupmass", testGroupMass},
		{"topk", testTopK},
		{"topkproperty", testTopKProperty},
		{"rerank", testRerank},
		{"attendhash", testAttendHash},
		{"uneven", testUneven},
	}
	for _, part := range suite {
		t.Run(part.name, func(t *testing.T) {
			d := open(t)
			t.Cleanup(func() {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
			s := newSuite(t, d, tol)
			part.run(s)
			if err := d.Synchronize(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// suite is the device under test beside the reference.
type suite struct {
	*testing.T
	tol  Tolerance
	want *kernels.Reference
	got  kernels.Device
	rand *rand.Rand
}

func newSuite(t *testing.T, d kernels.Device, tol Tolerance) *suite {
	return &suite{t, tol, kernels.NewReference(), d, rand.New(rand.NewPCG(7, 11))}
}

// with is the suite reporting to a subtest.
func (s *suite) sub(name string, f func(s *suite)) {
	s.Run(name, func(t *testing.T) {
		c := *s
		c.T = t
		f(&c)
	})
}

// pair is the same tensor on the reference and on the device.
type pair struct{ want, got kernels.Tensor }

// alloc makes a zeroed pair.
func (s *suite) alloc(t dtype.Type, shape ...int) pair {
	s.Helper()
	want, err := s.want.Alloc(t, shape...)
	if err != nil {
		s.Fatal(err)
	}
	got, err := s.got.Alloc(t, shape...)
	if err != nil {
		s.Fatal(err)
	}
	return pair{want, got}
}

// send copies the reference's side to the device.
func (s *suite) send(p pair) pair {
	s.Helper()
	if err := s.got.Upload(p.got, p.want.Bytes()); err != nil {
		s.Fatal(err)
	}
	return p
}

// receive is the device's side as host memory.
func (s *suite) receive(p pair) kernels.Tensor {
	s.Helper()
	t := kernels.Tensor{Type: p.want.Type, Shape: p.want.Shape, Memory: kernels.NewHostMemory(len(p.want.Bytes()))}
	if err := s.got.Download(t.Bytes(), p.got); err != nil {
		s.Fatal(err)
	}
	return t
}

// normal is a pair of normal values.
func (s *suite) normal(shape ...int) pair { return s.scaled(1, shape...) }

func (s *suite) scaled(deviation float64, shape ...int) pair {
	s.Helper()
	p := s.alloc(dtype.F32, shape...)
	x := p.want.F32()
	for i := range x {
		x[i] = float32(s.rand.NormFloat64() * deviation)
	}
	return s.send(p)
}

// ints is a pair of integers below n.
func (s *suite) ints(n int, shape ...int) pair {
	s.Helper()
	p := s.alloc(dtype.I32, shape...)
	x := p.want.I32()
	for i := range x {
		x[i] = int32(s.rand.IntN(n))
	}
	return s.send(p)
}

// poison fills a pair's device side, so that what an operation leaves out shows.
func (s *suite) poison(p pair) pair {
	s.Helper()
	b := bytes.Repeat([]byte{0xff}, len(p.want.Bytes())) // NaN, or -1
	if err := s.got.Upload(p.got, b); err != nil {
		s.Fatal(err)
	}
	return p
}

// near compares float tensors; the tolerance is relative to the largest value.
func (s *suite) near(what string, p pair, tolerance float64) {
	s.Helper()
	s.nearScale(what, p, tolerance, 0)
}

// nearScale is near with a least scale, for results in which larger terms may
// have cancelled.
func (s *suite) nearScale(what string, p pair, tolerance, scale float64) {
	s.Helper()
	want, got := floats(p.want), floats(s.receive(p))
	for _, v := range want {
		if a := math.Abs(float64(v)); !math.IsInf(a, 0) {
			scale = math.Max(scale, a)
		}
	}
	worst, at := 0.0, -1
	for i := range want {
		if want[i] == got[i] || want[i] != want[i] && got[i] != got[i] {
			continue
		}
		if e := math.Abs(float64(want[i]) - float64(got[i])); !(e <= worst) {
			worst, at = e, i
		}
	}
	if !(worst <= tolerance*scale) {
		s.Fatalf("%s: element %d is %v, want %v; allowed difference %g", what, at, got[at], want[at], tolerance*scale)
	}
}

// floats gives the values of an F32 or BF16 tensor.
func floats(t kernels.Tensor) []float32 {
	if t.Type != dtype.BF16 {
		return t.F32()
	}
	v := make([]float32, t.Len())
	dtype.F32FromBF16s(v, t.BF16())
	return v
}

// equal compares tensors bit by bit.
func (s *suite) equal(what string, p pair) {
	s.Helper()
	want, got := p.want.Bytes(), s.receive(p).Bytes()
	if bytes.Equal(want, got) {
		return
	}
	size := p.want.Type.BlockBytes()
	for i := 0; i < len(want); i += size {
		if !bytes.Equal(want[i:i+size], got[i:i+size]) {
			s.Fatalf("%s: element %d of %v is %#x, want %#x", what, i/size, p.want.Shape, got[i:i+size], want[i:i+size])
		}
	}
}

// sequence is a cache, and what a selector keeps, on both devices.
type sequence struct {
	want, got kernels.Segment
}

// cache makes a sequence of one layer with n tokens cached.
func (s *suite) cache(kvHeads, headDim, n int, t dtype.Type) sequence {
	s.Helper()
	spec := kernels.CacheSpec{Layers: 1, KVHeads: kvHeads, HeadDim: headDim, Capacity: n + s.rand.IntN(9), Type: t}
	want, err := s.want.NewCache(spec)
	if err != nil {
		s.Fatal(err)
	}
	got, err := s.got.NewCache(spec)
	if err != nil {
		s.Fatal(err)
	}
	for _, side := range []pair{{want.K[0], got.K[0]}, {want.V[0], got.V[0]}} {
		fill(s.rand, side.want)
		s.send(side)
	}
	return sequence{kernels.Segment{Cache: want, Index: &kernels.Index{Layers: make([][]kernels.Tensor, 1)}},
		kernels.Segment{Cache: got, Index: &kernels.Index{Layers: make([][]kernels.Tensor, 1)}}}
}

func fill(r *rand.Rand, t kernels.Tensor) {
	b := t.Bytes()
	for i := range t.Len() {
		v := float32(r.NormFloat64())
		switch t.Type {
		case dtype.F32:
			binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v))
		case dtype.BF16:
			binary.LittleEndian.PutUint16(b[2*i:], dtype.BF16FromF32(v))
		}
	}
}

// index gives the sequence an index of the pairs.
func (q *sequence) index(tensors ...pair) {
	for _, p := range tensors {
		q.want.Index.Layers[0] = append(q.want.Index.Layers[0], p.want)
		q.got.Index.Layers[0] = append(q.got.Index.Layers[0], p.got)
	}
}

// tokens sets the segment.
func (q *sequence) tokens(start, n int) {
	q.want.Start, q.want.Len = start, n
	q.got.Start, q.got.Len = start, n
}

// batch is the sequences' segments on both devices.
func (s *suite) batch(sequences ...sequence) (want, got *kernels.Batch) {
	s.Helper()
	var ws, gs []kernels.Segment
	for _, q := range sequences {
		ws, gs = append(ws, q.want), append(gs, q.got)
	}
	want, got = new(kernels.Batch), new(kernels.Batch)
	if err := s.want.SetBatch(want, ws); err != nil {
		s.Fatal(err)
	}
	if err := s.got.SetBatch(got, gs); err != nil {
		s.Fatal(err)
	}
	return want, got
}

// quick says to leave out the slow sizes.
func quick() bool { return raced || testing.Short() }

// none is the absent operand.
var none pair

func label(format string, args ...any) string { return fmt.Sprintf(format, args...) }
