/* Rows of bf16, rounded, and their products with a rounded matrix, a block of SIDE x SIDE at a time. No sum leaves the cache.

   Letters: D the width of a row, F rows of W. */
#pragma once

#include "rows.h"
#include "tiles.h"

enum { AS_IT_IS, THEN_GELU, TIMES_SLOPE }; /* what becomes of a product */

/* Rows at once: enough to use a panel of W several times while it is near; fewer where what lies between two products shall
   stay in the second cache beside both; and more where W does not, from one block of rows to the next. */
INLINE int64_t most_rows(int64_t bytes_of_W, int is_between) { return bytes_of_W > 11 << 17 ? 256 : is_between ? 64 : 128; }

/* What is between two products stands in blocks of SIDE x SIDE, all of SIDE rows before the next; both numbers are rounded up
   to SIDE. A block is one stretch of memory, where rows of it would be far from each other, and share sets of a cache. */
INLINE int64_t blocks_of(int64_t rows, int64_t width) { return round_up(rows, SIDE) * round_up(width, SIDE); }
INLINE int64_t place_in_blocks(int64_t row, int64_t column, int64_t width) {
    return row / SIDE * blocks_of(SIDE, width) + column / SIDE * SIDE * SIDE + row % SIDE * SIDE + column % SIDE;
}

/* A row of bf16: `apart` numbers from one SIDE of it to the next. */
typedef struct {
    const uint16_t *at;
    int64_t width, apart;
} row;

INLINE row row_of(const uint16_t *x, int64_t r, int64_t width, const int in_blocks) {
    return in_blocks ? (row){x + place_in_blocks(r, 0, width), width, SIDE * SIDE} : (row){x + r * width, width, SIDE};
}
INLINE const uint16_t *column_of(row x, int64_t column) { return x.at + column / SIDE * x.apart + column % SIDE; }

/* Rounded rows of a thread, and what belongs to each of them. */
typedef struct {
    int8_t *rows;     /* SIDE rows after SIDE rows: (width / STEP, SIDE, STEP) */
    float *scales;
    int32_t *offsets; /* what the sums are too large by */
    int32_t *sums;    /* two blocks of (SIDE, SIDE) */
    float *updates;   /* (SIDE, SIDE) */
} workspace;

INLINE int64_t depth_of(int64_t width) { return round_up(width, STEP); }
INLINE int64_t workspace_size(int64_t rows, int64_t width) { return rows * (depth_of(width) + 8) + 3 * SIDE * SIDE * 4; }

INLINE workspace lay_out_workspace(char *memory, int64_t rows, int64_t width) {
    char *behind = memory + rows * depth_of(width);
    int32_t *sums = (int32_t *)(behind + rows * 8);
    return (workspace){(int8_t *)memory, (float *)behind, (int32_t *)(behind + rows * 4), sums, (float *)(sums + 2 * SIDE * SIDE)};
}

/* As bits, so that what is not finite counts as more than all else and its scale tells: the row comes out as NaN. */
INLINE float greatest_magnitude(row x) {
    u16x16 greatest = {};
    int64_t c = 0;
#ifdef __AVX512BW__
    __m512i most[2] = {};
    for (; c + 2 * SIDE <= x.width; c += 2 * SIDE)
        for (int i = 0; i < 2; i++) {
            const __m512i magnitudes = _mm512_and_si512((__m512i)load_u32(column_of(x, c + i * SIDE)), _mm512_set1_epi16(0x7fff));
            most[i] = _mm512_max_epu16(most[i], magnitudes);
        }
    most[0] = _mm512_max_epu16(most[0], most[1]);
    greatest = greater_words((u16x16)_mm512_castsi512_si256(most[0]), (u16x16)_mm512_extracti64x4_epi64(most[0], 1));
#endif
    for (; c < x.width; c += LANES) greatest = greater_words(greatest, load_u16(column_of(x, c)) & 0x7fff);
    const uint32_t bits = (uint32_t)greatest_word(greatest) << 16;
    float magnitude;
    memcpy(&magnitude, &bits, sizeof magnitude);
    return magnitude;
}

/* STEP numbers of a row of bf16 from column `c` on, times `rate`, as the nearest bytes, zeros behind its end; what is added to
   `sums` adds up to the sum of these bytes. */
