/* LayerNorm(dropout(x + bias) + residual) of a row, forward and backward. */
#pragma once

#include "dropout.h"
#include "norm.h"

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
