package cpu

import (
	"fmt"
	"sync"
	"unsafe"
)

// Strided is a matrix of float32 in memory: element (i, j) is
// Data[i*RowStride + j*ColStride]. Swapping the dimensions transposes it.
type Strided struct {
	Data                 []float32
	Rows, Cols           int
	RowStride, ColStride int
}

// RowMajor is data as a matrix of contiguous rows.
func RowMajor(data []float32, rows, cols int) Strided { return Strided{data, rows, cols, cols, 1} }

// T is the transposed matrix, sharing memory.
func (s Strided) T() Strided { return Strided{s.Data, s.Cols, s.Rows, s.ColStride, s.RowStride} }

func (s Strided) at(i, j int) *float32 { return &s.Data[i*s.RowStride+j*s.ColStride] }

func (s Strided) check(name string) {
	if s.Rows > 0 && s.Cols > 0 && (s.RowStride < 0 || s.ColStride < 0 || (s.Rows-1)*s.RowStride+(s.Cols-1)*s.ColStride >= len(s.Data)) {
		panic(fmt.Sprintf("cpu: %s [%d %d] with strides %d, %d reaches beyond its %d values", name, s.Rows, s.Cols, s.RowStride, s.ColStride, len(s.Data)))
	}
}

const (
	gemmDepth = 256 // k taken at once: a tile's part of A stays in the first-level cache
	gemmWidth = 512 // columns of B packed at once: they stay in the second-level cache
)

// Gemm sets c = alpha*a*b + beta*c on up to threads threads; with beta 0, c is
// not read. Rows or columns of c must be contiguous. The result does not
// depend on threads. Gemm may run in several goroutines at once.
func Gemm(threads int, alpha float32, a, b Strided, beta float32, c Strided) {
	a.check("A")
	b.check("B")
	c.check("C")
	if a.Cols != b.Rows || a.Rows != c.Rows || b.Cols != c.Cols {
		panic(fmt.Sprintf("cpu: product of [%d %d] and [%d %d] to [%d %d]", a.Rows, a.Cols, b.Rows, b.Cols, c.Rows, c.Cols))
	}
	if c.ColStride != 1 && c.Cols > 1 {
		if c.RowStride != 1 {
			panic("cpu: neither rows nor columns of C are contiguous")
		}
		a, b, c = b.T(), a.T(), c.T()
	}
	if c.Rows == 0 || c.Cols == 0 {
		return
	}
	set := defaultSet()
	if alpha == 0 || a.Cols == 0 {
		for i := range c.Rows {
			scaleRow(c.Data[i*c.RowStride:][:c.Cols], beta)
		}
		return
	}
	g := gemm{set, alpha, a, b, beta, c}
	few := g.few()
	unit, length := set.tileCols, c.Cols
	byRows := c.Rows > c.Cols
	if byRows {
		unit, length = set.tileRows, c.Rows
	}
	if work := int64(c.Rows) * int64(c.Cols) * int64(a.Cols); work < 1<<17 {
		threads = 1 // not worth a goroutine
	}
	units := (length + unit - 1) / unit
	threads = max(1, min(threads, units))
	part := func(t int) {
		lo, hi := min(length, t*units/threads*unit), min(length, (t+1)*units/threads*unit)
		p := g
		if byRows {
			p.a.Data, p.c.Data = p.a.Data[lo*a.RowStride:], p.c.Data[lo*c.RowStride:]
			p.a.Rows, p.c.Rows = hi-lo, hi-lo
		} else {
			p.b.Data, p.c.Data = p.b.Data[lo*b.ColStride:], p.c.Data[lo:]
			p.b.Cols, p.c.Cols = hi-lo, hi-lo
		}
		s := gemmScratch.Get().(*gemmBuffers)
		defer gemmScratch.Put(s)
		if few {
			p.runFew(s)
		} else {
			p.run(s)
		}
	}
	var wg sync.WaitGroup
	for t := 1; t < threads; t++ {
		wg.Go(func() { part(t) })
	}
	part(0)
	wg.Wait()
}

func scaleRow(row []float32, beta float32) {
	if beta == 0 {
		clear(row)
		return
	}
	for j := range row {
		row[j] *= beta
	}
}

// gemm is one product, or a thread's part of one.
type gemm struct {
	set   *kernelSet
	alpha float32
	a, b  Strided
	beta  float32
	c     Strided
}

