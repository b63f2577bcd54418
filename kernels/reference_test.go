package kernels_test

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// The reference is the specification, so these tests hold it against the
// formulas' own definitions, written another way.

func alloc(t *testing.T, kind dtype.Type, shape ...int) kernels.Tensor {
	t.Helper()
	x, err := kernels.NewReference().Alloc(kind, shape...)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// sequence is a cache of n random tokens with an index of one tensor.
func sequence(t *testing.T, d *kernels.Reference, kvHeads, headDim, n int, index ...kernels.Tensor) *kernels.Batch {
	t.Helper()
	c, err := d.NewCache(kernels.CacheSpec{Layers: 1, KVHeads: kvHeads, HeadDim: headDim, Capacity: n, Type: dtype.F32})
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(7, 7))
	for _, x := range [][]float32{c.K[0].F32(), c.V[0].F32()} {
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
	}
	c.Len = n
	var b kernels.Batch
	s := kernels.Segment{Cache: c, Index: &kernels.Index{Layers: [][]kernels.Tensor{index}}, Start: n - 1, Len: 1}
	if err := d.SetBatch(&b, []kernels.Segment{s}); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestHammingScoreIsBitsMinusTwiceTheDistance(t *testing.T) {
	d := kernels.NewReference()
	const n, r = 50, 96
	codes := alloc(t, dtype.U32, 1, n, 3)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range codes.U32() {
		codes.U32()[i] = rng.Uint32()
	}
	b := sequence(t, d, 1, 4, n, codes)
	query := [3]uint32{rng.Uint32(), rng.Uint32(), rng.Uint32()}
	weights := alloc(t, dtype.I8, 1, 1, r)
	for i := range r {
		weights.I8()[i] = int8(2*int(query[i/32]>>(i%32)&1) - 1)
	}
	scores := alloc(t, dtype.I32, 1, 1, n)
	d.ScanHash(scores, weights, 0, b)
	for p := range n {
		distance := 0
		for w := range 3 {
			distance += bits.OnesCount32(codes.U32()[p*3+w] ^ query[w])
		}
		if got, want := scores.I32()[p], int32(r-2*distance); got != want {
			t.Fatalf("token %d: score %d, want %d", p, got, want)
		}
	}
}

func TestGroupScoreIsTheSumOfItsMaps(t *testing.T) {
	d := kernels.NewReference()
	const n = 20
	codes := alloc(t, dtype.U32, 2, n, 1) // two KV heads
	rng := rand.New(rand.NewPCG(2, 1))
	for i := range codes.U32() {
		codes.U32()[i] = rng.Uint32()
	}
	b := sequence(t, d, 2, 4, n, codes)
	weights := alloc(t, dtype.I8, 1, 6, 32) // six query heads
	for i := range weights.I8() {
		weights.I8()[i] = int8(rng.IntN(15) - 7)
	}
	single, grouped := alloc(t, dtype.I32, 1, 6, n), alloc(t, dtype.I32, 1, 2, n)
	d.ScanHash(single, weights, 0, b)
	d.ScanHash(grouped, weights, 0, b)
	for g := range 2 {
		for p := range n {
			want := int32(0)
			for h := 3 * g; h < 3*g+3; h++ {
				want += single.I32()[h*n+p]
			}
			if got := grouped.I32()[g*n+p]; got != want {
				t.Fatalf("group %d token %d: %d, want %d", g, p, got, want)
			}
		}
	}
}

func TestQuantizeQuery(t *testing.T) {
	z := []float64{0, -1, 0.5, 3.5, -3.5, 1e-9}
	w := make([]int8, len(z))
	if scale := kernels.QuantizeQuery(w, z, 4); scale != 0.5 || !slices.Equal(w, []int8{0, -2, 1, 7, -7, 0}) {
		t.Errorf("4 bits: %v at %v", w, scale)
	}
	if scale := kernels.QuantizeQuery(w, z, 8); math.Abs(float64(scale)-3.5/127) > 1e-9 || !slices.Equal(w, []int8{0, -36, 18, 127, -127, 0}) {
		t.Errorf("8 bits: %v at %v", w, scale)
	}
	if scale := kernels.QuantizeQuery(w, z, 1); scale != 1 || !slices.Equal(w, []int8{-1, -1, 1, 1, -1, 1}) {
		t.Errorf("1 bit: %v at %v", w, scale)
	}
	if scale := kernels.QuantizeQuery(w, make([]float64, 6), 8); scale != 0 || !slices.Equal(w, make([]int8, 6)) {
		t.Errorf("zeros: %v at %v", w, scale)
	}
}

// TestFeedbackDecidesBlockByBlock works a code of two blocks by hand.
func TestFeedbackDecidesBlockByBlock(t *testing.T) {
	d := kernels.NewReference()
	p := kernels.Projection{
		Name: "key", Heads: 1, BlockBits: 2,
		Skip: &kernels.Affine{In: 2, Out: 4, Weight: []float32{1, 0, 0, 1, 0.5, 0, 0, 0.5}, Bias: make([]float32, 4)},
		Feedback: []float32{
			9, 9, 9, 9, // block 0 has no earlier bits: ignored
			9, 9, 9, 9,
			1, 2, 9, 9, // z2 += 1*b0 + 2*b1
			-1, 0, 9, 9, // z3 -= b0
		},
	}
	enc, err := d.LoadProjection(p)
	if err != nil {
		t.Fatal(err)
	}
	codes := alloc(t, dtype.U32, 1, 1, 1)
	b := sequence(t, d, 1, 2, 1, codes)
	for _, x := range []struct {
		key  [2]float32
		code uint32
	}{
		{[2]float32{1, -1}, 0b0001}, // b0=1, b1=-1: z2 = .5+1-2 < 0, z3 = -.5-1 < 0
		{[2]float32{-1, 1}, 0b1110}, // b0=-1, b1=1: z2 = -.5-1+2 > 0, z3 = .5+1 > 0
		{[2]float32{0, 0}, 0b1000},  // z = 0 is a 0 bit: b0=b1=-1: z2 = -3, z3 = 1
	} {
		copy(b.Segments[0].Cache.K[0].F32(), x.key[:])
		d.EncodeKeys(enc, 0, b)
		if got := codes.U32()[0]; got != x.code {
			t.Errorf("key %v: code %04b, want %04b", x.key, got, x.code)
		}
	}
}

func TestTopKTiesAndEdges(t *testing.T) {
	d := kernels.NewReference()
	const n = 12
	b := sequence(t, d, 1, 4, n)
	scores := alloc(t, dtype.F32, 1, 1, n)
	nan := float32(math.NaN())
	for _, x := range []struct {
		scores []float32
		s      kernels.Selection
		want   []int32
	}{
		{make([]float32, n), kernels.Selection{Heads: 1, Sink: 2, Local: 3, Budget: kernels.Budget{Count: 3}}, []int32{6, 7, 8}},
		{[]float32{9, 9, 1, 5, 5, 5, 0, 0, 0, 9, 9, 9}, kernels.Selection{Heads: 1, Sink: 2, Local: 3, Budget: kernels.Budget{Count: 2}}, []int32{4, 5}},
		{[]float32{0, 0, nan, 1, nan, -1, nan, nan, nan, 0, 0, 0}, kernels.Selection{Heads: 1, Sink: 2, Local: 3, Budget: kernels.Budget{Count: 3}}, []int32{3, 5, 8}},
		{make([]float32, n), kernels.Selection{Heads: 1, Sink: 8, Local: 8, Budget: kernels.Budget{Count: 3}}, nil},
		{make([]float32, n), kernels.Selection{Heads: 1, Sink: 5, Local: 5, Budget: kernels.Budget{Count: 9}}, []int32{5, 6}},
		{make([]float32, n), kernels.Selection{Heads: 1, Sink: 1, Local: 1, Budget: kernels.Budget{Num: 1, Den: 5}}, []int32{9, 10}},
	} {
		copy(scores.F32(), x.scores)
		k := max(len(x.want), 1)
		selected := alloc(t, dtype.I32, 1, 1, k+2)
		d.TopK(selected, scores, b, x.s)
		want := slices.Clone(x.want)
		for len(want) < k+2 {
			want = append(want, -1)
		}
		if !slices.Equal(selected.I32(), want) {
			t.Errorf("%+v: selected %v, want %v", x.s, selected.I32(), want)
		}
	}
}

func TestGroupMassSumsToTheGroup(t *testing.T) {
	d := kernels.NewReference()
	const n = 30
	b := sequence(t, d, 2, 4, n)
	scores, out := alloc(t, dtype.F32, 1, 6, n), alloc(t, dtype.F32, 1, 2, n)
	rng := rand.New(rand.NewPCG(3, 1))
	for i := range scores.F32() {
		scores.F32()[i] = float32(4 * rng.NormFloat64())
	}
	s := kernels.Selection{Heads: 2, Sink: 3, Local: 5}
	d.GroupMass(out, scores, kernels.Tensor{}, b, s)
	for g := range 2 {
		sum := 0.0
		for p := 3; p < n-5; p++ {
			sum += float64(out.F32()[g*n+p])
		}
		if math.Abs(sum-3) > 1e-5 {
			t.Errorf("group %d: masses sum to %v, want its 3 heads", g, sum)
		}
	}
}

// TestRerankOfEverythingIsExact: with all tokens as candidates, reranking per
// head keeps those of largest q.k, whatever the scores were.
func TestRerankOfEverythingIsExact(t *testing.T) {
	d := kernels.NewReference()
	const n, heads, dim = 40, 4, 8
	b := sequence(t, d, 2, dim, n)
	q := alloc(t, dtype.F32, 1, heads, dim)
	rng := rand.New(rand.NewPCG(4, 1))
	for i := range q.F32() {
		q.F32()[i] = float32(rng.NormFloat64())
	}
	s := kernels.Selection{Heads: heads, Sink: 2, Local: 3, Budget: kernels.Budget{Count: 5}}
	logits, want := alloc(t, dtype.F32, 1, heads, n), alloc(t, dtype.I32, 1, heads, 5)
	d.ScanDot(logits, q, 0, -1, b, 1)
	d.TopK(want, logits, b, s)
	s.Candidates = 100
	all, got := alloc(t, dtype.I32, 1, heads, n-5), alloc(t, dtype.I32, 1, heads, 5)
	d.TopK(all, alloc(t, dtype.F32, 1, heads, n), b, s)
	d.Rerank(got, all, q, 0, b, 1, s)
	if !slices.Equal(got.I32(), want.I32()) {
		t.Errorf("reranked %v, exact %v", got.I32(), want.I32())
	}
}

func TestHostileShapesAreErrors(t *testing.T) {
	d := kernels.NewReference()
	for _, shape := range [][]int{{1 << 40, 1 << 40}, {-1}, {1 << 50}} {
		if _, err := d.Alloc(dtype.F32, shape...); err == nil {
			t.Errorf("shape %v was allocated", shape)
		}
	}
	if _, err := d.LoadMatrix(kernels.Matrix{Name: "w", Type: dtype.Q4_K, Rows: 2, Cols: 100, Data: make([]byte, 288)}); err == nil {
		t.Error("a row of part of a block was loaded")
	}
	if _, err := d.LoadMatrix(kernels.Matrix{Name: "w", Type: dtype.F32, Rows: 2, Cols: 3, Data: make([]byte, 23)}); err == nil {
		t.Error("a truncated matrix was loaded")
	}
}
