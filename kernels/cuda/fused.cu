// Hash attention of one decode step in one launch: score, exact cut, gather
// and attention by a thread-block cluster per row and KV head (sm_90).
//
// 1. Each warp scores consecutive tokens. A score counts down from the largest
//    possible one, so that it is a level >= 0; levels stay in shared memory and
//    are counted in 256 coarse bins.
// 2. The blocks send each other their counts (st.async on an mbarrier) and find
//    the bin of the cut; where a bin holds several levels, a second count of
//    that bin's levels finds the level.
// 3. Winners have a rank in position order; of the levels equal to the cut the
//    oldest lose. Rank r goes to block r / per, which attends to it.
// 4. Parts of the output are exchanged the same way and merged in order.
#include "attend.cuh"

struct FusedArgs {
    float *out;
    bf16 *shadow;
    const float *q;       // [T, queryHeads, D]
    const i8 *weights;    // [T, maps, bits]
    const Row *rows;
    const Layer *layers;
    int *selected;        // [T, sets, k] or null: what was chosen, ascending
    int layerCount, layer, queryHeads, sets, maps, bits, k;
    int levels, listed;   // room for levels and listed tokens of a block
    float scale;
    Selection s;
};

constexpr int W = 8, BINS = 256, FINE = 512, BLOCKS = 16;

#if __CUDA_ARCH__ >= 900
DEV void send4(u32 to, uint4 v, u32 bar) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0],{%1,%2,%3,%4},[%5];" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(bar) : "memory");
}
DEV void send2(u32 to, uint2 v, u32 bar) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0],{%1,%2},[%3];" ::"r"(to), "r"(v.x), "r"(v.y), "r"(bar) : "memory");
}
DEV void send1(u32 to, u32 v, u32 bar) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0],%1,[%2];" ::"r"(to), "r"(v), "r"(bar) : "memory");
}
DEV void expect(u32 bar, u32 bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(bar), "r"(bytes) : "memory"); }
DEV void await(u32 bar) {
    asm volatile("{\n.reg .pred p;\nL%=:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p,[%0],0;\n@!p bra L%=;\n}" ::"r"(bar) : "memory");
}

// counts adds the blocks' packed 16-bit counts: total over all, before over
// the lower ranks, for bins 2*i and 2*i+1.
DEV void counts(u32 *total, u32 *before, const u32 *from, int words, int stride, int P, int rank) {
    for (int i = threadIdx.x; i < words; i += W * 32) {
        u32 t0 = 0, t1 = 0, b0 = 0, b1 = 0;
        for (int r = 0; r < P; r++) {
            const u32 x = from[r * stride + i], lo = x & 0xffff, hi = x >> 16;
            t0 += lo;
            t1 += hi;
            if (r < rank) {
                b0 += lo;
                b1 += hi;
            }
        }
        total[2 * i] = t0;
        total[2 * i + 1] = t1;
        before[2 * i] = b0;
        before[2 * i + 1] = b1;
    }
}

// Cut is where a count reaches a number: the bin, how many lie in lower bins
// and in it, over all blocks and over the lower ranks.
struct Cut {
    u32 bin, less, equal, lessBefore, equalBefore;
};

// cut scans 32*N bins in one warp; every warp gets the same result.
template <int N> DEV Cut cut(const u32 *total, const u32 *before, u32 need) {
    const int lane = threadIdx.x & 31;
    u32 v[N], b[N], sum = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
        v[i] = total[lane * N + i];
        b[i] = before[lane * N + i];
        sum += v[i];
    }
    u32 upto = sum;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        const u32 y = __shfl_up_sync(ALL, upto, o);
        if (lane >= o) upto += y;
    }
    const int at = __ffs(__ballot_sync(ALL, upto >= need)) - 1;
    u32 cum = upto - sum, bin = 0, equal = 0, lower = 0, equalBefore = 0;
    bool found = false;
