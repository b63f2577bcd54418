package cpu

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/hashattn/hashattn/kernels"
)

// BenchmarkKernels is the inner kernels on data in the first-level cache.
func BenchmarkKernels(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, k := range sets {
		x, y, z := random(r, 64*1024), random(r, 64*1024), make([]float32, 64*1024)
		rows := kernels.NewHostMemory(64 * 256)
		for i := range rows {
			rows[i] = byte(i) & 0x3f
		}
		codes := make([]uint32, 4096)
		for i := range codes {
			codes[i] = r.Uint32()
		}
		var table wordTable
		var weights [32]int32
		for i := range weights {
			weights[i] = int32(r.IntN(255) - 127)
		}
		table.build(&weights, k)
		ints, positions, kept := make([]int32, 4200), make([]int32, 4200), make([]int32, 4200)
		table.score(k, codes, ints, false)
		k0 := (*byte)(unsafe.Pointer(&rows[0]))
		for name, f := range map[string]func(){
			"dot4 64x128":    func() { k.dotBF16[3](128, 64, 0, k0, 128, &x[0], 128, &z[0], 64) },
			"dot1 64x128":    func() { k.dotBF16[0](128, 64, 0, k0, 128, &x[0], 128, &z[0], 64) },
			"mix4 64x128":    func() { k.mixBF16[3](128, 64, k0, 128, &x[0], 64, &z[0], 128) },
			"mix1 64x128":    func() { k.mixBF16[0](128, 64, k0, 128, &x[0], 64, &z[0], 128) },
			"expSum 64":      func() { copy(z, x[:64]); k.expSum(64, &z[0], 1, 1) },
			"maximum 64":     func() { k.maximum(64, &x[0]) },
			"tile 256":       func() { k.tile(256, &x[0], 272, 1, &y[0], &z[0], k.tileCols, 0) },
			"softmaxCols 96": func() { copy(z, x[:96*32]); k.softmaxColumns(96, &z[0], 1, &y[0], &y[64], &y[128]) },
			"transpose":      func() { k.transpose(&z[0], 1000, &x[0], 1000) },
			"scan 4096":      func() { table.score(k, codes, ints, false) },
			"cut 4096":       func() { k.cutI32(4096, &ints[0], 700, 0, &positions[0], &kept[0]) },
		} {
			b.Run(k.name+"/"+name, func(b *testing.B) {
				for b.Loop() {
					f()
				}
			})
		}
		for t, f := range k.formats {
			const values = 16 * 1024 // 16 rows of 1024
			w := kernels.NewHostMemory(values / t.BlockLen() * t.BlockBytes())
			b.Run(k.name+"/product "+t.String(), func(b *testing.B) {
				for b.Loop() {
					f.product(16, 1024/f.length, &w[0], &x[0], &z[0])
				}
				b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/values, "ns/weight")
			})
			b.Run(k.name+"/dequant "+t.String(), func(b *testing.B) {
				for b.Loop() {
					f.dequant(values/f.length, &w[0], &z[0])
				}
				b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/values, "ns/weight")
			})
		}
	}
}
