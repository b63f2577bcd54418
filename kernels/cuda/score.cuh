// Levels of hash codes: how far a code's score lies below the largest possible.
#pragma once
#include "device.cuh"

// Query is what scoring needs of the weights.
template <int WORDS> struct Query {
    u32 sign[WORDS];        // bits of positive weights
    u32 digit[8][WORDS];    // bits of the weights whose magnitude has digit 2^b
    u32 lo[8 * WORDS], hi[8 * WORDS]; // [word][8 planes]: 4 bytes, of bits i, i+8, i+16, i+24
    int positive, magnitude, square, wide, digits;
};

// prepare fills a zeroed Query: thread i brings the weight of bit i.
template <int WORDS> DEV void prepare(Query<WORDS> &q, int w) {
    const int i = threadIdx.x, lane = i & 31, word = i >> 5;
    if (i >= 32 * WORDS) return;
    const int up = (w + 64) >> 7, at = (word * 8 + (i & 7)) * 4 + (lane >> 3), size = w < 0 ? -w : w;
    const bool wide = w > 127 || w < -128;
    ((i8 *)q.lo)[at] = (i8)(w - up * 128);
    ((i8 *)q.hi)[at] = (i8)up;
    const u32 sign = __ballot_sync(ALL, w > 0);
    u32 used = 0;
#pragma unroll
    for (int b = 0; b < 8; b++) {
        const u32 m = __ballot_sync(ALL, size >> b & 1);
        if (lane == 0) q.digit[b][word] = m;
        if (m) used |= 1u << b;
    }
    const int positive = __reduce_add_sync(ALL, imax(w, 0)), magnitude = __reduce_add_sync(ALL, size), square = __reduce_add_sync(ALL, w * w);
    const int any = __any_sync(ALL, wide);
    if (lane == 0) {
        q.sign[word] = sign;
        atomicAdd(&q.positive, positive);
        atomicAdd(&q.magnitude, magnitude);
        atomicAdd(&q.square, square);
        atomicOr(&q.digits, (int)used);
        if (any) q.wide = 1;
    }
}

// Scorer gives the level of a code. MODE 1 to 3: as many binary digits, by
// popcount; 0: dp4a; 4: dp4a on two bytes a weight.
template <int WORDS, int MODE> struct Scorer {
    u32 sign[WORDS], digit[3][WORDS], lo[8 * WORDS], hi[8 * WORDS];
    int times[3], positive;
    DEV Scorer(const Query<WORDS> &q) {
        if (MODE >= 1 && MODE <= 3) {
            int used = q.digits;
#pragma unroll
            for (int k = 0; k < 3; k++)
                if (k < MODE) {
                    const int b = __ffs(used) - 1;
                    used &= used - 1;
                    times[k] = 1 << b;
#pragma unroll
                    for (int w = 0; w < WORDS; w++) digit[k][w] = q.digit[b][w];
                }
#pragma unroll
            for (int w = 0; w < WORDS; w++) sign[w] = q.sign[w];
        } else {
            positive = q.positive;
#pragma unroll
            for (int i = 0; i < 8 * WORDS; i++) {
                lo[i] = MODE == 0 ? q.lo[i] ^ (q.hi[i] & 0x01010101u) << 7 : q.lo[i]; // one byte can hold the weight itself
                hi[i] = q.hi[i];
            }
        }
    }
    DEV u32 level(const u32 *x) const {
        if (MODE >= 1 && MODE <= 3) {
            int l = 0;
#pragma unroll
            for (int w = 0; w < WORDS; w++)
#pragma unroll
                for (int k = 0; k < 3; k++)
                    if (k < MODE) l += times[k] * __popc((x[w] ^ sign[w]) & digit[k][w]);
            return l;
        }
        int s = 0, h = 0;
#pragma unroll
        for (int w = 0; w < WORDS; w++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int plane = (int)(x[w] >> i & 0x01010101u);
                s = __dp4a(plane, (int)lo[w * 8 + i], s);
                if (MODE == 4) h = __dp4a(plane, (int)hi[w * 8 + i], h);
            }
        return (u32)(positive - s - 128 * h);
    }
};
