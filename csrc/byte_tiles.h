/* Products of blocks of SIDE x SIDE in int8 with exact sums: by AMX, or by VNNI in vectors of 512 or 256 bits.

   VNNI multiplies bytes with a sign by bytes without: W is then stored plus WEIGHT_OFFSET, and a sum is too large by
   that times the sum of the row of x. */
#pragma once

#include "tiles.h"

enum { STEP = 64 }; /* bytes of a row that are next to each other */

typedef int32_t i32x16 __attribute__((vector_size(64)));

/* The lowest byte of each number, STEP of them. */
INLINE void store_bytes(int8_t *to, const u32x16 x[STEP / LANES]) {
#ifdef __AVX512BW__
    const u32x16 low = (u32x16){} + 0xff, places = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    __m512i words[2];
    for (int i = 0; i < 2; i++) words[i] = _mm512_packus_epi32((__m512i)(x[2 * i] & low), (__m512i)(x[2 * i + 1] & low));
    __m512i bytes = _mm512_permutexvar_epi32((__m512i)places, _mm512_packus_epi16(words[0], words[1]));
    STORE(to, bytes);
#else
    typedef uint8_t u8x16 __attribute__((vector_size(16)));
    for (int i = 0; i < STEP / LANES; i++) {
        u8x16 bytes = __builtin_convertvector(x[i], u8x16);
        STORE(to + i * LANES, bytes);
    }
#endif
}

/* Where byte `d` of row `f` stands in a panel of W: for each STEP two tiles of sixteen rows, in which four bytes of
   each row stand side by side. */
INLINE int64_t place_of(int64_t f, int64_t d) {
    return d / STEP * SIDE * STEP + f / LANES * LANES * STEP + d % STEP / 4 * STEP + f % LANES * 4 + d % 4;
}

#if defined __AMX_INT8__

enum { BYTE_PRODUCTS = 1, WEIGHT_OFFSET = 0, STEPS_AT_ONCE = 1 };

/* sums (SIDE, SIDE) = x (SIDE, depth) w (SIDE, depth)^T, from begin_block to end_block STEPS_AT_ONCE of the depth or, at
   its end, fewer; x: (steps, SIDE, STEP), w: as much of a panel. Sums stay in tile registers meanwhile. */
INLINE void begin_block(int32_t *sums) {
    (void)sums;
    zero_tiles();
}

INLINE void add_steps(int32_t *sums, const int8_t *x, const uint8_t *w, int64_t steps) {
    (void)sums, (void)steps;
    _tile_stream_loadd(4, x, STEP); /* past the first cache, where W shall stay for the next rows */
    _tile_loadd(6, w, STEP);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, w + LANES * STEP, STEP);
    _tile_dpbssd(1, 4, 7);
    _tile_stream_loadd(5, x + LANES * STEP, STEP);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
}

INLINE void end_block(int32_t *sums) { store_block(sums, SIDE * sizeof *sums); }

#else

enum { STEPS_AT_ONCE = 1 << 30 }; /* all: sums stay in registers */

/* sums + the products of four bytes of x, the same for all lanes, and four of each column of W. */
#if defined __AVX512VNNI__
enum { BYTE_PRODUCTS = 1, WEIGHT_OFFSET = 128, ROWS = 8 }; /* ROWS of x: sums that the registers hold */
INLINE i32x16 add_bytes(i32x16 sums, u32x16 w, uint32_t x) {
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, _mm512_set1_epi32((int)x));
}
#elif defined __AVXVNNI__
enum { BYTE_PRODUCTS = 1, WEIGHT_OFFSET = 128, ROWS = 2 };
INLINE i32x16 add_bytes(i32x16 sums, u32x16 w, uint32_t x) {
    __m256i half[2], columns[2];
    memcpy(half, &sums, sizeof sums), memcpy(columns, &w, sizeof w);
    for (int i = 0; i < 2; i++) half[i] = _mm256_dpbusd_avx_epi32(half[i], columns[i], _mm256_set1_epi32((int)x));
    memcpy(&sums, half, sizeof sums);
    return sums;
}
#else /* right, but slower than bf16 */
enum { BYTE_PRODUCTS = 0, WEIGHT_OFFSET = 0, ROWS = 2 };
INLINE i32x16 add_bytes(i32x16 sums, u32x16 w, uint32_t x) {
    for (int shift = 0; shift < 32; shift += 8) sums += ((i32x16)(w << (24 - shift)) >> 24) * (int8_t)(x >> shift);
    return sums;
}
#endif

INLINE void begin_block(int32_t *sums) { (void)sums; }
INLINE void end_block(int32_t *sums) { (void)sums; }

INLINE void add_steps(int32_t *sums, const int8_t *x, const uint8_t *w, int64_t steps) {
    for (int first = 0; first < SIDE; first += ROWS) {
        i32x16 sum[ROWS][2] = {};
        for (int64_t step = 0; step < steps; step++)
            for (int quad = 0; quad < STEP / 4; quad++) {
                const uint8_t *columns = w + step * SIDE * STEP + quad * STEP;
                u32x16 left = load_u32(columns), right = load_u32(columns + LANES * STEP);
                for (int r = 0; r < ROWS; r++) {
                    uint32_t bytes;
                    memcpy(&bytes, x + (step * SIDE + first + r) * STEP + quad * 4, sizeof bytes);
                    sum[r][0] = add_bytes(sum[r][0], left, bytes);
                    sum[r][1] = add_bytes(sum[r][1], right, bytes);
                }
            }
        for (int r = 0; r < ROWS; r++) {
            STORE(sums + (first + r) * SIDE, sum[r][0]);
            STORE(sums + (first + r) * SIDE + LANES, sum[r][1]);
        }
    }
}

#endif
