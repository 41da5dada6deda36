/* Products of tiles, and the forms in which tiles take their factors: bf16 with fp32 sums (by AMX, by AVX512-BF16, or by
   plain fp32 vectors), and int8 with exact sums (by AMX, or by VNNI). */
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

/* Rows of heads in the forms that tile products want.

   rows: as they are. pairs: rows 2p and 2p + 1 side by side as one row of dwords, which is how a product
   reads what it sums over. A panel is sixteen queries as columns. H: head width. */
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

/* Products of blocks of SIDE x SIDE in bf16, whose fp32 sums stay in tile registers over all of the depth.

   Factors lie in the order in which tiles take them. A slab is DEPTH numbers of SIDE rows; of W, whose rows are the
   columns of a product, each half of a slab is a tile in which pairs of numbers stand side by side. */
enum { SLAB = SIDE * DEPTH };

/* DEPTH numbers of SIDE rows of W, `stride` from one row to the next. */
INLINE void lay_out_slab(uint16_t *to, const uint16_t *w, int64_t stride) {
    for (int half = 0; half < 2; half++)
        panel_of((uint32_t *)(to + half * SLAB / 2), w + half * LANES * stride, stride, LANES, DEPTH);
}

#ifdef __AMX_BF16__

enum { BLOCKS_ARE_FAST = 1 };

/* Sums of a block begin as those at `from`, or at zero if that is NULL, and end at `to`; each with a stride of rows. */
INLINE void begin_sums(float *to, int64_t stride, const float *from, int64_t from_stride) {
    (void)to, (void)stride;
    if (from) {
        _tile_loadd(0, from, from_stride * 4);
        _tile_loadd(1, from + LANES, from_stride * 4);
        _tile_loadd(2, from + LANES * from_stride, from_stride * 4);
        _tile_loadd(3, from + LANES * from_stride + LANES, from_stride * 4);
    } else {
        zero_tiles();
    }
}

INLINE void add_slab(float *to, int64_t stride, const uint16_t *x, const uint16_t *w) {
    (void)to, (void)stride;
    _tile_stream_loadd(4, x, DEPTH * 2); /* past the first cache, where W shall stay for the next rows */
    _tile_loadd(6, w, DEPTH * 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + SLAB / 2, DEPTH * 2);
    _tile_dpbf16ps(1, 4, 7);
    _tile_stream_loadd(5, x + SLAB / 2, DEPTH * 2);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

INLINE void end_sums(float *to, int64_t stride) { store_block(to, stride * 4); }

#else /* right, but slower than the libraries of torch */

enum { BLOCKS_ARE_FAST = 0 };

INLINE void begin_sums(float *to, int64_t stride, const float *from, int64_t from_stride) {
    for (int r = 0; r < SIDE; r++)
        if (!from) memset(to + r * stride, 0, SIDE * sizeof *to);
        else if (from != to) memcpy(to + r * stride, from + r * from_stride, SIDE * sizeof *to);
}

INLINE void add_slab(float *to, int64_t stride, const uint16_t *x, const uint16_t *w) {
    for (int row = 0; row < 2; row++)
        for (int column = 0; column < 2; column++)
            tile_product(to + row * LANES * stride + column * LANES, stride, x + row * SLAB / 2, DEPTH,
                         (const uint32_t *)(w + column * SLAB / 2), LANES, DEPTH, 1);
}

INLINE void end_sums(float *to, int64_t stride) { (void)to, (void)stride; }

#endif

/* Products of blocks of SIDE x SIDE in int8 with exact sums: by AMX, or by VNNI in vectors of 512 or 256 bits.

   VNNI multiplies bytes with a sign by bytes without: W is then stored plus WEIGHT_OFFSET, and a sum is too large by
   that times the sum of the row of x. */
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
