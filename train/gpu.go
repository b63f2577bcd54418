//go:build gpu

package train

import "github.com/hashattn/hashattn/kernels/cuda"

var _ engine[float32] = (*cuda.Learner)(nil)

// openGPU starts the engine of an NVIDIA GPU; done ends it.
func openGPU() (on engine[float32], done func(), err error) {
	l, err := cuda.OpenLearner(cuda.Options{})
	if err != nil {
		return nil, nil, err
	}
	return l, func() { _ = l.Close() }, nil
}
