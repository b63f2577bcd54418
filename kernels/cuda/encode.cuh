// Learned maps on a cluster of blocks, for few rows.
#pragma once
#include "device.cuh"

struct EncodeArgs {
    // layers of the MLP, then the linear path: weight [heads, out, in] (row
    // form) and [heads, in, out] (column form), bias [heads, out]
    const float *w[6], *t[6], *b[6];
    int out[6];
    const float *feedback; // [heads, bits, bits] or null
    int layers, skip;      // layers of the MLP; whether w[5] is a linear path
    int heads, in, bits, blockBits;
    // where x comes from: cached keys (layers of the batch) or queries
    const float *q; // [T, heads, in] or null
    const Row *rows;
    const Layer *caches;
    int layerCount, layer, kvHeads, words, unused;
    // what comes out for queries
    int queryBits;
    i8 *weights;  // [T, heads, bits]
    float *scales; // [T, heads] or null
    int tokens, width; // rows, widest layer
};

DEV float silu(float x) { return x / (1.f + expf(-x)); }

// prefetch brings this block's slice of a map's weights to the L2, all layers at
// once; weights do not change, so that it need not wait for the kernel ahead.
DEV void prefetch(const EncodeArgs &a, int head) {
    const int rank = clusterRank(), C = clusterSize();
    auto layer = [&](int l, int n, int out) {
        const int per = (out + C - 1) / C, lo = rank * per, hi = imin(out, lo + per);
        const char *from = (const char *)(a.w[l] + ((long long)head * out + lo) * n);
        for (long long i = threadIdx.x * 128; i < (long long)(hi - lo) * n * 4; i += blockDim.x * 128) asm volatile("prefetch.global.L2 [%0];" ::"l"(from + i));
    };
    for (int l = 0; l < a.layers; l++) layer(l, l ? a.out[l - 1] : a.in, a.out[l]);
    if (a.skip) layer(5, a.in, a.bits);
}

// project sets z [bits], in every block of the cluster, to the map of x [in]
// without feedback: each block computes a slice of every layer's outputs and
// sends it to all. y holds layers * width values. before is called once, ahead
// of the first values sent: peers must be running.
template <int W, class F> DEV void project(const EncodeArgs &a, int head, const float *x, float *y, float *z, F before) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, rank = clusterRank(), C = clusterSize();
    // outputs calls put with the outputs of this block's slice; a warp has the
    // loads of four on their way.
    auto outputs = [&](int l, const float *v, int n, int out, auto put) {
        const int per = (out + C - 1) / C, hi = imin(out, (rank + 1) * per);
        for (int o = rank * per + warp; o < hi; o += 4 * W) {
            float s[4] = {0, 0, 0, 0};
            const float *w[4];
#pragma unroll
            for (int k = 0; k < 4; k++) w[k] = a.w[l] + ((long long)head * out + imin(o + k * W, hi - 1)) * n;
            if (n % 4 == 0) {
#pragma unroll 4
                for (int i = lane * 4; i < n; i += 128) {
                    const float4 q = *(const float4 *)(v + i);
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        if (k && o + k * W >= hi) break;
                        const float4 p = *(const float4 *)(w[k] + i);
                        s[k] += p.x * q.x + p.y * q.y + p.z * q.z + p.w * q.w;
                    }
                }
            } else
                for (int i = lane; i < n; i += 32)
#pragma unroll
                    for (int k = 0; k < 4; k++) s[k] += w[k][i] * v[i];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                s[k] = warpSum(s[k]);
                const int at = o + k * W;
                if (at < hi) put(at, s[k] + a.b[l][(long long)head * out + at]);
            }
        }
    };
    auto send = [&](float *to, float v) { // all lanes hold v
        if (C == 1) {
            if (lane == 0) *to = v;
        } else if (lane < C)
            storePeer(peer(shared32(to), lane), __float_as_uint(v));
    };
    bool started = false;
    auto start = [&] {
        if (!started) before();
        started = true;
    };
    const float *v = x;
    int n = a.in;
    for (int l = 0; l + 1 < a.layers; l++) {
        float *to = y + l * a.width;
        start();
        outputs(l, v, n, a.out[l], [&](int o, float s) { send(to + o, silu(s)); });
        clusterSync();
        v = to;
        n = a.out[l];
    }
    // the last layer and the linear path have the same slices
    start();
    float *part = y + imax(a.layers - 1, 0) * a.width; // this block's slice of the linear path
    if (a.skip) {
        outputs(5, x, a.in, a.bits, [&](int o, float s) {
            if (!a.layers)
                send(z + o, s);
            else if (lane == 0)
                part[o] = s;
        });
        __syncwarp();
    }
    if (a.layers) outputs(a.layers - 1, v, n, a.bits, [&](int o, float s) { send(z + o, a.skip ? s + part[o] : s); });
    clusterSync();
}
