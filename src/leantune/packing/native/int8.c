/* Products with frozen weights in int8: rows of x and rows of W are rounded, each with a scale of its own, their products
   summed exactly, and the sums scaled to bf16. x is rounded a block of rows at a time and no sum leaves the cache.

   Letters: T rows of x, D their width, F rows of W. */
#include <omp.h>
#include <stdlib.h>

#include "byte_tiles.h"
#include "gelu.h"
#include "panels.h"

/* A rounded matrix (rows, width): `panels` holds SIDE rows after SIDE rows, each at its `place_of`; both numbers,
   multiples of 16, are rounded up to SIDE and STEP there, with zeros in between. */
typedef struct {
    const uint8_t *panels;
    const float *scales; /* (rows) */
    int64_t rows, width;
} matrix;

typedef struct {
    const uint16_t *w;   /* (F, D) contiguous bf16; F and D: multiples of 16 */
    int64_t F, D;
    uint8_t *panels;     /* of a `matrix` */
    float *scales;       /* (F) */
    int64_t num_threads;
} weight;

typedef struct {
    const uint16_t *x;    /* (T, D) contiguous bf16 */
    int64_t T;
    matrix w;             /* (F, D) */
    const uint16_t *bias; /* (F) bf16; NULL: none */
    uint16_t *out;        /* (T, F) bf16; NULL: only `activated` is wanted */
    const uint16_t *gelu_bias; /* (F) bf16, of what follows */
    uint16_t *activated;       /* (T, F) bf16: GELU(out + gelu_bias); NULL: none */
    const uint16_t *before;    /* (T, F) bf16: out is multiplied by GELU's slope at before + gelu_bias; NULL: it is not */
    int64_t num_threads;
} product;

enum { AS_IT_IS, THEN_GELU, TIMES_SLOPE }; /* what becomes of a product */

/* Rows at once: enough to use a panel of W several times while it is near, and more of them where W is too large to stay
   in the second cache from one block of rows to the next. */
INLINE int64_t most_rows(const matrix *w) { return w->rows * w->width > 1 << 20 ? 256 : 128; }

/* Rounded rows of a thread, and what belongs to each of them. */
typedef struct {
    int8_t *rows;     /* SIDE rows after SIDE rows: (width / STEP, SIDE, STEP) */
    float *scales;
    int32_t *offsets; /* what the sums are too large by */
    int32_t *sums;    /* two blocks of (SIDE, SIDE) */
} workspace;

INLINE int64_t depth_of(int64_t width) { return round_up(width, STEP); }
INLINE int64_t workspace_size(int64_t rows, int64_t width) { return rows * (depth_of(width) + 8) + 2 * SIDE * SIDE * 4; }

INLINE workspace lay_out_workspace(char *memory, int64_t rows, int64_t width) {
    char *behind = memory + rows * depth_of(width);
    return (workspace){(int8_t *)memory, (float *)behind, (int32_t *)(behind + rows * 4), (int32_t *)(behind + rows * 8)};
}

/* As bits, so that what is not finite counts as more than all else and its scale tells: the row comes out as NaN. */
INLINE float greatest_magnitude(const uint16_t *row, int64_t width) {
    u16x16 greatest = {};
    for (int64_t c = 0; c < width; c += LANES) greatest = greater_words(greatest, load_u16(row + c) & 0x7fff);
    uint32_t most = 0;
    for (int i = 0; i < LANES; i++) most = greatest[i] > most ? greatest[i] : most;
    most <<= 16;
    float magnitude;
    memcpy(&magnitude, &most, sizeof magnitude);
    return magnitude;
}

/* A row of bf16 in pieces of STEP bytes, `stride` bytes from one to the next, zeros behind its end. Returns its scale, by
   which the greatest magnitude is 127, and gives the sum of its bytes where that is asked for. */
INLINE float round_row(int8_t *to, int64_t stride, const uint16_t *row, int64_t width, int32_t *sum) {
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: the lowest byte of the sum is the nearest integer */
    const float magnitude = greatest_magnitude(row, width), rate = magnitude > 0 ? 127 / magnitude : 0;
    u32x16 sums = {};
    for (int64_t c = 0; c < width; c += STEP, to += stride) {
        u32x16 x[STEP / LANES] = {};
        for (int i = 0; i < STEP / LANES; i++)
            if (c + i * LANES < width) {
                x[i] = (u32x16)(widen(row + c + i * LANES) * rate + to_integer);
                if (WEIGHT_OFFSET) sums += x[i] - 0x4b400000; /* the bits of 1.5 * 2^23 */
            }
        store_bytes(to, x);
    }
    *sum = 0;
    for (int i = 0; WEIGHT_OFFSET && i < LANES; i++) *sum += (int32_t)sums[i];
    return magnitude / 127;
}

/* As row `r` of a workspace. */
INLINE void take_row(const workspace *w, int64_t r, const uint16_t *row, int64_t width) {
    int8_t *to = w->rows + r / SIDE * SIDE * depth_of(width) + r % SIDE * STEP;
    w->scales[r] = round_row(to, SIDE * STEP, row, width, w->offsets + r);
    w->offsets[r] *= WEIGHT_OFFSET;
}

/* The products of a block of rows with all rows of a matrix. */
typedef struct {
    const product *of;
    const workspace *w;
    int64_t first, count; /* rows */
} result;

/* SIDE x SIDE sums of it. */
typedef struct {
    const int32_t *sums;
    int64_t row, count, column;
} block;

INLINE int64_t place_in(const result *a, int64_t row, int64_t column) { return (a->first + row) * a->of->w.rows + column; }

