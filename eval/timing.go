package eval

import (
	"slices"
	"time"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
)

// stopwatch times operations of a device from cold caches.
type stopwatch struct {
	device kernels.Device
	runs   int
	trash  []uint64 // larger than the last-level cache
	sum    uint64
}

func newStopwatch(d kernels.Device, runs int) *stopwatch {
	return &stopwatch{device: d, runs: runs, trash: make([]uint64, 16<<20)} // 128 MiB
}

// time gives the sorted seconds of each run of operations, after one that is
// not counted.
func (w *stopwatch) time(operations func()) ([]float64, error) {
	if t, ok := w.device.(kernels.Timer); ok {
		seconds, err := t.Time(w.runs, operations)
		slices.Sort(seconds)
		return seconds, err
	}
	operations()
	if err := w.device.Synchronize(); err != nil {
		return nil, err
	}
	seconds := make([]float64, w.runs)
	for i := range seconds {
		w.flush()
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

// flush evicts what the last run left in the caches.
func (w *stopwatch) flush() {
	for i := 0; i < len(w.trash); i += 8 {
		w.trash[i]++
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
