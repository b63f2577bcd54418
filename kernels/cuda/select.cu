// Exact top-k by radix select, and reranking of candidates by exact logits.
#include "attend.cuh"

// order maps a score to an unsigned key of the same order; NaN ranks last and
// the two zeros are equal.
DEV u32 order(int v) { return (u32)v ^ 0x80000000u; }
DEV u32 order(float v) {
    if (v != v) return 0;
    const u32 x = __float_as_uint(v + 0.f);
    return x & 0x80000000u ? ~x : x | 0x80000000u;
}

struct TopKArgs {
    int *out;            // [T, sets, k]
    const void *scores;  // [T, sets, stride]
    const Row *rows;
    const int *list;     // candidates [T, sets, listK], or null: positions
    int sets, stride, k, listK;
    Selection s;
};

constexpr int BINS = 2048;

// topK: a cluster of blocks per (set, row); each warp owns consecutive scores,
// so that ranks follow positions and ties fall to the most recent.
template <class S> DEV void topK(const TopKArgs &a) {
    __shared__ u32 hist[2][BINS];
    __shared__ u32 extreme[2], totals[2], found[3], warpSums[32], greater[32], equal[32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, W = blockDim.x / 32;
    const int rank = clusterRank(), C = clusterSize(), set = blockIdx.y, row = blockIdx.z;
    const int n = a.rows[row].position + 1;
    int lo, hi, count;
    if (a.list) {
        lo = 0;
        hi = scored(a.s, n);
        count = chosen(a.s, n);
    } else {
        range(a.s, n, lo, hi);
        count = scored(a.s, n);
    }
    const long long which = (long long)row * a.sets + set;
    int *out = a.out + which * a.k;
    for (int i = count + rank * blockDim.x + threadIdx.x; i < a.k; i += C * blockDim.x) out[i] = -1;
    if (count <= 0) return; // the same for the whole cluster
    const S *scores = (const S *)a.scores + which * a.stride;
    const int per = ((hi - lo + C * W - 1) / (C * W) + 31) / 32 * 32;
    const int from = imin(hi, lo + (rank * W + warp) * per), to = imin(hi, from + per);

    for (int i = threadIdx.x; i < BINS; i += blockDim.x) hist[0][i] = 0;
    if (threadIdx.x == 0) {
        extreme[0] = 0xffffffffu;
        extreme[1] = 0;
    }
    __syncthreads();
    u32 least = 0xffffffffu, most = 0;
    for (int i = from + lane; i < to; i += 32) {
        const u32 key = order(scores[i]);
        least = min(least, key);
        most = max(most, key);
    }
    least = __reduce_min_sync(ALL, least);
    most = __reduce_max_sync(ALL, most);
    if (lane == 0 && from < to) {
        atomicMin(&extreme[0], least);
        atomicMax(&extreme[1], most);
    }
    clusterSync();
    for (int r = 0; r < C; r++) {
        least = min(least, loadPeer(peer(shared32(&extreme[0]), r)));
        most = max(most, loadPeer(peer(shared32(&extreme[1]), r)));
    }

    // Digits of the key above the least one, highest first.
    u32 prefix = 0, need = count, ties = hi - lo;
    int shift = 32 - __clz(most - least);
    for (int pass = 0; shift > 0; pass++) {
        const int d = imin(11, shift), above = shift;
        shift -= d;
        u32 *h = hist[pass & 1];
        for (int i = from + lane; i < to; i += 32) {
            const u32 key = order(scores[i]) - least;
            if (above == 32 || key >> above == prefix) atomicAdd(&h[key >> shift & ((1u << d) - 1)], 1u);
        }
        clusterSync();
        for (int i = threadIdx.x; i < BINS; i += blockDim.x) hist[(pass + 1) & 1][i] = 0;
        // thread t holds the bins BINS-1-2t and BINS-2-2t: highest first
        u32 bin[2] = {0, 0};
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int b = BINS - 1 - 2 * (int)threadIdx.x - j;
            if (b < (1 << d))
                for (int r = 0; r < C; r++) bin[j] += loadPeer(peer(shared32(&h[b]), r));
        }
        u32 sum = bin[0] + bin[1], upto = sum;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const u32 v = __shfl_up_sync(ALL, upto, o);
            if (lane >= o) upto += v;
        }
        if (lane == 31) warpSums[warp] = upto;
        __syncthreads();
        const u32 w = lane < warp ? warpSums[lane] : 0;
        u32 before = __reduce_add_sync(ALL, w) + upto - sum;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            if (before < need && before + bin[j] >= need) {
                found[0] = BINS - 1 - 2 * threadIdx.x - j;
                found[1] = need - before;
                found[2] = bin[j];
            }
            before += bin[j];
        }
        __syncthreads();
        prefix = (d == 32 ? 0 : prefix << d) | found[0];
        need = found[1];
        ties = found[2];
    }
    const u32 cut = prefix; // the key, above the least, of the last one kept
    const u32 skip = ties - need; // so many of the ties, the oldest, lose

    u32 gt = 0, eq = 0;
    for (int i = from; i < to; i += 32) {
        const bool has = i + lane < to;
        const u32 key = has ? order(scores[i + lane]) - least : 0;
        gt += __popc(__ballot_sync(ALL, has && key > cut));
        eq += __popc(__ballot_sync(ALL, has && key == cut));
    }
    if (lane == 0) {
        greater[warp] = gt;
        equal[warp] = eq;
    }
    __syncthreads();
    const u32 allGt = lane < W ? greater[lane] : 0, allEq = lane < W ? equal[lane] : 0;
    if (warp == 0) {
        const u32 x = __reduce_add_sync(ALL, allGt), y = __reduce_add_sync(ALL, allEq);
        if (lane == 0) {
            totals[0] = x;
            totals[1] = y;
        }
    }
    gt = __reduce_add_sync(ALL, lane < warp ? allGt : 0);
    eq = __reduce_add_sync(ALL, lane < warp ? allEq : 0);
    clusterSync();
    for (int r = 0; r < rank; r++) {
        gt += loadPeer(peer(shared32(&totals[0]), r));
        eq += loadPeer(peer(shared32(&totals[1]), r));
    }
    const int *list = a.list ? a.list + which * a.listK : nullptr;
    const u32 below = (1u << lane) - 1;
    for (int i = from; i < to; i += 32) {
        const bool has = i + lane < to;
        const u32 key = has ? order(scores[i + lane]) - least : 0;
        const u32 g = __ballot_sync(ALL, has && key > cut), e = __ballot_sync(ALL, has && key == cut);
        const u32 myEq = eq + __popc(e & below);
        if (has && (key > cut || (key == cut && myEq >= skip))) {
            const u32 at = gt + __popc(g & below) + (myEq > skip ? myEq - skip : 0);
            out[at] = list ? list[i + lane] : i + lane;
        }
        gt += __popc(g);
        eq += __popc(e);
    }
    clusterSync(); // peers may still read this block's totals
}
KERNEL __launch_bounds__(1024) topk_i32(const TopKArgs a) { begin(); topK<int>(a); }
KERNEL __launch_bounds__(1024) topk_f32(const TopKArgs a) { begin(); topK<float>(a); }

