package train

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// In the new basis q.k is what it was, up to a constant of the query and the
// rounding of bfloat16, and the queries' second moment is the identity.
func TestQueryMetric(t *testing.T) {
	r := synthetic(t, 2, false, nil)
	m, err := FitQueryMetric(r, 8, 4)
	if err != nil {
		t.Fatal(err)
	}
	turned, err := m.Rewrite(r, filepath.Join(t.TempDir(), "turned"))
	if err != nil {
		t.Fatal(err)
	}
	defer turned.Close()
	d, group := tiny.HeadDim, tiny.Group()
	dot := func(a, b []uint16) (sum, size float64) {
		for i := range a {
			x := float64(dtype.F32FromBF16(a[i])) * float64(dtype.F32FromBF16(b[i]))
			sum += x
			size += math.Abs(x)
		}
		return sum, size
	}
	for i := range r.Shards {
		a, err := r.Document(i)
		if err != nil {
			t.Fatal(err)
		}
		b, err := turned.Document(i)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range r.Captured {
			x, _ := a.Layer(l)
			y, _ := b.Layer(l)
			for h := range tiny.QueryHeads {
				for row := 0; row < a.Queries; row += 97 {
					at := (h*a.Queries + row) * d
					key := func(k []uint16, p int) []uint16 { return k[(h/group*len(a.Tokens)+p)*d:][:d] }
					base, _ := dot(x.Q[at:at+d], key(x.K, 0))
					turnedBase, _ := dot(y.Q[at:at+d], key(y.K, 0))
					for p := 1; p < len(a.Tokens); p += 71 {
						want, _ := dot(x.Q[at:at+d], key(x.K, p))
						got, size := dot(y.Q[at:at+d], key(y.K, p))
						if diff := math.Abs((got - turnedBase) - (want - base)); !(diff <= 0.02*(size+1)) {
							t.Fatalf("layer %d head %d: difference of logits %v, want %v", l, h, got-turnedBase, want-base)
						}
					}
				}
			}
		}
	}
	if _, err := FitQueryMetric(r, 8, 3); err == nil {
		t.Error("3 parts of 16 dimensions are accepted")
	}
}

func TestDeal(t *testing.T) {
	order := deal([]float64{1, 2, 4, 8, 16, 32, 64, 128}, 2)
	seen, sums := map[int]bool{}, [2]int{}
	for i, from := range order {
		seen[from] = true
		sums[i/4] += from
	}
	if len(seen) != 8 || sums[0]-sums[1] > 1 || sums[1]-sums[0] > 1 {
		t.Errorf("order %v: exponents sum to %v", order, sums)
	}
}
