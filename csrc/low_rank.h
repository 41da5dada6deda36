/* Low-rank updates of many adapters in one batch, each text with its own (Chen et al., 2023, Punica, arXiv 2310.18547).

   Ranks are few: sums of fp32 in registers are faster here than tiles, which would be filled with zeros. */
#pragma once

#include "tiles.h"

/* The update of a row of x: what is added to its output is B low, where low = A x. */
typedef struct {
    const uint16_t *A, *B;
    float *low;
    int64_t rank;
} row_update;

/* Numbers of `low` that `count` rows take. */
INLINE int64_t low_numbers(const text_updates *u, int64_t count) { return u ? u->num_layers * count * u->most_rank : 0; }

/* The updates of `count` rows from `first` on, (num_layers, count), with `low` zero; rows of no text have none. */
INLINE void find_updates(row_update *to, float *low, const text_updates *u, int64_t first, int64_t count) {
    int64_t text = 0, end = u->num_texts;
    while (end - text > 1) { /* the last text that begins at `first` or before */
        const int64_t middle = (text + end) / 2;
        if (u->starts[middle] <= first) text = middle;
        else end = middle;
    }
    memset(low, 0, low_numbers(u, count) * sizeof *low);
    for (int64_t r = 0; r < count; r++) {
        while (text < u->num_texts && u->starts[text + 1] <= first + r) text++;
        for (int64_t layer = 0; layer < u->num_layers; layer++) {
            const int64_t place = layer * count + r;
            const low_rank none = {}, *found = text < u->num_texts ? u->updates + text * u->stride + layer : &none;
            to[place] = (row_update){found->A, found->B, low + place * u->most_rank, found->rank};
        }
    }
}

/* sum + products of thirty-two numbers, in pairs. */
INLINE f32x16 add_products(f32x16 sum, u32x16 x, u32x16 y) {
#ifdef __AVX512BF16__
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
#else
    return sum + first_of(x) * first_of(y) + second_of(x) * second_of(y);
#endif
}

/* low += A x over `depth` numbers of x from number `first` of a row of A, `width` numbers long, on; DEPTH numbers of x are next
   to each other, the next `stride` further on. */
INLINE void add_low(const row_update *u, const uint16_t *x, int64_t stride, int64_t first, int64_t depth, int64_t width) {
    for (int64_t r = 0; r < u->rank; r++) {
        const uint16_t *A = u->A + r * width + first;
        f32x16 sums[2] = {};
        for (int64_t d = 0; d < depth; d += DEPTH) {
            const int64_t i = d / DEPTH;
            sums[i % 2] = add_products(sums[i % 2], load_u32(x + i * stride), load_u32(A + d));
        }
        u->low[r] += total(sums[0] + sums[1]);
    }
}

/* x + B low, of sixteen of `columns` outputs. */
INLINE f32x16 add_update(f32x16 x, const row_update *u, int64_t column, int64_t columns) {
    for (int64_t r = 0; r < u->rank; r++) x += u->low[r] * widen(u->B + r * columns + column);
    return x;
}
