// Package cpu is the fast host device: kernels in Go assembly, chosen at run
// time for the processor (AVX-512, AVX2 with FMA, else plain Go), and a pool of
// threads. It needs no cgo.
//
// An operation is cut into tasks whose results do not depend on who runs them,
// so the number of threads changes no bit of any result. Weights stay in their
// checkpoint's format: a decode step multiplies them as they are read, a batch
// decodes each block once and multiplies it with all tokens.
//
// The environment variable HASHATTN_CPU (avx512, avx2 or portable) forces a
// set of kernels.
package cpu

//go:generate go run ./asm gemm -out gemm_amd64.s -stubs gemm_amd64.go -pkg cpu
//go:generate go run ./asm dots -out dots_amd64.s -stubs dots_amd64.go -pkg cpu
//go:generate go run ./asm numeric -out numeric_amd64.s -stubs numeric_amd64.go -pkg cpu
//go:generate go run ./asm quant -out quant_amd64.s -stubs quant_amd64.go -pkg cpu
//go:generate go run ./asm scan -out scan_amd64.s -stubs scan_amd64.go -pkg cpu