struct RerankArgs {
    float *logits;        // [T, queryHeads, length]
    float *values;        // [T, sets, length], of groups
    float2 *parts;        // [T, sets, 8, blocks]: largest logit and sum of exponentials
    const float *q;       // [T, queryHeads, dim]
    const int *candidates; // [T, sets, k]
    const Row *rows;
    const Layer *layers;
    int layerCount, layer, queryHeads, kvHeads, sets, k, length, dim, blocks;
    float scale;
    Selection s;
};

// rerank_logits: block (64 tokens, set, row): exact logits of the candidates,
// for groups also of sink and local behind them; a warp a token.
template <class C> DEV void rerankLogits(const RerankArgs &a) {
    extern __shared__ float query[]; // [heads of the set][dim]
    const int row = blockIdx.z, set = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const Row r = a.rows[row];
    const Layer L = a.layers[r.segment * a.layerCount + a.layer];
    const int n = r.position + 1, count = scored(a.s, n), heads = a.queryHeads / a.sets, first = set * heads;
    int lo, hi;
    range(a.s, n, lo, hi);
    const int all = heads > 1 ? count + lo + n - hi : count;
    if ((int)blockIdx.x * 64 >= all) return;
    for (int i = threadIdx.x; i < heads * a.dim; i += blockDim.x) query[i] = a.q[((long long)row * a.queryHeads + first) * a.dim + i];
    __syncthreads();
    const C *keys = (const C *)L.k + (long long)(first / (a.queryHeads / a.kvHeads)) * L.capacity * a.dim;
    const int *list = a.candidates + ((long long)row * a.sets + set) * a.k;
    for (int t = blockIdx.x * 64 + warp; t < imin(all, ((int)blockIdx.x + 1) * 64); t += blockDim.x / 32) {
        const int p = t < count ? list[t] : t < count + lo ? t - count : hi + t - count - lo;
        for (int h = 0; h < heads; h++) {
            float s = 0;
            for (int i = lane; i < a.dim; i += 32) s += query[h * a.dim + i] * load(keys + (long long)p * a.dim + i);
            s = warpSum(s);
            if (lane == 0) a.logits[((long long)row * a.queryHeads + first + h) * a.length + t] = s * a.scale;
        }
    }
}
KERNEL __launch_bounds__(512) rerank_logits_bf16(const RerankArgs a) { begin(); rerankLogits<bf16>(a); }
KERNEL __launch_bounds__(512) rerank_logits_f32(const RerankArgs a) { begin(); rerankLogits<float>(a); }