INLINE void round_step(int8_t *to, row from, int64_t c, float rate, u32x16 *sums) {
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: the lowest byte of the sum is the nearest integer */
    const uint32_t zero = 0x4b400000;     /* the bits of 1.5 * 2^23 */
#ifdef __AVX512BW__
    if (c + STEP <= from.width) { /* neighbours share a dword before and after: fewer steps to take them apart and pack them */
        for (int i = 0; i < STEP / SIDE; i++) {
            const u32x16 pairs = load_u32(column_of(from, c + i * SIDE));
            const u32x16 first = (u32x16)(first_of(pairs) * rate + to_integer), second = (u32x16)(second_of(pairs) * rate + to_integer);
            if (WEIGHT_OFFSET) *sums += first + second - 2 * zero;
            u16x16 bytes = low_words((first & 0xff) | (second << 8));
            STORE(to + i * SIDE, bytes);
        }
        return;
    }
#endif
    u32x16 x[STEP / LANES] = {};
    for (int i = 0; i < STEP / LANES; i++)
        if (c + i * LANES < from.width) {
            x[i] = (u32x16)(widen(column_of(from, c + i * LANES)) * rate + to_integer);
            if (WEIGHT_OFFSET) *sums += x[i] - zero;
        }
    store_bytes(to, x);
}

INLINE float rate_of(float magnitude) { return magnitude > 0 ? 127 / magnitude : 0; }

/* A row of bf16 in pieces of STEP bytes, `stride` bytes from one to the next, zeros behind its end. Returns its scale, by
   which the greatest magnitude is 127. */
INLINE float round_row(int8_t *to, int64_t stride, row from) {
    const float magnitude = greatest_magnitude(from), rate = rate_of(magnitude);
    u32x16 sums = {};
    for (int64_t c = 0; c < from.width; c += STEP, to += stride) round_step(to, from, c, rate, &sums);
    return magnitude / 127;
}

/* Up to SIDE rows of this width side by side; a step of all of them is one stretch of memory. */
INLINE void round_rows(int8_t *to, float *scales, int32_t *offsets, const row rows[SIDE], int64_t count, int64_t width) {
    float rates[SIDE];
    u32x16 sums[SIDE] = {};
    for (int64_t r = 0; r < count; r++) {
        const float magnitude = greatest_magnitude(rows[r]);
        rates[r] = rate_of(magnitude), scales[r] = magnitude / 127;
    }
    for (int64_t c = 0; c < width; c += STEP)
        for (int64_t r = 0; r < count; r++) round_step(to + c * SIDE + r * STEP, rows[r], c, rates[r], sums + r);
    for (int64_t r = 0; r < count; r++) {
        uint32_t sum = 0;
        for (int i = 0; WEIGHT_OFFSET && i < LANES; i++) sum += sums[r][i];
        offsets[r] = WEIGHT_OFFSET * (int32_t)sum;
    }
}

/* `count` of `rows` rows, rounded into this memory. */
INLINE workspace take_rows(char *memory, int64_t rows, const uint16_t *x, int64_t count, int64_t width, const int in_blocks) {
    const workspace w = lay_out_workspace(memory, rows, width);
    for (int64_t first = 0; first < count; first += SIDE) {
        const int64_t some = smaller(SIDE, count - first);
        row from[SIDE];
        for (int64_t r = 0; r < some; r++) from[r] = row_of(x, first + r, width, in_blocks);
        round_rows(w.rows + first * depth_of(width), w.scales + first, w.offsets + first, from, some, width);
    }
    return w;
}

/* The products of a block of rows with all rows of a matrix, and what belongs to them from the first of these rows on. */
typedef struct {
    const workspace *x;
    int64_t count; /* rows */
    const matrix *w;
    const uint16_t *bias;
    uint16_t *pre_gelu, *out; /* in blocks, but for the out of a last product */
    const uint16_t *low; /* (count rounded up to SIDE, R) */
    const uint32_t *up;  /* (R / 2, rows of w): pairs */
    int64_t R, adds;
    int streams; /* whether out is written past the caches: rows of whole cache lines */
} result;

/* SIDE x SIDE sums of it. */
typedef struct {
    const int32_t *sums;
    const float *updates; /* NULL: none */
    int64_t row, count, column;
} block;

/* Where a row of a block is written, or what is read with it. */
INLINE int64_t place_of_row(const result *a, int64_t row, int64_t column, const int kind) {
    return kind == AS_IT_IS ? row * a->w->rows + column : place_in_blocks(row, column, a->w->rows);
}

