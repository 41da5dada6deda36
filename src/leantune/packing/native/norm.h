/* LayerNorm of a row that is held as fp32. */
#pragma once

#include "vectors.h"

INLINE float total(f32x16 x) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)x); /* by halves: one number after the other takes as long as half of the row */
#else
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
#endif
}

typedef struct {
    const uint16_t *gamma, *beta; /* (width) */
    float epsilon;
} norm;

typedef struct {
    float mean, rate; /* rate: 1 / deviation */
} moments;

/* `sum` is that of the row's values. */
INLINE moments normalise(uint16_t *out, const float *values, f32x16 sum, int64_t width, norm n) {
    const float mean = total(sum) / width;
    f32x16 squares = {};
    for (int64_t c = 0; c < width; c += LANES) {
        f32x16 centred = load_f32(values + c) - mean;
        squares += centred * centred;
    }
    const float rate = 1.0f / __builtin_sqrtf(total(squares) / width + n.epsilon);
    for (int64_t c = 0; c < width; c += LANES)
        store_bf16(out + c, (load_f32(values + c) - mean) * rate * widen(n.gamma + c) + widen(n.beta + c));
    return (moments){mean, rate};
}