type gemmBuffers struct{ a, b, c []float32 }

var gemmScratch = sync.Pool{New: func() any { return new(gemmBuffers) }}

// grow makes *s at least n long, with a cache line to spare and a start on a
// cache line. Contents are lost.
func grow(s *[]float32, n int) []float32 {
	if cap(*s) < n {
		raw := make([]float32, n+32)
		skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(raw)))&63) / 4
		*s = raw[skip : skip+n]
	}
	*s = (*s)[:cap(*s)]
	return *s
}

// run packs B block by block and multiplies it with tiles of A.
func (g gemm) run(s *gemmBuffers) {
	k, mr, nr := g.set, g.set.tileRows, g.set.tileCols
	m, n, depth := g.c.Rows, g.c.Cols, g.a.Cols
	kcMax := min(gemmDepth, depth)
	strideA := kcMax + 16 // keeps rows out of each other's cache sets
	bufA := grow(&s.a, mr*strideA+16)
	bufB := grow(&s.b, kcMax*(min(gemmWidth, n)+nr))
	bufC := grow(&s.c, mr*nr)
	for j0 := 0; j0 < n; j0 += gemmWidth {
		width := min(gemmWidth, n-j0)
		for k0 := 0; k0 < depth; k0 += gemmDepth {
			kc := min(gemmDepth, depth-k0)
			for j := 0; j < width; j += nr {
				g.packB(bufB[j*kc:], k0, kc, j0+j, min(nr, width-j))
			}
			add := 1
			if k0 == 0 && g.beta == 0 {
				add = 0
			} else if k0 == 0 && g.beta != 1 {
				for i := range m {
					scaleRow(g.c.Data[i*g.c.RowStride+j0:][:width], g.beta)
				}
			}
			for i := 0; i < m; i += mr {
				rows := min(mr, m-i)
				rs, ks := g.loadA(bufA, i, rows, k0, kc, strideA)
				for j := 0; j < width; j += nr {
					cols := min(nr, width-j)
					c := g.c.at(i, j0+j)
					if rows == mr && cols == nr {
						k.tile(kc, &bufA[0], rs, ks, &bufB[j*kc], c, g.c.RowStride, add)
						continue
					}
					k.tile(kc, &bufA[0], rs, ks, &bufB[j*kc], &bufC[0], nr, 0)
					for r := range rows {
						out := g.c.Data[(i+r)*g.c.RowStride+j0+j:][:cols]
						for x, v := range bufC[r*nr:][:cols] {
							if add != 0 {
								v += out[x]
							}
							out[x] = v
						}
					}
				}
			}
		}
	}
}

// loadA copies rows of A times alpha to dst, in the orientation that is
// cheapest, and gives dst's strides. Rows behind the last are zero.
func (g gemm) loadA(dst []float32, i0, rows, k0, kc, stride int) (rs, ks int) {
	mr := g.set.tileRows
	if g.a.RowStride == 1 && g.a.ColStride != 1 {
		for k := range kc {
			row := dst[k*mr : (k+1)*mr]
			copy(row, g.a.Data[i0+(k0+k)*g.a.ColStride:][:rows])
			clear(row[rows:])
		}
		if g.alpha != 1 {
			scaleRow(dst[:kc*mr], g.alpha)
		}
		return 1, mr
	}
	for r := range mr {
		row := dst[r*stride:][:kc]
		switch {
		case r >= rows:
			clear(row)
		case g.a.ColStride == 1:
			copy(row, g.a.Data[(i0+r)*g.a.RowStride+k0:][:kc])
		default:
			for k := range row {
				row[k] = *g.a.at(i0+r, k0+k)
			}
		}
		if r < rows && g.alpha != 1 {
			scaleRow(row, g.alpha)
		}
	}
	return stride, 1
}

// packB copies cols columns of B, kc deep, to a panel of tileCols columns; those
// behind the last are zero.
func (g gemm) packB(dst []float32, k0, kc, j0, cols int) {
	nr := g.set.tileCols
	switch {
	case g.b.ColStride == 1:
		for k := range kc {
			row := dst[k*nr:][:nr]
			copy(row, g.b.Data[(k0+k)*g.b.RowStride+j0:][:cols])
			clear(row[cols:])
		}
	case g.b.RowStride == 1:
		packColumns(g.set, dst, g.b.Data[j0*g.b.ColStride+k0:], g.b.ColStride, cols, kc)
	default:
		for k := range kc {
			row := dst[k*nr:][:nr]
			for j := range cols {
				row[j] = *g.b.at(k0+k, j0+j)
			}
			clear(row[cols:])
		}
	}
}

