// Learned maps: keys to packed codes, queries to integer weights.
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
    int layerCount, layer, kvHeads, words;
    int staged; // whether a block's share of the weights fits its shared memory
    // what comes out for queries
    int queryBits;
    i8 *weights;  // [T, heads, bits]
    float *scales; // [T, heads] or null
    int tokens, width; // rows, widest layer
};

// EncodeStep is the maps of one launch: keys and queries of a decode step.
struct EncodeStep {
    EncodeArgs map[2]; // the second's heads follow the first's
};

DEV float silu(float x) { return x / (1.f + expf(-x)); }

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
#pragma unroll 1
        for (int i = 0; i < a.words; i++) {
            const int bit = i * 32 + lane;
            const u32 word = __ballot_sync(ALL, bit < a.bits && z[bit] > 0.f);
            if (lane == 0) code[i] = word;
        }
        return;
    }
    const long long at = (long long)row * a.heads + head;
    if (a.queryBits == 1) {
#pragma unroll 1
        for (int i = lane; i < a.bits; i += 32) a.weights[at * a.bits + i] = z[i] > 0.f ? 1 : -1;
        if (lane == 0 && a.scales) a.scales[at] = 1.f;
        return;
    }
    float top = 0;
#pragma unroll 1
    for (int i = lane; i < a.bits; i += 32) top = fmaxf(top, fabsf(z[i]));
    top = warpMax(top);
    const float limit = (float)((1 << (a.queryBits - 1)) - 1);
#pragma unroll 1
    for (int i = lane; i < a.bits; i += 32) a.weights[at * a.bits + i] = top > 0.f ? (i8)__float2int_rn(__fmul_rn(__fdiv_rn(z[i], top), limit)) : 0;
    if (lane == 0 && a.scales) a.scales[at] = top / limit;
}

// combine sums N values each over the warp's lanes; lane i gets that of value
// i * N / 32.
template <int N, int O = 16> DEV float combine(float *v) {
    if constexpr (O == 0)
        return v[0];
    else if constexpr (N == 1) {
        v[0] += __shfl_xor_sync(ALL, v[0], O);
        return combine<1, O / 2>(v);
    } else {
        const bool up = threadIdx.x & O;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const float keep = up ? v[i + N / 2] : v[i], give = up ? v[i] : v[i + N / 2];
            v[i] = keep + __shfl_xor_sync(ALL, give, O);
        }
        return combine<N / 2, O / 2>(v);
    }
}

// products calls put(o, r, dot of row o of w and row r of x) for count rows of
// w [.., n] and R of x [R, stride]; groups of lanes call it with the same
// values, of which member is the lane's number.
template <int W, int R, class F> DEV void products(const float *w, const float *x, int stride, int n, int count, F put) {
    constexpr int K = 4; // rows a warp takes at once
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll 1
    for (int o = warp; o < count; o += K * W) {
        float acc[K * R];
#pragma unroll
        for (int i = 0; i < K * R; i++) acc[i] = 0;
        if (n % 4 == 0) {
#pragma unroll 1
            for (int i = lane * 4; i < n; i += 128) {
                float4 row[K];
#pragma unroll
                for (int k = 0; k < K; k++)
                    if (o + k * W < count) row[k] = *(const float4 *)(w + (long long)(o + k * W) * n + i);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    const float4 p = *(const float4 *)(x + r * stride + i);
#pragma unroll
                    for (int k = 0; k < K; k++)
                        if (o + k * W < count) acc[k * R + r] += p.x * row[k].x + p.y * row[k].y + p.z * row[k].z + p.w * row[k].w;
                }
            }
        } else
#pragma unroll 1
            for (int i = lane; i < n; i += 32)
#pragma unroll
                for (int k = 0; k < K; k++)
                    if (o + k * W < count)
#pragma unroll
                        for (int r = 0; r < R; r++) acc[k * R + r] += x[r * stride + i] * w[(long long)(o + k * W) * n + i];
        const float sum = combine<K * R>(acc);
        const int value = lane * (K * R) / 32, to = o + value / R * W;
        if (to < count) put(to, value % R, lane % (32 / (K * R)), sum);
    }
}

