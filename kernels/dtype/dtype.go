// Package dtype holds the number formats in which weights, activations and
// caches are stored: IEEE and brain floats, integers, and ggml's quantised
// blocks. It knows their sizes and turns them into float32.
//
// A quantised row is a sequence of blocks; a block holds BlockLen values in
// BlockBytes bytes. Layouts are ggml's (ggml-common.h, ggml-quants.c).
package dtype

import "fmt"

// Type is a number format. The values below 1000 are ggml's type ids.
type Type uint32

// The formats that checkpoints, traces and caches use.
const (
	F32  Type = 0
	F16  Type = 1
	Q4_0 Type = 2
	Q4_1 Type = 3
	Q5_0 Type = 6
	Q5_1 Type = 7
	Q8_0 Type = 8
	Q2_K Type = 10
	Q3_K Type = 11
	Q4_K Type = 12
	Q5_K Type = 13
	Q6_K Type = 14
	I8   Type = 24
	I16  Type = 25
	I32  Type = 26
	I64  Type = 27
	F64  Type = 28
	BF16 Type = 30

	U8   Type = 1000 // not ggml's: safetensors files have them
	U16  Type = 1001
	U32  Type = 1002
	U64  Type = 1003
	Bool Type = 1004
)

type layout struct {
	name              string
	blockLen, blockSz int
}

var layouts = map[Type]layout{
	F32: {"F32", 1, 4}, F16: {"F16", 1, 2}, BF16: {"BF16", 1, 2}, F64: {"F64", 1, 8},
	Q4_0: {"Q4_0", 32, 18}, Q4_1: {"Q4_1", 32, 20}, Q5_0: {"Q5_0", 32, 22}, Q5_1: {"Q5_1", 32, 24}, Q8_0: {"Q8_0", 32, 34},
	Q2_K: {"Q2_K", 256, 84}, Q3_K: {"Q3_K", 256, 110}, Q4_K: {"Q4_K", 256, 144}, Q5_K: {"Q5_K", 256, 176}, Q6_K: {"Q6_K", 256, 210},
	I8: {"I8", 1, 1}, I16: {"I16", 1, 2}, I32: {"I32", 1, 4}, I64: {"I64", 1, 8},
	U8: {"U8", 1, 1}, U16: {"U16", 1, 2}, U32: {"U32", 1, 4}, U64: {"U64", 1, 8}, Bool: {"BOOL", 1, 1},
}

// Known says whether t is a format this package can size.
func (t Type) Known() bool { _, ok := layouts[t]; return ok }

// String is the format's name as GGUF and safetensors files spell it.
func (t Type) String() string {
	if l, ok := layouts[t]; ok {
		return l.name
	}
	return fmt.Sprintf("type(%d)", uint32(t))
}

// BlockLen is the number of values in one block, 1 for plain formats.
func (t Type) BlockLen() int { return layouts[t].blockLen }

// BlockBytes is the size of one block in bytes.
func (t Type) BlockBytes() int { return layouts[t].blockSz }

// Bytes is the size of n values in format t. It is an error when t is unknown
// or n is not a whole number of blocks.
func (t Type) Bytes(n int) (int, error) {
	l, ok := layouts[t]
	if !ok {
		return 0, fmt.Errorf("number format %v is not supported", t)
	}
	if n < 0 || n%l.blockLen != 0 {
		return 0, fmt.Errorf("%d values are not a whole number of %s blocks of %d", n, l.name, l.blockLen)
	}
	return n / l.blockLen * l.blockSz, nil
}
