/* Products with frozen weights in int8: rows of x and rows of W are rounded, each with a scale of its own, their products
   summed exactly, and the sums scaled to bf16. x is rounded a block at a time and the sums never leave the cache.

   Letters: T rows of x, D their width, F rows of W. */
#include <omp.h>
#include <stdlib.h>

#include "byte_tiles.h"
#include "panels.h"

typedef struct {
    const uint16_t *w;   /* (F, D) contiguous bf16; F and D: multiples of 16 */
    int64_t F, D;
    uint8_t *out;        /* panels of SIDE rows of W in the order that `block_product` wants: F and D rounded up to
                            SIDE and STEP, zeros in between */
    float *scales;       /* (F): the greatest |w| of a row becomes 127 */
    int64_t num_threads;
} weight;

typedef struct {
    const uint16_t *x;   /* (T, D) contiguous bf16 */
    int64_t T, D, F;
    const uint8_t *w;    /* panels of W */
    const float *w_scales;
    const uint16_t *bias; /* (F) bf16; NULL: none */
    uint16_t *out;       /* (T, F) bf16 */
    int64_t num_threads;
} product;

/* A thread's rounded rows of x, and what belongs to each of them. */
typedef struct {
    int8_t *rows;     /* blocks of SIDE rows: (D / STEP, SIDE, STEP) */
    float *scales;
    int32_t *offsets; /* what the sums are too large by */
    int32_t *sums;    /* two blocks of (SIDE, SIDE) */
} workspace;

enum { MOST_ROWS = 128 }; /* of a workspace: enough to use a panel of W several times while it is near */

/* As bits, so that what is not finite counts as more than all else and its scale tells: the row comes out as NaN. */
INLINE float greatest_magnitude(const uint16_t *row, int64_t width) {
    u32x16 greatest = {};
    for (int64_t c = 0; c < width; c += LANES) {
        u32x16 bits = (u32x16)widen(row + c) & 0x7fffffff;
        u32x16 is_more = (u32x16)(bits > greatest);
        greatest = (is_more & bits) | (~is_more & greatest);
    }
    uint32_t most = 0;
    for (int i = 0; i < LANES; i++) most = greatest[i] > most ? greatest[i] : most;
    float magnitude;
    memcpy(&magnitude, &most, sizeof magnitude);
    return magnitude;
}

/* One row in pieces of STEP bytes, `stride` bytes from one to the next, and zeros behind its end; returns its scale. */
INLINE float round_row(int8_t *to, int64_t stride, const uint16_t *row, int64_t width, int32_t *sum) {
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: the lowest byte of the sum is the nearest integer */
    const float magnitude = greatest_magnitude(row, width), rate = magnitude > 0 ? 127 / magnitude : 0;
    u32x16 sums = {};
    for (int64_t c = 0; c < round_up(width, STEP); c += LANES) {
        u32x16 x = {};
        if (c < width) {
            x = (u32x16)(widen(row + c) * rate + to_integer);
            sums += x - 0x4b400000; /* the bits of 1.5 * 2^23 */
        }
        store_bytes(to + c / STEP * stride + c % STEP, x);
    }
    *sum = 0;
    for (int i = 0; i < LANES; i++) *sum += (int32_t)sums[i];
    return magnitude / 127;
}

/* Rounds W (F, D) once; 0 if there was memory for it. */
int round_weight(const weight *a) {
    const int64_t depth = round_up(a->D, STEP);
    int8_t *memory = aligned_alloc(64, depth * a->num_threads);
    if (!memory) return 1;
#pragma omp parallel num_threads(a->num_threads)
    {
        int8_t *row = memory + depth * omp_get_thread_num();
#pragma omp for
        for (int64_t panel = 0; panel < round_up(a->F, SIDE); panel += SIDE) {
            uint8_t *to = a->out + panel * depth;
            memset(to, WEIGHT_OFFSET, SIDE * depth);
            for (int64_t f = panel; f < smaller(panel + SIDE, a->F); f++) {
                int32_t sum;
                a->scales[f] = round_row(row, STEP, a->w + f * a->D, a->D, &sum);
                for (int64_t d = 0; d < depth; d++)
                    to[place_of(f - panel, d)] = (uint8_t)row[d] ^ WEIGHT_OFFSET;
            }
        }
    }
    free(memory);
    return 0;
}

