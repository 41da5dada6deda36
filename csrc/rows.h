/* What is computed of rows, element by element: dropout, LayerNorm, their sum with a residual, and GELU. */
#pragma once

#include "vectors.h"

/* Dropout whose mask is drawn again wherever it is needed, from the place of an element and a key. */
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

/* LayerNorm of a row that is held as fp32. */
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

/* LayerNorm(dropout(x + bias) + residual) of a row, forward and backward. */
INLINE void forward_row(const residual *a, int64_t row, const uint16_t *input, const uint16_t *residual, uint16_t *out,
                        const int drops, const int streams) {
    const int64_t D = a->width, first = row * D;
    float values[D];
    f32x16 sum = {};
    for (int64_t c = 0; c < D; c += 2 * LANES) {
        f32x16 factor[2], value[2];
        if (drops) dropout_factors(factor, first + c, a->mask);
        for (int i = 0; i < 2; i++) {
            const int64_t column = c + i * LANES;
            f32x16 x = widen(input + column);
            if (a->bias) x += widen(a->bias + column);
            if (drops) x *= factor[i];
            value[i] = (f32x16)(round_bf16(x + widen(residual + column)) & 0xffff0000);
            STORE(values + column, value[i]);
            sum += value[i];
        }
        if (a->sum) write_two_bf16(a->sum + first + c, value, streams);
    }
    moments found = normalise(out, values, sum, D, a->norm);
    if (a->stats) a->stats[row] = found;
}

INLINE void backward_row(const residual *a, int64_t row, const uint16_t *grad_out, uint16_t *grad_x, uint16_t *grad_residual,
                         const int drops) {
    const int64_t D = a->width, first = row * D;
    const float mean = a->stats[row].mean, rate = a->stats[row].rate;
    float normal[D], grads[D];
    f32x16 sum = {}, products = {};
    for (int64_t c = 0; c < D; c += LANES) {
        f32x16 x = (widen(a->sum + first + c) - mean) * rate;
        f32x16 grad = widen(grad_out + c) * widen(a->norm.gamma + c);
        sum += grad, products += grad * x;
        STORE(normal + c, x);
        STORE(grads + c, grad);
    }
    const float mean_grad = total(sum) / D, mean_product = total(products) / D;
    for (int64_t c = 0; c < D; c += 2 * LANES) {
        f32x16 factor[2];
        if (drops) dropout_factors(factor, first + c, a->mask);
        for (int i = 0; i < 2; i++) {
            const int64_t column = c + i * LANES;
            f32x16 grad = (load_f32(grads + column) - mean_grad - load_f32(normal + column) * mean_product) * rate;
            store_bf16(grad_residual + column, grad);
            if (drops) store_bf16(grad_x + column, grad * factor[i]);
        }
    }
}

/* `count` rows from row `first` on; x, residual and out begin there. `streams`: the sum is written past the caches. */
INLINE void forward_rows(const residual *a, int64_t first, int64_t count, const uint16_t *x, const uint16_t *residual,
                         uint16_t *out, const int streams) {
    for (int64_t r = 0; r < count; r++, x += a->width, residual += a->width, out += a->width)
        if (drops_some(a->mask)) forward_row(a, first + r, x, residual, out, 1, streams);
        else forward_row(a, first + r, x, residual, out, 0, streams);
}

/* The same; without dropout grad_x is not written. */
INLINE void backward_rows(const residual *a, int64_t first, int64_t count, const uint16_t *grad_out, uint16_t *grad_x,
                          uint16_t *grad_residual) {
    for (int64_t r = 0; r < count; r++, grad_out += a->width, grad_x += a->width, grad_residual += a->width)
        if (drops_some(a->mask)) backward_row(a, first + r, grad_out, grad_x, grad_residual, 1);
        else backward_row(a, first + r, grad_out, grad_x, grad_residual, 0);
}

/* GELU(x) = x Phi(x), the exact form, and its derivative Phi(x) + x phi(x); Phi and phi are the normal distribution's
   (Hendrycks and Gimpel, 2016, arXiv 1606.08415).

   Both factors are 1/2 plus an odd function that ends at 1/2: a polynomial fitted to the least greatest error
   (Chebyshev), which leaves 3e-5 in GELU and 7e-5 in the derivative. Half a step of bf16 is more for every
   value above 0.014. */
/* 1/2 + x P(2 (x / end)^2 - 1) with x no further than `end` from 0. */
INLINE f32x16 sigmoid_like(f32x16 x, const float end, const float *coefficients, const int count) {
    x = at_most(at_least(x, -end), end);
    f32x16 z = x * x * (2 / (end * end)) - 1.0f, p = (f32x16){} + coefficients[0];
    for (int i = 1; i < count; i++) p = p * z + coefficients[i];
    return x * p + 0.5f;
}

INLINE f32x16 gelu_of(f32x16 x) {
    const float end = 4.375f; /* what is left of the factor there times -1e30 would not be nothing */
    const float p[] = {2.62538833e-3f,  -7.55199045e-3f, 1.06758773e-2f,  -1.57629531e-2f, 2.65808757e-2f,
                       -3.99557017e-2f, 5.53448051e-2f,  -7.89732412e-2f, 0.161302656f};
    return at_least(x, -end) * sigmoid_like(x, end, p, 9);
}

INLINE f32x16 gelu_slope(f32x16 x) {
    const float p[] = {-2.82570608e-2f, 6.28308356e-2f,  -4.74346168e-2f, 4.59291488e-2f,  -8.8143944e-2f,
                       0.10480044f,     -9.25141796e-2f, 8.30253884e-2f,  -8.76449645e-2f, 0.156998083f};
    return sigmoid_like(x, 4.5625f, p, 10);
}
