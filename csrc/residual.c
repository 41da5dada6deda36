/* LayerNorm(dropout(x + bias) + residual), forward and backward, one pass over the rows each. */
#include "residual.h"

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