/* `count` sums of one block (SIDE, SIDE) as bf16. */
INLINE void scale_block(const product *a, const workspace *mine, const int32_t *sums, int64_t first, int64_t row,
                        int64_t count, int64_t column) {
    const int64_t vectors = smaller(SIDE, a->F - column) / LANES;
    f32x16 scales[SIDE / LANES], bias[SIDE / LANES] = {};
    for (int64_t v = 0; v < vectors; v++) {
        scales[v] = load_f32(a->w_scales + column + v * LANES);
        if (a->bias) bias[v] = widen(a->bias + column + v * LANES);
    }
    for (int64_t r = 0; r < count; r++) {
        uint16_t *to = a->out + (first + row + r) * a->F + column;
        for (int64_t v = 0; v < vectors; v++) {
            i32x16 sum = load_i32(sums + r * SIDE + v * LANES);
            if (WEIGHT_OFFSET) sum -= mine->offsets[row + r];
            f32x16 x = __builtin_convertvector(sum, f32x16) * (scales[v] * mine->scales[row + r]) + bias[v];
            store_bf16(to + v * LANES, x);
        }
    }
}

/* Rows from `first` on, as many as the workspace holds, with all of W. */
INLINE void multiply_rows(const product *a, const workspace *mine, int64_t first, int64_t count) {
    const int64_t depth = round_up(a->D, STEP);
    for (int64_t r = 0; r < count; r++) {
        int8_t *to = mine->rows + r / SIDE * SIDE * depth + r % SIDE * STEP;
        mine->scales[r] = round_row(to, SIDE * STEP, a->x + (first + r) * a->D, a->D, mine->offsets + r);
        mine->offsets[r] *= WEIGHT_OFFSET;
    }
    for (int64_t column = 0; column < a->F; column += SIDE)
        for (int64_t r = 0; r < count; r += SIDE) {
            int32_t *sums = mine->sums + r % (2 * SIDE) * SIDE; /* in turn: one is read while the next is written */
            block_product(sums, mine->rows + r * depth, a->w + column * depth, depth / STEP);
            scale_block(a, mine, sums, first, r, smaller(SIDE, count - r), column);
        }
}

/* Even shares for all threads, of as many rows as a workspace holds or fewer. */
static int64_t rows_at_once(int64_t rows, int64_t threads) {
    const int64_t shares = threads * larger(1, (rows + MOST_ROWS * threads - 1) / (MOST_ROWS * threads));
    return larger(SIDE, round_up((rows + shares - 1) / shares, SIDE));
}

/* x W^T scaled, plus the bias; 0 if there was memory for it. */
int multiply_rounded(const product *a) {
    const int64_t at_once = rows_at_once(a->T, a->num_threads), rows_size = at_once * round_up(a->D, STEP);
    const int64_t size = rows_size + at_once * 8 + 2 * SIDE * SIDE * 4;
    char *memory = aligned_alloc(64, size * a->num_threads);
    if (!memory) return 1;
#pragma omp parallel num_threads(a->num_threads)
    {
        char *own = memory + size * omp_get_thread_num();
        const workspace mine = {(int8_t *)own, (float *)(own + rows_size), (int32_t *)(own + rows_size + at_once * 4),
                                (int32_t *)(own + rows_size + at_once * 8)};
        tile_config before = begin_tiles();
#pragma omp for schedule(static)
        for (int64_t first = 0; first < a->T; first += at_once)
            multiply_rows(a, &mine, first, smaller(at_once, a->T - first));
        end_tiles(before);
    }
    free(memory);
    return 0;
}

/* Whether this processor multiplies bytes faster than bf16. */
int multiplies_bytes(void) { return BYTE_PRODUCTS; }
