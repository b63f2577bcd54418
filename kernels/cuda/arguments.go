//go:build gpu

package cuda

// #include <stdint.h>
import "C"

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/hashattn/hashattn/kernels"
)

// cInt is C's int.
type cInt = C.int

// encode lays out kernel arguments in 8-byte words; at is where each starts.
func encode(args []any) (words []uint64, at []cInt) {
	words, at = make([]uint64, 0, len(args)+8), make([]cInt, 0, len(args))
	for _, a := range args {
		at = append(at, cInt(len(words)))
		switch v := a.(type) {
		case int:
			words = append(words, uint64(v))
		case bool:
			words = append(words, flag(v))
		case float32:
			words = append(words, uint64(math.Float32bits(v)))
		case uint64:
			words = append(words, v)
		case kernels.Tensor:
			words = append(words, address(v))
		case structure:
			words = append(words, v.words()...)
		default:
			panic(fmt.Sprintf("cuda: kernel argument of type %T", a))
		}
	}
	return words, at
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// structure is a kernel parameter passed by value.
type structure interface{ words() []uint64 }

// wordsOf copies a struct whose size is a multiple of 8 bytes.
func wordsOf[T any](v *T) []uint64 {
	n := int(unsafe.Sizeof(*v))
	if n%8 != 0 {
		panic(fmt.Sprintf("cuda: %T has %d bytes", *v, n))
	}
	return append([]uint64(nil), unsafe.Slice((*uint64)(unsafe.Pointer(v)), n/8)...)
}

// selection mirrors struct Selection of device.cuh.
type selection struct {
	heads, sink, local, num, den, count, candidates, unused int32
}

func (s selection) words() []uint64 { return wordsOf(&s) }

func selectionOf(s kernels.Selection) selection {
	if s.Uneven() {
		panic("cuda: sets of different sizes in one layer")
	}
	return selection{heads: int32(s.Heads), sink: int32(s.Sink), local: int32(s.Local), num: int32(s.Budget.Num), den: int32(s.Budget.Den), count: int32(s.Budget.Count), candidates: int32(s.Candidates)}
}

// attendArgs mirrors struct AttendArgs of attention.cu.
type attendArgs struct {
	out, shadow, q, rows, layers, selected, parts, arrived uint64

	layerCount, layer, queryHeads, kvHeads, sets, window, k, dim int32

	scale          float32
	single         int32
	splits, unused int32

	s     selection
	ahead ahead
}

func (a attendArgs) words() []uint64 { return wordsOf(&a) }

// ahead mirrors struct Ahead of device.cuh.
type ahead struct {
	from   [3]uint64
	bytes  [3]int32
	blocks int32
}

// prefillArgs mirrors struct PrefillArgs of prefill.cu.
type prefillArgs struct {
	out, shadow, q, tiles, layers uint64

	layerCount, layer, queryHeads, kvHeads, window int32

	scale float32
}

func (a prefillArgs) words() []uint64 { return wordsOf(&a) }

// encodeArgs mirrors struct EncodeArgs of encode.cu.
type encodeArgs struct {
	w, t, b         [6]uint64
	out             [6]int32
	feedback        uint64
	layers, skip    int32
	heads, in       int32
	bits, blockBits int32
	q, rows, caches uint64
	layerCount      int32
	layer, group    int32
	wordsOfCode     int32
	staged          int32
	queryBits       int32
	weights, scales uint64
	tokens, width   int32
}

func (a encodeArgs) words() []uint64 { return wordsOf(&a) }

// encodeStep mirrors struct EncodeStep of encode.cu.
type encodeStep struct{ maps [2]encodeArgs }

func (s encodeStep) words() []uint64 { return wordsOf(&s) }

// topKArgs mirrors struct TopKArgs of select.cu.
type topKArgs struct {
	out, scores, rows, list uint64

	sets, stride, k, listK int32

	s selection
}

func (a topKArgs) words() []uint64 { return wordsOf(&a) }

// rerankArgs mirrors struct RerankArgs of select.cu.
type rerankArgs struct {
	logits, values, parts, q, candidates, rows, layers uint64

	layerCount, layer, queryHeads, kvHeads, sets, k, length, dim, blocks int32

	scale float32
	s     selection
}

func (a rerankArgs) words() []uint64 { return wordsOf(&a) }

// fusedArgs mirrors struct FusedArgs of fused.cu.
type fusedArgs struct {
	out, shadow, q, weights, rows, layers, selected uint64

	layerCount, layer, queryHeads, sets, maps, bits, k, heads, perSet, single, levels, listed int32

	keyMagic, kvMagic uint32
	rerank, ring      int32

	scale float32
	bins  int32
	s     selection
	ahead ahead
}

func (a fusedArgs) words() []uint64 { return wordsOf(&a) }

// linears mirrors struct Linears of dense.cu.
type linears struct {
	out, w, bias [3]uint64
	rows, end    [3]int32
	x            uint64

	tokens, stride, split, add int32

	gated, shadow                 uint64
	act, dim                      int32
	cos, sin, positions, caches   uint64
	layerCount, layer             int32
	raw, gain, normed, normedCopy uint64
	width                         int32
	eps                           float32
}

func (a linears) words() []uint64 { return wordsOf(&a) }
