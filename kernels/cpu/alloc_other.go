//go:build !linux

package cpu

// useHugePages does nothing where the system has no such advice.
func useHugePages([]byte) {}
