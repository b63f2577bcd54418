// Token-wise operations: embedding, normalisation, linear layers of few
// tokens, activations, rotary embedding, and the ends of the model.
#include "device.cuh"

// convert writes the bf16 copy of x [rows, cols] that matrix products read,
// rows padded with zeros to stride.
KERNEL convert(bf16 *out, const float *x, int cols, int stride) {
    begin();
    const long long row = blockIdx.y;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < stride; i += gridDim.x * blockDim.x)
        out[row * stride + i] = i < cols ? tobf16(x[row * cols + i]) : 0;
}

// embed sets out[t] to row tokens[t] of table times scale.
template <class T> DEV void embedRows(float *out, const T *table, const int *tokens, int cols, int stride, float scale) {
    begin();
    const long long t = blockIdx.y, id = tokens[t];
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < cols; i += gridDim.x * blockDim.x)
        out[t * cols + i] = load(table + id * stride + i) * scale;
}
KERNEL embed(float *out, const bf16 *table, const int *tokens, int cols, int stride, float scale) { embedRows(out, table, tokens, cols, stride, scale); }
KERNEL wide_embed(float *out, const float *table, const int *tokens, int cols, int stride, float scale) { embedRows(out, table, tokens, cols, stride, scale); }

// rms_norm normalises one row a block; shadow, if set, gets the bf16 copy.
KERNEL rms_norm(float *out, const float *x, const float *gain, bf16 *shadow, int width, int stride, float eps) {
    begin();
    __shared__ float scratch[33];
    const long long row = blockIdx.x;
    x += row * width;
    out += row * width;
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += x[i] * x[i];
    const float scale = rsqrtf(blockSum(sum, scratch) / width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float v = x[i] * scale * gain[i];
        out[i] = v;
        if (shadow) shadow[row * stride + i] = tobf16(v);
    }
    if (shadow)
        for (int i = width + threadIdx.x; i < stride; i += blockDim.x) shadow[row * stride + i] = 0;
}

// Linears is up to 3 linear layers of the same input in one launch, and what
// comes before and after them in a decode step.
struct Linears {
    float *out[3];
    const bf16 *w[3];
    const float *bias[3];
    int rows[3], end[3]; // outputs, and the block behind the layer's last
    const bf16 *x;
    int tokens, stride, split, add;
    // With act two layers, gate and up, are one: gated = act(gate) * up, and
    // its bf16 copy.
    float *gated;
    bf16 *shadow;
    // With dim the layers are q, k and v of heads of dim: q and k are rotated,
    // k and v stored at the rows' positions.
    int act, dim;
    const float *cs, *sn; // [T, dim/2]
    const Row *positions;
    const Layer *caches;
    int layerCount, layer;
    // With raw the input is the RMS norm of raw [T, width], which also goes to
    // normed and, as x, to copy.
    const float *raw, *gain;
    float *normed;
    bf16 *copy;
    int width;
    float eps;
};

