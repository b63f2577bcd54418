// Hash attention of one decode step in one launch: score, exact cut, gather
// and attention by a thread-block cluster per row and set of tokens (sm_90).
//
// 0. Codes are on their way before the kernel ahead, which gives the weights of
//    the query map, has ended; only the newest token's code waits for it.
// 1. Each warp scores consecutive tokens. A score counts down from the largest
//    possible one: the level is the weight of the bits that differ from the
//    query's. Levels stay in shared memory; those low enough to be chosen are
//    counted. Weights of few bits (Hamming distance, int4) are summed by
//    popcounts of their binary digits, others by dp4a on the code's bit planes.
// 2. The blocks send each other their counts (st.async on an mbarrier) and find
//    the level of the cut. Where too few tokens were counted, or a bin holds
//    several levels, they count again.
// 3. Winners have a rank in position order; of the levels equal to the cut the
//    oldest lose. Rank r goes to block r / per, which attends to it.
//    With reranking winners are candidates: their exact logits stay in shared
//    memory, are cut again by digits, and only V rows of the kept are read.
// 4. Parts of the output are exchanged the same way and merged in order.
#include "attend.cuh"
#include "cut.cuh"
#include "score.cuh"

struct FusedArgs {
    float *out;
    bf16 *shadow;
    const float *q;       // [T, queryHeads, D]
    const i8 *weights;    // [T, maps, bits]
    const Row *rows;
    const Layer *layers;
    int *selected;        // [T, sets, k] or null: what was chosen, ascending
    int layerCount, layer, queryHeads, sets, maps, bits, k, heads, perSet; // of a set: query heads, maps
    int single;           // row i is segment i, and only its newest code is new
    int levels, listed;   // room for levels and listed tokens of a block
    u32 keyMagic, kvMagic; // of division by sets of a key or KV head, 0: by 1
    int rerank, ring;     // keep the best candidates by exact logits; steps of codes there is room for
    float scale;
    int bins;             // that scores can need, whole 8, at most BINS
    Selection s;          // candidates are what is chosen
    Ahead ahead;          // by clusters behind those of the sets
};

constexpr int FINE = 32, BLOCKS = 16; // at most
constexpr int RING = 4; // steps whose codes are on their way
constexpr int BARS = 10; // mbarriers: counts 0 and 4, fine counts 1, list 2, output 3; reranking: masses 5, counts 6 to 9
constexpr u32 NONE = 0x7fff; // level of tokens that are no candidates

