//go:build !gpu

package cuda

import (
	"errors"

	"github.com/hashattn/hashattn/kernels"
)

var errNotBuilt = errors.New("this binary was built without the tag gpu: build it with scripts/build-gpu.sh to use --device cuda")

// Open says that the GPU device is not part of this build.
func Open(Options) (kernels.Device, error) { return nil, errNotBuilt }

// Devices says that the GPU device is not part of this build.
func Devices() ([]DeviceInfo, error) { return nil, errNotBuilt }

// Learner does the arithmetic of training on a GPU, which this build cannot.
type Learner struct{ unbuilt }

// OpenLearner says that the GPU device is not part of this build.
func OpenLearner(Options) (*Learner, error) { return nil, errNotBuilt }

// unbuilt has a learner's methods; no value of it is ever made.
type unbuilt interface {
	Close() error
	Name() string
	Wide() bool
	Make(n int) ([]float32, error)
	Hold(host []uint16) ([]uint16, error)
	Release()
	Put(dst, host []float32)
	Get(host, src []float32) error
	Rows(dst []float32, stride int, x []uint16, dim int, at []int32, mean, inverse []float32, slab int)
	Gemm(ta, tb bool, m, n, k int, alpha float32, a, b []float32, beta float32, c []float32)
	Repeat(y, row []float32)
	Sums(sum, x []float32, add bool)
	Function(f int, y, slope, x []float32)
	Multiply(z, x, y []float32)
	Add(z, x, y []float32)
	Scale(y, x []float32, factor float32)
	Round(y, w []float32, cols, queryBits int)
	Feedback(z, r []float32, bits, block int)
	FeedbackGradient(dr, z, dz []float32, bits, block int)
	Targets(dst []float32, stride int, logits, edges []float32, m, heads int, apart bool, more, power float64, first, last bool)
	Top(dst []float32, stride int, x []float32, keys, count int)
	Loss(rule int, scores, target []float32, keys, stride int)
	Total() (float64, error)
}
