package cpu

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// useHugePages asks for large pages under b, before it is first written:
// gathered rows lie anywhere in a cache, and with small pages most would miss
// the processor's table of translations. Where the system refuses, small pages
// do.
func useHugePages(b []byte) {
	const page = 2 << 20
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (page - 1))
	if len(b) < skip+page {
		return
	}
	b = b[skip:]
	_ = unix.Madvise(b[:len(b)/page*page], unix.MADV_HUGEPAGE)
}
