// Package cuda is the NVIDIA device: the whole model on one GPU.
//
// It is built with the tag gpu by scripts/build-gpu.sh, which compiles the
// kernels (*.cu) to machine code and embeds them; the binary finds the driver
// (libcuda) and cuBLAS when it runs, so that it starts on every machine.
// Without the tag Open says how to build it.
//
// Numbers. Activations are float32; every operation that a matrix product
// follows also writes a bf16 copy, and products take bf16 and add in float32.
// Weights are bf16, dequantised on the device while loading. Caches are bf16
// or float32; the tensor-core attention kernels take bf16 and head dimensions
// 64, 128 and 256, plain kernels the rest. Hash codes, integer scores, cuts and
// their tie rule are exact. With Options.Precise weights and products are
// float32, too, and attention's kernels the plain ones.
//
// Every run gives the same bits: parts are added in a fixed order.
//
// A decode step is recorded as one CUDA graph (Record). Launches are sized for
// a bucket of the context length and read the true one from device memory, so
// that a graph serves many steps; it is recorded anew when the bucket, a
// batch's shape or a scratch buffer changes. What a recorded step captures by
// address (tensors, weights) must live as long as it is replayed.
package cuda

// Options chooses a GPU and how it works.
type Options struct {
	Device int // index among the GPUs
	// NoClusters keeps to the kernels that GPUs before compute capability 9.0
	// have: no fused hash attention, no cluster launches.
	NoClusters bool
	// Code names other kernels than the GPU's own: "compute_80", those of
	// compute capability 8.x, which the driver compiles on opening. Only tests
	// need it.
	Code string
	// Precise computes in float32 throughout, many times slower: for comparing
	// results with another device's.
	Precise bool
	// NoGraphs runs recorded steps operation by operation.
	NoGraphs bool
	// BLAS is the path of libcublas, for where it is not found by itself.
	BLAS string
}

// DeviceInfo describes one GPU.
type DeviceInfo struct {
	Index           int    `json:"index"`
	Name            string `json:"name"`
	Capability      string `json:"capability"` // e.g. "9.0"
	Driver          string `json:"driver"`     // CUDA version the driver supports
	Multiprocessors int    `json:"multiprocessors"`
	L2              int    `json:"l2Bytes"`
	Memory          int64  `json:"memoryBytes"`
	Free            int64  `json:"freeBytes"`
}
