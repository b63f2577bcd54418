#!/bin/sh
# Build hashattn with the NVIDIA device (tag gpu) on x86-64 Linux. Needs Go, gcc
# and python3 with pip; neither a GPU nor CUDA. Headers and the kernel compiler
# come as pinned wheels, or from an installed CUDA 12 or 13:
#
#   scripts/build-gpu.sh                              # wheels
#   CUDA_HOME=/usr/local/cuda scripts/build-gpu.sh    # an installed toolkit
#   scripts/build-gpu.sh test                         # also the test binaries
#
# Results: bin/hashattn, and with "test" bin/cuda.test and bin/train.test. The binary finds the
# driver and cuBLAS when it runs.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hashattn/cuda-build
mkdir -p "$cache" bin

if [ -n "${CUDA_HOME:-}" ]; then
	toolkit=$CUDA_HOME
	include=$CUDA_HOME/include
else
	toolkit=$cache/wheels-12.9
	include=$toolkit/nvidia/cuda_runtime/include
	if [ ! -f "$include/cuda.h" ] || [ -z "$(ls "$toolkit"/nvidia/cuda_nvrtc/lib/libnvrtc.so.12 2>/dev/null)" ]; then
		echo "getting NVRTC 12.9 and the CUDA headers (wheels)"
		rm -rf "$toolkit.new"
		python3 -m pip install -q --no-deps --no-compile --only-binary=:all: --target "$toolkit.new" \
			nvidia-cuda-nvrtc-cu12==12.9.86 nvidia-cuda-runtime-cu12==12.9.79
		rm -rf "$toolkit"
		mv "$toolkit.new" "$toolkit"
	fi
fi
[ -f "$include/cuda.h" ] || { echo "no cuda.h in $include" >&2; exit 1; }

python3 scripts/build_kernels.py --root "$toolkit"

# An empty libcuda to link against: driver_shim.c defines the entry points.
rm -f "$cache/libcuda.a"
ar rc "$cache/libcuda.a"
export CGO_ENABLED=1
export CGO_CFLAGS="-O2 -I$root/kernels/cuda/compat -I$include"
export CGO_LDFLAGS="-L$cache"
if [ -d cmd/hashattn ]; then
	go build -tags gpu -o bin/hashattn ./cmd/hashattn
	echo "built bin/hashattn"
fi
if [ "${1:-}" = test ] || [ ! -d cmd/hashattn ]; then
	go test -c -tags gpu -o bin/cuda.test ./kernels/cuda
	echo "built bin/cuda.test"
	go test -c -tags gpu -o bin/train.test ./train
	echo "built bin/train.test"
fi
