/* Dropout whose mask is drawn again wherever it is needed. */
#include "vectors.h"

typedef struct {
    const uint16_t *x;    /* (count), a multiple of 32 */
    uint16_t *out;        /* (count) */
    int64_t count, adds;  /* adds: out += the result, else out = it */
    uint32_t kept_levels; /* of 65,536 */
    uint32_t key[2];
    int64_t num_threads;
} dropout;

int dropout_apply(const dropout *a) {
    const f32x16 value = (f32x16){} + 65536.0f / a->kept_levels;
#pragma omp parallel for num_threads(a->num_threads)
    for (int64_t first = 0; first < a->count; first += 2 * LANES) {
        u32x16 levels = random_bits((uint32_t)(first / 2), a->key);
        for (int64_t i = first; i < first + 2 * LANES; i += LANES, levels >>= 16) {
            f32x16 x = widen(a->x + i) * kept((u32x16)((levels & 0xffff) < a->kept_levels), value);
            store_bf16(a->out + i, a->adds ? x + widen(a->out + i) : x);
        }
    }
    return 0;
}
