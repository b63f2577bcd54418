// Attention of few query rows over gathered cache rows, on tensor cores.
//
// A warp takes 16 cached tokens at a time: K rows load straight into the A
// operand of q.k (tokens x heads), V rows into the A operand of the output
// (values x heads), so no row passes through shared memory. Up to 8 query
// heads of a group share every row. A lane's 16-byte loads fix which k index
// of the product it holds; queries are read in the same permutation.
#pragma once
#include "device.cuh"

// Queries of 8 heads, split into bf16 and its remainder so that logits keep
// float32's accuracy. Rows are padded against bank conflicts.
template <int D> struct Queries {
    bf16 hi[8][D + 32], lo[8][D + 32];
    // fill loads heads rows of q, f32, by the 256 threads of the block.
    DEV void fill(const float *q, int heads) {
        constexpr int N = 8 * D / 512;
        float2 v[N]; // all on their way at once
#pragma unroll
        for (int k = 0; k < N; k++) {
            const int i = 2 * (k * 256 + threadIdx.x);
            v[k] = i < heads * D ? *(const float2 *)(q + i) : make_float2(0, 0);
        }
#pragma unroll
        for (int k = 0; k < N; k++) put(2 * (k * 256 + threadIdx.x), v[k]);
    }
    // put sets values i and i+1, i even, of [8][D].
    DEV void put(int i, float2 v) {
        const u32 h = pack(v.x, v.y);
        *(u32 *)&hi[i / D][i % D] = h;
        *(u32 *)&lo[i / D][i % D] = pack(v.x - low(h), v.y - high(h));
    }
};

// KeyTile is 16 rows of K in a warp's registers.
template <int D> struct KeyTile {
    uint4 x[D / 32], y[D / 32];
    // load starts the loads of the rows position, of token lane%16.
    DEV void load(const bf16 *K, int position) {
        const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
        const bf16 *k0 = K + (long long)__shfl_sync(ALL, position, g) * D + c * 8;
        const bf16 *k1 = K + (long long)__shfl_sync(ALL, position, g + 8) * D + c * 8;
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            x[j] = stream4(k0 + 32 * j);
            y[j] = stream4(k1 + 32 * j);
        }
    }
    // dot sets s to q.k of tokens g and g+8 (0, 1 and 2, 3) with heads 2c and
    // 2c+1.
    DEV void dot(const Queries<D> &q, float *s) const {
        const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
        s[0] = s[1] = s[2] = s[3] = 0;
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            const uint4 h = *(const uint4 *)&q.hi[g][32 * j + 8 * c], l = *(const uint4 *)&q.lo[g][32 * j + 8 * c];
            mma(s, x[j].x, y[j].x, x[j].y, y[j].y, h.x, h.y);
            mma(s, x[j].z, y[j].z, x[j].w, y[j].w, h.z, h.w);
            mma(s, x[j].x, y[j].x, x[j].y, y[j].y, l.x, l.y);
            mma(s, x[j].z, y[j].z, x[j].w, y[j].w, l.z, l.w);
        }
    }
};

