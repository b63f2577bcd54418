// The operations of training (package train, engine), in float32.
#include "device.cuh"

DEV float widened(bf16 v) { return __uint_as_float((u32)v << 16); }

// learn_rows: out[i] = (x[at[i]] - mean) * inverse; mean and inverse are [heads,
// dim], of which slabs of slab rows take turns.
KERNEL learn_rows(float *out, int stride, const bf16 *x, int dim, const int *at, int n, const float *mean, const float *inverse, int slab, int heads) {
    begin();
    const long long total = (long long)n * dim;
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < total; k += (long long)gridDim.x * blockDim.x) {
        const int i = (int)(k / dim), j = (int)(k % dim), h = i / slab % heads;
        out[(long long)i * stride + j] = (widened(x[(long long)at[i] * dim + j]) - mean[h * dim + j]) * inverse[h * dim + j];
    }
}

KERNEL learn_repeat(float *y, const float *row, long long n, int cols) {
    begin();
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < n; k += (long long)gridDim.x * blockDim.x) y[k] = row[k % cols];
}

// learn_sums: a block 32 columns, 32 rows at a time, summed in a fixed order.
KERNEL learn_sums(float *sum, const float *x, int rows, int cols, int add) {
    begin();
    __shared__ float part[32][33];
    const int lane = threadIdx.x % 32, of = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    float s = 0;
    if (c < cols) {
#pragma unroll 8
        for (int r = of; r < rows; r += 32) s += x[(long long)r * cols + c];
    }
    part[of][lane] = s;
    __syncthreads();
    if (of == 0 && c < cols) {
        s = add ? sum[c] : 0;
        for (int i = 0; i < 32; i++) s += part[i][lane];
        sum[c] = s;
    }
}

// learn_function: 0 silu, 1 tanh, 2 sign with the slope of tanh.
KERNEL learn_function(float *y, float *slope, const float *x, long long n, int f) {
    begin();
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < n; k += (long long)gridDim.x * blockDim.x) {
        const float v = x[k], e = expf(fminf(f == 0 ? -v : -2 * v, 40.f));
        if (f == 0) {
            const float g = 1 / (1 + e);
            y[k] = v * g;
            slope[k] = g * (1 + v * (1 - g));
        } else if (f == 1) {
            const float t = (1 - e) / (1 + e);
            y[k] = t;
            slope[k] = 1 - t * t;
        } else {
            y[k] = v > 0 ? 1.f : -1.f;
            slope[k] = 4 * e / ((1 + e) * (1 + e));
        }
    }
}

KERNEL learn_multiply(float *z, const float *x, const float *y, long long n) {
    begin();
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < n; k += (long long)gridDim.x * blockDim.x) z[k] = x[k] * y[k];
}

KERNEL learn_add(float *z, const float *x, const float *y, long long n) {
    begin();
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < n; k += (long long)gridDim.x * blockDim.x) z[k] = x[k] + y[k];
}

KERNEL learn_scale(float *y, const float *x, float factor, long long n) {
    begin();
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < n; k += (long long)gridDim.x * blockDim.x) y[k] = factor * x[k];
}

// learn_round: a warp a row, as kernels.QuantizeQuery.
KERNEL learn_round(float *y, const float *w, int rows, int cols, int limit) {
    begin();
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const float *from = w + (long long)row * cols;
    float top = 0;
    for (int i = lane; i < cols; i += 32) top = fmaxf(top, fabsf(from[i]));
    top = warpMax(top);
    const double scale = (double)top / limit;
    for (int i = lane; i < cols; i += 32) y[(long long)row * cols + i] = scale > 0 ? (float)scale * (float)rint((double)from[i] / scale) : 0.f;
}

// learn_feedback: a thread a row; r is read alike by all threads.
KERNEL learn_feedback(float *z, const float *r, int rows, int bits, int block) {
    begin();
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    float *own = z + (long long)row * bits;
    u32 code[8] = {};
    for (int i = 0; i < bits; i++) {
        const float *from = r + i * bits;
        float v = own[i];
        const int before = i / block * block;
        for (int j = 0; j < before; j++) v += code[j >> 5] >> (j & 31) & 1 ? from[j] : -from[j];
        own[i] = v;
        if (v > 0) code[i >> 5] |= 1u << (i & 31);
    }
}

KERNEL learn_code(float *code, const float *z, long long n) {
    begin();
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < n; k += (long long)gridDim.x * blockDim.x) code[k] = z[k] > 0 ? 1.f : -1.f;
}

