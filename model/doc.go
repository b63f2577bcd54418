// Package model makes a checkpoint a running transformer.
//
// Load opens a GGUF file or a Hugging Face folder as a checkpoint, reads its
// Config from the architecture's table row (architecture.go) and puts its
// weights on a kernels.Device (weights.go). A Runner holds the activations and
// does the forward pass (transformer.go), written once for all architectures
// and devices. A Sequence is one text in work: its tokens and its cache.
//
// Tokens enter through Runner.Prefill and Runner.Decode; Generate samples from
// the logits; Capture records the queries and keys that training reads. How a
// layer attends is an Attention: Dense, or a selector's sparse one.
package model
