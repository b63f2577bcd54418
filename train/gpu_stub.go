//go:build !gpu

package train

import "github.com/hashattn/hashattn/kernels/cuda"

// openGPU says why this build has no GPU.
func openGPU() (engine[float32], func(), error) {
	_, err := cuda.Open(cuda.Options{})
	return nil, nil, err
}