// packColumns packs contiguous columns of kc values, stride apart, to a panel.
func packColumns(k *kernelSet, dst, src []float32, stride, cols, kc int) {
	nr, square := k.tileCols, k.lanes
	kept := 0
	if kc >= square {
		kept = kc / square * square
	}
	for j := 0; j < nr; j += square {
		if j+square <= cols {
			for x := 0; x < kept; x += square {
				k.transpose(&dst[x*nr+j], nr, &src[j*stride+x], stride)
			}
			for x := kept; x < kc; x++ {
				for c := j; c < j+square; c++ {
					dst[x*nr+c] = src[c*stride+x]
				}
			}
			continue
		}
		for x := range kc {
			row := dst[x*nr+j:][:square]
			clear(row)
			for c := j; c < cols; c++ {
				row[c-j] = src[c*stride+x]
			}
		}
	}
}

// few says whether A has so few rows that packing B would cost more than the
// product: then B is read once, as it lies.
func (g gemm) few() bool {
	return g.c.Rows <= 8 && g.a.ColStride == 1 && (g.b.RowStride == 1 || g.b.ColStride == 1)
}

func (g gemm) runFew(s *gemmBuffers) {
	for i0 := 0; i0 < g.c.Rows; i0 += 4 {
		rows := min(4, g.c.Rows-i0)
		if g.b.RowStride == 1 {
			g.dotRows(s, i0, rows)
		} else {
			g.mixRows(s, i0, rows)
		}
	}
}

// dotRows sets rows of C to dot products with B's contiguous columns.
func (g gemm) dotRows(s *gemmBuffers, i0, rows int) {
	const block = 64
	k, depth := g.set, g.a.Cols
	whole := depth / k.lanes * k.lanes
	out := grow(&s.c, 4*block)
	a := g.a.Data[i0*g.a.RowStride:]
	for j := 0; j < g.c.Cols; j += block {
		n := min(block, g.c.Cols-j)
		clear(out[:4*block])
		if whole > 0 {
			k.dotF32[rows-1](whole, n, 0, (*byte)(unsafe.Pointer(g.b.at(0, j))), g.b.ColStride, &a[0], g.a.RowStride, &out[0], block)
		}
		for r := range rows {
			tail := a[r*g.a.RowStride:][whole:depth]
			c := g.c.Data[(i0+r)*g.c.RowStride+j:][:n]
			for x := range c {
				v := out[r*block+x]
				if len(tail) > 0 {
					column := g.b.Data[(j+x)*g.b.ColStride+whole:]
					for y, w := range tail {
						v += w * column[y]
					}
				}
				v *= g.alpha
				if g.beta != 0 {
					v += g.beta * c[x]
				}
				c[x] = v
			}
		}
	}
}

// mixRows adds B's contiguous rows, weighted, to rows of C.
func (g gemm) mixRows(s *gemmBuffers, i0, rows int) {
	k, n, depth := g.set, g.c.Cols, g.a.Cols
	a := grow(&s.a, 4*depth)
	for r := range rows {
		copy(a[r*depth:][:depth], g.a.Data[(i0+r)*g.a.RowStride:])
		if g.alpha != 1 {
			scaleRow(a[r*depth:][:depth], g.alpha)
		}
		if g.beta != 1 {
			scaleRow(g.c.Data[(i0+r)*g.c.RowStride:][:n], g.beta)
		}
	}
	whole := n / k.lanes * k.lanes
	if whole > 0 {
		k.mixF32[rows-1](whole, depth, (*byte)(unsafe.Pointer(&g.b.Data[0])), g.b.RowStride, &a[0], depth, g.c.at(i0, 0), g.c.RowStride)
	}
	for r := range rows {
		c := g.c.Data[(i0+r)*g.c.RowStride:]
		for j := whole; j < n; j++ {
			v := float32(0)
			for x, w := range a[r*depth:][:depth] {
				v += w * *g.b.at(x, j)
			}
			c[j] += v
		}
	}
}