// activate is SiLU (1) or GELU by tanh (2).
DEV float activate(float x, int act) {
    return act == 1 ? x / (1.f + __expf(-x)) : 0.5f * x * (1.f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

// linearSmall is linear layers of up to 16 tokens: weights stream once through
// the tensor cores as the [k x 8 rows] operand. split warps of a block share a
// tile of 8 rows, each a part of k; the parts are added in order. Where outputs
// are needed in pairs (gate and up, the halves of a head) a tile is 4 rows and
// their 4 partners. Weights do not change, so that the first loads need not
// wait for the kernel ahead.
template <bool WIDE, bool NORM> DEV void linearSmall(const Linears &a) {
    constexpr int W = 8, TOKENS = WIDE ? 16 : 8;
    extern __shared__ __align__(16) bf16 input[]; // of a norm: [tokens][stride], not yet scaled
    __shared__ float part[W][TOKENS][8], squares[W][TOKENS];
    touch(a);
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, c = lane & 3;
    const int which = ((int)blockIdx.x >= a.end[0]) + ((int)blockIdx.x >= a.end[1]);
    const int block = blockIdx.x - (which == 0 ? 0 : which == 1 ? a.end[0] : a.end[1]);
    float *out = which == 0 ? a.out[0] : which == 1 ? a.out[1] : a.out[2];
    const bf16 *w = which == 0 ? a.w[0] : which == 1 ? a.w[1] : a.w[2];
    const float *bias = which == 0 ? a.bias[0] : which == 1 ? a.bias[1] : a.bias[2];
    const int tokens = a.tokens, rows = which == 0 ? a.rows[0] : which == 1 ? a.rows[1] : a.rows[2], stride = a.stride, split = a.split;
    const int perBlock = W / split, tile = block * perBlock + warp / split, slice = warp % split;
    const int chunks = stride / 32, per = (chunks + split - 1) / split;
    // row0 is a tile's first row, far what its partners are behind.
    auto row0 = [&](int tile) { return a.act ? tile * 4 : a.dim ? tile * 8 / a.dim * a.dim + tile * 8 % a.dim / 2 : tile * 8; };
    const int far = a.dim ? a.dim / 2 : 4;
    const int first = slice * per, last = row0(tile) < rows ? imin(chunks, first + per) : 0;
    const int row = imin(row0(tile) + (a.act ? g & 3 : (g & 3) + (g >> 2) * far), rows - 1);
    const bf16 *wr = (a.act && g >= 4 ? a.w[1] : w) + (long long)row * stride + c * 8;
    constexpr int U = WIDE ? 4 : 6;
    uint4 ws[U];
#pragma unroll
    for (int u = 0; u < U; u++) ws[u] = first + u < last ? stream4(wr + (first + u) * 32) : make_uint4(0, 0, 0, 0);
    begin();
    if (NORM) {
#pragma unroll 1
        for (int t = 0; t < tokens; t++) {
            float sum = 0;
#pragma unroll 2
            for (int i = tid * 4; i < stride; i += W * 128) {
                float4 v = make_float4(0, 0, 0, 0), k = v;
                if (i < a.width) {
                    v = *(const float4 *)(a.raw + (long long)t * a.width + i);
                    k = *(const float4 *)(a.gain + i);
                }
                sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
                *(uint2 *)(input + t * stride + i) = make_uint2(pack(v.x * k.x, v.y * k.y), pack(v.z * k.z, v.w * k.w));
            }
            sum = warpSum(sum);
            if (lane == 0) squares[warp][t] = sum;
        }
        __syncthreads();
    }
    const bf16 *x0 = (NORM ? input : a.x) + (long long)g * stride + c * 8, *x1 = x0 + (long long)8 * stride;
    const bool has0 = g < tokens, has1 = g + 8 < tokens;
    float old = 0; // what the thread's first output is added to
    if (a.add && tid < perBlock * tokens * 8) {
        const int o = (block * perBlock + (tid >> 3) / tokens) * 8 + (tid & 7);
        if (o < rows) old = out[(long long)((tid >> 3) % tokens) * rows + o];
    }
    float acc[4] = {0, 0, 0, 0};
    for (int at = first; at < last; at += U) {
        uint4 xs[U], ys[U], ahead[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            const int i = imin(at + u, chunks - 1) * 32; // behind the end the weights are zero
            xs[u] = !has0 ? make_uint4(0, 0, 0, 0) : NORM ? *(const uint4 *)(x0 + i) : load4(x0 + i);
            ys[u] = WIDE && has1 ? load4(x1 + i) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int u = 0; u < U; u++) ahead[u] = at + U + u < last ? stream4(wr + (at + U + u) * 32) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int u = 0; u < U; u++) {
            mma(acc, xs[u].x, ys[u].x, xs[u].y, ys[u].y, ws[u].x, ws[u].y);
            mma(acc, xs[u].z, ys[u].z, xs[u].w, ys[u].w, ws[u].z, ws[u].w);
            ws[u] = ahead[u];
        }
    }
    part[warp][g][2 * c] = acc[0];
    part[warp][g][2 * c + 1] = acc[1];
    if (WIDE) {
        part[warp][g + 8][2 * c] = acc[2];
        part[warp][g + 8][2 * c + 1] = acc[3];
    }
    __syncthreads();
    auto scaleOf = [&](int t) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < W; w++) sum += squares[w][t];
        return rsqrtf(sum / a.width + a.eps);
    };
    auto value = [&](int b, int t, int r, const float *bias, int o) {
        float v = 0;
        for (int s = 0; s < split; s++) v += part[b * split + s][t][r];
        if (NORM) v *= scaleOf(t);
        return bias ? v + bias[o] : v;
    };
    const bool paired = a.act || a.dim;
    const int lg = paired ? 2 : 3; // outputs of a tile that a thread finds alone
    for (int i = tid; i < perBlock * tokens << lg; i += W * 32) {
        const int r = i & ((1 << lg) - 1), t = (i >> lg) % tokens, b = (i >> lg) / tokens, o = row0(block * perBlock + b) + r;
        if (o >= rows) continue;
        const long long to = (long long)t * rows + o;
        float v = value(b, t, r, bias, o);
        if (!paired) {
            out[to] = a.add ? (i == tid ? old : out[to]) + v : v;
            continue;
        }
        float y = value(b, t, r + 4, a.act ? a.bias[1] : bias, a.act ? o : o + far);
        if (a.act) {
            a.out[0][to] = v;
            a.out[1][to] = y;
            v = activate(v, a.act) * y;
            a.gated[to] = v;
            a.shadow[to] = tobf16(v);
            continue;
        }
        const int e = o % a.dim;
        if (which < 2) {
            const float cs = a.cs[t * far + e], sn = a.sn[t * far + e], z = v * cs - y * sn;
            y = v * sn + y * cs;
            v = z;
        }
        out[to] = v;
        out[to + far] = y;
        if (which == 0) continue;
        const Row p = a.positions[t];
        const Layer &L = a.caches[p.segment * a.layerCount + a.layer];
        void *cache = which == 1 ? L.k : L.v;
        const long long at = ((long long)(o / a.dim) * L.capacity + p.position) * a.dim + e;
        if (L.wide) {
            store((float *)cache + at, v);
            store((float *)cache + at + far, y);
        } else {
            store((bf16 *)cache + at, v);
            store((bf16 *)cache + at + far, y);
        }
    }
    if (NORM)
        for (int i = blockIdx.x * W * 32 + tid; i < tokens * stride; i += gridDim.x * W * 32) {
            const int t = i / stride, k = i % stride;
            const float v = k < a.width ? a.raw[(long long)t * a.width + k] * scaleOf(t) * a.gain[k] : 0.f;
            if (k < a.width) a.normed[(long long)t * a.width + k] = v;
            a.copy[i] = tobf16(v);
        }
}
KERNEL __launch_bounds__(256, 4) linear_8(const __grid_constant__ Linears a) { linearSmall<false, false>(a); }
KERNEL __launch_bounds__(256, 3) linear_norm(const __grid_constant__ Linears a) { linearSmall<false, true>(a); }
KERNEL __launch_bounds__(256) linear_16(const __grid_constant__ Linears a) { linearSmall<true, false>(a); }

