// What the kernels share: the layout of a batch in device memory (batch.go
// writes it), bf16 conversion, loads and the tensor-core instructions. The
// sources need no CUDA headers: NVRTC's built-in types suffice.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 bf16; // bit pattern

#define DEV __device__ __forceinline__
#define KERNEL extern "C" __global__ void

DEV void announce() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
DEV void dependence() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// begin stands first in every kernel: launches are programmatic dependent ones,
// which may start before the kernel ahead has ended. The next may start now;
// this one waits until all memory written ahead can be seen.
DEV void begin() {
    announce();
    dependence();
}

constexpr float LOG2E = 1.4426950408889634f;
constexpr float MASKED = -1e30f;
constexpr u32 ALL = 0xffffffffu;

// Row says which token a row of the activations is.
struct Row {
    int segment, position;
};

// Layer is one layer's cache and index of one segment.
struct Layer {
    void *k, *v;      // [kvHeads, capacity, headDim]
    void *slot[3];    // index tensors, [heads, slotCapacity, width]
    int capacity;
    int slotCapacity[3];
    long long wide; // whether k and v are float32
};

// Tile is up to 128 consecutive query rows of one segment, for prefill.
struct Tile {
    int segment, row, rows, position;
};

// Selection mirrors kernels.Selection.
struct Selection {
    int heads, sink, local, num, den, count, candidates, unused;
};

DEV int imin(int a, int b) { return a < b ? a : b; }
DEV int imax(int a, int b) { return a > b ? a : b; }

// touch reads a kernel's parameters with all warps at once: each cache line of
// them is missing at first, and a warp meets them one by one.
template <class T> DEV void touch(const T &parameters) {
    const int at = imin((int)(threadIdx.x >> 5) * 16, (int)sizeof(T) / 4 - 1), far = imin(at + 128, (int)sizeof(T) / 4 - 1);
    const u32 x = ((const u32 *)&parameters)[at], y = ((const u32 *)&parameters)[far];
    asm volatile("" ::"r"(x), "r"(y));
}

// range is Selection.Range: the candidates [lo, hi) of a row that sees n.
DEV void range(const Selection &s, int n, int &lo, int &hi) {
    lo = imin(s.sink, n);
    hi = imax(lo, imax(n - s.local, 0));
}
DEV int budget(const Selection &s, int n) {
    if (s.den <= 0) return s.count;
    const u64 x = (u64)(u32)n * (u32)s.num;
    if ((s.den & (s.den - 1)) == 0) return (int)(x >> (31 - __clz(s.den))); // division is slow
    return x >> 32 ? (int)(x / (u32)s.den) : (int)((u32)x / (u32)s.den);
}
// chosen and scored are Selection.Chosen and Selection.Scored.
DEV int chosen(const Selection &s, int n) {
    int lo, hi;
    range(s, n, lo, hi);
    return imin(budget(s, n), hi - lo);
}
DEV int scored(const Selection &s, int n) {
    int lo, hi;
    range(s, n, lo, hi);
    return imin(budget(s, n) * imax(1, s.candidates), hi - lo);
}

DEV float f32(bf16 x) { return __uint_as_float((u32)x << 16); }
DEV float low(u32 x) { return __uint_as_float(x << 16); }
DEV float high(u32 x) { return __uint_as_float(x & 0xffff0000u); }
// pack rounds two floats to bf16, a in the low half.
DEV u32 pack(float a, float b) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
}
DEV bf16 tobf16(float a) { return (bf16)pack(a, 0.f); }

DEV float load(const bf16 *p) { return f32(*p); }
DEV float load(const float *p) { return *p; }
DEV void store(bf16 *p, float v) { *p = tobf16(v); }
DEV void store(float *p, float v) { *p = v; }

// stream4 loads 16 bytes that are read once.
DEV uint4 stream4(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// load4 loads 16 bytes that stay in the caches.
DEV uint4 load4(const void *p) {
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// copy16 and copy4 copy to shared memory asynchronously; bytes behind the
// first `bytes` become zero.
DEV void copy16(u32 to, const void *from, int bytes = 16) { asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(to), "l"(from), "r"(bytes) : "memory"); }
DEV void copy4(u32 to, const void *from, int bytes = 4) { asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(to), "l"(from), "r"(bytes) : "memory"); }
DEV void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEV void waitGroups() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Ahead is weights that kernels soon read, in order.
struct Ahead {
    const char *from[3];
    int bytes[3], blocks; // of the grid, behind its others: 0 for none
};

