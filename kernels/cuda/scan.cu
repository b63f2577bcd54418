// Scores of cached tokens: hash codes, exact and approximate dot products,
// page bounds, table look-ups; and the group's softmax mass.
#include "device.cuh"

// scan_hash: block (chunk of tokens, set, row). Bit b of a code counts +w or
// -w, so a score is 2 * (sum of w over set bits) - sum of w. Query maps that
// read the same code are added first; sums beyond int8 are split in two.
template <int WORDS> DEV void scanHash(int *scores, const i8 *weights, const Row *rows, const Layer *layers, int layerCount, int layer, int maps, int bits, int sets, int stride, int keyHeads) {
    __shared__ __align__(16) u32 lo[8 * WORDS], hi[8 * WORDS]; // [word][8 planes], 4 bytes: bits i, i+8, i+16, i+24
    __shared__ int total, wide;
    const int set = blockIdx.y, row = blockIdx.z;
    const Row r = rows[row];
    const Layer L = layers[r.segment * layerCount + layer];
    const int n = r.position + 1;
    if ((int)(blockIdx.x * blockDim.x) * 4 >= n) return;
    int *out = scores + ((long long)row * sets + set) * stride;
    const int end = (int)((long long)(set + 1) * maps / sets);
    bool first = true;
    for (int m = (int)((long long)set * maps / sets); m < end;) {
        const int key = (int)((long long)m * keyHeads / maps);
        int m2 = m + 1;
        while (m2 < end && (int)((long long)m2 * keyHeads / maps) == key) m2++;
        __syncthreads();
        if (threadIdx.x == 0) total = wide = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < 32 * WORDS; i += blockDim.x) {
            int w = 0;
            if (i < bits)
                for (int j = m; j < m2; j++) w += weights[((long long)row * maps + j) * bits + i];
            const int up = (w + 64) >> 7, word = i >> 5, plane = i & 7, byte = (i & 31) >> 3;
            ((i8 *)lo)[(word * 8 + plane) * 4 + byte] = (i8)(w - up * 128);
            ((i8 *)hi)[(word * 8 + plane) * 4 + byte] = (i8)up;
            if (w) atomicAdd(&total, w);
            if (w > 127 || w < -128) wide = 1;
        }
        __syncthreads();
        if (!wide) { // the low bytes can hold the weights themselves
            for (int i = threadIdx.x; i < 8 * WORDS; i += blockDim.x) lo[i] ^= (hi[i] & 0x01010101u) << 7;
            __syncthreads();
        }
        u32 wl[8], wh[8];
        if (WORDS == 1) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                wl[i] = lo[i];
                wh[i] = hi[i];
            }
        }
        const u32 *codes = (const u32 *)L.slot[0] + (long long)key * L.slotCapacity[0] * WORDS;
        const int t0 = blockIdx.x * blockDim.x * 4 + threadIdx.x, sum = total, isWide = wide;
        for (int u = 0; u < 4; u++) {
            const int t = t0 + u * blockDim.x;
            if (t >= n) break;
            int s = 0, h = 0;
#pragma unroll
            for (int word = 0; word < WORDS; word++) {
                const u32 x = codes[(long long)t * WORDS + word];
#pragma unroll
                for (int i = 0; i < 8; i++) s = __dp4a((int)(x >> i & 0x01010101u), (int)(WORDS == 1 ? wl[i] : lo[word * 8 + i]), s);
                if (isWide) {
#pragma unroll
                    for (int i = 0; i < 8; i++) h = __dp4a((int)(x >> i & 0x01010101u), (int)(WORDS == 1 ? wh[i] : hi[word * 8 + i]), h);
                }
            }
            const int v = 2 * (s + 128 * h) - sum;
            out[t] = first ? v : out[t] + v;
        }
        first = false;
        m = m2;
    }
    if (first)
        for (int u = 0; u < 4; u++) {
            const int t = blockIdx.x * blockDim.x * 4 + threadIdx.x + u * blockDim.x;
            if (t < n) out[t] = 0;
        }
}
#define SCAN_HASH(W)                                                                                                                                                      \
    KERNEL __launch_bounds__(256) scan_hash_##W(int *scores, const i8 *weights, const Row *rows, const Layer *layers, int layerCount, int layer, int maps, int bits, int sets, int stride, int keyHeads) { begin(); \
        scanHash<W>(scores, weights, rows, layers, layerCount, layer, maps, bits, sets, stride, keyHeads);                                                                \
    }