// learn_mask: a block of bits does not see itself or later ones.
KERNEL learn_mask(float *dr, int bits, int block) {
    begin();
    const int i = blockIdx.x;
    for (int j = i / block * block + threadIdx.x; j < bits; j += blockDim.x) dr[i * bits + j] = 0;
}

DEV float blockLogSum(const float *x, int n, float *scratch, float *top, float *sum) {
    float m = MASKED, s = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) m = fmaxf(m, x[i]);
    m = blockMax(m, scratch);
    for (int i = threadIdx.x; i < n; i += blockDim.x) s += expf(x[i] - m);
    s = blockSum(s, scratch);
    *top = m;
    *sum = s;
    return m + logf(s);
}

// learn_targets: a block a row of dst. Apart, it is the softmax of its row of
// logits; otherwise it adds rows blockIdx.x, + m, .. of heads, each by its share.
KERNEL learn_targets(float *dst, int stride, const float *logits, const float *edges, int m, int heads, int n, int edge, float more, float power, int first, int last) {
    begin();
    __shared__ float scratch[33];
    float *out = dst + (long long)blockIdx.x * stride;
    float all = 0;
    for (int h = 0; h < heads; h++) {
        const long long row = (long long)h * m + blockIdx.x;
        const float *x = logits + row * n;
        float top, sum, share = 1;
        const float inside = blockLogSum(x, n, scratch, &top, &sum);
        if (edge > 0) {
            float a, b;
            const float outside = blockLogSum(edges + row * edge, edge, scratch, &a, &b);
            share = 1 / (expf(more) + expf(fminf(outside - inside, 80.f)));
            if (power != 1) share = powf(share, power);
        }
        const float f = share / sum;
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            const float v = expf(x[i] - top) * f + (first && h == 0 ? 0 : out[i]);
            out[i] = v;
            if (h == heads - 1) all += v;
        }
    }
    if (!last) return;
    all = blockSum(all, scratch);
    const float f = 1 / fmaxf(all, 1e-20f);
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] *= f;
}

// learn_top: a block a row; 1 at the count largest and their equals.
KERNEL learn_top(float *dst, int stride, const float *x, int n, int count) {
    begin();
    __shared__ float scratch[33];
    const float *from = x + (long long)blockIdx.x * n;
    float *out = dst + (long long)blockIdx.x * stride;
    u32 cut = 0;
    for (int bit = 31; bit >= 0; bit--) {
        const u32 tried = cut | 1u << bit;
        float above = 0;
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            const u32 v = __float_as_uint(from[i]);
            above += (v >> 31 ? ~v : v | 0x80000000u) >= tried;
        }
        if (blockSum(above, scratch) >= (float)count) cut = tried;
    }
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const u32 v = __float_as_uint(from[i]);
        out[i] = (v >> 31 ? ~v : v | 0x80000000u) >= cut;
    }
}

// learn_loss: a block a row of scores, which become their gradient: that of the
// cross-entropy of their softmax or, if weight is not 0, of the binary one of
// their sigmoid, whose positives count weight times.
KERNEL learn_loss(float *losses, float *scores, const float *target, int n, int stride, float weight) {
    begin();
    __shared__ float scratch[33];
    float *s = scores + (long long)blockIdx.x * n;
    const float *t = target + (long long)blockIdx.x * stride;
    float loss = 0;
    if (weight == 0) {
        float top, sum;
        const float log = blockLogSum(s, n, scratch, &top, &sum);
        const float f = 1 / sum;
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            const float v = s[i], want = t[i];
            loss += want * (v - top);
            s[i] = expf(v - top) * f - want;
        }
        loss = log - top - blockSum(loss, scratch);
    } else {
        const float f = 1.f / n;
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            const float v = s[i], e = expf(-fabsf(v)), softplus = fmaxf(v, 0.f) + log1pf(e), g = (v < 0 ? e : 1.f) / (1 + e);
            const bool positive = t[i] > 0;
            loss += positive ? weight * (softplus - v) : softplus;
            s[i] = (positive ? weight * (g - 1) : g) * f;
        }
        loss = blockSum(loss, scratch) * f;
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}

// learn_total: one block adds the rows' losses to the sum.
KERNEL learn_total(float *total, const float *losses, int n) {
    begin();
    __shared__ float scratch[33];
    float s = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) s += losses[i];
    s = blockSum(s, scratch);
    if (threadIdx.x == 0) *total += s;
}
