/* Products of 16 x 16 tiles in bf16 with fp32 sums: by AMX, by AVX512-BF16, or by plain fp32 vectors. */
#pragma once

#include "vectors.h"

enum { SIDE = 32 }; /* rows and columns of a block: two tiles each way */

#ifdef __AMX_TILE__
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

/* All tiles of this thread, full ones. oneDNN uses the same registers: what it had set comes back after. */
INLINE tile_config begin_tiles(void) {
    tile_config before, own = {.palette = 1};
    _tile_storeconfig(&before);
    for (int i = 0; i < 8; i++) own.row_bytes[i] = 64, own.rows[i] = LANES;
    _tile_loadconfig(&own);
    return before;
}

INLINE void end_tiles(tile_config before) {
    if (before.palette) _tile_loadconfig(&before);
    else _tile_release();
}

/* The first four tiles. */
INLINE void zero_tiles(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* The same as a block of SIDE x SIDE numbers of four bytes. */
INLINE void store_block(void *to, long row_bytes) {
    char *below = (char *)to + LANES * row_bytes;
    _tile_stored(0, to, row_bytes);
    _tile_stored(1, (char *)to + 64, row_bytes);
    _tile_stored(2, below, row_bytes);
    _tile_stored(3, below + 64, row_bytes);
}
#else
typedef int tile_config;
INLINE tile_config begin_tiles(void) { return 0; }
INLINE void end_tiles(tile_config before) { (void)before; }
#endif

/* sum + both numbers of `pair` times those of `pairs`. */
INLINE f32x16 add_pairs(f32x16 sum, uint32_t pair, u32x16 pairs) {
#ifdef __AVX512BF16__
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)((u32x16){} + pair), (__m512bh)pairs);
#else
    u32x16 same = (u32x16){} + pair;
    return sum + first_of(same) * first_of(pairs) + second_of(same) * second_of(pairs);
#endif
}

#ifdef __AMX_BF16__
enum { TILES_AT_ONCE = 4 };

/* c (64, 16) = a (64, depth) b (depth, 16) as below: b is loaded once, and no product waits for the one before. */
INLINE void tile_products(float *c, long c_row, const uint16_t *a, long a_row, const uint32_t *b, long b_row, long depth) {
    zero_tiles();
    for (long k = 0; k < depth; k += DEPTH) {
        _tile_loadd(4, b + k / 2 * b_row, b_row * 4);
        _tile_loadd(5, a + k, a_row * 2);
        _tile_dpbf16ps(0, 5, 4);
        _tile_loadd(6, a + LANES * a_row + k, a_row * 2);
        _tile_dpbf16ps(1, 6, 4);
        _tile_loadd(5, a + 2 * LANES * a_row + k, a_row * 2);
        _tile_dpbf16ps(2, 5, 4);
        _tile_loadd(6, a + 3 * LANES * a_row + k, a_row * 2);
        _tile_dpbf16ps(3, 6, 4);
    }
    _tile_stored(0, c, c_row * 4);
    _tile_stored(1, c + LANES * c_row, c_row * 4);
    _tile_stored(2, c + 2 * LANES * c_row, c_row * 4);
    _tile_stored(3, c + 3 * LANES * c_row, c_row * 4);
}
#endif

/* c (16, 16) = a (16, depth) b (depth, 16), or c += it.

   a: rows of bf16. b: row p holds the pairs (2p, 2p + 1) of every column as dwords. depth is a multiple of
   DEPTH. Row distances are counted in elements: floats, bf16, dwords. */
INLINE void tile_product(float *c, long c_row, const uint16_t *a, long a_row, const uint32_t *b, long b_row,
                         long depth, int add) {
#ifdef __AMX_BF16__
    if (add) _tile_loadd(0, c, c_row * 4);
    else _tile_zero(0);
    for (long k = 0; k < depth; k += DEPTH) {
        _tile_loadd(1, a + k, a_row * 2);
        _tile_loadd(2, b + k / 2 * b_row, b_row * 4);
        _tile_dpbf16ps(0, 1, 2);
    }
    _tile_stored(0, c, c_row * 4);
#else
    enum { ROWS = 8 }; /* sums that the registers hold */
    for (int first = 0; first < LANES; first += ROWS) {
        f32x16 sum[ROWS];
        for (int r = 0; r < ROWS; r++) sum[r] = add ? load_f32(c + (first + r) * c_row) : (f32x16){};
        for (long p = 0; p < depth / 2; p++) {
            u32x16 pairs = load_u32(b + p * b_row);
            for (int r = 0; r < ROWS; r++) {
                uint32_t pair;
                memcpy(&pair, a + (first + r) * a_row + 2 * p, sizeof pair);
                sum[r] = add_pairs(sum[r], pair, pairs);
            }
        }
        for (int r = 0; r < ROWS; r++) STORE(c + (first + r) * c_row, sum[r]);
    }
#endif
}

/* c (SIDE, SIDE) = a (SIDE, depth) b (depth, SIDE), as above: four tiles, of which none waits for another. */
INLINE void block_product(float *c, long c_row, const uint16_t *a, long a_row, const uint32_t *b, long b_row, long depth) {
#ifdef __AMX_BF16__
    zero_tiles();
    for (long k = 0; k < depth; k += DEPTH) {
        _tile_loadd(4, a + k, a_row * 2);
        _tile_loadd(6, b + k / 2 * b_row, b_row * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + k / 2 * b_row + LANES, b_row * 4);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + LANES * a_row + k, a_row * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    store_block(c, c_row * 4);
#else
    for (int row = 0; row < SIDE; row += LANES)
        for (int column = 0; column < SIDE; column += LANES)
            tile_product(c + row * c_row + column, c_row, a + row * a_row, a_row, b + column, b_row, depth, 0);
#endif
}