/* Rows `from` to `end` of a block, scaled. */
INLINE void finish_rows(const block *b, int64_t from, int64_t end, const result *a, const int kind) {
    const product *p = a->of;
    for (int64_t c = b->column; c < smaller(b->column + SIDE, p->w.rows); c += LANES) {
        const f32x16 scales = load_f32(p->w.scales + c), bias = p->bias ? widen(p->bias + c) : (f32x16){};
        const f32x16 gelu_bias = kind ? widen(p->gelu_bias + c) : (f32x16){};
        for (int64_t r = from; r < smaller(end, b->count); r++) {
            const int64_t place = place_in(a, b->row + r, c);
            i32x16 sum = (i32x16)load_u32(b->sums + r * SIDE + c - b->column);
            if (WEIGHT_OFFSET) sum -= a->w->offsets[b->row + r];
            f32x16 x = __builtin_convertvector(sum, f32x16) * (scales * a->w->scales[b->row + r]) + bias;
            if (kind == TIMES_SLOPE) x *= gelu_slope(widen(p->before + place) + gelu_bias);
            if (kind == THEN_GELU) {
                x = (f32x16)(round_bf16(x) & 0xffff0000); /* its slope will be taken at what is stored */
                store_bf16(p->activated + place, gelu_of(x + gelu_bias));
            }
            if (p->out) store_bf16(p->out + place, x);
        }
    }
}

/* Ask for what rows `from` to `end` of a block are written to and read with: each is a cache line far from the next. */
INLINE void fetch_rows_of(const result *a, int64_t column, int64_t from, int64_t end, const int kind) {
    const product *p = a->of;
    for (int64_t r = from; r < end; r++) {
        const int64_t place = place_in(a, r, column);
        if (p->out) __builtin_prefetch(p->out + place, 1);
        if (kind == THEN_GELU) __builtin_prefetch(p->activated + place, 1);
        if (kind == TIMES_SLOPE) __builtin_prefetch(p->before + place, 0);
    }
}

/* A block is finished while the next is multiplied: AMX works beside the other units of a core. */
INLINE void multiply_taken(const result *a, const int kind) {
    const workspace *w = a->w;
    const matrix *m = &a->of->w;
    const int64_t depth = depth_of(m->width), steps = depth / STEP, share = (SIDE + steps - 1) / steps;
    block before = {};
    for (int64_t column = 0; column < m->rows; column += SIDE)
        for (int64_t row = 0; row < a->count; row += SIDE) {
            const int8_t *x = w->rows + row * depth;
            const uint8_t *panel = m->panels + column * depth;
            int32_t *sums = before.sums == w->sums ? w->sums + SIDE * SIDE : w->sums;
            begin_block(sums);
            for (int64_t step = 0; step < steps; step += STEPS_AT_ONCE) {
                const int64_t now = smaller(STEPS_AT_ONCE, steps - step);
                add_steps(sums, x + step * SIDE * STEP, panel + step * SIDE * STEP, now);
                fetch_rows_of(a, column, row + share * step, row + smaller(SIDE, share * (step + now)), kind);
                finish_rows(&before, share * step, share * (step + now), a, kind);
            }
            end_block(sums);
            before = (block){sums, row, smaller(SIDE, a->count - row), column};
        }
    finish_rows(&before, 0, SIDE, a, kind);
}

/* 0 if there was memory for it. */
int round_weight(const weight *a) {
    const int64_t depth = depth_of(a->D);
    int8_t *memory = aligned_alloc(64, depth * a->num_threads);
    if (!memory) return 1;
#pragma omp parallel num_threads(a->num_threads)
    {
        int8_t *row = memory + depth * omp_get_thread_num();
#pragma omp for
        for (int64_t first = 0; first < round_up(a->F, SIDE); first += SIDE) {
            uint8_t *panel = a->panels + first * depth;
            memset(panel, WEIGHT_OFFSET, SIDE * depth);
            for (int64_t f = first; f < smaller(first + SIDE, a->F); f++) {
                int32_t sum;
                a->scales[f] = round_row(row, STEP, a->w + f * a->D, a->D, &sum);
                for (int64_t d = 0; d < depth; d++) panel[place_of(f - first, d)] = (uint8_t)row[d] ^ WEIGHT_OFFSET;
            }
        }
    }
    free(memory);
    return 0;
}

/* x W^T plus the bias, and what becomes of it; 0 if there was memory for it. */
int multiply_rounded(const product *a) {
    const int64_t D = a->w.width, at_once = rows_at_once(a->T, a->num_threads, most_rows(&a->w), SIDE);
    const int64_t size = round_up(workspace_size(at_once, D), 64);
    char *memory = aligned_alloc(64, size * a->num_threads);
    if (!memory) return 1;
#pragma omp parallel num_threads(a->num_threads)
    {
        const workspace w = lay_out_workspace(memory + size * omp_get_thread_num(), at_once, D);
        tile_config before = begin_tiles();
#pragma omp for schedule(static)
        for (int64_t first = 0; first < a->T; first += at_once) {
            const int64_t count = smaller(at_once, a->T - first);
            for (int64_t r = 0; r < count; r++) take_row(&w, r, a->x + (first + r) * D, D);
            const result out = {a, &w, first, count};
            if (a->activated) multiply_taken(&out, THEN_GELU);
            else if (a->before) multiply_taken(&out, TIMES_SLOPE);
            else multiply_taken(&out, AS_IT_IS);
        }
        end_tiles(before);
    }
    free(memory);
    return 0;
}

/* Whether this processor multiplies bytes faster than bf16. */
int multiplies_bytes(void) { return BYTE_PRODUCTS; }
