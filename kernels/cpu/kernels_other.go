//go:build !amd64

package cpu

// machineSets is empty where there is no assembly.
func machineSets() []*kernelSet { return nil }

func pause(n int) {
	for range n {
		spin()
	}
}

//go:noinline
func spin() {}