#if __CUDA_ARCH__ >= 900
template <int D, int WORDS, int W> DEV void fused(const FusedArgs &a) {
    touch(a);
    constexpr int TPL = 4 / WORDS, CHUNK = 32 * TPL; // tokens a lane, a warp's step
    __shared__ __align__(16) Queries<D> q;
    __shared__ Query<WORDS> query;
    __shared__ __align__(16) u32 fine[BLOCKS][FINE / 2], ownFine[FINE];
    __shared__ Cut cutResult;
    __shared__ __align__(8) uint2 warpSums[W];
    __shared__ u32 warpCount[W];
    __shared__ float wm[W][8], wl[W][8];
    __shared__ __align__(16) float2 ml[BLOCKS][8], mass[BLOCKS][8]; // of the parts; of all candidates, which a fast block's parts must not overtake
    __shared__ float tops[8], sums[8];
    __shared__ __align__(8) u64 bars[BARS];
    extern __shared__ __align__(16) char dynamic[];
    // First counts, levels and codes, later the warps' parts of the output.
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, P = clusterSize(), rank = clusterRank(), lgP = 31 - __clz(P);
    u32 *hist = (u32 *)dynamic;                  // [bins]
    u32 *counts = hist + a.bins;                 // [P][bins/2]
    u16 *level = (u16 *)(counts + P * a.bins / 2); // [levels]
    uint4 *ring = (uint4 *)(level + a.levels) + warp * a.ring * 32 + lane; // [W][ring][32]
    float *part = (float *)dynamic;              // [W][heads][D]
    const int heads = a.heads;
    const int front = imax(imax((a.bins + P * a.bins / 2) * 4 + a.levels * 2 + W * a.ring * 512, W * heads * D * 4), a.rerank ? (BINS + P * BINS) * 4 : 0);
    float *gathered = (float *)(dynamic + front); // [P][heads*D/P]
    float *logit = gathered + heads * D + a.listed; // behind the list; for reranking: [heads][listed], then levels and kept [listed]

    const int row = blockIdx.z, set = blockIdx.y;
    if (set >= a.sets) return ::fetch(a.ahead, (row * (gridDim.y - a.sets) + set - a.sets) * P + rank);
    // Where the cache is was written before the first kernel of a step, so that
    // it can be read ahead of the wait; so can the codes of earlier steps.
    const Row r = a.rows[row];
    int segment = row;
    if (!a.single) { // a select would wait for the row
        segment = r.segment;
        asm volatile("" : "+r"(segment));
    }
    const Layer L = a.layers[segment * a.layerCount + a.layer];
    // Translations of the pages read later are on their way, too.
    const float *queries = a.q + ((long long)row * a.queryHeads + set * heads) * D;
    const i8 *weights = a.weights + ((long long)row * a.maps + set * a.perSet) * a.bits;
    if (tid < heads * D / 32) asm volatile("prefetch.global.L2 [%0];" ::"l"(queries + tid * 32));
    if (tid == W * 32 - 1) asm volatile("prefetch.global.L2 [%0];" ::"l"(weights));
    auto bar = [&](int i) { return shared32(bars) + 8 * i; };
    if (tid == 0) {
#pragma unroll
        for (int i = 0; i < BARS; i++) asm volatile("mbarrier.init.shared::cta.b64 [%0],1;" ::"r"(bar(i)) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        query.positive = query.magnitude = query.square = query.wide = query.digits = 0;
    }
#pragma unroll 1
    for (int i = tid; i < a.bins; i += W * 32) hist[i] = 0;
    if (tid < FINE) ownFine[tid] = 0;
    announce();
    if (!a.single) dependence(); // other rows may be of the same sequence

    const int n = r.position + 1, chunks = (n + CHUNK - 1) / CHUNK;
    int perWarp = (chunks + P * W - 1) / W >> lgP;
    if (TPL == 1) perWarp += perWarp & 1; // lanes take whole pairs of levels
    const int first = (rank * W + warp) * perWarp;
    const int key = a.keyMagic ? __umulhi(set, a.keyMagic) : set, kv = a.kvMagic ? __umulhi(set, a.kvMagic) : set;
    const u32 *codes = (const u32 *)L.slot[0] + (long long)key * L.slotCapacity[0] * WORDS;
    const bool vector = (L.slotCapacity[0] * WORDS) % 4 == 0;
    auto fetch = [&](int step) { // a lane copies what it reads itself
        const int t = (first + step) * CHUNK + lane * TPL, bytes = imin(imax(n - t, 0), TPL) * WORDS * 4;
        const u32 *from = codes + (bytes ? (long long)t * WORDS : 0), to = shared32(ring + step % RING * 32);
        if (vector)
            copy16(to, from, bytes);
        else
#pragma unroll
            for (int i = 0; i < 4; i++) copy4(to + 4 * i, bytes > 4 * i ? from + i : codes, bytes > 4 * i ? 4 : 0);
    };
    const int newest = chunks - 1 - first; // the step with the newest token's code
#pragma unroll 1
    for (int u = 0; u < RING; u++) {
        if (u < perWarp && u != newest) fetch(u);
        if (u < RING - 1) commit();
    }
    const bf16 *K = (const bf16 *)L.k + (long long)kv * L.capacity * D, *V = (const bf16 *)L.v + (long long)kv * L.capacity * D;
    constexpr int PAGE = 2 << 20;
    if (tid < (int)(((long long)n * D * 2 + PAGE - 1) / PAGE)) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)K + (long long)tid * PAGE));
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)V + (long long)tid * PAGE));
    }
    int from, to;
    range(a.s, n, from, to);
    const int count = scored(a.s, n);
    const int ends = from + n - to, per = (count + P - 1) >> lgP, endsPer = (ends + P - 1) >> lgP; // sink and local; winners and ends of a block
    const int mine = imin(imax(count - rank * per, 0), per);                                      // winners this block attends to
    const int own = mine + imin(imax(ends - rank * endsPer, 0), endsPer);                         // and ends
    const int slice = heads * D >> lgP; // outputs a block merges
    if (tid == 0) {
        expect(bar(2), mine * 4);
        if (a.out) expect(bar(3), P * (slice * 4 + heads * 8));
        if (a.rerank) expect(bar(5), P * heads * 8);
    }
    const u32 stepMagic = perWarp > 1 ? 0xffffffffu / perWarp + 1 : 0, perMagic = per > 1 ? 0xffffffffu / per + 1 : 0, sliceMagic = 0xffffffffu / slice + 1;
    __syncthreads();
    clusterStarted();

    dependence();
    if (newest >= 0 && newest < imin(RING, perWarp)) fetch(newest);
    commit();
    // Where the block's share of the tokens lies: winners, then sink and local.
    int *list = (int *)(gathered + heads * D); // [listed]
    auto positionOf = [&](int i) {
        const int e = rank * endsPer + i - mine;
        return i < mine ? list[i] : e < from ? e : to + e - from;
    };