// rerank_mass: block (set, row): the candidates' softmax summed over the heads.
KERNEL __launch_bounds__(1024) rerank_mass(const RerankArgs a) {
    begin();
    __shared__ float scratch[33];
    const int set = blockIdx.x, row = blockIdx.y, n = a.rows[row].position + 1, count = scored(a.s, n), heads = a.queryHeads / a.sets;
    int lo, hi;
    range(a.s, n, lo, hi);
    const int all = count + lo + n - hi;
    float *values = a.values + ((long long)row * a.sets + set) * a.length;
    for (int h = 0; h < heads; h++) {
        const float *l = a.logits + ((long long)row * a.queryHeads + set * heads + h) * a.length;
        float top = -3.4e38f, sum = 0;
        for (int i = threadIdx.x; i < all; i += blockDim.x) top = fmaxf(top, l[i]);
        top = blockMax(top, scratch);
        for (int i = threadIdx.x; i < all; i += blockDim.x) sum += expf(l[i] - top);
        sum = blockSum(sum, scratch);
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            const float v = expf(l[i] - top) / sum;
            values[i] = h ? values[i] + v : v;
        }
    }
}

// rerankTiles is rerank_logits on tensor cores, for sets of up to 8 heads:
// block (128 tokens, set, row), a warp 16 tokens. For groups each block leaves
// the largest logit and the sum of exponentials of its tokens.
template <int D> DEV void rerankTiles(const RerankArgs &a) {
    __shared__ __align__(16) Queries<D> q;
    __shared__ float tops[8][8], sums[8][8];
    const int row = blockIdx.z, set = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3;
    const Row r = a.rows[row];
    const Layer L = a.layers[r.segment * a.layerCount + a.layer];
    const int n = r.position + 1, count = scored(a.s, n), heads = a.queryHeads / a.sets, first = set * heads;
    int lo, hi;
    range(a.s, n, lo, hi);
    const int all = heads > 1 ? count + lo + n - hi : count;
    if ((int)blockIdx.x * 128 >= all) return;
    q.fill(a.q + ((long long)row * a.queryHeads + first) * D, heads);
    const bf16 *K = (const bf16 *)L.k + (long long)(first / (a.queryHeads / a.kvHeads)) * L.capacity * D;
    const int t0 = blockIdx.x * 128 + warp * 16, t = imin(t0 + (lane & 15), all - 1);
    const int p = t < count ? a.candidates[((long long)row * a.sets + set) * a.k + t] : t < count + lo ? t - count : hi + t - count - lo;
    KeyTile<D> keys;
    keys.load(K, p);
    __syncthreads();
    float s[4];
    keys.dot(q, s);
#pragma unroll
    for (int k = 0; k < 2; k++) { // heads 2c and 2c+1
        const int head = 2 * c + k;
        const bool has0 = t0 + g < all, has1 = t0 + g + 8 < all;
        const float v0 = has0 ? s[k] * a.scale : MASKED, v1 = has1 ? s[2 + k] * a.scale : MASKED;
        if (head < heads) {
            float *out = a.logits + ((long long)row * a.queryHeads + first + head) * a.length;
            if (has0) out[t0 + g] = v0;
            if (has1) out[t0 + g + 8] = v1;
        }
        if (heads == 1) continue;
        float top = fmaxf(v0, v1);
#pragma unroll
        for (int o = 4; o < 32; o <<= 1) top = fmaxf(top, __shfl_xor_sync(ALL, top, o));
        float sum = (has0 ? expf(v0 - top) : 0.f) + (has1 ? expf(v1 - top) : 0.f);
#pragma unroll
        for (int o = 4; o < 32; o <<= 1) sum += __shfl_xor_sync(ALL, sum, o);
        if (g == 0) {
            tops[warp][head] = top;
            sums[warp][head] = sum;
        }
    }
    if (heads == 1) return;
    __syncthreads();
    if (threadIdx.x >= heads) return;
    float top = MASKED, sum = 0;
    for (int w = 0; w < 8; w++) top = fmaxf(top, tops[w][threadIdx.x]);
    for (int w = 0; w < 8; w++) sum += sums[w][threadIdx.x] * expf(tops[w][threadIdx.x] - top);
    a.parts[(((long long)row * a.sets + set) * 8 + threadIdx.x) * gridDim.x + blockIdx.x] = make_float2(top, sum);
}
KERNEL __launch_bounds__(256) rerank_tiles_64(const RerankArgs a) { begin(); rerankTiles<64>(a); }
KERNEL __launch_bounds__(256) rerank_tiles_128(const RerankArgs a) { begin(); rerankTiles<128>(a); }
KERNEL __launch_bounds__(256) rerank_tiles_256(const RerankArgs a) { begin(); rerankTiles<256>(a); }

