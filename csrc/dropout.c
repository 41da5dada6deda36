/* Dropout of numbers that lie one behind the other. */
#include "dropout.h"

typedef struct {
    const uint16_t *x;    /* (count), a multiple of 32 */
    uint16_t *out;        /* (count) */
    int64_t count;
    dropout_mask mask;
    int64_t num_threads;
} dropout;

int dropout_apply(const dropout *a) {
#pragma omp parallel for num_threads(a->num_threads)
    for (int64_t first = 0; first < a->count; first += 2 * LANES)
        drop_two_vectors(a->out, a->x, first, a->mask);
    return 0;
}
