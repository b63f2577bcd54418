// What the baseline selectors keep of cached keys: page bounds (Quest), few
// channels (Double Sparsity), product codes.
#include "device.cuh"

template <class C> DEV const C *keyRow(const Layer &L, int head, int position, int dim) { return (const C *)L.k + ((long long)head * L.capacity + position) * dim; }

// index_pages: block (page of a segment, key head, segment), a thread a value.
template <class C> DEV void indexPages(const int4 *segments, const Layer *layers, int layerCount, int layer, int dim, int pageLen) {
    const int4 s = segments[blockIdx.z]; // start, len, first row
    const int head = blockIdx.y, page = s.x / pageLen + blockIdx.x;
    const int from = imax(s.x, page * pageLen), to = imin(s.x + s.y, (page + 1) * pageLen);
    if (from >= to) return;
    const Layer L = layers[blockIdx.z * layerCount + layer];
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        float *lo = (float *)L.slot[0] + ((long long)head * L.slotCapacity[0] + page) * dim + i;
        float *hi = (float *)L.slot[1] + ((long long)head * L.slotCapacity[1] + page) * dim + i;
        float a, b;
        int p = from;
        if (p % pageLen == 0) {
            a = b = load(keyRow<C>(L, head, p, dim) + i);
            p++;
        } else {
            a = *lo;
            b = *hi;
        }
        for (; p < to; p++) {
            const float v = load(keyRow<C>(L, head, p, dim) + i);
            a = fminf(a, v);
            b = fmaxf(b, v);
        }
        *lo = a;
        *hi = b;
    }
}
KERNEL index_pages_bf16(const int4 *segments, const Layer *layers, int layerCount, int layer, int dim, int pageLen) { begin(); indexPages<bf16>(segments, layers, layerCount, layer, dim, pageLen); }
KERNEL index_pages_f32(const int4 *segments, const Layer *layers, int layerCount, int layer, int dim, int pageLen) { begin(); indexPages<float>(segments, layers, layerCount, layer, dim, pageLen); }

// index_channels: block (key head, row), one warp.
template <class C> DEV void indexChannels(const int *channels, const Row *rows, const Layer *layers, int layerCount, int layer, int dim, int c, int bits) {
    const int head = blockIdx.x, row = blockIdx.y, lane = threadIdx.x;
    const Row r = rows[row];
    const Layer L = layers[r.segment * layerCount + layer];
    const C *key = keyRow<C>(L, head, r.position, dim);
    float *out = (float *)L.slot[0] + ((long long)head * L.slotCapacity[0] + r.position) * c;
    float lo = 3.4e38f, hi = -3.4e38f;
    for (int i = lane; i < c; i += 32) {
        const float v = load(key + channels[head * c + i]);
        lo = fminf(lo, v);
        hi = fmaxf(hi, v);
    }
    hi = warpMax(hi);
    lo = -warpMax(-lo);
    // levels in float64: rounding decides between neighbours
    const double step = ((double)hi - (double)lo) / (double)((1 << bits) - 1);
    for (int i = lane; i < c; i += 32) {
        const float v = load(key + channels[head * c + i]);
        out[i] = step > 0 ? (float)((double)lo + rint(((double)v - (double)lo) / step) * step) : v;
    }
}
KERNEL index_channels_bf16(const int *channels, const Row *rows, const Layer *layers, int layerCount, int layer, int dim, int c, int bits) { begin(); indexChannels<bf16>(channels, rows, layers, layerCount, layer, dim, c, bits); }
KERNEL index_channels_f32(const int *channels, const Row *rows, const Layer *layers, int layerCount, int layer, int dim, int c, int bits) { begin(); indexChannels<float>(channels, rows, layers, layerCount, layer, dim, c, bits); }

KERNEL gather_channels(float *out, const float *q, const int *channels, int heads, int keyHeads, int dim, int c, long long n) {
    begin();
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
        const long long th = i / c;
        const int head = th % heads;
        out[i] = q[th * dim + channels[head / (heads / keyHeads) * c + i % c]];
    }
}

// index_parts: block (key head, row), a warp a part.
template <class C> DEV void indexParts(const float *codebooks, const Row *rows, const Layer *layers, int layerCount, int layer, int dim, int parts, int entries) {
    const int head = blockIdx.x, row = blockIdx.y, lane = threadIdx.x & 31, width = dim / parts;
    const Row r = rows[row];
    const Layer L = layers[r.segment * layerCount + layer];
    const C *key = keyRow<C>(L, head, r.position, dim);
    u8 *out = (u8 *)L.slot[0] + ((long long)head * L.slotCapacity[0] + r.position) * parts;
    for (int part = threadIdx.x >> 5; part < parts; part += blockDim.x / 32) {
        double nearest = 1e300;
        int best = 0x7fffffff;
        for (int e = lane; e < entries; e += 32) {
            const float *entry = codebooks + (((long long)head * parts + part) * entries + e) * width;
            double d = 0;
            for (int i = 0; i < width; i++) {
                const double x = (double)load(key + part * width + i) - (double)entry[i];
                d += x * x;
            }
            if (d < nearest) {
                nearest = d;
                best = e;
            }
        }
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            const double d = __shfl_xor_sync(ALL, nearest, o);
            const int e = __shfl_xor_sync(ALL, best, o);
            if (d < nearest || (d == nearest && e < best)) {
                nearest = d;
                best = e;
            }
        }
        if (lane == 0) out[part] = best < entries ? (u8)best : 0;
    }
}
KERNEL index_parts_bf16(const float *codebooks, const Row *rows, const Layer *layers, int layerCount, int layer, int dim, int parts, int entries) { begin(); indexParts<bf16>(codebooks, rows, layers, layerCount, layer, dim, parts, entries); }
KERNEL index_parts_f32(const float *codebooks, const Row *rows, const Layer *layers, int layerCount, int layer, int dim, int parts, int entries) { begin(); indexParts<float>(codebooks, rows, layers, layerCount, layer, dim, parts, entries); }

// part_tables sets tables [T, heads, parts, entries] to dot products.
KERNEL part_tables(float *tables, const float *q, const float *codebooks, int heads, int keyHeads, int dim, int parts, int entries, long long n) {
    begin();
    const int width = dim / parts;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
        const int e = i % entries, part = i / entries % parts;
        const long long th = i / entries / parts;
        const int head = th % heads;
        const float *entry = codebooks + (((long long)(head / (heads / keyHeads)) * parts + part) * entries + e) * width, *x = q + th * dim + part * width;
        float s = 0;
        for (int j = 0; j < width; j++) s += x[j] * entry[j];
        tables[i] = s;
    }
}
