// Package kernels is the array operations of a transformer with hash
// attention, as an interface that several devices implement.
//
// Data flows one way. Activations are tensors of T rows, one row a token; a
// Batch says which rows belong to which sequence and at which positions. Each
// layer appends its keys and values to every sequence's Cache and then attends
// either to all cached tokens (Attend) or to few of them: a scan scores the
// cached tokens (ScanHash and its rivals), TopK cuts the scores to a budget,
// Rerank may refine the cut by exact logits, AttendSelected reads the rows
// that remain. AttendHash is those steps in one call, which a device may fuse.
//
// Layouts, row-major, outermost first:
//
//	activations   [T, width]               f32 (a CUDA device may keep bf16)
//	queries       [T, queryHeads, headDim] after RoPE in the half-split form
//	cached keys   [kvHeads, capacity, headDim], one tensor per layer; values alike
//	key codes     [keyHeads, capacity, words] u32, bit 0 first
//	query weights [T, queryMaps, bits] i8, in ±1, ±7 or ±127
//	scores        [T, selectionHeads, stride] i32 or f32, stride >= cached tokens
//	selected      [T, selectionHeads, k] i32 positions, ascending, -1 behind the last
//
// Reference is the specification: slow, plain, and what every other device
// must equal in the suite of package kerneltest. Host devices keep a tensor's
// elements in a HostMemory; other devices in their own Memory.
package kernels