// rerank_values: block (256 candidates, set, row), behind rerank_tiles of
// blocks blocks: the candidates' softmax summed over the heads.
KERNEL __launch_bounds__(256) rerank_values(const RerankArgs a) {
    begin();
    __shared__ float tops[8], sums[8];
    const int set = blockIdx.y, row = blockIdx.z, n = a.rows[row].position + 1, count = scored(a.s, n), heads = a.queryHeads / a.sets;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if ((int)blockIdx.x * 256 >= count) return;
    int lo, hi;
    range(a.s, n, lo, hi);
    const int used = (count + lo + n - hi + 127) / 128;
    if (warp < heads) {
        const float2 *p = a.parts + (((long long)row * a.sets + set) * 8 + warp) * a.blocks;
        float top = MASKED, sum = 0;
        for (int i = lane; i < used; i += 32) top = fmaxf(top, p[i].x);
        top = warpMax(top);
        for (int i = lane; i < used; i += 32) sum += p[i].y * expf(p[i].x - top);
        sum = warpSum(sum);
        if (lane == 0) {
            tops[warp] = top;
            sums[warp] = sum;
        }
    }
    __syncthreads();
    const int t = blockIdx.x * 256 + threadIdx.x;
    if (t >= count) return;
    float v = 0;
    for (int h = 0; h < heads; h++) v += expf(a.logits[((long long)row * a.queryHeads + set * heads + h) * a.length + t] - tops[h]) / sums[h];
    a.values[((long long)row * a.sets + set) * a.length + t] = v;
}
