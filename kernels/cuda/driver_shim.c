//go:build gpu

// Every driver entry point of driver_names.h as a jump through a table, which
// hashattn_cuda_open fills from libcuda. Until then each returns
// CUDA_ERROR_NO_DEVICE. So the program needs no libcuda to be built or to
// start, and gorgonia.org/cu's init, which exits when cuInit fails, passes.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int hashattn_no_device(void) { return 100; }
#define X(n) __attribute__((visibility("hidden"), used)) void *hashattn_entry_##n = (void *)hashattn_no_device;
#include "driver_names.h"
#undef X
#if defined(__x86_64__)
#define JUMP(n) "jmp *hashattn_entry_" #n "(%rip)\n"
#elif defined(__aarch64__)
#define JUMP(n) "adrp x16, hashattn_entry_" #n "\nldr x16, [x16, :lo12:hashattn_entry_" #n "]\nbr x16\n"
#else
#error "the tag gpu is for x86-64 and arm64 Linux"
#endif
#define X(n) __asm__(".text\n.globl " #n "\n.type " #n ",@function\n.p2align 4\n" #n ":\n" JUMP(n) ".size " #n ",.-" #n "\n");
#include "driver_names.h"
#undef X
static struct {
	const char *name;
	void **slot;
} entries[] = {
#define X(n) {#n, &hashattn_entry_##n},
#include "driver_names.h"
#undef X
};

// cuInit of gorgonia.org/cu's init; the driver's own is called on opening.
int cuInit(unsigned flags) {
	(void)flags;
	return 0;
}

// hashattn_cuda_open loads the driver and initialises it. The result is a
// CUresult, 0 for success; why is the reason of a failure.
int hashattn_cuda_open(const char **why, const char **where) {
	static const char *names[] = {"libcuda.so.1", "libcuda.so", "/usr/lib/wsl/lib/libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1"};
	static int state = -1;
	static char reason[300], path[300];
	*why = reason;
	*where = path;
	if (state >= 0) return state;
	void *lib = NULL;
	for (size_t i = 0; i < sizeof names / sizeof *names && !lib; i++) lib = dlopen(names[i], RTLD_NOW | RTLD_GLOBAL);
	if (!lib) {
		snprintf(reason, sizeof reason, "no NVIDIA driver on this machine: libcuda.so.1 not found");
		return state = 100;
	}
	int (*init)(unsigned) = (int (*)(unsigned))dlsym(lib, "cuInit");
	Dl_info info;
	if (init && dladdr((void *)init, &info)) snprintf(path, sizeof path, "%s", info.dli_fname);
	for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
		const char *name = entries[i].name;
		void *p = dlsym(lib, name);
		size_t n = strlen(name);
		char base[80];
		// a driver without the _v2 form has the plain one
		if (!p && n > 3 && n < sizeof base && name[n - 3] == '_' && name[n - 2] == 'v') {
			memcpy(base, name, n - 3);
			base[n - 3] = 0;
			p = dlsym(lib, base);
		}
		if (p) *entries[i].slot = p;
	}
	state = init ? init(0) : 100;
	if (state) snprintf(reason, sizeof reason, "the driver %s does not start (cuInit gives %d): no GPU, or driver and kernel module differ", path, state);
	return state;
}

// cuBLAS, by dlopen and without its headers.
static int (*blas_create)(void **);
static int (*blas_destroy)(void *);
static int (*blas_stream)(void *, void *);
static int (*blas_workspace)(void *, void *, size_t);
static int (*blas_version)(void *, int *);
static int (*blas_gemm)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int, const void *, void *, int, int, int, int);

const char *hashattn_blas_open(const char *name) {
	static char path[512];
	if (blas_gemm) return path;
	void *lib = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
	if (!lib) return NULL;
	blas_create = (int (*)(void **))dlsym(lib, "cublasCreate_v2");
	blas_destroy = (int (*)(void *))dlsym(lib, "cublasDestroy_v2");
	blas_stream = (int (*)(void *, void *))dlsym(lib, "cublasSetStream_v2");
	blas_workspace = (int (*)(void *, void *, size_t))dlsym(lib, "cublasSetWorkspace_v2");
	blas_version = (int (*)(void *, int *))dlsym(lib, "cublasGetVersion_v2");
	void *gemm = dlsym(lib, "cublasGemmEx");
	if (!blas_create || !blas_destroy || !blas_stream || !blas_workspace || !blas_version || !gemm) return NULL;
	Dl_info info;
	snprintf(path, sizeof path, "%s", dladdr(gemm, &info) ? info.dli_fname : name);
	*(void **)&blas_gemm = gemm;
	return path;
}
int cuCtxSetCurrent(void *);
int hashattn_blas_create(void *ctx, void **h, void *stream, uint64_t workspace, size_t bytes, int *version) {
	int r = cuCtxSetCurrent(ctx);
	if (!r) r = blas_create(h);
	if (!r) r = blas_stream(*h, stream);
	if (!r) r = blas_workspace(*h, (void *)workspace, bytes);
	if (!r) r = blas_version(*h, version);
	return r;
}
int hashattn_blas_destroy(void *ctx, void *h) {
	int r = cuCtxSetCurrent(ctx);
	return r ? r : blas_destroy(h);
}
// Row-major out [m, n] = x [m, k] * w [n, k]^T + beta * out; bf16 in, or f32 if
// wide, f32 out.
int hashattn_blas_linear(void *ctx, void *h, int m, int n, int k, uint64_t x, uint64_t w, int wide, uint64_t out, float beta) {
	const float one = 1;
	enum { OP_N = 0, OP_T = 1, R_32F = 0, R_16BF = 14, COMPUTE_32F = 68, DEFAULT = -1 };
	int r = cuCtxSetCurrent(ctx);
	const int in = wide ? R_32F : R_16BF;
	return r ? r : blas_gemm(h, OP_T, OP_N, n, m, k, &one, (void *)w, in, k, (void *)x, in, k, &beta, (void *)out, R_32F, n, COMPUTE_32F, DEFAULT);
}
// Row-major c [m, n] = alpha op(a) [m, k] * op(b) [k, n] + beta * c in f32,
// without gaps.
int hashattn_blas_product(void *ctx, void *h, int ta, int tb, int m, int n, int k, float alpha, uint64_t a, uint64_t b, float beta, uint64_t c) {
	enum { OP_N = 0, OP_T = 1, R_32F = 0, COMPUTE_32F = 68, DEFAULT = -1 };
	int r = cuCtxSetCurrent(ctx);
	return r ? r : blas_gemm(h, tb ? OP_T : OP_N, ta ? OP_T : OP_N, n, m, k, &alpha, (void *)b, R_32F, tb ? k : n, (void *)a, R_32F, ta ? m : k, &beta, (void *)c, R_32F, n, COMPUTE_32F, DEFAULT);
}
