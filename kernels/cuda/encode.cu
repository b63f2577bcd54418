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
    int layerCount, layer, group, words; // group: heads of a KV head
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

DEV float silu(float x) { return __fdividef(x, 1.f + __expf(-x)); }

// Port is where one row of one head comes from and goes to.
struct Port {
    const void *x;  // query or cached key
    bool narrow;    // whether it is bf16
    u32 *code;      // of a key
    DEV Port(const EncodeArgs &a, int row, int head) {
        if (a.q) {
            x = a.q + ((long long)row * a.heads + head) * a.in;
            narrow = false;
            code = nullptr;
            return;
        }
        const Row r = a.rows[row];
        const Layer &L = a.caches[r.segment * a.layerCount + a.layer];
        const long long at = ((long long)(a.group == 1 ? head : head / a.group) * L.capacity + r.position) * a.in;
        narrow = !L.wide;
        x = narrow ? (const void *)((const bf16 *)L.k + at) : (const void *)((const float *)L.k + at);
        code = (u32 *)L.slot[0] + ((long long)head * L.slotCapacity[0] + r.position) * a.words;
    }
    DEV float operator[](int i) const { return narrow ? f32(((const bf16 *)x)[i]) : ((const float *)x)[i]; }
};

// write packs the signs of z for keys or quantises z for queries; all threads
// of a warp take part.
DEV void write(const EncodeArgs &a, const Port &p, int row, int head, const float *z) {
    const int lane = threadIdx.x & 31;
    if (!a.q) {
#pragma unroll 1
        for (int i = 0; i < a.words; i++) {
            const int bit = i * 32 + lane;
            const u32 word = __ballot_sync(ALL, bit < a.bits && z[bit] > 0.f);
            if (lane == 0) p.code[i] = word;
        }
        return;
    }
    const long long at = (long long)row * a.heads + head;
    float top = 0;
#pragma unroll 1
    for (int i = lane; i < a.bits; i += 32) top = fmaxf(top, fabsf(z[i]));
    top = warpMax(top);
    const float limit = (float)((1 << (a.queryBits - 1)) - 1);
#pragma unroll 1
    for (int i = lane; i < a.bits; i += 32) {
        int v = z[i] > 0.f ? 1 : -1;
        if (a.queryBits > 1) v = top > 0.f ? __float2int_rn(__fmul_rn(__fdiv_rn(z[i], top), limit)) : 0;
        a.weights[at * a.bits + i] = (i8)v;
    }
    if (lane == 0 && a.scales) a.scales[at] = a.queryBits > 1 ? top / limit : 1.f;
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

// products multiplies count rows of w [.., n] with R rows of x [R, stride] and
// calls put(o, r, member, v) with the dots of rows o to o+3 and x's row r; the
// lanes with the same dots have members 0 to 8/min(R, 2)-1. w has whole fours
// of rows but for its last.
template <int W, int R, class F> DEV void products(const float *w, const float *x, int stride, int n, int count, F put) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll 1
    for (int o = warp * 4; o < count; o += 4 * W) {
        float acc[4 * R];
#pragma unroll
        for (int i = 0; i < 4 * R; i++) acc[i] = 0;
        const float *row[4];
#pragma unroll
        for (int k = 0; k < 4; k++) row[k] = w + (long long)imin(o + k, count - 1) * n;
        if (n % 4 == 0) {
#pragma unroll(R == 1 ? 2 : 1)
            for (int i = lane * 4; i < n; i += 128) {
                float4 v[4];
#pragma unroll
                for (int k = 0; k < 4; k++) v[k] = *(const float4 *)(row[k] + i);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    const float4 p = *(const float4 *)(x + r * stride + i);
#pragma unroll
                    for (int k = 0; k < 4; k++) acc[r * 4 + k] += p.x * v[k].x + p.y * v[k].y + p.z * v[k].z + p.w * v[k].w;
                }
            }
        } else
#pragma unroll 1
            for (int i = lane; i < n; i += 32)
#pragma unroll
                for (int k = 0; k < 4; k++)
#pragma unroll
                    for (int r = 0; r < R; r++) acc[r * 4 + k] += x[r * stride + i] * row[k][i];
        const float sum = combine<4 * R>(acc);
        constexpr int S = 32 / (4 * R); // lanes of a value
        float v[4];
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = __shfl_sync(ALL, sum, lane / (4 * S) * (4 * S) + k * S);
        put(o, lane / (4 * S), lane % (4 * S), v);
    }
}

