//go:build gpu

package cuda

import (
	"fmt"

	"gorgonia.org/cu"

	"github.com/hashattn/hashattn/kernels"
)

var (
	_ kernels.Timer = (*Device)(nil)
	_ kernels.Meter = (*Device)(nil)
)

// flushBytes overwrites every cache line of the L2.
const flushBytes = 256 << 20

// Time implements kernels.Timer: operations as one graph replay between two
// events, the L2 overwritten before each.
func (d *Device) Time(runs int, operations func()) ([]float64, error) {
	// The first run allocates scratch, the second is recorded.
	key := new(int)
	defer func() {
		d.forget(d.graphs[key])
		delete(d.graphs, key)
	}()
	for range 3 {
		d.Record(key, operations)
	}
	trash := d.borrow("flush", flushBytes)
	if err := d.Synchronize(); err != nil {
		return nil, err
	}
	var start, end cu.Event
	err := d.do(func() (err error) {
		if start, err = cu.MakeEvent(cu.DefaultEvent); err != nil {
			return err
		}
		end, err = cu.MakeEvent(cu.DefaultEvent)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		d.fail(d.do(func() error {
			if err := cu.DestroyEvent(&start); err != nil {
				return err
			}
			return cu.DestroyEvent(&end)
		}))
	}()
	seconds := make([]float64, 0, runs)
	for i := range runs {
		err := d.do(func() error {
			if err := cu.MemsetD8Async(cu.DevicePtr(trash), byte(i), flushBytes, d.stream); err != nil {
				return err
			}
			return start.Record(d.stream)
		})
		if err != nil {
			return nil, err
		}
		d.Record(key, operations)
		d.flush()
		if err := d.do(func() error { return end.Record(d.stream) }); err != nil {
			return nil, err
		}
		if err := d.Synchronize(); err != nil {
			return nil, err
		}
		var ms float64
		err = d.do(func() (err error) {
			ms, err = start.Elapsed(end)
			return err
		})
		if err != nil {
			return nil, err
		}
		seconds = append(seconds, ms/1e3)
	}
	return seconds, nil
}

// ReadBandwidth implements kernels.Meter: the best of several reads of 2 GiB,
// or of what is free.
func (d *Device) ReadBandwidth() (float64, error) {
	var free int64
	err := d.do(func() (err error) {
		free, _, err = cu.MemInfo()
		return err
	})
	if err != nil {
		return 0, err
	}
	bytes := int(min(2<<30, free/2)) &^ 0xffff
	if bytes < 16<<20 {
		return 0, fmt.Errorf("%d MiB of GPU memory free, too few to measure the bandwidth", free>>20)
	}
	p, err := d.alloc(bytes)
	if err != nil {
		return 0, err
	}
	defer func() { d.fail(d.do(func() error { return cu.MemFree(p) })) }()
	if err := d.zero(p, bytes); err != nil {
		return 0, err
	}
	out := d.borrow("read sum", 256)
	seconds, err := d.Time(9, func() {
		d.launch("read_all", size{x: 8 * d.info.Multiprocessors, y: 1, z: 1, block: 512}, out, uint64(p), bytes/16)
	})
	if err != nil {
		return 0, err
	}
	best := seconds[0]
	for _, s := range seconds {
		best = min(best, s)
	}
	return float64(bytes) / best, nil
}
