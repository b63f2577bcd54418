// The exact cut of counted levels over the blocks of a cluster.
#pragma once
#include "device.cuh"

constexpr int BINS = 1024; // at most

// Cut is where a count from below reaches a number: the bin, how many lie in
// lower bins and in it, over all blocks and over the lower ranks.
struct Cut {
    u32 bin, less, equal, lessBefore, equalBefore, counted;
};

// findCut adds the blocks' packed 16-bit counts of up to 1024 bins and finds
// the bin where need is reached; bin is meaningless if counted < need.
template <int W> DEV Cut findCut(Cut *result, uint2 *warpSums, const u32 *from, int words, int stride, int P, int rank, u32 need) {
    constexpr int N = BINS / (32 * W); // bins of a thread
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    u32 v[N], b[N], sum = 0, lower = 0;
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        v[i] = v[i + 1] = v[i + 2] = v[i + 3] = b[i] = b[i + 1] = b[i + 2] = b[i + 3] = 0;
        if ((N * tid + i) / 2 < words)
#pragma unroll 4
            for (int r = 0; r < P; r++) {
                const uint2 x = *(const uint2 *)(from + r * stride + (N * tid + i) / 2);
                const u32 c[4] = {x.x & 0xffff, x.x >> 16, x.y & 0xffff, x.y >> 16};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    v[i + j] += c[j];
                    if (r < rank) b[i + j] += c[j];
                }
            }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            sum += v[i + j];
            lower += b[i + j];
        }
    }
    u32 upto = sum, lowerUpto = lower;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        const u32 y = __shfl_up_sync(ALL, upto, o), z = __shfl_up_sync(ALL, lowerUpto, o);
        if (lane >= o) {
            upto += y;
            lowerUpto += z;
        }
    }
    if (lane == 31) warpSums[warp] = make_uint2(upto, lowerUpto);
    __syncthreads();
    u32 cum = upto - sum, cumLower = lowerUpto - lower, counted = 0;
#pragma unroll
    for (int w = 0; w < W; w++) {
        const uint2 x = warpSums[w];
        counted += x.x;
        if (w < warp) {
            cum += x.x;
            cumLower += x.y;
        }
    }
    if (cum < need && need <= cum + sum) {
        bool found = false;
#pragma unroll
        for (int i = 0; i < N; i++)
            if (!found && cum + v[i] >= need) {
                *result = {(u32)(N * tid + i), cum, v[i], cumLower, b[i], 0};
                found = true;
            } else if (!found) {
                cum += v[i];
                cumLower += b[i];
            }
    }
    __syncthreads();
    Cut c = *result;
    c.counted = counted;
    return c;
}
