//go:build gpu

package cuda

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

func BenchmarkProfile(b *testing.B) {
	for _, c := range [][2]int{{1, 8192}, {1, 131072}, {8, 32768}} {
		d := testDevice(b, Options{})
		l := newLayerBench(b, d, c[0], c[1])
		buf, _ := d.Alloc(dtype.F32, 1024)
		show := func(name string, n int) {
			raw := make([]byte, 4096)
			d.Download(raw, buf)
			v := func(i int) int64 { return int64(binary.LittleEndian.Uint64(raw[8*i:])) }
			for k := 0; k < n; k++ {
				fmt.Printf("%s block %2d:", name, k)
				for p := 1; p < 16; p++ {
					if v(k*16+p) == 0 {
						fmt.Printf("     -")
						continue
					}
					fmt.Printf(" %5d", v(k*16+p)-v(k*16))
				}
				fmt.Println()
			}
		}
		sel := kernels.Selection{Heads: benchKV, Sink: 128, Local: 128, Budget: kernels.Budget{Num: 1, Den: 32}}
		fmt.Printf("%d x %d\n", c[0], c[1])
		for _, bits := range []int{1, 8} {
			fusedName = "fusedp"
			encodeSuffix = "p"
			query := kernels.HashQuery{Encoder: l.joint, Bits: bits}
			for _, overlap := range []bool{false, true} {
				d.queue.overlap = overlap
				us := l.median(b, func() {
					d.EncodeKeys(l.key, 0, l.batch)
					d.AttendHash(l.out, l.q, 0, l.batch, 0.0884, query, sel)
				})
				fmt.Printf("step %d bits overlap %v %.1f us\n", bits, overlap, us)
				d.launch("encode_profile", size{x: 1, y: 1, z: 1, block: 512}, buf)
				show("encode", 32)
				d.launch("fused_profile", size{x: 1, y: 1, z: 1, block: 256}, buf)
				show("fused", 16)
			}
		}
		fusedName, encodeSuffix = "fused", ""
		if c[0] == 1 {
			l2 := newLayerBench(b, d, c[0], c[1])
			for _, k := range []*layerBench{l, l2} {
				w, _ := d.Alloc(dtype.I8, l.batch.Tokens, benchKV, benchBits)
				d.EncodeQueries(w, kernels.Tensor{}, l.enc, l.q, 1)
				k.w = address(w)
			}
			one := func(l *layerBench, bits int) func() {
				s := l.d.use(l.batch)
				plan, _ := d.fusable(l.q, 0, s, l.enc.(*encoder), kernels.HashQuery{Encoder: l.enc, Bits: bits}, sel)
				return func() { d.attendFused(plan, l.out, l.q, l.w, 0, 0, 0, s, 0.0884, l.enc.(*encoder), sel) }
			}
			enc := func(l *layerBench) func() {
				return func() {
					d.EncodeKeys(l.key, 0, l.batch)
					d.EncodeQueries(kernels.Tensor{Type: dtype.I8, Shape: []int{1, benchKV, benchBits}, Memory: memory{l.w, benchKV * benchBits}}, kernels.Tensor{}, l.joint, l.q, 8)
				}
			}
			for _, overlap := range []bool{false, true} {
				d.queue.overlap = overlap
				a, a2 := one(l, 1), one(l2, 1)
				e, e2 := enc(l), enc(l2)
				fmt.Printf("overlap %v fused A %.2f, A B %.2f, A A %.2f  encode A %.2f, A B %.2f, A A %.2f\n", overlap, l.median(b, a), l.median(b, func() { a(); a2() }), l.median(b, func() { a(); a() }), l.median(b, e), l.median(b, func() { e(); e2() }), l.median(b, func() { e(); e() }))
			}
		}
		d.Close()
	}
}
