package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashattn/hashattn/configs"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/cpu"
	"github.com/hashattn/hashattn/kernels/cuda"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// opener starts a kind of device.
type opener struct {
	kind string
	open func(configs.Device) (kernels.Device, error)
	// probe says whether the device can be used here and what it is, or why not.
	probe func() (string, error)
	// auto devices may be taken where the kind is auto, first one first.
	auto bool
}

// openers are the kinds of devices, the best first. Build tags add to them.
var openers = []opener{
	{
		kind: "cuda",
		open: func(o configs.Device) (kernels.Device, error) {
			return cuda.Open(cuda.Options{Precise: o.Precision == "f32"})
		},
		probe: probeCUDA,
		auto:  true,
	},
	{
		kind: "cpu",
		open: func(o configs.Device) (kernels.Device, error) { return cpu.New(cpu.Options{Threads: o.Threads}) },
		probe: func() (string, error) {
			d, err := cpu.New(cpu.Options{})
			if err != nil {
				return "", err
			}
			rate, err := measuredBandwidth(d)
			return d.Info().Name + rate, errors.Join(err, d.Close())
		},
		auto: true,
	},
	{
		kind:  "reference",
		open:  func(configs.Device) (kernels.Device, error) { return kernels.NewReference(), nil },
		probe: func() (string, error) { return "plain Go, one thread: slow, the specification of the others", nil },
	},
}

// probeCUDA names the GPUs.
func probeCUDA() (string, error) {
	gpus, err := cuda.Devices()
	if err != nil {
		return "", err
	}
	if len(gpus) == 0 {
		return "", errors.New("no GPU found")
	}
	names := make([]string, len(gpus))
	for i, g := range gpus {
		names[i] = fmt.Sprintf("%d: %s (compute capability %s, %d multiprocessors), %.0f GiB, driver for CUDA %s",
			g.Index, g.Name, g.Capability, g.Multiprocessors, float64(g.Memory)/(1<<30), g.Driver)
	}
	d, err := cuda.Open(cuda.Options{})
	if err != nil {
		return "", err
	}
	rate, err := measuredBandwidth(d)
	if l, ok := d.(interface{ Libraries() (driver, blas string) }); ok && err == nil {
		driver, blas := l.Libraries()
		rate += ", " + driver + ", " + blas
	}
	return strings.Join(names, "; ") + rate, errors.Join(err, d.Close())
}

// measuredBandwidth is ", reads N GB/s" of a device that can measure it.
func measuredBandwidth(d kernels.Device) (string, error) {
	m, ok := d.(kernels.Meter)
	if !ok {
		return "", nil
	}
	rate, err := m.ReadBandwidth()
	return fmt.Sprintf(", reads %.1f GB/s", rate/1e9), err
}

// openDevice starts the device that an experiment asks for.
func openDevice(o configs.Device) (kernels.Device, error) {
	var known, reasons []string
	for _, op := range openers {
		known = append(known, op.kind)
		switch {
		case o.Kind == op.kind:
			d, err := op.open(o)
			if err != nil {
				return nil, fmt.Errorf("device %s: %w", op.kind, err)
			}
			return d, nil
		case o.Kind == "auto" && op.auto:
			d, err := op.open(o)
			if err == nil {
				return d, nil
			}
			reasons = append(reasons, fmt.Sprintf("%s: %v", op.kind, err))
		}
	}
	if o.Kind == "auto" {
		return nil, fmt.Errorf("no device can be used: %s", strings.Join(reasons, "; "))
	}
	return nil, usagef("device %s is unknown; this program has %s", o.Kind, strings.Join(known, ", "))
}

// deviceOf names a device in results.
func deviceOf(d kernels.Device) result.Device {
	i := d.Info()
	return result.Device{Kind: i.Kind, Name: i.Name, Threads: i.Threads, Driver: i.Driver}
}

// chunk is the tokens of one prefill pass on the device.
func chunk(o configs.Device, d kernels.Device) int {
	if o.Chunk > 0 {
		return int(o.Chunk)
	}
	return d.Info().Pass
}

// cacheType is the number format of cached keys and values.
func cacheType(o configs.Device) dtype.Type {
	if o.Cache == "f32" {
		return dtype.F32
	}
	return dtype.BF16
}
