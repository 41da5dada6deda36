/* Linear layers in bf16 without gradient, and what comes behind them: GELU between two of them, or a residual and its
   LayerNorm. Some hundred rows at a time pass through all of it before the next come, so that what lies between never
   leaves the second cache; meanwhile W comes past once.

   Letters: T rows of x, D their width, F rows of W. */
#include <omp.h>
#include <stdlib.h>

#include "gelu.h"
#include "norm.h"
#include "pair_tiles.h"

typedef struct {
    const uint16_t *w;    /* (F, D) contiguous bf16; F and D: multiples of 32 */
    int64_t F, D;
    uint16_t *panels;     /* (F / SIDE, D / DEPTH, slab) */
    int64_t num_threads;
} weight;

typedef struct {
    const uint16_t *panels; /* of `weight`; NULL: no layer */
    const uint16_t *bias;   /* (rows) */
    int64_t rows, width;    /* F, D */
} layer;

typedef struct {
    const uint16_t *x;        /* (T, D) contiguous bf16, as all that follow */
    int64_t T;
    layer before;             /* with GELU behind it; or none, as without a residual */
    layer last;
    const uint16_t *residual; /* (T, F), to which the last layer is added for `norm`; NULL: neither */
    norm norm;
    uint16_t *out;            /* (T, F) */
    int64_t num_threads;
} dense;

enum {
    MOST_DEPTH = 768,      /* numbers that a block is multiplied over at once: SIDE rows of W fit the first cache */
    /* bytes of the second cache for what a thread holds; the rest is for W, of which two layers have more */
    FOR_ONE_LAYER = 3 << 18, FOR_TWO_LAYERS = 3 << 19
};

/* A width in even pieces of MOST_DEPTH or fewer. */
INLINE int64_t piece_of(int64_t width) {
    const int64_t pieces = (width + MOST_DEPTH - 1) / MOST_DEPTH;
    return round_up((width + pieces - 1) / pieces, DEPTH);
}

/* What a thread holds of some rows, a multiple of SIDE. */
typedef struct {
    int64_t rows;
    float *finishing; /* two blocks */
    float *partial;   /* (rows, MOST_DEPTH): sums over a piece of D, of as many columns */
    float *whole;     /* (rows, F): what comes before the norm */
    uint16_t *x;      /* (rows / SIDE, D / DEPTH, slab) */
    uint16_t *inner;  /* the same of a piece of what is behind GELU */
} workspace;

/* Numbers of a row in each of these, in that order; returns their bytes. */
static int64_t row_sizes(const dense *a, int64_t *partial, int64_t *whole, int64_t *x, int64_t *inner) {
    const layer *first = a->before.panels ? &a->before : &a->last;
    const int is_finished = a->before.panels || !a->residual; /* the first layer, other than by a norm */
    *partial = is_finished && first->width > MOST_DEPTH ? MOST_DEPTH : 0;
    *whole = a->residual ? a->last.rows : 0;
    *x = first->width;
    *inner = a->before.panels ? piece_of(a->last.width) : 0;
    return (*partial + *whole) * sizeof(float) + (*x + *inner) * sizeof(uint16_t);
}

static workspace lay_out_workspace(const dense *a, char *memory, int64_t rows) {
    int64_t partial, whole, x, inner;
    row_sizes(a, &partial, &whole, &x, &inner);
    workspace w = {.rows = rows, .finishing = (float *)memory};
    w.partial = w.finishing + 2 * SIDE * SIDE;
    w.whole = w.partial + rows * partial;
    w.x = (uint16_t *)(w.whole + rows * whole);
    w.inner = w.x + rows * x;
    return w;
}

/* `count` rows as slabs, and rows of zeros behind them. */
INLINE void take_rows(const workspace *w, const uint16_t *x, int64_t count, int64_t D) {
    for (int64_t r = 0; r < w->rows; r++)
        for (int64_t d = 0; d < D; d += DEPTH) {
            uint16_t *to = w->x + (r / SIDE * D + d) * SIDE + r % SIDE * DEPTH;
            if (r < count) memcpy(to, x + r * D + d, DEPTH * sizeof *to);
            else memset(to, 0, DEPTH * sizeof *to);
        }
}

