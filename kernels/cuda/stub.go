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