#pragma unroll 1
    for (int i = tid; i < (own - mine) * (D / 32); i += W * 32) {
        const int line = i % (D / 32);
        asm volatile("prefetch.global.L2 [%0];" ::"l"((line < D / 64 ? K : V) + (long long)positionOf(mine + i / (D / 32)) * D + line % (D / 64) * 64));
    }
    int weight = 0;
    if (tid < a.bits)
#pragma unroll 1
        for (int j = 0; j < a.perSet; j++) weight += weights[j * a.bits + tid];
    constexpr int PAIRS = 4 * D / (32 * W);
    float2 pair[PAIRS];
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        const int at = 2 * (i * 32 * W + tid);
        pair[i] = at < heads * D ? *(const float2 *)(queries + at) : make_float2(0, 0);
    }
#pragma unroll
    for (int i = 0; i < PAIRS; i++) q.put(2 * (i * 32 * W + tid), pair[i]);
    prepare<WORDS>(query, weight);
    __syncthreads();

    // Levels up to bound are counted: by the spread of random codes a few times
    // as many as are chosen.
    const int magnitude = query.magnitude, candidates = to - from;
    int bound = magnitude;
    if ((long long)count * 16 <= candidates)
        bound = imax(0, (int)(0.5f * (magnitude - sqrtf((float)query.square))));
    else if ((long long)count * 4 <= candidates)
        bound = magnitude / 2;

    // 1. Levels. A lane's later share is a run of tl consecutive tokens; runs
    // are padded by 4 levels against bank conflicts.
    const int tl = perWarp * TPL;
    u16 *levels = level + warp * 32 * (tl + 4);
    int shift = imax(0, 22 - __clz(bound)); // bound >> shift < BINS
    auto place = [&](int step) { // of the lane's tokens in a chunk
        const u32 v = step * 32 + lane, run = perWarp == 1 ? v : __umulhi(v, stepMagic);
        return levels + v * TPL + run * 4;
    };
    auto scoreAll = [&](auto scorer) {
#pragma unroll 1
        for (int step = 0; step < perWarp; step++) {
            if (step == newest)
                waitGroups<0>();
            else
                waitGroups<RING - 1>();
            const uint4 code = ring[step % RING * 32];
            const u32 x[4] = {code.x, code.y, code.z, code.w};
            const int t = (first + step) * CHUNK;
            const bool inside = t >= from && t + CHUNK <= to;
            u32 lv[4];
#pragma unroll
            for (int j = 0; j < TPL; j++) {
                lv[j] = scorer.level(x + j * WORDS);
                if (!inside && (t + lane * TPL + j < from || t + lane * TPL + j >= to)) lv[j] = NONE;
                if ((int)lv[j] <= bound) atomicAdd(&hist[lv[j] >> shift], 1u);
            }
            u16 *put = place(step);
            if (TPL == 4) *(uint2 *)put = make_uint2(lv[0] | lv[1 % TPL] << 16, lv[2 % TPL] | lv[3 % TPL] << 16);
            if (TPL == 2) *(u32 *)put = lv[0] | lv[1 % TPL] << 16;
            if (TPL == 1) *put = (u16)lv[0];
            if (step + RING < perWarp) fetch(step + RING);
            commit();
        }
    };
    const int digits = __popc(query.digits);
    if (query.wide)
        scoreAll(Scorer<WORDS, 4>(query));
    else if (digits == 1)
        scoreAll(Scorer<WORDS, 1>(query));
    else if (digits == 2)
        scoreAll(Scorer<WORDS, 2>(query));
    else if (digits == 3)
        scoreAll(Scorer<WORDS, 3>(query));
    else
        scoreAll(Scorer<WORDS, 0>(query));

    // masks marks of the lane's group g of 32 tokens those of a level <= high
    // and <= low: token 2k + h is bit 15 - k + 16h.
    u32 *mineLevels = (u32 *)(levels + lane * (tl + 4));
    const int groups = (tl + 31) / 32;
    auto masks = [&](int g, int low, int high, u32 &le, u32 &lt) {
        const u32 h = (0x8000u + high) * 0x10001u, l = (0x8000u + low) * 0x10001u;
        le = lt = 0;
        if (TPL == 4) {
#pragma unroll
            for (int k = 0; k < 16; k += 2) {
                if (g * 16 + k >= tl / 2) break;
                const uint2 w = *(const uint2 *)(mineLevels + g * 16 + k);
                le |= ((h - w.x) & 0x80008000u) >> k | ((h - w.y) & 0x80008000u) >> (k + 1);
                lt |= ((l - w.x) & 0x80008000u) >> k | ((l - w.y) & 0x80008000u) >> (k + 1);
            }
        } else {
#pragma unroll
            for (int k = 0; k < 16; k++) {
                if (g * 16 + k >= tl / 2) break;
                const u32 w = mineLevels[g * 16 + k];
                le |= ((h - w) & 0x80008000u) >> k;
                lt |= ((l - w) & 0x80008000u) >> k;
            }
        }
    };
    auto tokenOf = [](int bit) { return 2 * (15 - (bit & 15)) + (bit >> 4); };

    // 2. The cut.
    Cut c = {0, 0, 0, 0, 0, 0};
    u32 cutLevel = 0, skip = 0;
    auto send = [&](u32 arrived) {
        const int words = ((bound >> shift) + 8) / 8 * 4; // whole 16 bytes
        if (tid == 0) expect(arrived, P * words * 4);
#pragma unroll 1
        for (int d = warp; d < P; d += W)
#pragma unroll 1
            for (int at = lane; at < words / 4; at += 32) {
                const uint4 x = *(const uint4 *)&hist[at * 8], y = *(const uint4 *)&hist[at * 8 + 4];
                send4(peer(shared32(counts + rank * (a.bins / 2) + at * 4), d), make_uint4(x.x | x.y << 16, x.z | x.w << 16, y.x | y.y << 16, y.z | y.w << 16), peer(arrived, d));
            }
    };
    __syncthreads();
    clusterWait(); // every block's barriers are ready
    if (count > 0) send(bar(0));
    // Where winners alone take the warps fewer rounds, attention to sink and local
    // comes meanwhile, by the last warps.
    Accumulator<D> acc;
    acc.clear();
    const float scale = a.scale * LOG2E;
    auto attend = [&](int first, int end) { // tokens from a tile's first on
        acc.tile(K, V, q, positionOf(imin(first + (lane & 15), end - 1)), imin(16, end - first), scale);
    };
    const int winners = (mine + 15) / 16, others = (own - mine + 15) / 16; // tiles
    const bool early = a.out && !a.rerank && (winners + others + W - 1) / W > (winners + W - 1) / W;
    if (early)
