/* Products with frozen weights in int8: rows of x and rows of W are rounded, each with a scale of its own, their products
   summed exactly, and the sums scaled to bf16. x is rounded a block of rows at a time and no sum leaves the cache.

   Letters: T rows of x, D their width, F rows of W. */
#include <omp.h>
#include <stdlib.h>

#include "quantized.h"

int round_weight(const int8_weight *a) {
    const int64_t depth = depth_of(a->D);
    int8_t *memory = aligned_alloc(64, depth * a->num_threads);
    if (!memory) return 1;
#pragma omp parallel num_threads(a->num_threads)
    {
        int8_t *rounded = memory + depth * omp_get_thread_num();
#pragma omp for
        for (int64_t first = 0; first < round_up(a->F, SIDE); first += SIDE) {
            uint8_t *panel = a->panels + first * depth;
            memset(panel, WEIGHT_OFFSET, SIDE * depth);
            for (int64_t f = first; f < smaller(first + SIDE, a->F); f++) {
                a->scales[f] = round_row(rounded, STEP, row_of(a->w, f, a->D, 0));
                for (int64_t d = 0; d < depth; d++) panel[place_of(f - first, d)] = (uint8_t)rounded[d] ^ WEIGHT_OFFSET;
            }
        }
    }
    free(memory);
    return 0;
}

int multiply_quantized(const product *a) {
    const matrix *one = &a->first, *other = &a->last;
    const int64_t bytes = one->rows * one->width + other->rows * other->width;
    const int64_t at_once = rows_at_once(a->T, a->num_threads, most_rows(bytes, one->panels != NULL), SIDE);
    const int64_t rounded = round_up(workspace_size(at_once, larger(one->width, other->width)), 64);
    const int64_t size = rounded + blocks_of(at_once, one->rows) * sizeof(uint16_t);
    /* where it is more than a cache holds until somebody reads it */
    const int streams = !a->adds && a->T * other->rows > 1 << 19 && are_lines(a->out, other->rows);
    const int64_t for_up = round_up(a->R * other->rows * sizeof(uint16_t), 64);
    char *memory = aligned_alloc(64, for_up + size * a->num_threads);
    if (!memory) return 1;
    uint32_t *up = (uint32_t *)memory;
    if (a->low) transpose_dwords(up, (const uint32_t *)a->up, other->rows, a->R / 2);
#pragma omp parallel num_threads(a->num_threads)
    {
        char *own = memory + for_up + size * omp_get_thread_num();
        uint16_t *between = (uint16_t *)(own + rounded); /* (rows at once, F) in blocks */
        tile_config before = begin_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < a->T; first += at_once) {
            const int64_t count = smaller(at_once, a->T - first);
            const uint16_t *x = a->x + first * (one->panels ? one : other)->width;
            if (one->panels) {
                uint16_t *kept = a->pre_gelu ? a->pre_gelu + blocks_of(first, one->rows) : NULL;
                const result activated = {.count = count, .w = one, .bias = a->gelu_bias, .pre_gelu = kept, .out = between};
                if (a->takes_slope) multiply_times_slope(activated, own, at_once, x, 0);
                else multiply_then_gelu(activated, own, at_once, x, 0);
                x = between;
            }
            const result out = {.count = count, .w = other, .bias = a->bias, .out = a->out + first * other->rows,
                                .low = a->low ? a->low + first * a->R : NULL, .up = up, .R = a->R, .adds = a->adds,
                                .streams = streams};
            multiply(out, own, at_once, x, x == between);
        }
        end_streams();
        end_tiles(before);
    }
    free(memory);
    return 0;
}

int multiplies_bytes(void) { return BYTE_PRODUCTS; }
