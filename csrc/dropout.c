/* Dropout of numbers that lie one behind the other. */
#include "dropout.h"

int dropout_apply(const dropout *a) {
#pragma omp parallel for schedule(dynamic, 1024) num_threads(a->num_threads)
    for (int64_t first = 0; first < a->count; first += 2 * LANES)
        drop_two_vectors(a->out, a->x, first, a->mask);
    return 0;
}
