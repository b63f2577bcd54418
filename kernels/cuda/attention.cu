// Writing the cache, and attention of few query rows over it: all cached
// tokens, a window, or the selected ones.
#include "attend.cuh"

// append stores k and v [T, kvHeads, dim] at the rows' positions.
template <class C> DEV void append(const float *k, const float *v, const Row *rows, const Layer *layers, int layerCount, int layer, int heads, int dim) {
    const int row = blockIdx.y;
    const Row r = rows[row];
    const Layer L = layers[r.segment * layerCount + layer];
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < heads * dim; i += gridDim.x * blockDim.x) {
        const long long to = ((long long)(i / dim) * L.capacity + r.position) * dim + i % dim, from = (long long)row * heads * dim + i;
        store((C *)L.k + to, k[from]);
        store((C *)L.v + to, v[from]);
    }
}
KERNEL append_bf16(const float *k, const float *v, const Row *rows, const Layer *layers, int layerCount, int layer, int heads, int dim) {
    begin();
    append<bf16>(k, v, rows, layers, layerCount, layer, heads, dim);
}
KERNEL append_f32(const float *k, const float *v, const Row *rows, const Layer *layers, int layerCount, int layer, int heads, int dim) {
    begin();
    append<float>(k, v, rows, layers, layerCount, layer, heads, dim);
}

// rope_append rotates q [T, heads, dim] and k [T, kvHeads, dim] in place, pair i
// being elements i and i + dim/2, and stores k and v at the rows' positions.
template <class C> DEV void ropeAppend(float *q, float *k, const float *v, const float *cs, const float *sn, const Row *rows, const Layer *layers, int layerCount, int layer, int heads, int kvHeads, int dim) {
    const int row = blockIdx.y, half = dim / 2;
    const Row r = rows[row];
    const Layer L = layers[r.segment * layerCount + layer];
    begin();
    for (int p = blockIdx.x * blockDim.x + threadIdx.x; p < (heads + 2 * kvHeads) * half; p += gridDim.x * blockDim.x) {
        const int head = p / half, i = p % half;
        const bool rotated = head < heads + kvHeads;
        const int kv = rotated ? head - heads : head - heads - kvHeads; // below 0: a query
        const float *x = kv < 0 ? q + ((long long)row * heads + head) * dim + i : (rotated ? k : v) + ((long long)row * kvHeads + kv) * dim + i;
        float a = x[0], b = x[half];
        if (rotated) {
            const float c = cs[(long long)row * half + i], s = sn[(long long)row * half + i], y = a * c - b * s;
            b = a * s + b * c;
            a = y;
            ((float *)x)[0] = a;
            ((float *)x)[half] = b;
        }
        if (kv >= 0) {
            C *to = (C *)(rotated ? L.k : L.v) + ((long long)kv * L.capacity + r.position) * dim + i;
            store(to, a);
            store(to + half, b);
        }
    }
}
KERNEL rope_append_bf16(float *q, float *k, const float *v, const float *cs, const float *sn, const Row *rows, const Layer *layers, int layerCount, int layer, int heads, int kvHeads, int dim) {
    ropeAppend<bf16>(q, k, v, cs, sn, rows, layers, layerCount, layer, heads, kvHeads, dim);
}
KERNEL rope_append_f32(float *q, float *k, const float *v, const float *cs, const float *sn, const Row *rows, const Layer *layers, int layerCount, int layer, int heads, int kvHeads, int dim) {
    ropeAppend<float>(q, k, v, cs, sn, rows, layers, layerCount, layer, heads, kvHeads, dim);
}

// Read lists the cached tokens of a row in order: a window of the last ones,
// or sink, selected and local.
struct Read {
    int first, sink, middle, count, hi;
    const int *list;
    DEV Read(int n, int window, const int *selected, const Selection &s) {
        list = selected;
        if (selected) {
            int lo;
            range(s, n, lo, hi);
            first = 0;
            sink = lo;
            middle = chosen(s, n);
            count = lo + middle + n - hi;
        } else {
            first = window > 0 ? imax(0, n - window) : 0;
            count = sink = n - first;
            middle = hi = 0;
        }
    }
    DEV int operator[](int t) const { return t < sink ? first + t : t < sink + middle ? list[t - sink] : hi + t - sink - middle; }
};

struct AttendArgs {
    float *out;
    bf16 *shadow;       // the bf16 copy of out, may be null
    const float *q;     // [T, queryHeads, dim]
    const Row *rows;
    const Layer *layers;
    const int *selected; // [T, sets, k] or null
    float *parts;        // [T * chunks, splits, 8, dim + 2]
    u32 *arrived;        // [T * chunks], zero between launches
    int layerCount, layer, queryHeads, kvHeads, sets, window, k, dim;
    float scale;
    int single; // row i is segment i
    int splits, unused; // blocks of a set that attend
    Selection s;
    Ahead ahead;
};

