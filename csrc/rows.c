/* Operations on rows, one pass over them each. */
#include "rows.h"

/* LayerNorm(dropout(x + bias) + residual), forward and backward, one pass over the rows each. */
int residual_forward(const residual *a) {
#pragma omp parallel for schedule(dynamic, 32) num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++) {
        const int64_t place = row * a->width;
        forward_rows(a, row, 1, a->x + place, a->residual + place, a->out + place, 0);
    }
    return 0;
}

int residual_backward(const residual *a) {
#pragma omp parallel for schedule(dynamic, 32) num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++) {
        const int64_t place = row * a->width;
        backward_rows(a, row, 1, a->grad_out + place, a->grad_x + place, a->grad_residual + place);
    }
    return 0;
}

/* GELU of bf16 numbers and its derivative, one pass each way. */
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

/* LayerNorm(word + token type + position), one pass over the tokens. */
int embedding_forward(const embedding *a) {
    const int64_t D = a->width;
#pragma omp parallel for schedule(dynamic, 32) num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++) {
        const uint16_t *word = a->words + a->word_ids[row] * D;
        const uint16_t *type = a->types ? a->types + a->type_ids[row] * D : NULL;
        const uint16_t *position = a->positions ? a->positions + a->position_ids[row] * D : NULL;
        float values[D];
        f32x16 sum = {};
        for (int64_t c = 0; c < D; c += LANES) {
            f32x16 value = widen(word + c);
            if (type) value += widen(type + c);
            if (position) value += widen(position + c);
            STORE(values + c, value);
            sum += value;
        }
        normalise(a->out + row * D, values, sum, D, a->norm);
    }
    return 0;
}
