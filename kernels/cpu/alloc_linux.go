package cpu

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// useHugePages asks for large pages under b, which is all zero: gathered rows
// lie anywhere in a cache, and with small pages most would miss the processor's
// table of translations. Memory that was in use before keeps its small pages,
// so it is given back first: what is read next is zero again. Where the system
// refuses, small pages do.
func useHugePages(b []byte) {
	const page = 2 << 20
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (page - 1))
	if len(b) < skip+page {
		return
	}
	b = b[skip:]
	b = b[:len(b)/page*page]
	if unix.Madvise(b, unix.MADV_HUGEPAGE) == nil {
		_ = unix.Madvise(b, unix.MADV_DONTNEED)
	}
}