// bias_rows sets every row of out to bias, or adds it.
KERNEL bias_rows(float *out, const float *bias, int cols, int add) {
    begin();
    const long long row = blockIdx.y;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < cols; i += gridDim.x * blockDim.x)
        out[row * cols + i] = add ? out[row * cols + i] + bias[i] : bias[i];
}

// gate sets out = act(gate) * up on rows of cols; act 0 is SiLU, 1 GELU (tanh).
KERNEL gate(float *out, const float *gate, const float *up, bf16 *shadow, int cols, int stride, int act) {
    begin();
    const long long row = blockIdx.y;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < stride; i += gridDim.x * blockDim.x) {
        float v = 0;
        if (i < cols) {
            v = activate(gate[row * cols + i], act + 1) * up[row * cols + i];
            out[row * cols + i] = v;
        }
        if (shadow) shadow[row * stride + i] = tobf16(v);
    }
}

KERNEL add(float *x, const float *y, long long n) {
    begin();
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) x[i] += y[i];
}

// rope_table fills cos and sin [T, half] for the rows' positions.
KERNEL rope_table(float *cs, float *sn, const float *freq, const Row *rows, int half, int tokens) {
    begin();
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < (long long)tokens * half; i += (long long)gridDim.x * blockDim.x) {
        // position and frequency are multiplied in float32, as transformers does
        const float angle = __fmul_rn((float)rows[i / half].position, freq[i % half]);
        double s, c;
        sincos((double)angle, &s, &c);
        cs[i] = (float)c;
        sn[i] = (float)s;
    }
}

