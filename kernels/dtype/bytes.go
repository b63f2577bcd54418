package dtype

import "unsafe"

// Bytes views numbers as the bytes they lie in, in the machine's order.
func Bytes[T uint16 | float32 | int32 | uint32](x []T) []byte {
	if len(x) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*int(unsafe.Sizeof(x[0])))
}