#pragma unroll 1
        for (int t = W - 1 - warp; t < others; t += W) attend(mine + t * 16, own);
    if (count > 0) {
        for (int pass = 0;; pass++) {
            if (pass) send(bar(4));
            await(bar(pass ? 4 : 0));
            c = findCut<W>(&cutResult, warpSums, counts, ((bound >> shift) + 8) / 8 * 4, a.bins / 2, P, rank, count);
            if (pass || c.counted >= count) break; // the same in all blocks
            bound = magnitude; // count every level
            shift = imax(0, 22 - __clz(bound));
#pragma unroll 1
            for (int i = tid; i < a.bins; i += W * 32) hist[i] = 0;
            clusterSync(); // every block has read the first counts
#pragma unroll 1
            for (int i = 0; i < tl; i++) {
                const u32 v = ((const u16 *)mineLevels)[i];
                if (v != NONE) atomicAdd(&hist[v >> shift], 1u);
            }
            __syncthreads();
        }
        cutLevel = c.bin;
        if (shift > 0) {
            const int bins = 1 << shift, words = imax(4, bins / 2);
#pragma unroll 1
            for (int g = 0; g < groups; g++) {
                u32 le, lt;
                masks(g, ((int)c.bin << shift) - 1, (((int)c.bin + 1) << shift) - 1, le, lt);
                for (u32 m = le & ~lt; m; m &= m - 1) {
                    const u32 v = ((const u16 *)mineLevels)[g * 32 + tokenOf(__ffs(m) - 1)];
                    atomicAdd(&ownFine[v & (bins - 1)], 1u);
                }
            }
            if (tid == 0) expect(bar(1), P * words * 4);
            __syncthreads();
#pragma unroll 1
            for (int i = tid; i < P * (words / 4); i += W * 32) {
                const int d = i / (words / 4), at = i % (words / 4);
                const u32 *f = ownFine + at * 8;
                send4(peer(shared32(&fine[rank][at * 4]), d), make_uint4(f[0] | f[1] << 16, f[2] | f[3] << 16, f[4] | f[5] << 16, f[6] | f[7] << 16), peer(bar(1), d));
            }
            await(bar(1));
            const Cut f = findCut<W>(&cutResult, warpSums, &fine[0][0], words, FINE / 2, P, rank, count - c.less);
            cutLevel = c.bin << shift | f.bin;
            c.less += f.less;
            c.lessBefore += f.lessBefore;
            c.equal = f.equal;
            c.equalBefore = f.equalBefore;
        }
        skip = c.equal - (count - c.less);

        // 3. Ranks of the winners.
        u32 le = 0, lt = 0, mineCount = 0; // less than the cut | equal << 16
#pragma unroll 1
        for (int g = 0; g < groups; g++) {
            masks(g, (int)cutLevel - 1, (int)cutLevel, le, lt);
            mineLevels[g * 16] = le; // in the levels' place
            mineLevels[g * 16 + 1] = lt;
            mineCount += __popc(lt) | __popc(le & ~lt) << 16;
        }
        u32 upto = mineCount;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const u32 y = __shfl_up_sync(ALL, upto, o);
            if (lane >= o) upto += y;
        }
        if (lane == 31) warpCount[warp] = upto;
        __syncthreads();
        const u32 x = __reduce_add_sync(ALL, lane < warp ? warpCount[lane] : 0) + upto - mineCount;
        u32 lessAt = c.lessBefore + (x & 0xffff), equalAt = c.equalBefore + (x >> 16);
