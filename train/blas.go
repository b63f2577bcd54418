package train

import (
	"sync"

	"github.com/hashattn/hashattn/kernels/cpu"
	G "gorgonia.org/gorgonia"
)

// useBLAS makes gorgonia multiply with this project's kernels. The units run
// side by side, so a product takes one thread.
var useBLAS = sync.OnceFunc(func() { G.Use(cpu.BLAS{Threads: 1}) })
