package latency

import (
	"runtime/debug"
	"slices"
	"time"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// stopwatch times operations of a device from cold caches.
type stopwatch struct {
	device kernels.Device
	runs   int
	trash  []uint64 // larger than the last-level cache
	sum    uint64
	values [2]kernels.Tensor // for an operation that wakes the device's threads
}

func newStopwatch(d kernels.Device, runs int) (*stopwatch, error) {
	w := &stopwatch{device: d, runs: runs}
	if _, ok := d.(kernels.Timer); ok {
		return w, nil
	}
	w.trash = make([]uint64, 16<<20) // 128 MiB
	for i := range w.trash {         // memory that was never written is one page of zeros
		w.trash[i] = uint64(i)
	}
	for i := range w.values {
		var err error
		if w.values[i], err = d.Alloc(dtype.F32, 1<<16); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// time gives the sorted seconds of each run of operations, after one that is
// not counted.
func (w *stopwatch) time(operations func()) ([]float64, error) {
	if t, ok := w.device.(kernels.Timer); ok {
		seconds, err := t.Time(w.runs, operations)
		slices.Sort(seconds)
		return seconds, err
	}
	debug.FreeOSMemory() // what was made to check the outputs, not while they are timed
	operations()
	if err := w.device.Synchronize(); err != nil {
		return nil, err
	}
	seconds := make([]float64, w.runs)
	for i := range seconds {
		w.flush()
		w.device.Add(w.values[0], w.values[1])
		start := time.Now()
		operations()
		if err := w.device.Synchronize(); err != nil {
			return nil, err
		}
		seconds[i] = time.Since(start).Seconds()
	}
	slices.Sort(seconds)
	return seconds, nil
}

// flush evicts what the last run left in the caches. Like a model's weights
// between two layers it is read, not written: dirty lines would have to be
// written back by what is timed.
func (w *stopwatch) flush() {
	for i := 0; i < len(w.trash); i += 8 {
		w.sum += w.trash[i]
	}
}

// timed fills a row's times from sorted seconds.
func timed(row result.BenchRow, seconds []float64) result.BenchRow {
	at := func(share float64) float64 { return seconds[int(share*float64(len(seconds)-1)+0.5)] * 1e6 }
	row.Median, row.P10, row.P90, row.Runs = at(0.5), at(0.1), at(0.9), len(seconds)
	return row
}

func sorted(seconds []float64) []float64 {
	slices.Sort(seconds)
	return seconds
}
