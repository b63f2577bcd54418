//go:build gpu

package cuda

// What gorgonia.org/cu v0.9.6 lacks: finding the driver at run time, graphs,
// large shared memory, cluster launches, kernels with struct parameters, and
// cuBLAS. Each C function makes the context current on the calling thread.

/*
#cgo LDFLAGS: -ldl
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
int hashattn_cuda_open(const char **why, const char **where);
const char *hashattn_blas_open(const char *name);
int hashattn_blas_create(void *ctx, void **h, void *stream, uint64_t workspace, size_t bytes, int *version);
int hashattn_blas_destroy(void *ctx, void *h);
int hashattn_blas_product(void *ctx, void *h, int ta, int tb, int m, int n, int k, float alpha, uint64_t a, uint64_t b, float beta, uint64_t c);
static void *hashattn_pointer(uint64_t address) { return (void *)(uintptr_t)address; }
int hashattn_blas_linear(void *ctx, void *h, int m, int n, int k, uint64_t x, uint64_t w, int wide, uint64_t out, float beta);
int cuCtxSetCurrent(void *ctx);
int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags);
int cuGraphLaunch(void *exec, void *stream);
int cuGraphExecDestroy(void *exec);
int cuGraphDestroy(void *graph);
int cuStreamBeginCapture_v2(void *stream, int mode);
int cuStreamEndCapture(void *stream, void **graph);
int cuFuncSetAttribute(void *f, int attr, int v);
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned smem, void *stream, void **params, void **extra);
// CUlaunchConfig and CUlaunchAttribute, unchanged since CUDA 11.8
typedef struct { int id; char pad[4]; union { char c[64]; struct { unsigned x, y, z; } dim; int i; } v; } attribute;
typedef struct { unsigned gx, gy, gz, bx, by, bz, smem; void *stream; attribute *attrs; unsigned n; } config;
int cuLaunchKernelEx(const config *cfg, void *f, void **params, void **extra);

static int hashattn_launch(void *ctx, void *f, unsigned gx, unsigned gy, unsigned gz, unsigned block, unsigned smem, unsigned cluster, int dependent, void *stream, uint64_t *words, int *at, int n) {
	void *params[32];
	for (int i = 0; i < n; i++) params[i] = words + at[i];
	int r = cuCtxSetCurrent(ctx);
	if (r) return r;
	attribute a[2];
	memset(a, 0, sizeof a);
	unsigned k = 0;
	if (cluster) {
		a[k].id = 4;
		a[k].v.dim.x = cluster;
		a[k].v.dim.y = a[k].v.dim.z = 1;
		k++;
	}
	if (dependent) {
		a[k].id = 6; // programmatic stream serialisation
		a[k].v.i = 1;
		k++;
	}
	if (!k) return cuLaunchKernel(f, gx, gy, gz, block, 1, 1, smem, stream, params, 0);
	config c = {gx, gy, gz, block, 1, 1, smem, stream, a, k};
	return cuLaunchKernelEx(&c, f, params, 0);
}
static int hashattn_attribute(void *ctx, void *f, int attr, int v) {
	int r = cuCtxSetCurrent(ctx);
	return r ? r : cuFuncSetAttribute(f, attr, v);
}
static int hashattn_begin(void *ctx, void *stream) {
	int r = cuCtxSetCurrent(ctx);
	return r ? r : cuStreamBeginCapture_v2(stream, 2); // relaxed: the goroutine may change threads
}
static int hashattn_end(void *ctx, void *stream, void **exec) {
	void *graph = 0;
	int r = cuCtxSetCurrent(ctx);
	if (!r) r = cuStreamEndCapture(stream, &graph);
	if (!r) r = cuGraphInstantiateWithFlags(exec, graph, 0);
	if (graph) cuGraphDestroy(graph);
	return r;
}
static int hashattn_replay(void *ctx, void *exec, void *stream) {
	int r = cuCtxSetCurrent(ctx);
	return r ? r : cuGraphLaunch(exec, stream);
}
static int hashattn_drop(void *ctx, void *exec) {
	int r = cuCtxSetCurrent(ctx);
	return r ? r : cuGraphExecDestroy(exec);
}
*/
import "C"

import (
	"fmt"
	"unsafe"

	"gorgonia.org/cu"
)

// openDriver loads libcuda; nothing of package cu works before. It gives the
// library's path.
func openDriver() (path string, err error) {
	var why, where *C.char
	if r := C.hashattn_cuda_open(&why, &where); r != 0 {
		return "", fmt.Errorf("no usable GPU: %s", C.GoString(why))
	}
	return C.GoString(where), nil
}

// driverError is a CUresult.
type driverError int

// The results that have their own text here; cu names the rest.
var driverErrors = map[driverError]string{
	1: "invalid value", 2: "out of memory", 100: "no device", 200: "invalid image", 209: "no code for this GPU",
	400: "invalid handle", 500: "not found", 700: "illegal memory access in a kernel", 701: "too many resources for a launch",
	716: "misaligned address in a kernel", 719: "launch failed", 900: "operation not permitted while recording", 901: "recording was invalidated",
}

func (e driverError) Error() string {
	if s, ok := driverErrors[e]; ok {
		return "cuda: " + s
	}
	return fmt.Sprintf("cuda: driver error %d", int(e))
}

