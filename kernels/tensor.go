package kernels

import (
	"fmt"
	"unsafe"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// Memory is a span of a device's memory.
type Memory interface {
	// Slice is the span of size bytes from offset on, sharing memory.
	Slice(offset, size int) Memory
}

// HostMemory is memory that Go code can address, 64-byte aligned at its start.
type HostMemory []byte

// Slice implements Memory.
func (m HostMemory) Slice(offset, size int) Memory { return m[offset : offset+size : offset+size] }

// NewHostMemory allocates size zeroed bytes aligned to a cache line.
func NewHostMemory(size int) HostMemory {
	const align = 64
	raw := make([]byte, size+align)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(raw))) & (align - 1))
	return raw[skip : skip+size : skip+size]
}

// Tensor is a dense row-major array on a device. The zero Tensor stands for
// "none" where an operand is optional.
type Tensor struct {
	Type   dtype.Type
	Shape  []int
	Memory Memory
}

// Len is the number of elements.
func (t Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// None says whether t is the zero Tensor.
func (t Tensor) None() bool { return t.Memory == nil }

// Dim is the length of axis i; negative i counts from the last axis.
func (t Tensor) Dim(i int) int {
	if i < 0 {
		i += len(t.Shape)
	}
	return t.Shape[i]
}

// Rows is the view of rows lo to hi of the outermost axis.
func (t Tensor) Rows(lo, hi int) Tensor {
	row := t.Len() / t.Shape[0] * t.Type.BlockBytes()
	shape := append([]int{hi - lo}, t.Shape[1:]...)
	return Tensor{t.Type, shape, t.Memory.Slice(lo*row, (hi-lo)*row)}
}

// Reshape is the same elements under another shape of equal length.
func (t Tensor) Reshape(shape ...int) Tensor {
	v := Tensor{t.Type, shape, t.Memory}
	if v.Len() != t.Len() {
		panic(fmt.Sprintf("kernels: reshape of %v to %v", t.Shape, shape))
	}
	return v
}

// Bytes is a host tensor's memory. It panics on a tensor of another device.
func (t Tensor) Bytes() []byte { return t.Memory.(HostMemory) }

// F32 is a host tensor's elements as float32.
func (t Tensor) F32() []float32 { return host[float32](t, dtype.F32) }

// BF16 is a host tensor's elements as bfloat16 bit patterns.
func (t Tensor) BF16() []uint16 { return host[uint16](t, dtype.BF16) }

// I32 is a host tensor's elements as int32.
func (t Tensor) I32() []int32 { return host[int32](t, dtype.I32) }

// U32 is a host tensor's elements as uint32.
func (t Tensor) U32() []uint32 { return host[uint32](t, dtype.U32) }

// I8 is a host tensor's elements as int8.
func (t Tensor) I8() []int8 { return host[int8](t, dtype.I8) }

// U8 is a host tensor's elements as bytes.
func (t Tensor) U8() []uint8 { return host[uint8](t, dtype.U8) }

func host[T any](t Tensor, want dtype.Type) []T {
	if t.Type != want {
		panic(fmt.Sprintf("kernels: tensor of %v used as %v", t.Type, want))
	}
	b := t.Memory.(HostMemory)
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), t.Len())
}

// CheckCopy panics if src cannot be copied to dst as it is.
func CheckCopy(dst, src Tensor) {
	if dst.Type != src.Type || dst.Len() != src.Len() {
		panic(fmt.Sprintf("kernels: copy of %v %v to %v %v", src.Type, src.Shape, dst.Type, dst.Shape))
	}
}

// Matrix is a weight as a checkpoint stores it: Rows x Cols values of any
// format, a row per output, Data row after row. Data may be mapped from a file
// and must stay readable while the device uses the weight.
type Matrix struct {
	Name       string
	Type       dtype.Type
	Rows, Cols int
	Data       []byte
}

// Check reports a Matrix whose data does not fit its shape and format.
func (m Matrix) Check() error {
	if m.Rows < 1 || m.Cols < 1 {
		return fmt.Errorf("weight %s: shape [%d %d]", m.Name, m.Rows, m.Cols)
	}
	row, err := m.Type.Bytes(m.Cols)
	if err != nil {
		return fmt.Errorf("weight %s: %w", m.Name, err)
	}
	if len(m.Data)/row != m.Rows || len(m.Data)%row != 0 {
		return fmt.Errorf("weight %s: %d bytes for [%d %d] %v, want %d", m.Name, len(m.Data), m.Rows, m.Cols, m.Type, m.Rows*row)
	}
	return nil
}

// Row is the raw bytes of row i.
func (m Matrix) Row(i int) []byte {
	row := len(m.Data) / m.Rows
	return m.Data[i*row : (i+1)*row]
}
