// Checkpoint formats to bf16 or float32, one thread a value. Block layouts are ggml's
// (ggml-common.h), the arithmetic that of package dtype.
#include "device.cuh"

DEV float f16(const u8 *p) {
    const u16 h = (u16)(p[0] | p[1] << 8);
    float f;
    asm("cvt.f32.f16 %0,%1;" : "=f"(f) : "h"(h));
    return f;
}
DEV u32 word(const u8 *p) { return p[0] | p[1] << 8 | p[2] << 16 | (u32)p[3] << 24; }

// scaleMin unpacks the 6-bit scale and minimum of sub-block j of q4_K, q5_K.
DEV void scaleMin(const u8 *s, int j, int &scale, int &minimum) {
    if (j < 4) {
        scale = s[j] & 63;
        minimum = s[j + 4] & 63;
    } else {
        scale = (s[j + 4] & 15) | (s[j - 4] >> 6 << 4);
        minimum = s[j + 4] >> 4 | (s[j] >> 6 << 4);
    }
}

struct F32 {
    static constexpr int len = 1, bytes = 4;
    static DEV float at(const u8 *b, int) { return __uint_as_float(word(b)); }
};
struct F16 {
    static constexpr int len = 1, bytes = 2;
    static DEV float at(const u8 *b, int) { return f16(b); }
};
struct BF16 {
    static constexpr int len = 1, bytes = 2;
    static DEV float at(const u8 *b, int) { return f32((bf16)(b[0] | b[1] << 8)); }
};
struct Q4_0 {
    static constexpr int len = 32, bytes = 18;
    static DEV float at(const u8 *b, int i) {
        const int v = b[2 + (i & 15)];
        return f16(b) * (float)((i < 16 ? v & 15 : v >> 4) - 8);
    }
};
struct Q4_1 {
    static constexpr int len = 32, bytes = 20;
    static DEV float at(const u8 *b, int i) {
        const int v = b[4 + (i & 15)];
        return __fmul_rn(f16(b), (float)(i < 16 ? v & 15 : v >> 4)) + f16(b + 2);
    }
};
struct Q5_0 {
    static constexpr int len = 32, bytes = 22;
    static DEV float at(const u8 *b, int i) {
        const int v = b[6 + (i & 15)], q = (i < 16 ? v & 15 : v >> 4) | (int)(word(b + 2) >> i & 1) << 4;
        return f16(b) * (float)(q - 16);
    }
};
struct Q5_1 {
    static constexpr int len = 32, bytes = 24;
    static DEV float at(const u8 *b, int i) {
        const int v = b[8 + (i & 15)], q = (i < 16 ? v & 15 : v >> 4) | (int)(word(b + 4) >> i & 1) << 4;
        return __fmul_rn(f16(b), (float)q) + f16(b + 2);
    }
};
struct Q8_0 {
    static constexpr int len = 32, bytes = 34;
    static DEV float at(const u8 *b, int i) { return f16(b) * (float)(i8)b[2 + i]; }
};
struct Q2_K {
    static constexpr int len = 256, bytes = 84;
    static DEV float at(const u8 *b, int i) {
        const int sub = i >> 4;
        const float scale = f16(b + 80) * (float)(b[sub] & 15), minimum = __fmul_rn(f16(b + 82), (float)(b[sub] >> 4));
        const int q = b[16 + sub / 8 * 32 + sub % 2 * 16 + (i & 15)] >> (sub % 8 / 2 * 2) & 3;
        return __fmul_rn(scale, (float)q) - minimum;
    }
};
struct Q3_K {
    static constexpr int len = 256, bytes = 110;
    static DEV float at(const u8 *b, int i) {
        const int sub = i >> 4;
        const int lo = b[96 + sub % 8] >> (sub / 8 * 4) & 15, hi = b[104 + sub % 4] >> (sub / 4 * 2) & 3;
        const float scale = f16(b + 108) * (float)((lo | hi << 4) - 32);
        const int third = b[sub % 2 * 16 + (i & 15)] >> (sub / 2) & 1;
        const int q = b[32 + sub / 8 * 32 + sub % 2 * 16 + (i & 15)] >> (sub % 8 / 2 * 2) & 3;
        return scale * (float)((q | third << 2) - 4);
    }
};
struct Q4_K {
    static constexpr int len = 256, bytes = 144;
    static DEV float at(const u8 *b, int i) {
        const int sub = i >> 5;
        int s, m;
        scaleMin(b + 4, sub, s, m);
        const float scale = f16(b) * (float)s, minimum = __fmul_rn(f16(b + 2), (float)m);
        const int q = b[16 + sub / 2 * 32 + (i & 31)] >> (sub % 2 * 4) & 15;
        return __fmul_rn(scale, (float)q) - minimum;
    }
};
struct Q5_K {
    static constexpr int len = 256, bytes = 176;
    static DEV float at(const u8 *b, int i) {
        const int sub = i >> 5;
        int s, m;
        scaleMin(b + 4, sub, s, m);
        const float scale = f16(b) * (float)s, minimum = __fmul_rn(f16(b + 2), (float)m);
        const int q = (b[48 + sub / 2 * 32 + (i & 31)] >> (sub % 2 * 4) & 15) | (b[16 + (i & 31)] >> sub & 1) << 4;
        return __fmul_rn(scale, (float)q) - minimum;
    }
};
struct Q6_K {
    static constexpr int len = 256, bytes = 210;
    static DEV float at(const u8 *b, int i) {
        const int sub = i >> 4, side = sub / 8, pos = sub % 8 * 16, j = i & 15;
        const float scale = f16(b + 208) * (float)(i8)b[192 + sub];
        const int lo = b[side * 64 + pos % 64 + j] >> (pos / 64 * 4) & 15, hi = b[128 + side * 32 + pos % 32 + j] >> (pos / 32 * 2) & 3;
        return scale * (float)((lo | hi << 4) - 32);
    }
};

// dequant writes rows of cols values to rows of stride, zeros behind cols.
template <class T, class O> DEV void dequant(O *out, const u8 *data, int cols, int stride, long long rows) {
    const long long rowBytes = (long long)cols / T::len * T::bytes, n = rows * stride;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
        const long long row = i / stride;
        const int col = i % stride;
        store(out + i, col < cols ? T::at(data + row * rowBytes + (long long)(col / T::len) * T::bytes, col % T::len) : 0.f);
    }
}
#define DEQUANT(T) \
    KERNEL dequant_##T(bf16 *out, const u8 *data, int cols, int stride, long long rows) { begin(); dequant<T>(out, data, cols, stride, rows); } \
    KERNEL wide_dequant_##T(float *out, const u8 *data, int cols, int stride, long long rows) { begin(); dequant<T>(out, data, cols, stride, rows); }
DEQUANT(F32)
DEQUANT(F16)
DEQUANT(BF16)
DEQUANT(Q4_0)
DEQUANT(Q4_1)
DEQUANT(Q5_0)
DEQUANT(Q5_1)
DEQUANT(Q8_0)
DEQUANT(Q2_K)
DEQUANT(Q3_K)
DEQUANT(Q4_K)
DEQUANT(Q5_K)
DEQUANT(Q6_K)
