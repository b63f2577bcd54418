//go:build race

package cpu

// raced says that the race detector slows the tests down.
const raced = true
