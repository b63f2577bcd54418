// Causal attention of many query rows (FlashAttention-2's loop on mma.sync).
// Block (tile, head): 4 warps of 16*M query rows each; K and V pass through
// shared memory in tiles of 64 tokens, copied two deep by cp.async.
#include "device.cuh"

DEV void ldmatrix(u32 *r, u32 a) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
DEV void ldmatrixT(u32 *r, u32 a) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}

// at is the byte offset of 16-byte chunk ch of a row of D values; chunks are
// xor-swizzled within groups of 8 so that ldmatrix meets no bank twice.
template <int D> DEV u32 at(int row, int ch) { return row * D * 2 + ((ch ^ (row & 7)) << 4); }

struct PrefillArgs {
    float *out;
    bf16 *shadow;
    const float *q; // [T, queryHeads, D]
    const Tile *tiles;
    const Layer *layers;
    int layerCount, layer, queryHeads, kvHeads, window;
    float scale;
};

template <int D, int M> DEV void prefill(const PrefillArgs &a) {
    constexpr int R = 64 * M; // query rows of the block
    extern __shared__ __align__(128) char sm[];
    const int tid = threadIdx.x, w = tid >> 5, lane = tid & 31, head = blockIdx.y;
    const Tile tile = a.tiles[gridDim.x - 1 - blockIdx.x]; // the longest first
    const Layer L = a.layers[tile.segment * a.layerCount + a.layer];
    const int kv = head / (a.queryHeads / a.kvHeads);
    const bf16 *K = (const bf16 *)L.k + (long long)kv * L.capacity * D, *V = (const bf16 *)L.v + (long long)kv * L.capacity * D;
    const u32 sQ = shared32(sm), sK = sQ + R * D * 2, sV = sK + 2 * 64 * D * 2;
    const int p0 = tile.position, last = p0 + tile.rows - 1;
    const int from = a.window > 0 ? imax(0, p0 + 1 - a.window) / 64 : 0, to = last / 64 + 1;
    const float sc = a.scale * LOG2E;

    auto fetch = [&](int j, int stage) {
#pragma unroll
        for (int i = 0; i < 64 * D / 8 / 128; i++) {
            const int e = i * 128 + tid, r = e / (D / 8), c = e % (D / 8);
            const long long p = (long long)imin(j * 64 + r, last) * D + c * 8;
            copy16(sK + stage * 64 * D * 2 + at<D>(r, c), K + p);
            copy16(sV + stage * 64 * D * 2 + at<D>(r, c), V + p);
        }
    };
    fetch(from, 0);
    commit();
#pragma unroll 4
    for (int i = 0; i < R * D / 8 / 128; i++) { // queries, rounded to bf16
        const int e = i * 128 + tid, r = e / (D / 8), c = e % (D / 8);
        const float *s = a.q + ((long long)(tile.row + imin(r, tile.rows - 1)) * a.queryHeads + head) * D + c * 8;
        const float4 x = *(const float4 *)s, y = *(const float4 *)(s + 4);
        *(uint4 *)(sm + at<D>(r, c)) = make_uint4(pack(x.x, x.y), pack(x.z, x.w), pack(y.x, y.y), pack(y.z, y.w));
    }

    float O[M][D / 8][4], m[2 * M], l[2 * M];
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int n = 0; n < D / 8; n++) O[i][n][0] = O[i][n][1] = O[i][n][2] = O[i][n][3] = 0;
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        m[i] = MASKED;
        l[i] = 0;
    }
    const int w0 = p0 + w * 16 * M; // position of the warp's first row
    for (int j = from; j < to; j++) {
        const int stage = (j - from) & 1;
        if (j + 1 < to) fetch(j + 1, stage ^ 1);
        commit();
        waitGroups<1>();
        __syncthreads();
        const u32 k_ = sK + stage * 64 * D * 2, v_ = sV + stage * 64 * D * 2;
        if (j * 64 <= w0 + 16 * M - 1) { // this warp has something to see
            float S[M][8][4];
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int n = 0; n < 8; n++) S[i][n][0] = S[i][n][1] = S[i][n][2] = S[i][n][3] = 0;
#pragma unroll
            for (int kk = 0; kk < D / 16; kk++) {
                u32 A[M][4];
#pragma unroll
                for (int i = 0; i < M; i++) ldmatrix(A[i], sQ + at<D>(w * 16 * M + i * 16 + (lane & 15), kk * 2 + (lane >> 4)));
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    u32 B[4];
                    ldmatrix(B, k_ + at<D>(n * 16 + (lane & 7) + ((lane >> 4) << 3), kk * 2 + ((lane >> 3) & 1)));
#pragma unroll
                    for (int i = 0; i < M; i++) {
                        mma(S[i][2 * n], A[i][0], A[i][1], A[i][2], A[i][3], B[0], B[1]);
                        mma(S[i][2 * n + 1], A[i][0], A[i][1], A[i][2], A[i][3], B[2], B[3]);
                    }
                }
            }
            if (j * 64 + 63 > w0 || (a.window > 0 && j * 64 + a.window <= w0 + 16 * M - 1)) {
#pragma unroll
                for (int i = 0; i < M; i++)
#pragma unroll
                    for (int n = 0; n < 8; n++)
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            const int row = w0 + i * 16 + (lane >> 2) + (e >> 1) * 8, col = j * 64 + n * 8 + (lane & 3) * 2 + (e & 1);
                            if (col > row || (a.window > 0 && col + a.window <= row)) S[i][n][e] = MASKED;
                        }
            }
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float mx = MASKED;
#pragma unroll
                    for (int n = 0; n < 8; n++) mx = fmaxf(mx, fmaxf(S[i][n][2 * e], S[i][n][2 * e + 1]));
                    mx = fmaxf(mx, __shfl_xor_sync(ALL, mx, 1));
                    mx = fmaxf(mx, __shfl_xor_sync(ALL, mx, 2));
                    mx = fmaxf(mx, m[i * 2 + e]);
                    const float f = exp2f((m[i * 2 + e] - mx) * sc), ms = mx * sc;
                    float sum = 0;
                    m[i * 2 + e] = mx;