SCAN_HASH(1)
SCAN_HASH(2)
SCAN_HASH(3)
SCAN_HASH(4)
SCAN_HASH(8)

// scan_dot: block (chunk of 64 tokens, key head, row); a warp a token, all
// query heads of the group.
template <class K> DEV void scanDot(float *scores, const float *q, const Row *rows, const Layer *layers, int layerCount, int layer, int slot, int heads, int keyHeads, int width, int stride, float scale) {
    extern __shared__ float query[]; // [group][width]
    const int row = blockIdx.z, key = blockIdx.y, group = heads / keyHeads, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const Row r = rows[row];
    const Layer L = layers[r.segment * layerCount + layer];
    const int n = r.position + 1;
    if ((int)blockIdx.x * 64 >= n) return;
    for (int i = threadIdx.x; i < group * width; i += blockDim.x) query[i] = q[((long long)row * heads + key * group) * width + i];
    __syncthreads();
    const K *keys = slot < 0 ? (const K *)L.k + (long long)key * L.capacity * width : (const K *)L.slot[slot] + (long long)key * L.slotCapacity[slot] * width;
    for (int t = blockIdx.x * 64 + warp; t < imin(n, ((int)blockIdx.x + 1) * 64); t += blockDim.x / 32)
        for (int g = 0; g < group; g++) {
            float s = 0;
            for (int i = lane; i < width; i += 32) s += query[g * width + i] * load(keys + (long long)t * width + i);
            s = warpSum(s);
            if (lane == 0) scores[((long long)row * heads + key * group + g) * stride + t] = s * scale;
        }
}
KERNEL __launch_bounds__(256) scan_dot_bf16(float *scores, const float *q, const Row *rows, const Layer *layers, int layerCount, int layer, int slot, int heads, int keyHeads, int width, int stride, float scale) {
    begin();
    scanDot<bf16>(scores, q, rows, layers, layerCount, layer, slot, heads, keyHeads, width, stride, scale);
}
KERNEL __launch_bounds__(256) scan_dot_f32(float *scores, const float *q, const Row *rows, const Layer *layers, int layerCount, int layer, int slot, int heads, int keyHeads, int width, int stride, float scale) {
    begin();
    scanDot<float>(scores, q, rows, layers, layerCount, layer, slot, heads, keyHeads, width, stride, scale);
}

// scan_pages: block (8 pages, query head, row), a warp a page.
KERNEL __launch_bounds__(256) scan_pages(float *scores, const float *q, const Row *rows, const Layer *layers, int layerCount, int layer, int heads, int keyHeads, int dim, int stride, int pageLen) {
    begin();
    const int row = blockIdx.z, head = blockIdx.y, lane = threadIdx.x & 31, page = blockIdx.x * 8 + (threadIdx.x >> 5);
    const Row r = rows[row];
    const Layer L = layers[r.segment * layerCount + layer];
    const int n = r.position + 1;
    if ((long long)page * pageLen >= n) return;
    const int key = head / (heads / keyHeads);
    const float *lo = (const float *)L.slot[0] + ((long long)key * L.slotCapacity[0] + page) * dim;
    const float *hi = (const float *)L.slot[1] + ((long long)key * L.slotCapacity[1] + page) * dim;
    q += ((long long)row * heads + head) * dim;
    float s = 0;
    for (int i = lane; i < dim; i += 32) s += fmaxf(q[i] * lo[i], q[i] * hi[i]);
    s = warpSum(s);
    for (int t = page * pageLen + lane; t < imin(n, (page + 1) * pageLen); t += 32) scores[((long long)row * heads + head) * stride + t] = s;
}