// attendRows: block (split, set or part of a large group, row). Each split
// takes consecutive tiles of 16 tokens; the last to finish adds the parts in
// the order of the splits, so that equal runs give equal bits.
template <int D> DEV void attendRows(const AttendArgs &a) {
    constexpr int W = 8;
    extern __shared__ __align__(16) float part[]; // [W][heads][D]
    __shared__ __align__(16) Queries<D> q;
    __shared__ float wm[W][8], wl[W][8];
    __shared__ bool last;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = blockIdx.z, splits = a.splits;
    if ((int)blockIdx.x >= splits) return fetch(a.ahead, (row * gridDim.y + blockIdx.y) * (gridDim.x - splits) + blockIdx.x - splits);
    const int perSet = a.queryHeads / a.sets, chunksPerSet = (perSet + 7) / 8;
    const int set = blockIdx.y / chunksPerSet, chunk = blockIdx.y % chunksPerSet;
    const int head = set * perSet + chunk * 8, heads = imin(8, perSet - chunk * 8);
    // Where the cache is was written before the first kernel of a step.
    announce();
    const Row r = a.rows[row];
    int segment = row;
    if (!a.single) { // a select would wait for the row
        segment = r.segment;
        asm volatile("" : "+r"(segment));
    }
    const Layer L = a.layers[segment * a.layerCount + a.layer];
    const Read read(r.position + 1, a.window, a.selected ? a.selected + ((long long)row * a.sets + set) * a.k : nullptr, a.s);

    const int tiles = (read.count + 15) / 16, per = imax(W, (tiles + splits - 1) / splits), active = (tiles + per - 1) / per;
    if (blockIdx.x >= active) return;
    const int kv = head / (a.queryHeads / a.kvHeads);
    const bf16 *K = (const bf16 *)L.k + (long long)kv * L.capacity * D, *V = (const bf16 *)L.v + (long long)kv * L.capacity * D;
    if (!a.selected) { // a warp's first rows are on their way before the kernel ahead has ended
        const long long from = (long long)read[imin((blockIdx.x * per + warp) * 16, read.count - 1)] * D;
        const int bytes = imin(16, imax(read.count - (blockIdx.x * per + warp) * 16, 0)) * D * 2;
        for (int i = lane * 128; i < bytes; i += 32 * 128) {
            asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)(K + from) + i));
            asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)(V + from) + i));
        }
    }
    dependence();
    q.fill(a.q + ((long long)row * a.queryHeads + head) * D, heads);
    __syncthreads();

    Accumulator<D> acc;
    acc.clear();
    const float scale = a.scale * LOG2E;
    const int end = imin(tiles, (blockIdx.x + 1) * per);
    int t = blockIdx.x * per + warp;
    int position = t < end ? read[imin(t * 16 + (lane & 15), read.count - 1)] : 0;
    for (; t < end; t += W) {
        const int at = position;
        if (t + W < end) position = read[imin((t + W) * 16 + (lane & 15), read.count - 1)];
        acc.tile(K, V, q, at, imin(16, read.count - t * 16), scale);
    }
    acc.finish(part + warp * heads * D, wm[warp], wl[warp], heads);
    __syncthreads();

    const long long slot = ((long long)row * gridDim.y + blockIdx.y) * splits;
    float *mine = a.parts + (slot + blockIdx.x) * 8 * (D + 2);
    for (int i = threadIdx.x; i < heads * D / 4; i += blockDim.x) {
        const int h = i / (D / 4), e = i % (D / 4) * 4;
        float top = MASKED, l = 0;
#pragma unroll
        for (int w = 0; w < W; w++) top = fmaxf(top, wm[w][h]);
        float4 v = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int w = 0; w < W; w++) {
            const float f = exp2f(wm[w][h] - top);
            const float4 x = *(const float4 *)&part[(w * heads + h) * D + e];
            l += f * wl[w][h];
            v.x += f * x.x;
            v.y += f * x.y;
            v.z += f * x.z;
            v.w += f * x.w;
        }
        if (active == 1) {
            const long long to = ((long long)row * a.queryHeads + head + h) * D + e;
            const float s = 1.f / l;
            *(float4 *)(a.out + to) = make_float4(v.x * s, v.y * s, v.z * s, v.w * s);
            if (a.shadow) *(uint2 *)(a.shadow + to) = make_uint2(pack(v.x * s, v.y * s), pack(v.z * s, v.w * s));
        } else {
            *(float4 *)(mine + h * D + e) = v;
            if (e == 0) *(float2 *)(mine + 8 * D + h * 2) = make_float2(top, l);
        }
    }
    if (active == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&a.arrived[row * gridDim.y + blockIdx.y], 1) == active - 1;
    __syncthreads();
    if (!last) return;
    if (threadIdx.x == 0) a.arrived[row * gridDim.y + blockIdx.y] = 0;
    __threadfence();
    // Of each part the weight, its sum times that: a warp a head.
    const float *all = a.parts + slot * 8 * (D + 2);
    float2 *ml = (float2 *)part; // [heads][active]
    __shared__ float sums[8];
    if (warp < heads) {
        float top = MASKED, l = 0;
        for (int s = lane; s < active; s += 32) {
            const float2 x = __ldcg((const float2 *)(all + (long long)s * 8 * (D + 2) + 8 * D + warp * 2));
            ml[warp * active + s] = x;
            top = fmaxf(top, x.x);
        }
        top = warpMax(top);
        for (int s = lane; s < active; s += 32) {
            float2 &x = ml[warp * active + s];
            x.x = exp2f(x.x - top);
            l += x.x * x.y;
        }
        l = warpSum(l);
        if (lane == 0) sums[warp] = 1.f / l;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * D / 4; i += blockDim.x) {
        const int h = i / (D / 4), e = i % (D / 4) * 4;
        float4 v = make_float4(0, 0, 0, 0);
#pragma unroll 16
        for (int s = 0; s < active; s++) {
            const float4 x = __ldcg((const float4 *)(all + (long long)s * 8 * (D + 2) + h * D + e));
            const float f = ml[h * active + s].x;
            v.x += f * x.x;
            v.y += f * x.y;
            v.z += f * x.z;
            v.w += f * x.w;
        }
        const long long to = ((long long)row * a.queryHeads + head + h) * D + e;
        const float s = sums[h];
        *(float4 *)(a.out + to) = make_float4(v.x * s, v.y * s, v.z * s, v.w * s);
        if (a.shadow) *(uint2 *)(a.shadow + to) = make_uint2(pack(v.x * s, v.y * s), pack(v.z * s, v.w * s));
    }
}
KERNEL __launch_bounds__(256, 2) attend_rows_64(const __grid_constant__ AttendArgs a) { attendRows<64>(a); }
KERNEL __launch_bounds__(256, 2) attend_rows_128(const __grid_constant__ AttendArgs a) { attendRows<128>(a); }
KERNEL __launch_bounds__(256, 1) attend_rows_256(const __grid_constant__ AttendArgs a) { attendRows<256>(a); }

