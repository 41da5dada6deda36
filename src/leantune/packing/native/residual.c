/* LayerNorm(dropout(x + bias) + residual), forward and backward, one pass over the rows each. */
#include "dropout.h"
#include "norm.h"

typedef struct {
    const uint16_t *x, *residual;      /* (rows, width) contiguous, as all that follow */
    const uint16_t *bias;              /* (width); NULL: none */
    norm norm;
    int64_t num_rows, width;           /* a multiple of 32 */
    dropout_mask mask;                 /* all levels kept: no dropout */
    uint16_t *out, *sum;               /* sum: dropout(x + bias) + residual, for the backward pass; may be NULL */
    moments *stats;                    /* (rows); may be NULL */
    const uint16_t *grad_out;
    uint16_t *grad_x, *grad_residual;  /* without dropout both are one */
    int64_t num_threads;
} residual;

INLINE void forward_row(const residual *a, int64_t row, const int drops) {
    const int64_t D = a->width, first = row * D;
    float values[D];
    f32x16 sum = {};
    for (int64_t c = 0; c < D; c += 2 * LANES) {
        f32x16 factor[2];
        if (drops) dropout_factors(factor, first + c, a->mask);
        for (int i = 0; i < 2; i++) {
            const int64_t column = c + i * LANES;
            f32x16 x = widen(a->x + first + column);
            if (a->bias) x += widen(a->bias + column);
            if (drops) x *= factor[i];
            f32x16 value = (f32x16)(round_bf16(x + widen(a->residual + first + column)) & 0xffff0000);
            if (a->sum) store_bf16(a->sum + first + column, value);
            STORE(values + column, value);
            sum += value;
        }
    }
    moments found = normalise(a->out + first, values, sum, D, a->norm);
    if (a->stats) a->stats[row] = found;
}

INLINE void backward_row(const residual *a, int64_t row, const int drops) {
    const int64_t D = a->width, first = row * D;
    const float mean = a->stats[row].mean, rate = a->stats[row].rate;
    float normal[D], grads[D];
    f32x16 sum = {}, products = {};
    for (int64_t c = 0; c < D; c += LANES) {
        f32x16 x = (widen(a->sum + first + c) - mean) * rate;
        f32x16 grad = widen(a->grad_out + first + c) * widen(a->norm.gamma + c);
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
            store_bf16(a->grad_residual + first + column, grad);
            if (drops) store_bf16(a->grad_x + first + column, grad * factor[i]);
        }
    }
}

int residual_forward(const residual *a) {
#pragma omp parallel for num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++)
        if (a->mask.kept_levels < 65536) forward_row(a, row, 1);
        else forward_row(a, row, 0);
    return 0;
}

int residual_backward(const residual *a) {
#pragma omp parallel for num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++)
        if (a->mask.kept_levels < 65536) backward_row(a, row, 1);
        else backward_row(a, row, 0);
    return 0;
}
