package cpu

import (
	"runtime"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// BLAS is gonum's BLAS with the single-precision matrix product of this
// package, for gorgonia.Use and tensor.Use.
type BLAS struct {
	gonum.Implementation
	// Threads is how many one product may use; below 1 all processors.
	Threads int
}

// Sgemm implements blas.Float32Level3: c = alpha*op(a)*op(b) + beta*c, op(a)
// [m, k], op(b) [k, n].
func (b BLAS) Sgemm(transA, transB blas.Transpose, m, n, k int, alpha float32, a []float32, lda int, bs []float32, ldb int, beta float32, c []float32, ldc int) {
	threads := b.Threads
	if threads < 1 {
		threads = runtime.GOMAXPROCS(0)
	}
	left := Strided{a, m, k, lda, 1}
	if transA != blas.NoTrans {
		left = Strided{a, m, k, 1, lda}
	}
	right := Strided{bs, k, n, ldb, 1}
	if transB != blas.NoTrans {
		right = Strided{bs, k, n, 1, ldb}
	}
	Gemm(threads, alpha, left, right, beta, Strided{c, m, n, ldc, 1})
}

// Sgemv implements blas.Float32Level2: y = alpha*op(a)*x + beta*y.
func (b BLAS) Sgemv(trans blas.Transpose, m, n int, alpha float32, a []float32, lda int, x []float32, incX int, beta float32, y []float32, incY int) {
	if incX != 1 || incY != 1 || m == 0 || n == 0 {
		b.Implementation.Sgemv(trans, m, n, alpha, a, lda, x, incX, beta, y, incY)
		return
	}
	matrix := Strided{a, m, n, lda, 1}
	if trans != blas.NoTrans {
		matrix = matrix.T()
	}
	// y^T = x^T op(a)^T: few rows, read as they lie
	Gemm(1, alpha, Strided{x, 1, matrix.Cols, matrix.Cols, 1}, matrix.T(), beta, Strided{y, 1, matrix.Rows, matrix.Rows, 1})
}