// attendPlain serves head dimensions and cache types without a fast kernel:
// block (head, row), lanes over the values, warps over the tokens.
template <class C> DEV void attendPlain(const AttendArgs &a) {
    constexpr int W = 8, E = 8;
    __shared__ float query[256], sums[W][256], wm[W], wl[W];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, head = blockIdx.x, row = blockIdx.y, D = a.dim;
    const Row r = a.rows[row];
    const Layer L = a.layers[r.segment * a.layerCount + a.layer];
    const int set = head / (a.queryHeads / a.sets), kv = head / (a.queryHeads / a.kvHeads);
    const Read read(r.position + 1, a.window, a.selected ? a.selected + ((long long)row * a.sets + set) * a.k : nullptr, a.s);
    for (int i = threadIdx.x; i < D; i += blockDim.x) query[i] = a.q[((long long)row * a.queryHeads + head) * D + i];
    __syncthreads();
    const C *K = (const C *)L.k + (long long)kv * L.capacity * D, *V = (const C *)L.v + (long long)kv * L.capacity * D;
    float acc[E] = {0, 0, 0, 0, 0, 0, 0, 0}, m = MASKED, l = 0;
    for (int t = warp; t < read.count; t += W) {
        const long long at = (long long)read[t] * D;
        float s = 0;
        for (int i = lane; i < D; i += 32) s += query[i] * load(K + at + i);
        s = warpSum(s) * a.scale;
        const float top = fmaxf(m, s), f = expf(m - top), p = expf(s - top);
        m = top;
        l = l * f + p;
#pragma unroll
        for (int e = 0; e < E; e++)
            if (lane + 32 * e < D) acc[e] = acc[e] * f + p * load(V + at + lane + 32 * e);
    }
#pragma unroll
    for (int e = 0; e < E; e++)
        if (lane + 32 * e < D) sums[warp][lane + 32 * e] = acc[e];
    if (lane == 0) {
        wm[warp] = m;
        wl[warp] = l;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < D; i += blockDim.x) {
        float top = MASKED, sum = 0, v = 0;
        for (int w = 0; w < W; w++) top = fmaxf(top, wm[w]);
        for (int w = 0; w < W; w++) {
            const float f = expf(wm[w] - top);
            sum += f * wl[w];
            v += f * sums[w][i];
        }
        a.out[((long long)row * a.queryHeads + head) * D + i] = v / sum;
    }
}
KERNEL __launch_bounds__(256) attend_plain_bf16(const AttendArgs a) { begin(); attendPlain<bf16>(a); }
KERNEL __launch_bounds__(256) attend_plain_f32(const AttendArgs a) { begin(); attendPlain<float>(a); }