/* Where finished sums go: with the bias, through GELU or not, as bf16. */
typedef struct {
    uint16_t *to;
    int64_t block, column, row; /* from a block of rows to the next, from SIDE columns to the next, from row to row */
    int64_t count;              /* rows */
    const uint16_t *bias;
    int activates;
} target;

/* A block of finished sums. */
typedef struct {
    const float *sums;
    int64_t row, column;
} block;

INLINE uint16_t *place_of(const target *t, int64_t row, int64_t column) {
    return t->to + row / SIDE * t->block + column / SIDE * t->column;
}

/* Ask for where rows `from` to `end` of the block at a place will be written: each is a cache line far from the next. */
INLINE void fetch_target(const target *t, int64_t row, int64_t column, int64_t from, int64_t end) {
    for (int64_t r = from; r < smaller(end, SIDE); r++) __builtin_prefetch(place_of(t, row, column) + r * t->row, 1);
}

/* Rows `from` to `end` of a block. */
INLINE void finish_rows(const block *b, const target *t, int64_t from, int64_t end) {
    if (!b->sums) return;
    end = smaller(smaller(end, SIDE), t->count - b->row);
    uint16_t *to = place_of(t, b->row, b->column);
    for (int64_t c = 0; c < SIDE; c += LANES) {
        const f32x16 bias = widen(t->bias + b->column + c);
        for (int64_t r = from; r < end; r++) {
            f32x16 x = load_f32(b->sums + r * SIDE + c) + bias;
            store_bf16(to + r * t->row + c, t->activates ? gelu_of(x) : x);
        }
    }
}

/* Slabs of x and of W that are multiplied: `rows` by `columns`, over `depth` numbers of both. */
typedef struct {
    const uint16_t *x, *w;
    int64_t x_width, w_width, rows, columns, depth;
} factors;

/* Ask for a share of the next columns' slab while one of `blocks` of rows is multiplied by this one. */
INLINE void fetch_slab(const uint16_t *slab, int64_t block, int64_t blocks) {
    enum { LINE = 32, LINES = SLAB / LINE };
    const int64_t share = (LINES + blocks - 1) / blocks;
    for (int64_t i = share * block; i < smaller(LINES, share * (block + 1)); i++) __builtin_prefetch(slab + i * LINE, 0, 1);
}

/* sums (rows, columns), or += ; with a target they do not go back to `sums`, but are finished. A block is finished while
   the next is multiplied: AMX works beside the other units of a core. */
INLINE void multiply(const factors *f, float *sums, int64_t stride, int adds, const target *t, float *finishing) {
    const int64_t steps = f->depth / DEPTH, share = (SIDE + steps - 1) / steps;
    block before = {};
    for (int64_t column = 0; column < f->columns; column += SIDE)
        for (int64_t row = 0; row < f->rows; row += SIDE) {
            const uint16_t *x = f->x + row * f->x_width, *w = f->w + column * f->w_width;
            const float *from = adds ? sums + row * stride + column : NULL;
            float *other = before.sums == finishing ? finishing + SIDE * SIDE : finishing;
            float *to = t ? other : sums + row * stride + column;
            const int64_t to_stride = t ? SIDE : stride;
            begin_sums(to, to_stride, from, stride);
            for (int64_t step = 0; step < steps; step++) {
                add_slab(to, to_stride, x + step * SLAB, w + step * SLAB);
                fetch_slab(w + SIDE * f->w_width + step * SLAB, row / SIDE, f->rows / SIDE);
                if (t) fetch_target(t, row, column, share * step, share * (step + 1));
                if (t) finish_rows(&before, t, share * step, share * (step + 1));
            }
            end_sums(to, to_stride);
            if (t) before = (block){to, row, column};
        }
    if (t) finish_rows(&before, t, 0, SIDE);
}

/* Columns of a layer from `first` on, MOST_DEPTH or fewer, finished. */
INLINE void finish_layer(const workspace *w, const layer *l, int64_t first, int64_t columns, const target *t) {
    const int64_t D = l->width, piece = piece_of(D);
    for (int64_t d = 0; d < D; d += piece) {
        const factors f = {w->x + d * SIDE, l->panels + first * D + d * SIDE, D, D, w->rows, columns, smaller(piece, D - d)};
        multiply(&f, w->partial, MOST_DEPTH, d > 0, d + piece < D ? NULL : t, w->finishing);
    }
}