#pragma unroll 1
        for (int g = 0; g < groups; g++) {
            le = mineLevels[g * 16];
            lt = mineLevels[g * 16 + 1];
            const u32 eq = le & ~lt;
#pragma unroll 1
            for (u32 m = equalAt + __popc(eq) <= skip ? lt : le; m; m &= m - 1) {
                const int b = __ffs(m) - 1, low = b & 15;
                const u32 before = (0xfffeu << low & 0xffffu) * 0x10001u | (b >> 4) << low;
                const u32 myEqual = equalAt + __popc(eq & before);
                if ((lt >> b & 1) || myEqual >= skip) {
                    const u32 at = lessAt + __popc(lt & before) + (myEqual > skip ? myEqual - skip : 0), d = per > 1 ? __umulhi(at, perMagic) : at;
                    const int t = first * CHUNK + lane * tl + g * 32 + tokenOf(b);
                    send1(peer(shared32(list + (at - d * per)), d), t, peer(bar(2), d));
                    if (a.selected) a.selected[((long long)row * a.sets + set) * a.k + at] = t;
                }
            }
            lessAt += __popc(lt);
            equalAt += __popc(eq);
        }
    }
    if (a.selected)
#pragma unroll 1
        for (int i = count + rank * W * 32 + tid; i < a.k; i += P * W * 32) a.selected[((long long)row * a.sets + set) * a.k + i] = -1;
    await(bar(2));
    __syncthreads(); // levels are done with: part takes their place
    if (!a.out) return; // the candidates were asked for: reranking follows

    // 4. Attention to this block's winners and, if not done, sink and local.
    if (!a.rerank) {
        const int tiles = winners + (early ? 0 : others);
#pragma unroll 1
        for (int t = warp; t < tiles; t += W) attend(t < winners ? t * 16 : mine + (t - winners) * 16, t < winners ? mine : own);
    } else {
        // Base-2 logits of all tokens, then the candidates' softmax summed over
        // the heads (of one head its logit), as levels counting down.
        u32 *levelOf = (u32 *)(logit + heads * a.listed);
        int *kept = (int *)(levelOf + a.listed);
        const int g = lane >> 2, c2 = lane % 4 * 2;
#pragma unroll 1
        for (int t = warp; t * 16 < own; t += W) {
            KeyTile<D> keys;
            keys.load(K, positionOf(imin(t * 16 + (lane & 15), own - 1)));
            float s[4];
            keys.dot(q, s);
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (c2 + (k & 1) < heads && t * 16 + g + (k >> 1) * 8 < own) logit[(c2 + (k & 1)) * a.listed + t * 16 + g + (k >> 1) * 8] = s[k] * scale;
        }
        __syncthreads();
#pragma unroll 1
        for (int h = warp; h < heads; h += W) {
            float top = MASKED, sum = 0;
            for (int i = lane; i < own; i += 32) top = fmaxf(top, logit[h * a.listed + i]);
            top = warpMax(top);
            for (int i = lane; i < own; i += 32) sum += exp2f(logit[h * a.listed + i] - top);
            sum = warpSum(sum);
            if (lane < P) send2(peer(shared32(&mass[rank][h]), lane), make_uint2(__float_as_uint(top), __float_as_uint(sum)), peer(bar(5), lane));
        }
        await(bar(5));
        if (tid < heads) {
            float top = MASKED, sum = 0;
#pragma unroll 4
            for (int b = 0; b < P; b++) top = fmaxf(top, mass[b][tid].x);
#pragma unroll 4
            for (int b = 0; b < P; b++) sum += mass[b][tid].y * exp2f(mass[b][tid].x - top);
            tops[tid] = top;
            sums[tid] = 1.f / sum;
        }
        __syncthreads();
#pragma unroll 1
        for (int i = tid; i < mine; i += W * 32) {
            float v = heads == 1 ? logit[i] : 0.f;
            if (heads > 1)
                for (int h = 0; h < heads; h++) v += exp2f(logit[h * a.listed + i] - tops[h]) * sums[h];
            const u32 x = __float_as_uint(v + 0.f);
            levelOf[i] = v != v ? ~0u : x & 0x80000000u ? x : ~(x | 0x80000000u); // ~order(v)
        }
        // Digits of the level, highest first, until the bin of the cut is kept whole.
        const int keep = chosen(a.s, n);
        u32 prefix = 0, need = keep, ties = count;
        int low = 32;
        Cut k = {0, 0, 0, 0, 0, 0};
#pragma unroll 1
        for (int pass = 0; low > 0 && ties != need; pass++) {
            const int above = low, digits = imin(10, low);
            low -= digits;
#pragma unroll 1
            for (int i = tid; i < BINS; i += W * 32) hist[i] = 0;
            __syncthreads();
#pragma unroll 1
            for (int i = tid; i < mine; i += W * 32)
                if (above == 32 || levelOf[i] >> above == prefix) atomicAdd(&hist[levelOf[i] >> low & ((1u << digits) - 1)], 1u);
            if (tid == 0) expect(bar(6 + pass), P * BINS * 2);
            __syncthreads();
            u32 *into = hist + BINS + (pass & 1) * P * (BINS / 2); // [P][BINS/2]
#pragma unroll 1
            for (int d = warp; d < P; d += W)
#pragma unroll 1
                for (int at = lane; at < BINS / 8; at += 32) {
                    const uint4 x = *(const uint4 *)&hist[at * 8], y = *(const uint4 *)&hist[at * 8 + 4];
                    send4(peer(shared32(into + rank * (BINS / 2) + at * 4), d), make_uint4(x.x | x.y << 16, x.z | x.w << 16, y.x | y.y << 16, y.z | y.w << 16), peer(bar(6 + pass), d));
                }
            await(bar(6 + pass));
            k = findCut<W>(&cutResult, warpSums, into, BINS / 2, BINS / 2, P, rank, need);
            prefix = prefix << digits | k.bin;
            need -= k.less;
            ties = k.equal;
        }
        // What is kept moves together, in order; of equal levels the oldest go.
        const u32 lose = ties - need;
        const int run = ((mine + W - 1) / W + 31) & ~31, begin = imin(mine, warp * run), end = imin(mine, begin + run);
        auto better = [&](int i) { return low == 32 || levelOf[i] >> low < prefix; };
        auto equal = [&](int i) { return low < 32 && levelOf[i] >> low == prefix; };
        u32 sum = 0;
#pragma unroll 1
        for (int i = begin; i < end; i += 32) {
            const bool has = i + lane < end;
            sum += __popc(__ballot_sync(ALL, has && better(i + lane))) | __popc(__ballot_sync(ALL, has && equal(i + lane))) << 16;
        }
        if (lane == 0) warpCount[warp] = sum;
        __syncthreads();
        u32 at = 0, all = 0, eq = k.equalBefore; // kept, equal ones so far
        auto survive = [&](u32 before, u32 more) { return imax((int)(before + more) - (int)lose, 0) - imax((int)before - (int)lose, 0); };
#pragma unroll 1
        for (int w = 0; w < W; w++) {
            const u32 x = warpCount[w], now = (x & 0xffff) + survive(k.equalBefore + (all >> 16), x >> 16);
            if (w < warp) {
                at += now;
                eq += x >> 16;
            }
            all += (x & 0xffff0000u) + now;
        }
        const int winners = all & 0xffff;
#pragma unroll 1
        for (int i = begin; i < end; i += 32) {
            const bool has = i + lane < end;
            const u32 b = __ballot_sync(ALL, has && better(i + lane)), e = __ballot_sync(ALL, has && equal(i + lane)), below = (1u << lane) - 1;
            const u32 eBefore = eq + __popc(e & below);
            if (b >> lane & 1 || (e >> lane & 1 && eBefore >= lose)) kept[at + __popc(b & below) + survive(eq, __popc(e & below))] = i + lane;
            at += __popc(b) + survive(eq, __popc(e));
            eq += __popc(e);
        }
#pragma unroll 1
        for (int i = mine + tid; i < own; i += W * 32) kept[winners + i - mine] = i;
        __syncthreads();
        const int reads2 = winners + own - mine;
        acc.m0 = c2 < heads ? tops[c2] : 0.f;
        acc.m1 = c2 + 1 < heads ? tops[c2 + 1] : 0.f;
#pragma unroll 1
        for (int t = warp; t * 16 < reads2; t += W) {
            const int i = kept[imin(t * 16 + (lane & 15), reads2 - 1)];
            uint4 va[4][D / 64];
            acc.loadValues(va, V, positionOf(i));
            float s[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int which = __shfl_sync(ALL, i, g + (k >> 1) * 8), h = c2 + (k & 1);
                s[k] = h < heads && t * 16 + g + (k >> 1) * 8 < reads2 ? logit[h * a.listed + which] : MASKED;
            }
            acc.add(va, s);
        }
    }
    acc.finish(part + warp * heads * D, wm[warp], wl[warp], heads);
    __syncthreads();
