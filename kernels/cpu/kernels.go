package cpu

import (
	"fmt"
	"os"
	"sync"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// kernelSet is the kernels of one instruction set. Counts that a kernel takes
// are multiples of lanes unless it says otherwise; strides are in elements.
type kernelSet struct {
	name     string
	lanes    int // float32 values in a register, and the side of transpose's square
	tileRows int // of tile
	tileCols int
	keys     int // dot rounds its rows up to a multiple

	tile      func(kc int, a *float32, rs, ks int, b, c *float32, ldc, add int)
	transpose func(dst *float32, ldd int, src *float32, lds int)

	// by number of queries, less one
	dotF32, dotBF16 [4]func(width, rows, ahead int, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int)
	mixF32, mixBF16 [4]func(width, rows int, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int)
	// the same on the rows that a list names
	dotAtF32, dotAtBF16 [4]func(width, rows, listed int, at *int32, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int)
	mixAtF32, mixAtBF16 [4]func(width, rows, listed int, at *int32, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int)
	// a matrix, interleaved by keys rows and lanes columns, times one vector
	projectF32, projectBF16 func(rows, width int, w *byte, x, y *float32)
	ask                     func(rows int, at *int32, base *byte, stride int)

	maximum        func(n int, x *float32) float32
	expSum         func(n int, x *float32, scale, shift float32) float32
	softmaxColumns func(rows int, x *float32, scale float32, top, sum, shrink *float32) // tileCols columns
	scaleColumns   func(rows int, x, factor *float32)                                   // tileCols columns
	gate           func(n int, out, x, up *float32, a, b float32)
	scaleBy        func(n int, out, x, gain *float32, scale float32)
	addTo          func(n int, x, y *float32)
	widen          func(n int, dst *float32, src *uint16)
	readAll        func(n int, p *byte) uint64

	toFloat func(n int, dst *float32, src *int32)
	// counts of scan are multiples of scanUnit, of cut of cutUnit; scan is nil
	// where Go looks the codes up
	scanUnit, cutUnit    int
	scanNarrow, scanWide func(n int, codes *uint32, tables *byte, bias int32, scores *int32, add int)
	// scanCut is scan and cut at once; nil where there is no such kernel
	scanCutNarrow, scanCutWide func(n int, codes *uint32, tables *byte, bias, threshold int32, first int, positions, kept *int32) int
	reach                      func(n int, keys *int32, threshold int32) int
	choose                     func(n int, keys *int32, threshold int32, positions *int32) int
	cutI32                     func(n int, scores *int32, threshold int32, first int, positions, kept *int32) int
	cutF32                     func(n int, scores *float32, threshold float32, first int, positions *int32, kept *float32) int

	formats map[dtype.Type]formatKernels
}

// formatKernels are the kernels of a weight format, by runs of length values.
type formatKernels struct {
	length  int
	dequant func(runs int, w *byte, dst *float32)
	product func(rows, runs int, w *byte, x, y *float32)
}

// sets are the kernel sets that this processor runs, best first; the last is
// portable.
var sets = append(machineSets(), portable())

// detected picks the kernels, once.
var detected = sync.OnceValues(func() (*kernelSet, error) { return pick(os.Getenv("HASHATTN_CPU")) })

func pick(name string) (*kernelSet, error) {
	if name == "" {
		return sets[0], nil
	}
	var names []string
	for _, s := range sets {
		if s.name == name {
			return s, nil
		}
		names = append(names, s.name)
	}
	return nil, fmt.Errorf("HASHATTN_CPU=%s: this processor runs %v", name, names)
}

// defaultSet is for functions that cannot fail: a bad HASHATTN_CPU panics.
func defaultSet() *kernelSet {
	s, err := detected()
	if err != nil {
		panic(err)
	}
	return s
}