#pragma unroll
    for (int i = 0; i < N; i++)
        if (!found) {
            if (cum + v[i] >= need) {
                bin = lane * N + i;
                equal = v[i];
                equalBefore = b[i];
                found = true;
            } else {
                cum += v[i];
                lower += b[i];
            }
        }
    if (lane > at) lower = 0;
    Cut c;
    c.bin = __shfl_sync(ALL, bin, at);
    c.less = __shfl_sync(ALL, cum, at);
    c.equal = __shfl_sync(ALL, equal, at);
    c.equalBefore = __shfl_sync(ALL, equalBefore, at);
    c.lessBefore = __reduce_add_sync(ALL, lower);
    return c;
}

template <int D, int WORDS> DEV void fused(const FusedArgs &a) {
    constexpr int TPL = 4 / WORDS, CHUNK = 32 * TPL, U = 8; // tokens a lane, a warp's step; steps in flight
    __shared__ __align__(16) Queries<D> q;
    __shared__ __align__(16) u32 total[FINE], before[FINE], packed[FINE / 2];
    __shared__ __align__(16) u32 lo[8 * WORDS], hi[8 * WORDS];
    __shared__ u32 warpCount[W];
    __shared__ float wm[W][8], wl[W][8];
    __shared__ __align__(16) float2 ml[BLOCKS][8];
    __shared__ __align__(8) u64 bars[4];
    __shared__ int sums[3]; // of the weights, of the positive ones, whether any exceeds int8
    extern __shared__ __align__(16) char dynamic[];
    // First histograms and levels, later the warps' parts of the output.
    u32 *hist = (u32 *)dynamic;                             // [W][BINS]
    u32 *coarse = hist + W * BINS;                          // [P][BINS/2]
    u32 *fine = coarse + BLOCKS * BINS / 2;                 // [P][FINE/2], then own [FINE]
    u32 *ownFine = fine + BLOCKS * FINE / 2;
    u16 *level = (u16 *)(ownFine + FINE);                   // [levels]
    float *part = (float *)dynamic;                         // [W][heads][D]
    const int heads = a.queryHeads / a.sets;
    const int front = imax((W * BINS + BLOCKS * BINS / 2 + BLOCKS * FINE / 2 + FINE) * 4 + a.levels * 2, W * heads * D * 4);
    float *gathered = (float *)(dynamic + front);           // [P][heads*D/P]
    int *list = (int *)(gathered + heads * D);              // [listed]

    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, P = clusterSize(), rank = clusterRank();
    const int which = blockIdx.x / P, row = which / a.sets, set = which % a.sets;
    const Row r = a.rows[row];
    const Layer L = a.layers[r.segment * a.layerCount + a.layer];
    const int n = r.position + 1;
    int from, to;
    range(a.s, n, from, to);
    const int count = chosen(a.s, n);
    const int reads = count + from + n - to, per = (reads + P - 1) / P; // tokens a block attends to
    const int mine = imin(imax(count - rank * per, 0), per);            // of them winners
    const int own = imin(imax(reads - rank * per, 0), per);

    // Codes on their way first.
    const int chunks = (n + CHUNK - 1) / CHUNK, perWarp = (chunks + P * W - 1) / (P * W);
    const int first = (rank * W + warp) * perWarp;
    const u32 *codes = (const u32 *)L.slot[0] + (long long)set * L.slotCapacity[0] * WORDS;
    const bool vector = (L.slotCapacity[0] * WORDS) % 4 == 0;
    auto fetch = [&](int chunk) {
        const int t = chunk * CHUNK + lane * TPL;
        if (vector && t + TPL <= L.slotCapacity[0]) return t < n ? stream4(codes + (long long)t * WORDS) : make_uint4(0, 0, 0, 0);
        u32 x[4] = {0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (t + i / WORDS < n) x[i] = codes[(long long)t * WORDS + i];
        return make_uint4(x[0], x[1], x[2], x[3]);
    };
    uint4 code[U];
#pragma unroll
    for (int u = 0; u < U; u++) code[u] = u < perWarp ? fetch(first + u) : make_uint4(0, 0, 0, 0);

    u32 bar[4];
#pragma unroll
    for (int i = 0; i < 4; i++) bar[i] = shared32(&bars[i]);
    const int slice = heads * D / P; // outputs a block merges
    if (tid == 0) {
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("mbarrier.init.shared::cta.b64 [%0],1;" ::"r"(bar[i]) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        expect(bar[0], P * BINS * 2);
        expect(bar[2], mine * 4);
        expect(bar[3], P * (slice * 4 + heads * 8));
        sums[0] = sums[1] = sums[2] = 0;
    }
    __syncthreads();
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    for (int i = tid; i < 32 * WORDS; i += W * 32) {
        int w = 0;
        const int perSet = a.maps / a.sets;
        if (i < a.bits)
            for (int j = 0; j < perSet; j++) w += a.weights[((long long)row * a.maps + set * perSet + j) * a.bits + i];
        const int up = (w + 64) >> 7, at = ((i >> 5) * 8 + (i & 7)) * 4 + ((i & 31) >> 3);
        ((i8 *)lo)[at] = (i8)(w - up * 128);
        ((i8 *)hi)[at] = (i8)up;
        const int s = __reduce_add_sync(ALL, w), p = __reduce_add_sync(ALL, imax(w, 0));
        if (lane == 0) {
            atomicAdd(&sums[0], s);
            atomicAdd(&sums[1], p);
        }
        if (w > 127 || w < -128) sums[2] = 1;
    }
    q.fill(a.q + ((long long)row * a.queryHeads + set * heads) * D, heads);
    for (int i = lane; i < BINS; i += 32) hist[warp * BINS + i] = 0;
    for (int i = tid; i < FINE; i += W * 32) ownFine[i] = 0;
    __syncthreads();
    const int positive = sums[1], magnitude = 2 * sums[1] - sums[0], wide = sums[2]; // magnitude: sum of |w|
    const int shift = imax(0, 24 - __clz(magnitude)); // magnitude >> shift < 256
    if (!wide) { // the low bytes can hold the weights themselves
        if (tid < 8 * WORDS) lo[tid] ^= (hi[tid] & 0x01010101u) << 7;
        __syncthreads();
    }
    u32 wl_[8], wh_[8];
    if (WORDS == 1) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            wl_[i] = lo[i];
            wh_[i] = hi[i];
        }
    }

    // 1. Scores.
    for (int base = 0; base < perWarp; base += U) {
#pragma unroll
        for (int u = 0; u < U; u++) {
            if (base + u >= perWarp) break;
            const u32 x[4] = {code[u].x, code[u].y, code[u].z, code[u].w};
            const int chunk = first + base + u;
            u32 lv[TPL];
#pragma unroll
            for (int j = 0; j < TPL; j++) {
                int s = 0, h = 0;
#pragma unroll
                for (int word = 0; word < WORDS; word++) {
#pragma unroll
                    for (int i = 0; i < 8; i++) s = __dp4a((int)(x[j * WORDS + word] >> i & 0x01010101u), (int)(WORDS == 1 ? wl_[i] : lo[word * 8 + i]), s);
                    if (wide) {
#pragma unroll
                        for (int i = 0; i < 8; i++) h = __dp4a((int)(x[j * WORDS + word] >> i & 0x01010101u), (int)(WORDS == 1 ? wh_[i] : hi[word * 8 + i]), h);
                    }
                }
                const int t = chunk * CHUNK + lane * TPL + j;
                lv[j] = t >= from && t < to ? (u32)(positive - s - 128 * h) : 0xffffu;
                if (lv[j] != 0xffffu) atomicAdd(&hist[warp * BINS + (lv[j] >> shift)], 1u);
            }
            u16 *put = level + (warp * perWarp + base + u) * CHUNK + lane * TPL;
            if (TPL == 4) *(uint2 *)put = make_uint2(lv[0] | lv[1 % TPL] << 16, lv[2 % TPL] | lv[3 % TPL] << 16);
            if (TPL == 2) *(u32 *)put = lv[0] | lv[1 % TPL] << 16;
            if (TPL == 1) *put = (u16)lv[0];
        }
        if (base + U < perWarp) {
#pragma unroll
            for (int u = 0; u < U; u++) code[u] = base + U + u < perWarp ? fetch(first + base + U + u) : make_uint4(0, 0, 0, 0);
        }
    }
    __syncthreads();

    // 2. The cut.
    for (int i = tid; i < BINS / 2; i += W * 32) {
        u32 x = 0, y = 0;
#pragma unroll
        for (int w = 0; w < W; w++) {
            const uint2 v = *(const uint2 *)&hist[w * BINS + 2 * i];
            x += v.x;
            y += v.y;
        }
        packed[i] = x | y << 16;
    }
    __syncthreads();
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); // every block's barriers are ready
    for (int i = tid; i < P * (BINS / 8); i += W * 32) {
        const int to_ = i / (BINS / 8), at = i % (BINS / 8);
        send4(peer(shared32(coarse + rank * (BINS / 2) + at * 4), to_), ((const uint4 *)packed)[at], peer(bar[0], to_));
    }
    await(bar[0]);
    counts(total, before, coarse, BINS / 2, BINS / 2, P, rank);
    __syncthreads();
    Cut c = {0, 0, 0, 0, 0};
    u32 cutLevel = 0, skip = 0;
    if (count > 0) {
        c = cut<BINS / 32>(total, before, count);
        cutLevel = c.bin;
        if (shift > 0) {
            const int bins = 1 << shift, words = imax(4, bins / 2); // counts sent, 16 bytes at least
            for (int i = lane; i < perWarp * CHUNK; i += 32) {
                const u32 v = level[warp * perWarp * CHUNK + i];
                if (v != 0xffffu && v >> shift == c.bin) atomicAdd(&ownFine[v & (bins - 1)], 1u);
            }
            if (tid == 0) expect(bar[1], P * words * 4);
            __syncthreads();
            for (int i = tid; i < P * (words / 4); i += W * 32) {
                const int to_ = i / (words / 4), at = i % (words / 4);
                const u32 *f = ownFine + at * 8;
                send4(peer(shared32(fine + rank * (FINE / 2) + at * 4), to_), make_uint4(f[0] | f[1] << 16, f[2] | f[3] << 16, f[4] | f[5] << 16, f[6] | f[7] << 16), peer(bar[1], to_));
            }
            await(bar[1]);
            for (int i = words * 2 + tid; i < FINE; i += W * 32) total[i] = before[i] = 0;
            counts(total, before, fine, words, FINE / 2, P, rank);
            __syncthreads();
            const Cut f = cut<FINE / 32>(total, before, count - c.less);
            cutLevel = c.bin << shift | f.bin;
            c.less += f.less;
            c.lessBefore += f.lessBefore;
            c.equal = f.equal;
            c.equalBefore = f.equalBefore;
        }
        skip = c.equal - (count - c.less);

        // 3. Ranks of the winners.
        u32 less = 0, equal = 0;
        for (int i = lane; i < perWarp * CHUNK; i += 32) {
            const u32 v = level[warp * perWarp * CHUNK + i];
            less += v < cutLevel;
            equal += v == cutLevel;
        }
        less = __reduce_add_sync(ALL, less);
        equal = __reduce_add_sync(ALL, equal);
        if (lane == 0) warpCount[warp] = less | equal << 16;
        __syncthreads();
        u32 x = lane < warp ? warpCount[lane] : 0;
        u32 lessAt = c.lessBefore + __reduce_add_sync(ALL, x & 0xffff), equalAt = c.equalBefore + __reduce_add_sync(ALL, x >> 16);
        for (int i = 0; i < perWarp * CHUNK; i += 32) {
            const u32 v = level[warp * perWarp * CHUNK + i + lane];
            const u32 l = __ballot_sync(ALL, v < cutLevel), e = __ballot_sync(ALL, v == cutLevel), below = (1u << lane) - 1;
            const u32 myEqual = equalAt + __popc(e & below);
            if (v < cutLevel || (v == cutLevel && myEqual >= skip)) {
                const u32 at = lessAt + __popc(l & below) + (myEqual > skip ? myEqual - skip : 0), d = at / per;
                const int t = first * CHUNK + i + lane;
                send1(peer(shared32(list + (at - d * per)), d), t, peer(bar[2], d));
                if (a.selected) a.selected[((long long)row * a.sets + set) * a.k + at] = t;
            }
            lessAt += __popc(l);
            equalAt += __popc(e);
        }
    }
    if (a.selected)
        for (int i = count + rank * W * 32 + tid; i < a.k; i += P * W * 32) a.selected[((long long)row * a.sets + set) * a.k + i] = -1;
    await(bar[2]);
    __syncthreads(); // levels are done with: part takes their place

    // 4. Attention to this block's share: winners, then sink, then local.
    const bf16 *K = (const bf16 *)L.k + (long long)set * L.capacity * D, *V = (const bf16 *)L.v + (long long)set * L.capacity * D;
    Accumulator<D> acc;
    acc.clear();
    const float scale = a.scale * LOG2E;
    const int tiles = (own + 15) / 16, rest = rank * per - count; // t + rest: index among sink and local
    for (int t = warp; t < tiles; t += W) {
        const int i = imin(t * 16 + (lane & 15), own - 1);
        const int position = i < mine ? list[i] : i + rest < from ? i + rest : to + i + rest - from;
        acc.tile(K, V, q, position, imin(16, own - t * 16), scale);
    }
    acc.finish(part + warp * heads * D, wm[warp], wl[warp], heads);
    __syncthreads();
    for (int i = tid; i < heads * D / 4; i += W * 32) {
        const int h = i / (D / 4);
        float top = MASKED, l = 0;
#pragma unroll
        for (int w = 0; w < W; w++) top = fmaxf(top, wm[w][h]);
        float4 v = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int w = 0; w < W; w++) {
            const float f = exp2f(wm[w][h] - top);
            const float4 x = *(const float4 *)&part[w * heads * D + i * 4];
            l += f * wl[w][h];
            v.x += f * x.x;
            v.y += f * x.y;
            v.z += f * x.z;
            v.w += f * x.w;
        }
        const int e = i * 4, d = e / slice;
        send4(peer(shared32(gathered + rank * slice + e % slice), d), make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)), peer(bar[3], d));
        if (e % D == 0)
            for (int b = 0; b < P; b++) send2(peer(shared32(&ml[rank][h]), b), make_uint2(__float_as_uint(top), __float_as_uint(l)), peer(bar[3], b));
    }
    await(bar[3]);
    for (int i = tid; i < slice; i += W * 32) {
        const int e = rank * slice + i, h = e / D;
        float top = MASKED, l = 0, v = 0;
        for (int b = 0; b < P; b++) top = fmaxf(top, ml[b][h].x);
        for (int b = 0; b < P; b++) {
            const float f = exp2f(ml[b][h].x - top);
            l += f * ml[b][h].y;
            v += f * gathered[b * slice + i];
        }
        const long long at = ((long long)row * a.queryHeads + set * heads) * D + e;
        a.out[at] = v / l;
        if (a.shadow) a.shadow[at] = tobf16(v / l);
    }
}
#define FUSED(D, WORDS, MIN) \
    KERNEL __launch_bounds__(256, MIN) fused_##D##_##WORDS(const FusedArgs a) { fused<D, WORDS>(a); }
FUSED(64, 1, 2)
FUSED(64, 2, 2)
FUSED(64, 4, 2)
FUSED(128, 1, 2)
FUSED(128, 2, 2)
FUSED(128, 4, 2)
FUSED(256, 1, 1)
FUSED(256, 2, 1)
FUSED(256, 4, 1)
#endif