/* Rows `from` to `end` of a block, of which there are `halves` of LANES columns, scaled. */
INLINE void finish_columns(const block *b, int64_t from, int64_t end, const result *a, const int kind, const int halves) {
    f32x16 scales[2], bias[2] = {};
    for (int i = 0; i < halves; i++) {
        scales[i] = load_f32(a->w->scales + b->column + i * LANES);
        if (a->bias) bias[i] = widen(a->bias + b->column + i * LANES);
    }
    for (int64_t r = from; r < smaller(end, b->count); r++) {
        const int64_t place = place_of_row(a, b->row + r, b->column, kind);
        const float scale = a->x->scales[b->row + r];
        f32x16 x[2] = {};
        for (int i = 0; i < halves; i++) {
            i32x16 sum = (i32x16)load_u32(b->sums + r * SIDE + i * LANES);
            if (WEIGHT_OFFSET) sum -= a->x->offsets[b->row + r];
            x[i] = __builtin_convertvector(sum, f32x16) * (scales[i] * scale);
            if (kind == AS_IT_IS) x[i] += bias[i];
            if (kind == AS_IT_IS && a->adds) x[i] += widen(a->out + place + i * LANES);
            if (kind == AS_IT_IS && b->updates) x[i] += load_f32(b->updates + r * SIDE + i * LANES);
            if (kind == TIMES_SLOPE) x[i] *= gelu_slope(widen(a->pre_gelu + place + i * LANES) + bias[i]);
            if (kind == THEN_GELU) x[i] = (f32x16)(round_bf16(x[i]) & 0xffff0000); /* its slope will be taken at what is stored */
        }
        if (kind == THEN_GELU) {
            if (a->pre_gelu) store_two_bf16(a->pre_gelu + place, x);
            for (int i = 0; i < halves; i++) x[i] = gelu_of(x[i] + bias[i]);
        }
        if (halves == 2) write_two_bf16(a->out + place, x, kind == AS_IT_IS && a->streams);
        else store_bf16(a->out + place, x[0]);
    }
}

INLINE void finish_rows(const block *b, int64_t from, int64_t end, const result *a, const int kind) {
    if (a->w->rows - b->column < SIDE) finish_columns(b, from, end, a, kind, 1);
    else finish_columns(b, from, end, a, kind, 2);
}

/* Ask for what rows `from` to `end` of a block are written to or read with. What becomes of a first product is near. */
INLINE void fetch_rows_of(const result *a, int64_t column, int64_t from, int64_t end, const int kind) {
    for (int64_t r = from; r < end; r++) {
        const int64_t place = place_of_row(a, r, column, kind);
        if (kind == AS_IT_IS && !a->streams) __builtin_prefetch(a->out + place, 1);
        if (kind == THEN_GELU && a->pre_gelu) __builtin_prefetch(a->pre_gelu + place, 1);
        if (kind == TIMES_SLOPE) __builtin_prefetch(a->pre_gelu + place, 0);
    }
}

/* The block of low times up. */
INLINE const float *updates_of(const result *a, float *updates, int64_t row, int64_t column) {
    const uint16_t *low = a->low + row * a->R;
    const uint32_t *up = a->up + column;
    if (a->w->rows - column >= SIDE) block_product(updates, SIDE, low, a->R, up, a->w->rows, a->R);
    else
        for (int64_t r = 0; r < SIDE; r += LANES)
            tile_product(updates + r * SIDE, SIDE, low + r * a->R, a->R, up, a->w->rows, a->R, 0);
    return updates;
}

/* Lines of W to ask for in each step, so that those of the next columns are there when these are done; 0 where all of W stays
   in the second cache. */
INLINE int64_t lines_ahead(const matrix *w, int64_t rows) {
    const int64_t blocks = (rows + SIDE - 1) / SIDE;
    return w->rows * w->width > 1 << 20 ? (SIDE * STEP / 64 + blocks - 1) / blocks : 0;
}

/* A block is finished while the next is multiplied: AMX works beside the other units of a core, though near it floats of 512
   bits pass at half their rate. */
INLINE void multiply_taken(const result *a, const int kind) {
    const workspace *w = a->x;
    const matrix *m = a->w;
    const int64_t depth = depth_of(m->width), steps = depth / STEP, share = (SIDE + steps - 1) / steps;
    const int64_t lines = lines_ahead(m, a->count);
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
                fetch_lines(panel + SIDE * depth, (row / SIDE * steps + step) * lines, lines * now);
                fetch_rows_of(a, column, row + share * step, row + smaller(SIDE, share * (step + now)), kind);
                finish_rows(&before, share * step, share * (step + now), a, kind);
            }
            end_block(sums);
            before = (block){sums, NULL, row, smaller(SIDE, a->count - row), column};
            if (kind == AS_IT_IS && a->low) before.updates = updates_of(a, w->updates, row, column);
        }
    finish_rows(&before, 0, SIDE, a, kind);
}

/* Rows of bf16 from `x` on, in blocks or not, rounded into memory for `rows` of them, through a matrix. */
#define MULTIPLY(name, kind)                                                                                       \
    static void name(result a, char *memory, int64_t rows, const uint16_t *x, const int in_blocks) {               \
        const workspace taken = take_rows(memory, rows, x, a.count, a.w->width, in_blocks);                        \
        a.x = &taken;                                                                                              \
        multiply_taken(&a, kind);                                                                                  \
    }

MULTIPLY(multiply, AS_IT_IS)
MULTIPLY(multiply_then_gelu, THEN_GELU)
MULTIPLY(multiply_times_slope, TIMES_SLOPE)
