/* LayerNorm of a row that is held as fp32. */
#pragma once

#include "vectors.h"

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
