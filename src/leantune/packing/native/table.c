/* A function of one bf16 number, looked up: there are only 65,536 of them. */
#include "vectors.h"

typedef struct {
    const uint16_t *x;      /* (rows, width) contiguous, as all that follow */
    const uint16_t *bias;   /* (width) added to x first; NULL: none */
    int64_t num_rows, width; /* width: a multiple of 16 */
    const uint32_t *value;  /* (65,536) bits of bf16: the function of every number */
    const float *slope;     /* (65,536) its derivative */
    uint16_t *out;
    const uint16_t *grad_out;
    uint16_t *grad_x;
    int64_t num_threads;
} table;

INLINE u32x16 look_up(const void *entries, u32x16 index) {
#ifdef __AVX512F__
    return (u32x16)_mm512_i32gather_epi32((__m512i)index, entries, 4);
#else
    u32x16 found;
    for (int i = 0; i < LANES; i++) found[i] = ((const uint32_t *)entries)[index[i]];
    return found;
#endif
}

/* Sixteen numbers of a row as places of the table. */
INLINE u32x16 index_of(const table *a, int64_t row, int64_t column) {
    const uint16_t *x = a->x + row * a->width + column;
    return a->bias ? round_bf16(widen(x) + widen(a->bias + column)) >> 16 : load_words(x);
}

int table_forward(const table *a) {
#pragma omp parallel for num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++)
        for (int64_t c = 0; c < a->width; c += LANES) {
            u16x16 found = low_words(look_up(a->value, index_of(a, row, c)));
            STORE(a->out + row * a->width + c, found);
        }
    return 0;
}

int table_backward(const table *a) {
#pragma omp parallel for num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++)
        for (int64_t c = 0; c < a->width; c += LANES) {
            f32x16 slope = (f32x16)look_up(a->slope, index_of(a, row, c));
            store_bf16(a->grad_x + row * a->width + c, widen(a->grad_out + row * a->width + c) * slope);
        }
    return 0;
}
