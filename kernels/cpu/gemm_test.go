package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

func random(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// onEverySet runs a test on each kernel set of the machine.
func onEverySet(t *testing.T, f func(t *testing.T, set *kernelSet)) {
	for i, s := range sets {
		if raced && i > 0 { // the kernels differ, the goroutines do not
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			was := detected
			detected = func() (*kernelSet, error) { return s, nil }
			defer func() { detected = was }()
			f(t, s)
		})
	}
}

func TestSgemmEqualsGonum(t *testing.T) {
	onEverySet(t, func(t *testing.T, _ *kernelSet) {
		r := rand.New(rand.NewPCG(1, 2))
		sizes := []int{1, 2, 5, 8, 9, 13, 31, 33, 65, 130, 300}
		rounds := 150
		if raced {
			rounds = 20
		}
		for range rounds {
			m, n, k := sizes[r.IntN(len(sizes))], sizes[r.IntN(len(sizes))], sizes[r.IntN(len(sizes))]
			if r.IntN(20) == 0 {
				n = 600
			}
			for _, ta := range []blas.Transpose{blas.NoTrans, blas.Trans} {
				for _, tb := range []blas.Transpose{blas.NoTrans, blas.Trans} {
					lda, ldb, ldc := k+r.IntN(3), n+r.IntN(3), n+r.IntN(3)
					rowsA, rowsB := m, k
					if ta == blas.Trans {
						lda, rowsA = m+r.IntN(3), k
					}
					if tb == blas.Trans {
						ldb, rowsB = k+r.IntN(3), n
					}
					a, b, c := random(r, rowsA*lda), random(r, rowsB*ldb), random(r, m*ldc)
					alpha, beta := []float32{1, -0.5, 2}[r.IntN(3)], []float32{0, 1, 0.25}[r.IntN(3)]
					want := append([]float32(nil), c...)
					one := append([]float32(nil), c...)
					gonum.Implementation{}.Sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, want, ldc)
					BLAS{Threads: 3}.Sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
					BLAS{Threads: 1}.Sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, one, ldc)
					for i := range c {
						if !(math.Abs(float64(c[i]-want[i])) <= 1e-4*math.Sqrt(float64(k))) {
							t.Fatalf("[%d %d %d] %c%c alpha %v beta %v: element %d is %v, want %v", m, n, k, ta, tb, alpha, beta, i, c[i], want[i])
						}
						if c[i] != one[i] {
							t.Fatalf("[%d %d %d]: element %d is %v with 3 threads, %v with one", m, n, k, i, c[i], one[i])
						}
					}
				}
			}
		}
	})
}

func TestGemmWithoutReadingC(t *testing.T) {
	onEverySet(t, func(t *testing.T, _ *kernelSet) {
		for _, n := range []int{1, 7, 40, 513} {
			r := rand.New(rand.NewPCG(3, 4))
			c := make([]float32, n*n)
			for i := range c {
				c[i] = float32(math.NaN())
			}
			Gemm(2, 1, RowMajor(random(r, n*n), n, n), RowMajor(random(r, n*n), n, n).T(), 0, RowMajor(c, n, n))
			for i, v := range c {
				if v != v {
					t.Fatalf("size %d: element %d is NaN", n, i)
				}
			}
		}
	})
}

func TestGemmColumnMajorResult(t *testing.T) {
	a, b := []float32{1, 2, 3, 4, 5, 6}, []float32{1, 0, 2, 0, 1, 3}
	c := make([]float32, 4)
	Gemm(1, 1, RowMajor(a, 2, 3), RowMajor(b, 3, 2), 0, RowMajor(c, 2, 2).T())
	if want := []float32{8, 20, 9, 18}; fmt.Sprint(c) != fmt.Sprint(want) {
		t.Fatalf("got %v, want %v", c, want)
	}
}

func BenchmarkGemm(b *testing.B) {
	for _, s := range [][3]int{{512, 576, 1536}, {2048, 1536, 1536}, {128, 128, 32768}, {1, 576, 1536}, {4, 576, 1536}, {77, 130, 333}, {256, 128, 4096}, {256, 32, 4096}} {
		m, k, n := s[0], s[1], s[2]
		for _, trans := range []bool{false, true} {
			for _, threads := range []int{1, 2} {
				b.Run(fmt.Sprintf("%dx%dx%d/transB=%v/threads=%d", m, k, n, trans, threads), func(b *testing.B) {
					r := rand.New(rand.NewPCG(1, 2))
					x, y, c := RowMajor(random(r, m*k), m, k), RowMajor(random(r, k*n), k, n), RowMajor(make([]float32, m*n), m, n)
					if trans {
						y = RowMajor(y.Data, n, k).T()
					}
					b.ResetTimer()
					for range b.N {
						Gemm(threads, 1, x, y, 0, c)
					}
					b.ReportMetric(2*float64(m)*float64(n)*float64(k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				})
			}
		}
	}
}
