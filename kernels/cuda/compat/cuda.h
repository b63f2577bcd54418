/* Stands before the toolkit's cuda.h: gives gorgonia.org/cu v0.9.6 the CUDA 12 signatures on CUDA 13 headers. */
#include_next <cuda.h>
#if CUDA_VERSION >= 13000 && !defined(HASHATTN_CUDA_COMPAT)
#define HASHATTN_CUDA_COMPAT
#undef cuCtxCreate
#undef cuMemAdvise
#undef cuMemPrefetchAsync
#undef cuGraphAddDependencies
#undef cuGraphGetEdges
CUresult cuCtxCreate_v2(CUcontext *, unsigned int, CUdevice);
CUresult cuMemAdvise(CUdeviceptr, size_t, CUmem_advise, CUdevice);
CUresult cuMemPrefetchAsync(CUdeviceptr, size_t, CUdevice, CUstream);
CUresult cuGraphAddDependencies(CUgraph, const CUgraphNode *, const CUgraphNode *, size_t);
CUresult cuGraphGetEdges(CUgraph, CUgraphNode *, CUgraphNode *, size_t *);
#define cuCtxCreate cuCtxCreate_v2
#endif