// encode_few: block (slice, head of a map, R rows). The blocks of a cluster
// compute slices of each layer's outputs and send them to each other. Weights
// do not change: they are on their way to shared memory, or to the L2, before
// the kernel ahead has ended.
template <int W, int R> DEV void encodeFew(const EncodeStep &step) {
    touch(step);
    extern __shared__ __align__(16) float sm[];
    __shared__ const float *w[6];
    __shared__ __align__(8) u64 bars[6], copied[6]; // layers received, weights arrived
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
    // A warp a row: where it is was written before the first kernel of a step.
    const Port port(a, row0 + imin(R == 1 ? 0 : warp % R, rows - 1), head);
    if (lane < 8) asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)port.x + lane * 128 % imax(1, a.in * (port.narrow ? 2 : 4))));
    if (rank == 0 && lane == 8 && port.code) asm volatile("prefetch.global.L2 [%0];" ::"l"(port.code));
#if __CUDA_ARCH__ >= 900
    if (tid == 32) { // the weights' copies are one thread's
#pragma unroll 1
        for (int l = 0; l < 6; l++) asm volatile("mbarrier.init.shared::cta.b64 [%0],1;" ::"r"(shared32(copied + l)) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
    }
    if (tid == 0 && C > 1) {
#pragma unroll 1
        for (int l = 0; l < 6; l++) asm volatile("mbarrier.init.shared::cta.b64 [%0],1;" ::"r"(shared32(bars + l)) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#pragma unroll 1
        for (int l = 0; l + 1 < a.layers; l++) expect(shared32(bars + l), R * ((a.out[l] + 3) / 4 * 16));
        if (rank == 0) expect(shared32(bars + 5), R * bits4 * 4 * ((a.layers > 0) + (a.skip > 0)));
    }
#endif

    // A block's slice is whole fours of outputs.
    const int lgC = 31 - __clz(C);
    auto first = [&](int out) { return imin(out, rank * ((out + 4 * C - 1) >> (lgC + 2) << 2)); };
    auto share = [&](int out) { return imin(out - first(out), (out + 4 * C - 1) >> (lgC + 2) << 2); };
    // bring starts the copies of a layer's slice and notes where the weights are.
    auto bring = [&](int l, int at, int n, int out, float *&to) {
        const int lo = first(out), count = share(out);
        const float *from = a.w[l] + ((long long)head * out + lo) * n, *b = a.b[l] + (long long)head * out + lo;
#pragma unroll 1
        for (int i = tid; i < count; i += W * 32) copy4(shared32(bias + at * a.width + i), b + i);
        if (tid == 32) w[l] = a.staged ? to : from;
        if (!a.staged) {
#pragma unroll 1
            for (long long i = tid * 32; i < (long long)count * n; i += W * 32 * 32) asm volatile("prefetch.global.L2 [%0];" ::"l"(from + i));
            return;
        }
#if __CUDA_ARCH__ >= 900
        if (tid == 32) {
            expect(shared32(copied + l), count * n * 4);
            if (count > 0) copyBulk(shared32(to), from, count * n * 4, shared32(copied + l));
        }
#else
#pragma unroll 2
        for (int i = tid * 4; i < count * n; i += W * 32 * 4) copy16(shared32(to + i), from + i);
#endif
        to += count * n;
    };
    float *next = staged;
#pragma unroll 1
    for (int l = 0, n = a.in; l < a.layers; l++) {
        bring(l, l, n, a.out[l], next);
        n = a.out[l];
    }
    if (a.skip) bring(5, a.layers, a.in, a.bits, next);
    if (a.feedback && rank == 0) {
#pragma unroll 1
        for (int r = warp; r < a.bits; r += W)
#pragma unroll 1
            for (int i = lane; i < a.bits; i += 32) copy4(shared32(f + r * (a.bits + 1) + i), a.feedback + ((long long)head * a.bits + r) * a.bits + i);
    }
    commit();
    clusterStarted(); // the copies need not have arrived

    dependence();
    if (R == 1) {
        constexpr int N = 4; // loads on their way at once
#pragma unroll 1
        for (int i = tid; i < a.in; i += N * W * 32) {
            float v[N];
#pragma unroll
            for (int k = 0; k < N; k++) v[k] = i + k * W * 32 < a.in ? port[i + k * W * 32] : 0.f;
#pragma unroll
            for (int k = 0; k < N; k++)
                if (i + k * W * 32 < a.in) x[i + k * W * 32] = v[k];
        }
    } else if (warp < R) {
        constexpr int N = 8;
#pragma unroll 1
        for (int i = lane; i < a.in; i += N * 32) {
            float v[N];
#pragma unroll
            for (int k = 0; k < N; k++) v[k] = warp < rows && i + k * 32 < a.in ? port[i + k * 32] : 0.f;
#pragma unroll
            for (int k = 0; k < N; k++)
                if (i + k * 32 < a.in) x[warp * stride + i + k * 32] = v[k];
        }
    }
    auto arrived = [&](int l) { // the layer's weights
#if __CUDA_ARCH__ >= 900
        if (a.staged) await(shared32(copied + l));
#endif
    };
    // deliver sends four outputs of a layer's slice to the blocks to, to + step ..
    // below end; to one's own block if it is alone.
    auto deliver = [&](float *at, float *v, int to, int step, int end, int bar) {
        const uint4 u = make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3]));
        if (C == 1) {
            if (to == 0) *(uint4 *)at = u;
            return;
        }