/* What comes before the norm: all of the last layer's sums. */
INLINE void sum_layers(const dense *a, const workspace *w) {
    const layer *last = &a->last;
    const int64_t D = last->width, piece = piece_of(D);
    for (int64_t d = 0; d < D; d += piece) {
        const int64_t depth = smaller(piece, D - d);
        factors f = {w->x + d * SIDE, last->panels + d * SIDE, D, D, w->rows, last->rows, depth};
        if (a->before.panels) {
            const target inner = {w->inner, SIDE * depth, SLAB, DEPTH, w->rows, a->before.bias + d, 1};
            finish_layer(w, &a->before, d, depth, &inner);
            f.x = w->inner, f.x_width = depth;
        }
        multiply(&f, w->whole, last->rows, d > 0, NULL, NULL);
    }
}

/* LayerNorm of the sums, bias and residual of `count` rows. */
INLINE void norm_rows(const dense *a, const workspace *w, int64_t first, int64_t count) {
    const int64_t F = a->last.rows;
    for (int64_t r = 0; r < count; r++) {
        float *row = w->whole + r * F;
        f32x16 sum = {};
        for (int64_t c = 0; c < F; c += LANES) {
            f32x16 x = load_f32(row + c) + widen(a->last.bias + c) + widen(a->residual + (first + r) * F + c);
            STORE(row + c, x);
            sum += x;
        }
        normalise(a->out + (first + r) * F, row, sum, F, a->norm);
    }
}

INLINE void run_rows(const dense *a, const workspace *w, int64_t first, int64_t count) {
    const int64_t D = a->before.panels ? a->before.width : a->last.width, F = a->last.rows;
    take_rows(w, a->x + first * D, count, D);
    if (a->residual) {
        sum_layers(a, w);
        norm_rows(a, w, first, count);
        return;
    }
    for (int64_t f = 0; f < F; f += MOST_DEPTH) {
        const target out = {a->out + first * F + f, SIDE * F, SIDE, F, count, a->last.bias + f, 0};
        finish_layer(w, &a->last, f, smaller(MOST_DEPTH, F - f), &out);
    }
}

/* Whether products are faster here than torch's. */
int blocks_are_fast(void) { return BLOCKS_ARE_FAST; }

int lay_out_weight(const weight *a) {
#pragma omp parallel for num_threads(a->num_threads)
    for (int64_t f = 0; f < a->F; f += SIDE)
        for (int64_t d = 0; d < a->D; d += DEPTH) lay_out_slab(a->panels + f * a->D + d * SIDE, a->w + f * a->D + d, a->D);
    return 0;
}

/* 0 if there was memory for it. Every row is computed alone, so neither threads nor other rows change its bits. */
int dense_forward(const dense *a) {
    int64_t partial, whole, x, inner;
    const int64_t row_size = row_sizes(a, &partial, &whole, &x, &inner);
    const int64_t most = larger(SIDE, (a->before.panels ? FOR_TWO_LAYERS : FOR_ONE_LAYER) / row_size / SIDE * SIDE);
    const int64_t at_once = rows_at_once(a->T, a->num_threads, most, SIDE);
    const int64_t size = round_up(at_once * row_size + 2 * SIDE * SIDE * sizeof(float), 4096);
    int fails = 0;
#pragma omp parallel num_threads(a->num_threads) reduction(| : fails)
    { /* each has memory of its own: that of many threads in one piece would be mapped anew in every call */
        char *memory = aligned_alloc(4096, size);
        tile_config before = begin_tiles();
        fails = !memory;
#pragma omp for schedule(static)
        for (int64_t first = 0; first < a->T; first += at_once) {
            if (!memory) continue;
            const int64_t count = smaller(at_once, a->T - first);
            const workspace w = lay_out_workspace(a, memory, round_up(count, SIDE));
            run_rows(a, &w, first, count);
        }
        end_tiles(before);
        free(memory);
    }
    return fails;
}
