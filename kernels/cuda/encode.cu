// Learned maps: keys to packed codes, queries to integer weights.
#include "encode.cuh"

DEV float input(const EncodeArgs &a, const Row &r, int row, int head, int i) {
    if (a.q) return a.q[((long long)row * a.heads + head) * a.in + i];
    const Layer &L = a.caches[r.segment * a.layerCount + a.layer];
    const long long at = ((long long)(head / (a.heads / a.kvHeads)) * L.capacity + r.position) * a.in + i;
    return L.wide ? ((const float *)L.k)[at] : f32(((const bf16 *)L.k)[at]);
}

// write packs the signs of z for keys or quantises z for queries; all threads
// of a warp take part.
DEV void write(const EncodeArgs &a, const Row &r, int row, int head, const float *z) {
    const int lane = threadIdx.x & 31;
    if (!a.q) {
        const Layer &L = a.caches[r.segment * a.layerCount + a.layer];
        u32 *code = (u32 *)L.slot[0] + ((long long)head * L.slotCapacity[0] + r.position) * a.words;
        for (int i = 0; i < a.words; i++) {
            const int bit = i * 32 + lane;
            const u32 word = __ballot_sync(ALL, bit < a.bits && z[bit] > 0.f);
            if (lane == 0) code[i] = word;
        }
        return;
    }
    const long long at = (long long)row * a.heads + head;
    if (a.queryBits == 1) {
        for (int i = lane; i < a.bits; i += 32) a.weights[at * a.bits + i] = z[i] > 0.f ? 1 : -1;
        if (lane == 0 && a.scales) a.scales[at] = 1.f;
        return;
    }
    float top = 0;
    for (int i = lane; i < a.bits; i += 32) top = fmaxf(top, fabsf(z[i]));
    top = warpMax(top);
    const float limit = (float)((1 << (a.queryBits - 1)) - 1);
    for (int i = lane; i < a.bits; i += 32) a.weights[at * a.bits + i] = top > 0.f ? (i8)__float2int_rn(__fmul_rn(__fdiv_rn(z[i], top), limit)) : 0;
    if (lane == 0 && a.scales) a.scales[at] = top / limit;
}

// encode_few: block (slice, head, row); the blocks of a cluster share a row's
// head.
template <int W> DEV void encodeFew(const EncodeArgs &a) {
    extern __shared__ float sm[]; // x [in], y [layers][width], z [bits], feedback [bits, bits + 1]
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, head = blockIdx.y, row = blockIdx.z, rank = clusterRank();
    const Row r = a.rows ? a.rows[row] : Row{0, 0};
    float *x = sm, *y = x + (a.in + 3) / 4 * 4, *z = y + a.layers * a.width, *f = z + a.bits;
    for (int i = threadIdx.x; i < a.in; i += blockDim.x) x[i] = input(a, r, row, head, i);
    if (a.feedback && rank == 0)
        for (int i = threadIdx.x; i < a.bits * a.bits; i += blockDim.x) f[i / a.bits * (a.bits + 1) + i % a.bits] = a.feedback[(long long)head * a.bits * a.bits + i];
    clusterSync(); // also: every block runs
    project<W>(a, head, x, y, z, [] {});
    if (rank != 0 || warp != 0) return;
    if (a.feedback)
        for (int s = 0; s < a.bits; s += a.blockBits) { // bits before s are final
            for (int i = s + a.blockBits + lane; i < a.bits; i += 32) {
                float d = 0;
                for (int j = s; j < s + a.blockBits; j++) d += z[j] > 0.f ? f[i * (a.bits + 1) + j] : -f[i * (a.bits + 1) + j];
                z[i] += d;
            }
            __syncwarp();
        }
    write(a, r, row, head, z);
}
KERNEL __launch_bounds__(256) encode_few(const EncodeArgs a) {
    prefetch(a, blockIdx.y);
    begin();
    encodeFew<8>(a);
}
KERNEL __launch_bounds__(1024) encode_wide(const EncodeArgs a) {
    prefetch(a, blockIdx.y);
    begin();
    encodeFew<32>(a);
}

// encode_many: block (16 tokens, head); a thread computes one output of all
// 16, weights in column form.
KERNEL __launch_bounds__(128) encode_many(const EncodeArgs a) {
    begin();
    constexpr int N = 16;
    extern __shared__ float sm[]; // x [N][in], y [2][N][width], z [N][bits]
    const int head = blockIdx.y, first = blockIdx.x * N, count = imin(N, a.tokens - first);
    float *x = sm, *y = x + N * a.in, *z = y + 2 * N * a.width;
    for (int i = threadIdx.x; i < N * a.in; i += blockDim.x) {
        const int row = first + i / a.in;
        const Row r = a.rows && row < a.tokens ? a.rows[row] : Row{0, 0};
        x[i] = row < a.tokens ? input(a, r, row, head, i % a.in) : 0.f;
    }
    for (int i = threadIdx.x; i < N * a.bits; i += blockDim.x) z[i] = 0;
    __syncthreads();
    auto affine = [&](float *to, int l, const float *v, int n, int out, int mode) { // mode 0 SiLU, 1 add
        for (int o = threadIdx.x; o < out; o += blockDim.x) {
            float acc[N];
            const float bias = a.b[l][(long long)head * out + o];
#pragma unroll
            for (int t = 0; t < N; t++) acc[t] = bias;
            const float *w = a.t[l] + (long long)head * n * out + o;
            int i = 0;
            if (n % 4 == 0)
                for (; i < n; i += 4) {
                    const float c0 = w[(long long)i * out], c1 = w[(long long)(i + 1) * out], c2 = w[(long long)(i + 2) * out], c3 = w[(long long)(i + 3) * out];
#pragma unroll
                    for (int t = 0; t < N; t++) {
                        const float4 p = *(const float4 *)(v + t * n + i);
                        acc[t] += c0 * p.x + c1 * p.y + c2 * p.z + c3 * p.w;
                    }
                }
            for (; i < n; i++) {
                const float c = w[(long long)i * out];
#pragma unroll
                for (int t = 0; t < N; t++) acc[t] += c * v[t * n + i];
            }
#pragma unroll
            for (int t = 0; t < N; t++)
                if (mode == 0)
                    to[t * out + o] = silu(acc[t]);
                else
                    to[t * out + o] += acc[t];
        }
        __syncthreads();
    };
    const float *v = x;
    int n = a.in;
    for (int l = 0; l < a.layers; l++) {
        const bool end = l == a.layers - 1;
        float *to = end ? z : y + (l & 1) * N * a.width;
        affine(to, l, v, n, a.out[l], end);
        v = to;
        n = a.out[l];
    }
    if (a.skip) affine(z, 5, x, a.in, a.bits, 1);
    if (a.feedback)
        for (int s = 0; s < a.bits; s += a.blockBits) {
            const int rest = a.bits - s - a.blockBits;
            for (int i = threadIdx.x; i < N * rest; i += blockDim.x) {
                const int t = i / rest, o = s + a.blockBits + i % rest;
                const float *f = a.feedback + ((long long)head * a.bits + o) * a.bits;
                float d = 0;
                for (int j = s; j < s + a.blockBits; j++) d += z[t * a.bits + j] > 0.f ? f[j] : -f[j];
                z[t * a.bits + o] += d;
            }
            __syncthreads();
        }
    for (int t = threadIdx.x >> 5; t < count; t += blockDim.x / 32) {
        const Row r = a.rows ? a.rows[first + t] : Row{0, 0};
        write(a, r, first + t, head, z + t * a.bits);
    }
}