// scan_tables: block (chunk of 1024 tokens, query head, row), a thread a token.
KERNEL __launch_bounds__(256) scan_tables(float *scores, const float *tables, const Row *rows, const Layer *layers, int layerCount, int layer, int heads, int keyHeads, int parts, int entries, int stride) {
    begin();
    extern __shared__ float table[];
    const int row = blockIdx.z, head = blockIdx.y;
    const Row r = rows[row];
    const Layer L = layers[r.segment * layerCount + layer];
    const int n = r.position + 1, size = parts * entries;
    if ((int)blockIdx.x * 1024 >= n) return;
    for (int i = threadIdx.x; i < size; i += blockDim.x) table[i] = tables[((long long)row * heads + head) * size + i];
    __syncthreads();
    const u8 *codes = (const u8 *)L.slot[0] + (long long)(head / (heads / keyHeads)) * L.slotCapacity[0] * parts;
    for (int t = blockIdx.x * 1024 + threadIdx.x; t < imin(n, ((int)blockIdx.x + 1) * 1024); t += blockDim.x) {
        float s = 0;
        for (int i = 0; i < parts; i++) s += table[i * entries + codes[(long long)t * parts + i]];
        scores[((long long)row * heads + head) * stride + t] = s;
    }
}

DEV float value(const void *scores, int integer, long long i) { return integer ? (float)((const int *)scores)[i] : ((const float *)scores)[i]; }

// mass_parts: block (chunk, query head, row): the chunk's largest score and
// sum of exponentials.
KERNEL __launch_bounds__(256) mass_parts(float2 *parts, const void *scores, int integer, const float *scales, const Row *rows, int heads, int stride, int chunk, const Selection s) {
    begin();
    __shared__ float scratch[33];
    const int row = blockIdx.z, head = blockIdx.y;
    int lo, hi;
    range(s, rows[row].position + 1, lo, hi);
    const int from = lo + blockIdx.x * chunk, to = imin(hi, from + chunk);
    if (from >= to) return;
    const long long at = ((long long)row * heads + head) * stride;
    const float scale = scales ? scales[(long long)row * heads + head] : 1.f;
    float top = -3.4e38f, sum = 0;
    for (int i = from + threadIdx.x; i < to; i += blockDim.x) top = fmaxf(top, value(scores, integer, at + i) * scale);
    top = blockMax(top, scratch);
    for (int i = from + threadIdx.x; i < to; i += blockDim.x) sum += expf(value(scores, integer, at + i) * scale - top);
    sum = blockSum(sum, scratch);
    if (threadIdx.x == 0) parts[((long long)row * heads + head) * gridDim.x + blockIdx.x] = make_float2(top, sum);
}

// mass_sum: block (chunk, group, row): the sum over the heads of the softmax.
KERNEL __launch_bounds__(256) mass_sum(float *out, const float2 *parts, const void *scores, int integer, const float *scales, const Row *rows, int heads, int groups, int stride, int outStride, int chunk, const Selection s) {
    begin();
    __shared__ float top[64], sum[64];
    const int row = blockIdx.z, group = blockIdx.y, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int lo, hi;
    range(s, rows[row].position + 1, lo, hi);
    const int from = lo + blockIdx.x * chunk, to = imin(hi, from + chunk);
    if (from >= to) return;
    const int chunks = (hi - lo + chunk - 1) / chunk, h0 = group * heads / groups, h1 = (group + 1) * heads / groups;
    for (int h = h0 + warp; h < h1; h += blockDim.x / 32) {
        const float2 *p = parts + ((long long)row * heads + h) * gridDim.x;
        float m = -3.4e38f, v = 0;
        for (int i = lane; i < chunks; i += 32) m = fmaxf(m, p[i].x);
        m = warpMax(m);
        for (int i = lane; i < chunks; i += 32) v += p[i].y * expf(p[i].x - m);
        v = warpSum(v);
        if (lane == 0) {
            top[h - h0] = m;
            sum[h - h0] = v;
        }
    }
    __syncthreads();
    for (int i = from + threadIdx.x; i < to; i += blockDim.x) {
        float v = 0;
        for (int h = h0; h < h1; h++) {
            const float scale = scales ? scales[(long long)row * heads + h] : 1.f;
            v += expf(value(scores, integer, ((long long)row * heads + h) * stride + i) * scale - top[h - h0]) / sum[h - h0];
        }
        out[((long long)row * groups + group) * outStride + i] = v;
    }
}