// encode_few: block (slice, head of a map, R rows). The blocks of a cluster
// compute slices of each layer's outputs and send them to each other. Weights
// do not change: they are on their way to shared memory, or to the L2, before
// the kernel ahead has ended.
template <int W, int R> DEV void encodeFew(const EncodeStep &step) {
    extern __shared__ __align__(16) float sm[];
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, rank = clusterRank(), C = clusterSize();
    const int second = (int)blockIdx.y >= step.map[0].heads;
    const EncodeArgs &a = step.map[second];
    const int head = blockIdx.y - (second ? step.map[0].heads : 0);
    const int row0 = blockIdx.z * R, rows = imin(R, a.tokens - row0);
    const int stride = (a.in + 3) / 4 * 4, bits4 = (a.bits + 3) / 4 * 4;
    float *x = sm, *y = x + R * stride;    // [R][stride], [2][R][width]
    float *z = y + 2 * R * a.width;        // [R][bits4]
    float *linear = z + R * bits4;         // the linear path's share of z
    float *bias = linear + R * bits4;      // [layers + 1][width]
    float *f = bias + (a.layers + 1) * a.width; // [bits][bits + 1]
    float *staged = f + (a.feedback ? (a.bits * (a.bits + 1) + 3) / 4 * 4 : 0);
    announce();

    auto first = [&](int out) { return imin(out, rank * ((out + C - 1) / C)); };
    auto share = [&](int out) { return imin(out - first(out), (out + C - 1) / C); };
    // bring starts the copies of a layer's slice and gives where the weights are.
    auto bring = [&](int l, int at, int n, int out, float *&to) {
        const int lo = first(out), count = share(out);
        const float *from = a.w[l] + ((long long)head * out + lo) * n, *b = a.b[l] + (long long)head * out + lo;
#pragma unroll 1
        for (int i = tid; i < count; i += W * 32) copy4(shared32(bias + at * a.width + i), b + i);
        if (!a.staged) {
#pragma unroll 1
            for (long long i = tid * 32; i < (long long)count * n; i += W * 32 * 32) asm volatile("prefetch.global.L2 [%0];" ::"l"(from + i));
            return from;
        }
        const float *here = to;
#pragma unroll 2
        for (int i = tid * 4; i < count * n; i += W * 32 * 4) copy16(shared32(to + i), from + i);
        to += count * n;
        return here;
    };
    __shared__ const float *w[6];
    float *next = staged;
    if (a.skip) {
        const float *here = bring(5, a.layers, a.in, a.bits, next);
        if (tid == 0) w[5] = here;
    }
    if (a.feedback && rank == 0)
#pragma unroll 1
        for (int i = tid; i < a.bits * a.bits; i += W * 32) copy4(shared32(f + i / a.bits * (a.bits + 1) + i % a.bits), a.feedback + (long long)head * a.bits * a.bits + i);
#pragma unroll 1
    for (int l = 0, n = a.in; l < a.layers; l++) {
        const float *here = bring(l, l, n, a.out[l], next);
        if (tid == 0) w[l] = here;
        n = a.out[l];
        commit();
    }
    if (!a.layers) commit();
    clusterArrive();

    dependence();
#pragma unroll 1
    for (int i = tid; i < R * a.in; i += W * 32) {
        const int t = i / a.in, row = row0 + t;
        x[t * stride + i % a.in] = t < rows ? input(a, a.rows ? a.rows[row] : Row{0, 0}, row, head, i % a.in) : 0.f;
    }
    auto arrived = [&](int later) { // copies but those of so many later layers
        if (later == 0)
            waitGroups<0>();
        else if (later == 1)
            waitGroups<1>();
        else
            waitGroups<2>();
        __syncthreads();
    };
    arrived(imax(0, a.layers - 1));
    clusterWait(); // every block runs
    const float *v = x;
    int n = a.in, pitch = stride;
#pragma unroll 1
    for (int l = 0; l < imax(1, a.layers); l++) {
        if (l) arrived(a.layers - 1 - l);
        float *to = y + (l & 1) * R * a.width;
        if (a.layers) {
            const bool end = l == a.layers - 1;
            const int out = a.out[l], lo = first(out);
            products<W, R>(w[l], v, pitch, n, share(out), [&](int o, int r, int member, float s) {
                s += bias[l * a.width + o];
                if (end) {
                    if (member == 0) storePeer(peer(shared32(z + r * bits4 + lo + o), 0), __float_as_uint(s));
                    return;
                }
                s = silu(s);
#pragma unroll 1
                for (int p = member; p < C; p += 8 / R) storePeer(peer(shared32(to + r * a.width + lo + o), p), __float_as_uint(s));
            });
            n = out;
        }
        clusterArrive();
        if (l == 0 && a.skip) { // while the others arrive
            const int lo = first(a.bits);
            products<W, R>(w[5], x, stride, a.in, share(a.bits), [&](int o, int r, int member, float s) {
                if (member == 0) storePeer(peer(shared32(linear + r * bits4 + lo + o), 0), __float_as_uint(s + bias[a.layers * a.width + o]));
            });
        }
        clusterWait();
        v = to;
        pitch = a.width;
    }
    if (a.layers < 2) clusterSync(); // the linear path was sent last
    if (rank) return;
#pragma unroll 1
    for (int t = warp; t < rows; t += W) {
        float *value = z + t * bits4;
        if (a.skip)
            for (int i = lane; i < a.bits; i += 32) value[i] = (a.layers ? value[i] : 0.f) + linear[t * bits4 + i];
        __syncwarp();
        if (a.feedback)
#pragma unroll 1
            for (int s = 0; s < a.bits; s += a.blockBits) { // bits before s are final
                for (int i = s + a.blockBits + lane; i < a.bits; i += 32) {
                    float d = 0;
                    for (int j = s; j < s + a.blockBits; j++) d += value[j] > 0.f ? f[i * (a.bits + 1) + j] : -f[i * (a.bits + 1) + j];
                    value[i] += d;
                }
                __syncwarp();
            }
        write(a, a.rows ? a.rows[row0 + t] : Row{0, 0}, row0 + t, head, value);
    }
}
KERNEL __launch_bounds__(256, 2) encode_few_1(const __grid_constant__ EncodeStep a) { encodeFew<8, 1>(a); }
KERNEL __launch_bounds__(256, 2) encode_few_8(const __grid_constant__ EncodeStep a) { encodeFew<8, 8>(a); }
KERNEL __launch_bounds__(1024) encode_wide(const __grid_constant__ EncodeStep a) { encodeFew<32, 1>(a); }

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
