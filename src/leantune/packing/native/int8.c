/* bf16 rows as int8 with a scale each, and sums of int8 products as bf16: before and behind a product. */
#include "vectors.h"

typedef struct {
    const uint16_t *x;       /* (rows, width) contiguous */
    int64_t num_rows, width; /* width: a multiple of 16 */
    int8_t *out;             /* (rows, width): the nearest to x / scale */
    float *scales;           /* (rows): the greatest |x| becomes 127 */
    int64_t num_threads;
} quantise;

typedef struct {
    const int32_t *sums;                /* (rows, width) contiguous */
    const float *scales, *column_scales; /* (rows), (width) */
    const float *bias;                  /* (width); NULL: none */
    int64_t num_rows, width;            /* width: a multiple of 16 */
    uint16_t *out;                      /* (rows, width) */
    int64_t num_threads;
} dequantise;

/* As bits, so that what is not finite counts as more than all else and its scale tells: the row comes out as NaN. */
INLINE float greatest_magnitude(const uint16_t *row, int64_t width) {
    u32x16 greatest = {};
    for (int64_t c = 0; c < width; c += LANES) {
        u32x16 bits = (u32x16)widen(row + c) & 0x7fffffff;
        u32x16 is_more = (u32x16)(bits > greatest);
        greatest = (is_more & bits) | (~is_more & greatest);
    }
    uint32_t most = 0;
    for (int i = 0; i < LANES; i++) most = greatest[i] > most ? greatest[i] : most;
    float magnitude;
    memcpy(&magnitude, &most, sizeof magnitude);
    return magnitude;
}

INLINE void store_bytes(int8_t *to, u32x16 x) {
#ifdef __AVX512F__
    __m128i bytes = _mm512_cvtepi32_epi8((__m512i)x);
#else
    typedef uint8_t u8x16 __attribute__((vector_size(16)));
    u8x16 bytes = __builtin_convertvector(x, u8x16);
#endif
    STORE(to, bytes);
}

int quantise_rows(const quantise *a) {
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: the lowest byte of the sum is the nearest integer */
#pragma omp parallel for num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++) {
        const int64_t first = row * a->width;
        const float magnitude = greatest_magnitude(a->x + first, a->width), rate = magnitude > 0 ? 127 / magnitude : 0;
        a->scales[row] = magnitude / 127;
        for (int64_t c = first; c < first + a->width; c += LANES)
            store_bytes(a->out + c, (u32x16)(widen(a->x + c) * rate + to_integer));
    }
    return 0;
}

int dequantise_rows(const dequantise *a) {
#pragma omp parallel for num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++)
        for (int64_t c = 0; c < a->width; c += LANES) {
            typedef int32_t i32x16 __attribute__((vector_size(64)));
            i32x16 sums = (i32x16)load_u32(a->sums + row * a->width + c);
            f32x16 x = __builtin_convertvector(sums, f32x16) * a->scales[row] * load_f32(a->column_scales + c);
            if (a->bias) x += load_f32(a->bias + c);
            store_bf16(a->out + row * a->width + c, x);
        }
    return 0;
}
