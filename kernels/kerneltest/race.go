//go:build race

package kerneltest

// raced says that the race detector slows the reference down.
const raced = true
