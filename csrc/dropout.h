/* Dropout whose mask is drawn again wherever it is needed, from the place of an element and a key. */
#pragma once

#include "vectors.h"

/* Whether it drops anything. */
INLINE int drops_some(dropout_mask mask) { return mask.kept_levels < 65536; }

/* What two vectors of elements from number `first` on are multiplied by: zeros, or what keeps the expectation. */
INLINE void dropout_factors(f32x16 factor[2], int64_t first, dropout_mask mask) {
    const f32x16 value = (f32x16){} + 65536.0f / mask.kept_levels;
    const u32x16 levels = random_bits((uint32_t)(first / 2), mask.key);
    factor[0] = kept((u32x16)((levels & 0xffff) < mask.kept_levels), value);
    factor[1] = kept((u32x16)((levels >> 16) < mask.kept_levels), value);
}

/* The elements from number `first` on, dropped. */
INLINE void drop_two_vectors(uint16_t *to, const uint16_t *from, int64_t first, dropout_mask mask) {
    f32x16 factor[2];
    dropout_factors(factor, first, mask);
    for (int i = 0; i < 2; i++) store_bf16(to + first + i * LANES, widen(from + first + i * LANES) * factor[i]);
}
