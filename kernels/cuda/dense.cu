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
KERNEL embed(float *out, const bf16 *table, const int *tokens, int cols, int stride, float scale) {
    begin();
    const long long t = blockIdx.y, id = tokens[t];
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < cols; i += gridDim.x * blockDim.x)
        out[t * cols + i] = f32(table[id * stride + i]) * scale;
}

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

// Linears is up to 3 linear layers of the same input in one launch.
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
    int act, unused;
};

// activate is SiLU (1) or GELU by tanh (2).
DEV float activate(float x, int act) {
    return act == 1 ? x / (1.f + __expf(-x)) : 0.5f * x * (1.f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

// linearSmall is linear layers of up to 16 tokens: weights stream once through
// the tensor cores as the [k x 8 rows] operand. split warps of a block share 8
// rows, each a part of k; the parts are added in order. Weights do not change,
// so that the first loads need not wait for the kernel ahead.
template <bool WIDE> DEV void linearSmall(const Linears &a) {
    __shared__ float part[8][16][8];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3;
    const int which = a.act ? warp >> 2 : ((int)blockIdx.x >= a.end[0]) + ((int)blockIdx.x >= a.end[1]);
    const int block = a.act ? blockIdx.x : blockIdx.x - (which == 0 ? 0 : which == 1 ? a.end[0] : a.end[1]);
    float *out = which == 0 ? a.out[0] : which == 1 ? a.out[1] : a.out[2];
    const bf16 *x = a.x, *w = which == 0 ? a.w[0] : which == 1 ? a.w[1] : a.w[2];
    const float *bias = which == 0 ? a.bias[0] : which == 1 ? a.bias[1] : a.bias[2];
    const int tokens = a.tokens, rows = which == 0 ? a.rows[0] : which == 1 ? a.rows[1] : a.rows[2], stride = a.stride, split = a.act ? 4 : a.split;
    const int perBlock = 8 / split, tile = a.act ? block : block * perBlock + warp / split, slice = warp % split;
    const int chunks = stride / 32, per = (chunks + split - 1) / split;
    const int first = slice * per, last = tile * 8 < rows ? imin(chunks, first + per) : 0;
    const int row = imin(tile * 8 + g, rows - 1);
    // Lanes without a token repeat the last one: their products are not stored.
    const bf16 *wr = w + (long long)row * stride + c * 8;
    const bf16 *x0 = x + (long long)imin(g, tokens - 1) * stride + c * 8;
    const bf16 *x1 = x + (long long)imin(g + 8, tokens - 1) * stride + c * 8;
    float acc[4] = {0, 0, 0, 0};
    constexpr int U = WIDE ? 4 : 6;
    uint4 ws[U];
#pragma unroll
    for (int u = 0; u < U; u++) ws[u] = first + u < last ? stream4(wr + (first + u) * 32) : make_uint4(0, 0, 0, 0);
    begin();
    for (int at = first; at < last; at += U) {
        uint4 xs[U], ys[U], next[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            const int i = imin(at + u, chunks - 1) * 32; // behind the end the weights are zero
            xs[u] = load4(x0 + i);
            ys[u] = WIDE ? load4(x1 + i) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int u = 0; u < U; u++) next[u] = at + U + u < last ? stream4(wr + (at + U + u) * 32) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int u = 0; u < U; u++) {
            mma(acc, xs[u].x, ys[u].x, xs[u].y, ys[u].y, ws[u].x, ws[u].y);
            mma(acc, xs[u].z, ys[u].z, xs[u].w, ys[u].w, ws[u].z, ws[u].w);
            ws[u] = next[u];
        }
    }
    part[warp][g][2 * c] = acc[0];
    part[warp][g][2 * c + 1] = acc[1];
    if (WIDE) {
        part[warp][g + 8][2 * c] = acc[2];
        part[warp][g + 8][2 * c + 1] = acc[3];
    }
    __syncthreads();
    if (a.act) {
        for (int i = threadIdx.x; i < tokens * 8; i += blockDim.x) {
            const int r = i & 7, t = i >> 3, o = block * 8 + r;
            if (o >= rows) continue;
            float x = 0, u = 0;
            for (int s = 0; s < 4; s++) {
                x += part[s][t][r];
                u += part[4 + s][t][r];
            }
            if (a.bias[0]) x += a.bias[0][o];
            if (a.bias[1]) u += a.bias[1][o];
            const long long to = (long long)t * rows + o;
            a.out[0][to] = x;
            a.out[1][to] = u;
            const float v = activate(x, a.act) * u;
            a.gated[to] = v;
            a.shadow[to] = tobf16(v);
        }
        return;
    }
    for (int i = threadIdx.x; i < perBlock * tokens * 8; i += blockDim.x) {
        const int r = i & 7, t = (i >> 3) % tokens, b = (i >> 3) / tokens;
        const int o = (block * perBlock + b) * 8 + r;
        if (o >= rows) continue;
        float v = 0;
        for (int s = 0; s < split; s++) v += part[b * split + s][t][r];
        if (bias) v += bias[o];
        const long long to = (long long)t * rows + o;
        out[to] = a.add ? out[to] + v : v;
    }
}
KERNEL __launch_bounds__(256, 4) linear_8(const Linears a) { linearSmall<false>(a); }
KERNEL __launch_bounds__(256) linear_16(const Linears a) { linearSmall<true>(a); }

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

// argmax finds the first of the largest of each row.
KERNEL __launch_bounds__(1024) argmax(int *out, const float *x, int width) {
    begin();
    __shared__ float best[32];
    __shared__ int at[32];
    const float *row = x + (long long)blockIdx.x * width;
    float v = -__int_as_float(0x7f800000);
    int i = 0x7fffffff;
    for (int j = threadIdx.x; j < width; j += blockDim.x)
        if (row[j] > v || (i == 0x7fffffff && row[j] == v)) {
            v = row[j];
            i = j;
        }
#define BETTER(v2, i2) if (v2 > v || (v2 == v && i2 < i)) { v = v2; i = i2; }
#pragma unroll
    for (int o = 16; o; o >>= 1) {
        const float v2 = __shfl_xor_sync(ALL, v, o);
        const int i2 = __shfl_xor_sync(ALL, i, o);
        BETTER(v2, i2)
    }
    if ((threadIdx.x & 31) == 0) {
        best[threadIdx.x >> 5] = v;
        at[threadIdx.x >> 5] = i;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        const bool has = threadIdx.x < blockDim.x / 32;
        v = has ? best[threadIdx.x] : -__int_as_float(0x7f800000);
        i = has ? at[threadIdx.x] : 0x7fffffff;
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            const float v2 = __shfl_xor_sync(ALL, v, o);
            const int i2 = __shfl_xor_sync(ALL, i, o);
            BETTER(v2, i2)
        }
        if (threadIdx.x == 0) out[blockIdx.x] = i == 0x7fffffff ? 0 : i;
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