#pragma unroll 1
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
        const int e = i * 4, d = slice > 1 ? __umulhi(e, sliceMagic) : e;
        send4(peer(shared32(gathered + rank * slice + e % slice), d), make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)), peer(bar(3), d));
        if (e % D == 0)
#pragma unroll 1
            for (int b = 0; b < P; b++) send2(peer(shared32(&ml[rank][h]), b), make_uint2(__float_as_uint(top), __float_as_uint(l)), peer(bar(3), b));
    }
    await(bar(3));
#pragma unroll 1
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
// A block of 8 warps, or of 4 where many sequences fill the GPU.
#define FUSED(D, WORDS, W, MIN) \
    KERNEL __launch_bounds__(32 * W, MIN) fused_##D##_##WORDS##_##W(const __grid_constant__ FusedArgs a) { fused<D, WORDS, W>(a); }
FUSED(64, 1, 8, 2)
FUSED(64, 2, 8, 2)
FUSED(64, 4, 8, 2)
FUSED(128, 1, 8, 2)
FUSED(128, 2, 8, 2)
FUSED(128, 4, 8, 2)
FUSED(256, 1, 8, 1)
FUSED(256, 2, 8, 1)
FUSED(256, 4, 8, 1)
FUSED(64, 1, 4, 4)
FUSED(128, 1, 4, 4)
#endif