func check(r C.int) error {
	if r != 0 {
		return driverError(r)
	}
	return nil
}

// handles of cu's one-field structs
func handle[T any](v T) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&v)) }

// function is a kernel and the dynamic shared memory it was allowed so far.
type function struct {
	name     string
	fn       cu.Function
	shared   int
	clusters bool // of more than 8 blocks
}

// queue is a context and its stream, as C sees them. With overlap a kernel may
// start before the one ahead has ended (see begin in device.cuh).
type queue struct {
	context, stream unsafe.Pointer
	overlap         bool
}

// allow raises f's limit of dynamic shared memory to bytes.
func (q queue) allow(f *function, bytes int) error {
	const free = 24 << 10 // 48 KiB hold static and dynamic memory together
	if bytes <= max(f.shared, free) {
		return nil
	}
	if err := check(C.hashattn_attribute(q.context, handle(f.fn), 8, C.int(bytes))); err != nil {
		return fmt.Errorf("kernel %s with %d bytes of shared memory: %w", f.name, bytes, err)
	}
	f.shared = bytes
	return nil
}

// allowClusters lets f run in clusters of more than 8 blocks.
func (q queue) allowClusters(f *function) error {
	if f.clusters {
		return nil
	}
	f.clusters = true
	return check(C.hashattn_attribute(q.context, handle(f.fn), 14, 1))
}

// launch queues a kernel. at gives the word of words where each parameter
// starts; cluster is the blocks of a cluster, 0 for a
// plain launch; early lets the kernel start before the one ahead has ended.
func (q queue) launch(f *function, grid [3]int, block, shared, cluster int, early bool, words []uint64, at []C.int) error {
	return check(C.hashattn_launch(q.context, handle(f.fn), C.uint(grid[0]), C.uint(grid[1]), C.uint(grid[2]), C.uint(block), C.uint(shared), C.uint(cluster), C.int(flag(q.overlap && early)),
		q.stream, (*C.uint64_t)(unsafe.Pointer(unsafe.SliceData(words))), unsafe.SliceData(at), C.int(len(at))))
}

// graph is a recorded step.
type graph struct{ exec unsafe.Pointer }

func (q queue) begin() error { return check(C.hashattn_begin(q.context, q.stream)) }

func (q queue) end() (graph, error) {
	var g graph
	err := check(C.hashattn_end(q.context, q.stream, &g.exec))
	return g, err
}

func (q queue) replay(g graph) error { return check(C.hashattn_replay(q.context, g.exec, q.stream)) }

func (q queue) drop(g graph) error {
	if g.exec == nil {
		return nil
	}
	return check(C.hashattn_drop(q.context, g.exec))
}

// blas is a cuBLAS handle.
type blas struct {
	handle  unsafe.Pointer
	path    string
	version int
}

// openBLAS loads the first of the candidate libraries that works.
func openBLAS(q queue, candidates []string, workspace cu.DevicePtr, bytes int) (*blas, error) {
	for _, name := range candidates {
		c := C.CString(name)
		path := C.hashattn_blas_open(c)
		C.free(unsafe.Pointer(c))
		if path == nil {
			continue
		}
		b := &blas{path: C.GoString(path)}
		var version C.int
		if r := C.hashattn_blas_create(q.context, &b.handle, q.stream, C.uint64_t(workspace), C.size_t(bytes), &version); r != 0 {
			return nil, fmt.Errorf("cuBLAS at %s does not start (status %d)", b.path, int(r))
		}
		b.version = int(version)
		return b, nil
	}
	return nil, fmt.Errorf("cuBLAS not found (libcublas.so.12 or .13): install CUDA or the package nvidia-cublas-cu12 and set HASHATTN_CUBLAS to the library's path")
}

func (b *blas) close(q queue) { C.hashattn_blas_destroy(q.context, b.handle) }

// linear queues out [m, n] = x [m, k] w [n, k]^T + beta out; x and w are bf16, or
// float32 if wide.
func (b *blas) linear(q queue, m, n, k int, x, w uint64, wide bool, out uint64, beta float32) error {
	if r := C.hashattn_blas_linear(q.context, b.handle, C.int(m), C.int(n), C.int(k), C.uint64_t(x), C.uint64_t(w), C.int(flag(wide)), C.uint64_t(out), C.float(beta)); r != 0 {
		return fmt.Errorf("cuBLAS product [%d %d] x [%d %d]: status %d", m, k, n, k, int(r))
	}
	return nil
}

// product queues c = alpha op(a) op(b) + beta c in float32, row-major without
// gaps: op(a) [m, k], op(b) [k, n].
func (b *blas) product(q queue, ta, tb bool, m, n, k int, alpha float32, x, y uint64, beta float32, c uint64) error {
	if r := C.hashattn_blas_product(q.context, b.handle, C.int(flag(ta)), C.int(flag(tb)), C.int(m), C.int(n), C.int(k), C.float(alpha), C.uint64_t(x), C.uint64_t(y), C.float(beta), C.uint64_t(c)); r != 0 {
		return fmt.Errorf("cuBLAS product [%d %d] x [%d %d]: status %d", m, k, k, n, int(r))
	}
	return nil
}

// pointer is a GPU address as a pointer, which must not be followed.
func pointer(address uint64) unsafe.Pointer { return C.hashattn_pointer(C.uint64_t(address)) }