#if __CUDA_ARCH__ >= 900
#pragma unroll 1
        for (; to < end; to += step) send4(peer(shared32(at), to), u, peer(shared32(bars + bar), to));
#endif
    };
    auto received = [&](int bar) {
#if __CUDA_ARCH__ >= 900
        if (C > 1) {
            await(shared32(bars + bar));
            return;
        }
#endif
        __syncthreads();
    };
    constexpr int MEMBERS = R == 1 ? 32 : 4;
    waitGroups<0>();
    __syncthreads();
    clusterWait(); // every block runs
    const float *v = x;
    int n = a.in, pitch = stride;
#pragma unroll 1
    for (int l = 0;; l++) {
        const bool end = l >= a.layers - 1;
        float *to = end ? z : y + (l & 1) * R * a.width;
        const int pitchTo = end ? bits4 : a.width, out = a.out[imin(l, 4)];
        if (a.layers) {
            arrived(l);
            const int lo = first(out);
            products<W, R>(w[l], v, pitch, n, share(out), [&](int o, int r, int member, float *s) {
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    s[k] = lo + o + k < out ? s[k] + bias[l * a.width + o + k] : 0.f;
                    if (!end) s[k] = silu(s[k]);
                }
                deliver(to + r * pitchTo + lo + o, s, member, MEMBERS, end ? 1 : C, end ? 5 : l);
            });
        }
        if (l == 0 && a.skip) { // while the others' outputs arrive
            arrived(5);
            const int lo = first(a.bits);
            products<W, R>(w[5], x, stride, a.in, share(a.bits), [&](int o, int r, int member, float *s) {
#pragma unroll
                for (int k = 0; k < 4; k++) s[k] = lo + o + k < a.bits ? s[k] + bias[a.layers * a.width + o + k] : 0.f;
                deliver(linear + r * bits4 + lo + o, s, member, MEMBERS, 1, 5);
            });
        }
        if (end) break;
        received(l);
        v = to;
        n = out;
        pitch = pitchTo;
    }
    if (rank) return;
    received(5);
    if (R > 1 ? warp >= rows : warp > 0) return;
    float *value = z + (R > 1 ? warp : 0) * bits4;
    for (int i = lane; i < a.bits; i += 32) value[i] = (a.layers ? value[i] : 0.f) + (a.skip ? linear[(R > 1 ? warp : 0) * bits4 + i] : 0.f);
    __syncwarp();
    if (a.feedback)
#pragma unroll 1
        for (int s = 0; s < a.bits; s += a.blockBits) { // bits before s are final
            for (int i = s + a.blockBits + lane; i < a.bits; i += 32) {
                float d = 0;
#pragma unroll 4
                for (int j = s; j < s + a.blockBits; j++) d += value[j] > 0.f ? f[i * (a.bits + 1) + j] : -f[i * (a.bits + 1) + j];
                value[i] += d;
            }
            __syncwarp();
        }
    write(a, port, row0 + (R > 1 ? warp : 0), head, value);
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
        x[i] = row < a.tokens ? Port(a, row, head)[i % a.in] : 0.f;
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
        write(a, Port(a, first + t, head), first + t, head, z + t * a.bits);
    }
}
