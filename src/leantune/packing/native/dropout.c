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
    for (int64_t first = 0; first < a->count; first += 2 * LANES) {
        f32x16 factor[2];
        dropout_factors(factor, first, a->mask);
        for (int i = 0; i < 2; i++) {
            uint16_t *to = a->out + first + i * LANES;
            store_bf16(to, widen(a->x + first + i * LANES) * factor[i]);
        }
    }
    return 0;
}