// Accumulator is one warp's running softmax: lane (g, c) = (lane/4, lane%4)
// holds heads 2c and 2c+1, and of tile j*4+e the values 64j + 8g + 2e, +1.
template <int D> struct Accumulator {
    float m0 = MASKED, m1 = MASKED, l0 = 0, l1 = 0;
    float out[D / 16][4];

    DEV void clear() {
#pragma unroll
        for (int i = 0; i < D / 16; i++) out[i][0] = out[i][1] = out[i][2] = out[i][3] = 0;
    }

    // tile adds 16 tokens. position is the cache row of token lane%16, valid
    // how many of the 16 count; the others must repeat an existing row.
    DEV void tile(const bf16 *K, const bf16 *V, const Queries<D> &q, int position, int valid, float scale) {
        const int g = (threadIdx.x & 31) >> 2;
        KeyTile<D> keys;
        uint4 va[4][D / 64];
        keys.load(K, position);
        loadValues(va, V, position);
        float s[4];
        keys.dot(q, s);
#pragma unroll
        for (int i = 0; i < 4; i++) s[i] *= scale;
        if (g >= valid) s[0] = s[1] = MASKED;
        if (g + 8 >= valid) s[2] = s[3] = MASKED;
        float n0 = fmaxf(s[0], s[2]), n1 = fmaxf(s[1], s[3]);
#pragma unroll
        for (int o = 4; o < 32; o <<= 1) {
            n0 = fmaxf(n0, __shfl_xor_sync(ALL, n0, o));
            n1 = fmaxf(n1, __shfl_xor_sync(ALL, n1, o));
        }
        n0 = fmaxf(n0, m0);
        n1 = fmaxf(n1, m1);
        const float f0 = exp2f(m0 - n0), f1 = exp2f(m1 - n1);
        m0 = n0;
        m1 = n1;
        l0 *= f0;
        l1 *= f1;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            out[i][0] *= f0;
            out[i][1] *= f1;
            out[i][2] *= f0;
            out[i][3] *= f1;
        }
        add(va, s);
    }

    // loadValues starts the loads of 16 rows of V.
    static DEV void loadValues(uint4 (&va)[4][D / 64], const bf16 *V, int position) {
        const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
        const bf16 *v0 = V + (long long)__shfl_sync(ALL, position, 2 * c) * D + g * 8;
        const bf16 *v1 = V + (long long)__shfl_sync(ALL, position, 2 * c + 1) * D + g * 8;
        const bf16 *v2 = V + (long long)__shfl_sync(ALL, position, 2 * c + 8) * D + g * 8;
        const bf16 *v3 = V + (long long)__shfl_sync(ALL, position, 2 * c + 9) * D + g * 8;
#pragma unroll
        for (int j = 0; j < D / 64; j++) {
            va[0][j] = stream4(v0 + 64 * j);
            va[1][j] = stream4(v1 + 64 * j);
            va[2][j] = stream4(v2 + 64 * j);
            va[3][j] = stream4(v3 + 64 * j);
        }
    }

    // add adds 16 rows of V of base-2 logits s (as KeyTile's), relative to m0
    // and m1, which they must not exceed.
    DEV void add(uint4 (&va)[4][D / 64], const float *s) {
        const float e0 = exp2f(s[0] - m0), e1 = exp2f(s[1] - m1), e2 = exp2f(s[2] - m0), e3 = exp2f(s[3] - m1);
        // the weights' sum is that of the rounded weights the product uses
        const u32 p0 = pack(e0, e1), p1 = pack(e2, e3);
        l0 += low(p0) + low(p1);
        l1 += high(p0) + high(p1);
        const u32 b0 = transpose(p0), b1 = transpose(p1);
#pragma unroll
        for (int j = 0; j < D / 64; j++) {
#define TILE(e, f) \
    mma(out[j * 4 + e], __byte_perm(va[0][j].f, va[1][j].f, 0x5410), __byte_perm(va[0][j].f, va[1][j].f, 0x7632), \
        __byte_perm(va[2][j].f, va[3][j].f, 0x5410), __byte_perm(va[2][j].f, va[3][j].f, 0x7632), b0, b1);
            TILE(0, x)
            TILE(1, y)
            TILE(2, z)
            TILE(3, w)
#undef TILE
        }
    }

    // finish sums the weights over the lanes and writes the warp's part of
    // heads heads: values to part [heads][D], maxima and sums to m and l.
    DEV void finish(float *part, float *m, float *l, int heads) {
        const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
#pragma unroll
        for (int o = 4; o < 32; o <<= 1) {
            l0 += __shfl_xor_sync(ALL, l0, o);
            l1 += __shfl_xor_sync(ALL, l1, o);
        }
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int h = 2 * c + k;
            if (h >= heads) continue;
#pragma unroll
            for (int j = 0; j < D / 64; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const float *a = out[j * 4 + 2 * e], *b = out[j * 4 + 2 * e + 1];
                    *(float4 *)&part[h * D + 64 * j + 8 * g + 4 * e] = make_float4(a[k], a[2 + k], b[k], b[2 + k]);
                }
            if (g == 0) {
                m[h] = k ? m1 : m0;
                l[h] = k ? l1 : l0;
            }
        }
    }
};