#pragma unroll
                    for (int n = 0; n < 8; n++) {
                        const float x = exp2f(S[i][n][2 * e] * sc - ms), y = exp2f(S[i][n][2 * e + 1] * sc - ms);
                        S[i][n][2 * e] = x;
                        S[i][n][2 * e + 1] = y;
                        sum += x + y;
                    }
                    l[i * 2 + e] = l[i * 2 + e] * f + sum;
#pragma unroll
                    for (int n = 0; n < D / 8; n++) {
                        O[i][n][2 * e] *= f;
                        O[i][n][2 * e + 1] *= f;
                    }
                }
#pragma unroll
            for (int kk = 0; kk < 4; kk++) {
                u32 A[M][4];
#pragma unroll
                for (int i = 0; i < M; i++) {
                    A[i][0] = pack(S[i][2 * kk][0], S[i][2 * kk][1]);
                    A[i][1] = pack(S[i][2 * kk][2], S[i][2 * kk][3]);
                    A[i][2] = pack(S[i][2 * kk + 1][0], S[i][2 * kk + 1][1]);
                    A[i][3] = pack(S[i][2 * kk + 1][2], S[i][2 * kk + 1][3]);
                }
#pragma unroll
                for (int n = 0; n < D / 16; n++) {
                    u32 B[4];
                    ldmatrixT(B, v_ + at<D>(kk * 16 + (lane & 15), n * 2 + (lane >> 4)));
#pragma unroll
                    for (int i = 0; i < M; i++) {
                        mma(O[i][2 * n], A[i][0], A[i][1], A[i][2], A[i][3], B[0], B[1]);
                        mma(O[i][2 * n + 1], A[i][0], A[i][1], A[i][2], A[i][3], B[2], B[3]);
                    }
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float s = l[i * 2 + e];
            s += __shfl_xor_sync(ALL, s, 1);
            s += __shfl_xor_sync(ALL, s, 2);
            s = 1.f / s;
            const int r = w * 16 * M + i * 16 + e * 8 + (lane >> 2);
            if (r >= tile.rows) continue;
            const long long o = ((long long)(tile.row + r) * a.queryHeads + head) * D + (lane & 3) * 2;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                const float x = O[i][n][2 * e] * s, y = O[i][n][2 * e + 1] * s;
                *(float2 *)(a.out + o + n * 8) = make_float2(x, y);
                if (a.shadow) *(u32 *)(a.shadow + o + n * 8) = pack(x, y);
            }
        }
}
KERNEL __launch_bounds__(128, 2) prefill_64(const PrefillArgs a) { begin(); prefill<64, 2>(a); }
KERNEL __launch_bounds__(128, 2) prefill_128(const PrefillArgs a) { begin(); prefill<128, 2>(a); }
KERNEL __launch_bounds__(128, 1) prefill_256(const PrefillArgs a) { begin(); prefill<256, 1>(a); }
