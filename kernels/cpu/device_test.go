package cpu

import (
	"testing"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/kerneltest"
)

func TestDevice(t *testing.T) {
	onEverySet(t, func(t *testing.T, _ *kernelSet) {
		kerneltest.Run(t, func(t testing.TB) kernels.Device {
			d, err := New(Options{Threads: 3})
			if err != nil {
				t.Fatal(err)
			}
			return d
		}, kerneltest.Tolerance{Dense: 3e-6, Attention: 3e-6, Scores: 3e-6})
	})
}
