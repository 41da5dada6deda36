/* Rows of heads in the forms that tile products want.

   rows: as they are. pairs: rows 2p and 2p + 1 side by side as one row of dwords, which is how a product
   reads what it sums over. A panel is sixteen queries as columns. H: head width. */
#pragma once

#include "tiles.h"

INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Cuts `buffer` from `memory`, of which `used` bytes are taken; whoever only wants to know how much it takes has no memory. */
#define TAKE(buffer, count) (buffer = (void *)(memory + used), used += round_up((count) * sizeof *buffer, 64))

/* Even shares of `rows` for all threads, whole `unit`s of them, of `most` or fewer. */
INLINE int64_t rows_at_once(int64_t rows, int64_t threads, int64_t most, int64_t unit) {
    const int64_t rounds = (rows + most * threads - 1) / (most * threads), shares = threads * larger(1, rounds);
    return larger(unit, round_up((rows + shares - 1) / shares, unit));
}

/* `count` rows of H, and rows of zeros up to `padded`. */
INLINE void copy_rows(uint16_t *to, const uint16_t *from, int64_t stride, int64_t count, int64_t padded, int64_t H) {
    for (int64_t r = 0; r < count; r++) memcpy(to + r * H, from + r * stride, H * sizeof *to);
    memset(to + count * H, 0, (padded - count) * H * sizeof *to);
}

/* Rows 2p and 2p + 1 as pairs: (padded / 2, H). */
INLINE void pair_rows(uint32_t *to, const uint16_t *from, int64_t stride, int64_t count, int64_t padded, int64_t H) {
    for (int64_t r = 0; r < padded; r += 2, to += H)
        for (int64_t h = 0; h < H; h += LANES) {
            u32x16 pair = {};
            if (r < count) pair = load_words(from + r * stride + h);
            if (r + 1 < count) pair |= load_words(from + (r + 1) * stride + h) << 16;
            STORE(to + h, pair);
        }
}

/* (rows, width) dwords as (width, rows); both are multiples of 16. */
INLINE void transpose_dwords(uint32_t *to, const uint32_t *from, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r += LANES)
        for (int64_t c = 0; c < width; c += LANES) {
            u32x16 x[LANES];
            for (int i = 0; i < LANES; i++) x[i] = load_u32(from + (r + i) * width + c);
            transpose(x);
            for (int i = 0; i < LANES; i++) STORE(to + (c + i) * rows + r, x[i]);
        }
}

/* Up to sixteen rows of H as columns: (H / 2, 16) pairs. */
INLINE void panel_of(uint32_t *to, const uint16_t *from, int64_t stride, int64_t count, int64_t H) {
    for (int64_t h = 0; h < H; h += 2 * LANES) {
        u32x16 x[LANES];
        for (int i = 0; i < LANES; i++) x[i] = i < count ? load_u32(from + i * stride + h) : (u32x16){};
        transpose(x);
        for (int i = 0; i < LANES; i++) STORE(to + (h / 2 + i) * LANES, x[i]);
    }
}

/* The columns (H, 16) times `factor` as rows of bf16. */
INLINE void write_columns(uint16_t *to, int64_t stride, const float *columns, f32x16 factor, int64_t count, int64_t H) {
    for (int64_t h = 0; h < H; h += LANES) {
        u32x16 x[LANES];
        for (int i = 0; i < LANES; i++) x[i] = (u32x16)(load_f32(columns + (h + i) * LANES) * factor);
        transpose(x);
        for (int i = 0; i < count; i++) store_bf16(to + i * stride + h, (f32x16)x[i]);
    }
}

/* (padded or 16 rows) = rows (.., depth) columns (depth, 16), up to four tiles of rows at a time. */
INLINE void products(float *to, const uint16_t *rows, int64_t row, const uint32_t *columns, int64_t first,
                     int64_t last, int64_t depth) {
    int64_t r = first;
#ifdef __AMX_BF16__
    for (; r + TILES_AT_ONCE * LANES <= last; r += TILES_AT_ONCE * LANES)
        tile_products(to + r * LANES, LANES, rows + r * row, row, columns, LANES, depth);
#endif
    for (; r < last; r += LANES) tile_product(to + r * LANES, LANES, rows + r * row, row, columns, LANES, depth, 0);
}

INLINE void fetch_rows(const uint16_t *x, int64_t stride, int64_t count, int64_t width) {
    for (int64_t r = 0; r < count; r++)
        for (int64_t c = 0; c < width; c += 32) __builtin_prefetch(x + r * stride + c, 0, 2);
}

/* Ask for `count` cache lines of what is multiplied next, a share of it. Neighbours are asked for one after the other: each page
   is looked up once, and the processor goes on by itself. */
INLINE void fetch_lines(const void *next, int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; i++) __builtin_prefetch((const char *)next + i * 64, 0, 1);
}
