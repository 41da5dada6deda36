/* GELU of bf16 numbers and its derivative, one pass each way. */
#include "gelu.h"

INLINE f32x16 sum_at(const gelu *a, int64_t row, int64_t column) {
    f32x16 x = widen(a->x + row * a->width + column);
    return a->bias ? x + widen(a->bias + column) : x;
}

int gelu_forward(const gelu *a) {
#pragma omp parallel for schedule(dynamic, 32) num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++)
        for (int64_t c = 0; c < a->width; c += LANES)
            store_bf16(a->out + row * a->width + c, gelu_of(sum_at(a, row, c)));
    return 0;
}

int gelu_backward(const gelu *a) {
#pragma omp parallel for schedule(dynamic, 32) num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++)
        for (int64_t c = 0; c < a->width; c += LANES) {
            f32x16 grad = widen(a->grad_out + row * a->width + c) * gelu_slope(sum_at(a, row, c));
            store_bf16(a->grad_x + row * a->width + c, grad);
        }
    return 0;
}
