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

func TestPickNamesWhatRuns(t *testing.T) {
	if s, err := pick("portable"); err != nil || s.name != "portable" {
		t.Errorf("portable gives %v, %v", s, err)
	}
	if s, err := pick(""); err != nil || s != sets[0] {
		t.Errorf("no choice gives %v, %v", s, err)
	}
	if _, err := pick("altivec"); err == nil {
		t.Error("a set that the processor lacks is no error")
	}
}