// fetch brings the weights to the L2 by block `block` of those that do only
// this, from where memory would be idle.
DEV void fetch(const Ahead &a, int block) {
    constexpr int CHUNK = 2048;
#pragma unroll 1
    for (int s = 0; s < 3; s++)
#pragma unroll 1
        for (int at = (block * blockDim.x + threadIdx.x) * CHUNK; at < a.bytes[s]; at += a.blocks * blockDim.x * CHUNK) {
            const char *from = a.from[s] + at;
            const int bytes = imin(CHUNK, a.bytes[s] - at);
#if __CUDA_ARCH__ >= 900
            asm volatile("cp.async.bulk.prefetch.L2.global [%0],%1;" ::"l"(from), "r"(bytes) : "memory");
#else
            for (int i = 0; i < bytes; i += 128) asm volatile("prefetch.global.L2 [%0];" ::"l"(from + i));
#endif
        }
}

DEV u32 shared32(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// mma adds a [16 x 16] b [16 x 8] to c [16 x 8]; bf16 in, f32 out.
DEV void mma(float *c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// transpose turns the 8x8 matrix of 16-bit elements that a warp holds.
DEV u32 transpose(u32 x) {
    u32 y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0,%1;" : "=r"(y) : "r"(x));
    return y;
}

DEV float warpSum(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(ALL, v, o);
    return v;
}
DEV float warpMax(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL, v, o));
    return v;
}

// blockSum adds v over the block in a fixed order; scratch holds 33 floats.
DEV float blockSum(float v, float *scratch) {
    v = warpSum(v);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        float s = threadIdx.x < (blockDim.x + 31) / 32 ? scratch[threadIdx.x] : 0.f;
        s = warpSum(s);
        if (threadIdx.x == 0) scratch[32] = s;
    }
    __syncthreads();
    return scratch[32];
}
DEV float blockMax(float v, float *scratch) {
    v = warpMax(v);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        float s = threadIdx.x < (blockDim.x + 31) / 32 ? scratch[threadIdx.x] : -3.4e38f;
        s = warpMax(s);
        if (threadIdx.x == 0) scratch[32] = s;
    }
    __syncthreads();
    return scratch[32];
}

#if __CUDA_ARCH__ >= 900
// Thread-block clusters: a launch without the attribute is a cluster of one.
DEV u32 clusterRank() {
    u32 r;
    asm volatile("mov.u32 %0,%%cluster_ctarank;" : "=r"(r));
    return r;
}
DEV u32 clusterSize() {
    u32 r;
    asm volatile("mov.u32 %0,%%cluster_nctarank;" : "=r"(r));
    return r;
}
DEV void clusterArrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
// clusterStarted is clusterArrive for what the others only need to know: that
// this block runs and has set up its mbarriers. It waits for no memory.
DEV void clusterStarted() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
DEV void clusterWait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEV void clusterSync() {
    clusterArrive();
    clusterWait();
}
// peer is the address of the same shared variable in block r of the cluster.
DEV u32 peer(u32 address, u32 r) {
    u32 o;
    asm("mapa.shared::cluster.u32 %0,%1,%2;" : "=r"(o) : "r"(address), "r"(r));
    return o;
}
DEV u32 loadPeer(u32 address) {
    u32 v;
    asm volatile("ld.shared::cluster.u32 %0,[%1];" : "=r"(v) : "r"(address) : "memory");
    return v;
}
DEV void storePeer(u32 address, u32 v) { asm volatile("st.shared::cluster.u32 [%0],%1;" ::"r"(address), "r"(v) : "memory"); }
// copyBulk copies whole 16 bytes to shared memory and counts them on bar.
DEV void copyBulk(u32 to, const void *from, u32 bytes, u32 bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(bar) : "memory");
}

// send4, send2 and send1 store to a block of the cluster and count the bytes on
// its mbarrier bar; expect and await are the receiver's side.
DEV void send4(u32 to, uint4 v, u32 bar) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0],{%1,%2,%3,%4},[%5];" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(bar) : "memory");
}
DEV void send2(u32 to, uint2 v, u32 bar) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0],{%1,%2},[%3];" ::"r"(to), "r"(v.x), "r"(v.y), "r"(bar) : "memory");
}
DEV void send1(u32 to, u32 v, u32 bar) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0],%1,[%2];" ::"r"(to), "r"(v), "r"(bar) : "memory");
}
DEV void expect(u32 bar, u32 bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(bar), "r"(bytes) : "memory"); }
DEV void await(u32 bar) {
    asm volatile("{\n.reg .pred p;\nL%=:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p,[%0],0;\n@!p bra L%=;\n}" ::"r"(bar) : "memory");
}
#else
DEV void storePeer(u32 address, u32 v) { asm volatile("st.shared.u32 [%0],%1;" ::"r"(address), "r"(v) : "memory"); }
DEV u32 clusterRank() { return 0; }
DEV u32 clusterSize() { return 1; }
DEV void clusterArrive() {}
DEV void clusterStarted() {}
DEV void clusterWait() { __syncthreads(); }
DEV void clusterSync() { __syncthreads(); }
DEV u32 peer(u32 address, u32) { return address; }
DEV u32 loadPeer(u32 address) {
    u32 v;
    asm volatile("ld.shared.u32 %0,[%1];" : "=r"(v) : "r"(address) : "memory");
    return v;
}
#endif