// rope rotates x [T, heads, dim] in place, pair i being elements i, i + half;
// pairs from first on are those of y [T, heads2, dim].
KERNEL rope(float *x, float *y, const float *cs, const float *sn, int heads, int heads2, int dim, int half, long long first, long long pairs) {
    begin();
    for (long long p = (long long)blockIdx.x * blockDim.x + threadIdx.x; p < pairs; p += (long long)gridDim.x * blockDim.x) {
        const bool second = p >= first;
        const long long q = second ? p - first : p, th = q / half, t = th / (second ? heads2 : heads);
        const int i = q % half;
        float *v = (second ? y : x) + th * dim + i;
        const float c = cs[t * half + i], s = sn[t * half + i], a = v[0], b = v[half];
        v[0] = a * c - b * s;
        v[half] = a * s + b * c;
    }
}

// Best is the first of the largest values seen so far.
struct Best {
    float v;
    int i;
    DEV Best() : v(-__int_as_float(0x7f800000)), i(0x7fffffff) {}
    DEV void meet(float v2, int i2) {
        if (v2 > v || (v2 == v && i2 < i)) {
            v = v2;
            i = i2;
        }
    }
    DEV void warp() {
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            const float v2 = __shfl_xor_sync(ALL, v, o);
            meet(v2, __shfl_xor_sync(ALL, i, o));
        }
    }
};

// argmax finds the first of the largest of each row: block (part, row); the last
// part of a row to finish compares those of all. parts is [rows, parts],
// arrived [rows] is zero between launches.
KERNEL __launch_bounds__(1024) argmax(int *out, const float *x, int width, float2 *parts, u32 *arrived) {
    begin();
    __shared__ float values[32];
    __shared__ int places[32];
    __shared__ bool last;
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, row = blockIdx.y;
    const int per = (width + gridDim.x - 1) / gridDim.x, first = blockIdx.x * per, end = imin(width, first + per);
    const float *v = x + (long long)row * width;
    Best best;
    constexpr int N = 8; // loads on their way at once
    for (int at = first + tid; at < end; at += N * 1024) {
        float y[N];
#pragma unroll
        for (int k = 0; k < N; k++) y[k] = at + k * 1024 < end ? v[at + k * 1024] : 0.f;
#pragma unroll
        for (int k = 0; k < N; k++)
            if (at + k * 1024 < end) best.meet(y[k], at + k * 1024);
    }
    best.warp();
    if (lane == 0) {
        values[warp] = best.v;
        places[warp] = best.i;
    }
    __syncthreads();
    if (warp) return;
    best.v = values[lane];
    best.i = places[lane];
    best.warp();
    if (lane == 0) {
        parts[row * gridDim.x + blockIdx.x] = make_float2(best.v, __int_as_float(best.i));
        __threadfence();
        last = atomicAdd(&arrived[row], 1) == gridDim.x - 1;
    }
    __syncwarp();
    if (!last) return;
    __threadfence();
    for (int p = lane; p < gridDim.x; p += 32) {
        const float2 y = __ldcg(&parts[row * gridDim.x + p]);
        best.meet(y.x, __float_as_int(y.y));
    }
    best.warp();
    if (lane == 0) {
        arrived[row] = 0;
        out[row] = best.i == 0x7fffffff ? 0 : best.i;
    }
}

// neg_log_likelihood sets out[t] = logsumexp(row) - row[target].
KERNEL __launch_bounds__(1024) neg_log_likelihood(float *out, const float *logits, const int *targets, int width) {
    begin();
    __shared__ float scratch[33];
    const float *row = logits + (long long)blockIdx.x * width;
    float top = -3.4e38f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) top = fmaxf(top, row[i]);
    top = blockMax(top, scratch);
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += expf(row[i] - top);
    sum = blockSum(sum, scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = top + logf(sum) - row[targets[blockIdx.x]];
}

// read_all reads n times 16 bytes, for measuring the bandwidth.
KERNEL __launch_bounds__(512) read_all(u32 *out, const uint4 *data, long long n) {
    begin();
    u32 x = 0;
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += 4 * step) {
        uint4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] = i + j * step < n ? stream4(data + i + j * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int j = 0; j < 4; j++) x ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    if (x == 0x9e3779b9u) *out = x; // keeps the loads
}
