/* Products of blocks of SIDE x SIDE in bf16, whose fp32 sums stay in tile registers over all of the depth.

   Factors lie in the order in which tiles take them. A slab is DEPTH numbers of SIDE rows; of W, whose rows are the
   columns of a product, each half of a slab is a tile in which pairs of numbers stand side by side. */
#pragma once

#include "panels.h"

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
