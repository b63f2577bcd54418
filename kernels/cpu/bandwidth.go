package cpu

import (
	"sync"
	"time"
	"unsafe"

	"github.com/hashattn/hashattn/kernels"
)

// ReadBandwidth measures how many bytes a second threads threads read from
// memory together: the best of several passes over 256 MiB, more than caches
// hold. It takes about half a second.
func ReadBandwidth(threads int) float64 {
	const size, passes = 256 << 20, 8
	threads = max(1, threads)
	set := defaultSet()
	data := kernels.NewHostMemory(size)
	for i := 0; i < size; i += 4096 { // memory that was never written is one page of zeros
		data[i] = 1
	}
	part := size / threads / 512 * 512
	best := time.Duration(0)
	sums := make([]uint64, threads)
	for range passes {
		start := time.Now()
		var wg sync.WaitGroup
		for t := range threads {
			wg.Go(func() { sums[t] += set.readAll(part, (*byte)(unsafe.Pointer(&data[t*part]))) })
		}
		wg.Wait()
		if d := time.Since(start); best == 0 || d < best {
			best = d
		}
	}
	if sums[0] == 0 {
		panic("cpu: the bandwidth test read nothing")
	}
	return float64(part*threads) / best.Seconds()
}

var _ kernels.Meter = (*Device)(nil)

// ReadBandwidth implements kernels.Meter with the device's threads: the best
// of three measurements, as anything else on the machine only slows one down.
func (d *Device) ReadBandwidth() (float64, error) {
	best := 0.0
	for range 3 {
		best = max(best, ReadBandwidth(d.info.Threads))
	}
	return best, nil
}
