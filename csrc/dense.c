/* Linear layers in bf16 without gradient, and what comes behind them: GELU between two of them, or a residual and its
   LayerNorm. Some hundred rows at a time pass through all of it before the next come, so that what lies between never
   leaves the second cache; meanwhile W comes past once.

   Letters: T rows of x, D their width, F rows of W. */
#include <omp.h>
#include <stdlib.h>

#include "low_rank.h"
#include "rows.h"

enum {
    MOST_DEPTH = 512,      /* numbers that a block is multiplied over at once: SIDE rows of W stay in the first cache */
    MOST_INNER = 768,      /* numbers of a row between two layers that are held at once */
    /* bytes of the second cache for what a thread holds; the rest is for W, of which two layers have more */
    FOR_ONE_LAYER = 3 << 18, FOR_TWO_LAYERS = 3 << 19
};

/* A width in even pieces of `most` or fewer. */
INLINE int64_t piece_of(int64_t width, int64_t most) {
    const int64_t pieces = (width + most - 1) / most;
    return round_up((width + pieces - 1) / pieces, DEPTH);
}

/* What a thread holds of some rows, a multiple of SIDE. */
typedef struct {
    int64_t rows;
    float *finishing; /* two blocks */
    float *part;      /* (rows / SIDE, block): sums of SIDE columns over some of the depth */
    float *whole;     /* (F / SIDE, rows / SIDE, block): what comes before the norm */
    uint16_t *x;      /* (rows / SIDE, D / DEPTH, slab) */
    uint16_t *inner;  /* the same of a piece of what is behind GELU */
    row_update *before, *last; /* (num_layers, rows): the updates of the two layers */
    float *before_low, *last_low;
} workspace;

INLINE int64_t num_updates(const dense_layer *l, int64_t rows) { return l->updates ? l->updates->num_layers * rows : 0; }

/* Cuts memory into all of it but `finishing`; without memory it says how much that is. */
static size_t lay_out(workspace *w, char *memory, const dense *a) {
    const int has_two = a->before.panels != NULL;
    size_t used = 0;
    TAKE(w->part, w->rows * SIDE);
    TAKE(w->whole, a->residual ? w->rows * a->last.rows : 0);
    TAKE(w->x, w->rows * (has_two ? a->before.width : a->last.width));
    TAKE(w->inner, has_two ? w->rows * piece_of(a->last.width, MOST_INNER) : 0);
    TAKE(w->before, num_updates(&a->before, w->rows)), TAKE(w->before_low, low_numbers(a->before.updates, w->rows));
    TAKE(w->last, num_updates(&a->last, w->rows)), TAKE(w->last_low, low_numbers(a->last.updates, w->rows));
    return used;
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

/* `low` of the updates of a layer, over some of the depth: slabs of its input from number `first` of its `width` on. */
INLINE void add_to_low(const workspace *w, const dense_layer *l, const row_update *updates, const uint16_t *x, int64_t first, int64_t depth) {
    for (int64_t i = 0; i < num_updates(l, w->rows); i++) {
        const int64_t r = i % w->rows;
        add_low(updates + i, x + r / SIDE * SIDE * depth + r % SIDE * DEPTH, SLAB, first, depth, l->width);
    }
}

/* Where finished sums go: with the bias, through GELU or not, as bf16. */
typedef struct {
    uint16_t *to;
    int64_t block, column, row; /* from a block of rows to the next, from SIDE columns to the next, from row to row */
    int64_t count;              /* rows */
    const uint16_t *bias;
    int activates;
    const row_update *updates;  /* (num_layers, rows); NULL: none */
    int64_t rows, columns;      /* of `updates`, and outputs of each layer */
    int64_t first;              /* the output that is the first of `to` */
} target;

/* A block of finished sums. */
typedef struct {
    const float *sums;
    int64_t row, column;
} block;

INLINE uint16_t *out_place(const target *t, int64_t row, int64_t column) {
    return t->to + row / SIDE * t->block + column / SIDE * t->column;
}

/* Ask for where rows `from` to `end` of the block at a place will be written: each is a cache line far from the next. */
INLINE void fetch_target(const target *t, int64_t row, int64_t column, int64_t from, int64_t end) {
    for (int64_t r = from; r < smaller(end, SIDE); r++) __builtin_prefetch(out_place(t, row, column) + r * t->row, 1);
}

/* Rows `from` to `end` of a block. */
INLINE void finish_rows(const block *b, const target *t, int64_t from, int64_t end) {
    if (!b->sums) return;
    end = smaller(smaller(end, SIDE), t->count - b->row);
    uint16_t *to = out_place(t, b->row, b->column);
    for (int64_t c = 0; c < SIDE; c += LANES) {
        const f32x16 bias = widen(t->bias + b->column + c);
        for (int64_t r = from; r < end; r++) {
            f32x16 x = load_f32(b->sums + r * SIDE + c) + bias;
            if (t->updates) {
                const int64_t column = t->first + b->column + c, layer = column / t->columns;
                x = add_update(x, t->updates + layer * t->rows + b->row + r, column % t->columns, t->columns);
            }
            store_bf16(to + r * t->row + c, t->activates ? gelu_of(x) : x);
        }
    }
}

/* Slabs of x and of W that are multiplied: `rows` by `columns`, over `depth` numbers of both. */
typedef struct {
    const uint16_t *x, *w;
    int64_t x_width, w_width, rows, columns, depth;
} factors;

/* Columns of a product that are multiplied over some of the depth. */
typedef struct {
    int64_t column, first, depth;
    const uint16_t *next; /* the slabs of W that come after these */
} piece;

/* sums (rows / SIDE, block), or += ; with a target they do not go back to `sums`, but are finished. A block is finished
   while the next is multiplied: AMX works beside the other units of a core. */
INLINE void multiply_piece(const factors *f, const piece *p, float *sums, int adds, const target *t, block *before, float *finishing) {
    const int64_t steps = p->depth / DEPTH, share = (SIDE + steps - 1) / steps;
    const int64_t lines = (SIDE * SIDE + f->rows - 1) / f->rows; /* of a slab's SIDE, for each block of rows */
    const uint16_t *w = f->w + p->column * f->w_width + p->first * SIDE;
    for (int64_t row = 0; row < f->rows; row += SIDE) {
        const uint16_t *x = f->x + row * f->x_width + p->first * SIDE;
        float *own = sums + row * SIDE, *other = before->sums == finishing ? finishing + SIDE * SIDE : finishing;
        float *to = t ? other : own;
        begin_sums(to, SIDE, adds ? own : NULL, SIDE);
        for (int64_t step = 0; step < steps; step++) {
            add_slab(to, SIDE, x + step * SLAB, w + step * SLAB);
            fetch_lines(p->next, (row / SIDE * steps + step) * lines, lines);
            if (t) fetch_target(t, row, p->column, share * step, share * (step + 1));
            if (t) finish_rows(before, t, share * step, share * (step + 1));
        }
        end_sums(to, SIDE);
        if (t) *before = (block){to, row, p->column};
    }
}

/* sums (columns / SIDE, rows / SIDE, block), or += ; with a target they are finished, and there is memory for SIDE columns. */
INLINE void multiply(const factors *f, float *sums, int adds, const target *t, float *finishing) {
    const int64_t depth = piece_of(f->depth, MOST_DEPTH);
    block before = {};
    for (int64_t column = 0; column < f->columns; column += SIDE)
        for (int64_t first = 0; first < f->depth; first += depth) {
            const int64_t end = smaller(first + depth, f->depth);
            const int is_last = end == f->depth;
            const uint16_t *next = is_last ? f->w + (column + SIDE) * f->w_width : f->w + column * f->w_width + end * SIDE;
            const piece p = {column, first, end - first, next};
            multiply_piece(f, &p, t ? sums : sums + column * f->rows, adds || first, is_last ? t : NULL, &before, finishing);
        }
    if (t) finish_rows(&before, t, 0, SIDE);
}

/* `columns` of a layer from `first` on, finished. */
INLINE void finish_layer(const workspace *w, const dense_layer *l, int64_t first, int64_t columns, const target *t) {
    const factors f = {w->x, l->panels + first * l->width, l->width, l->width, w->rows, columns, l->width};
    multiply(&f, w->part, 0, t, w->finishing);
}

/* What comes before the norm: all of the last layer's sums. */
INLINE void sum_layers(const dense *a, const workspace *w) {
    const dense_layer *last = &a->last;
    const int64_t D = last->width;
    if (!a->before.panels) {
        const factors f = {w->x, last->panels, D, D, w->rows, last->rows, D};
        multiply(&f, w->whole, 0, NULL, NULL);
        return;
    }
    const int64_t most = piece_of(D, MOST_INNER);
    for (int64_t d = 0; d < D; d += most) {
        const int64_t depth = smaller(most, D - d);
        const row_update *updates = a->before.updates ? w->before : NULL;
        const target inner = {w->inner, SIDE * depth, SLAB, DEPTH, w->rows, a->before.bias + d, 1, updates, w->rows, D, d};
        finish_layer(w, &a->before, d, depth, &inner);
        add_to_low(w, last, w->last, w->inner, d, depth);
        const factors f = {w->inner, last->panels + d * SIDE, depth, D, w->rows, last->rows, depth};
        multiply(&f, w->whole, d > 0, NULL, NULL);
    }
}

/* LayerNorm of the sums, bias and residual of `count` rows. */
INLINE void norm_rows(const dense *a, const workspace *w, int64_t first, int64_t count) {
    const int64_t F = a->last.rows;
    for (int64_t r = 0; r < count; r++) {
        float *sums = w->whole + r * SIDE, row[F]; /* of the first SIDE columns; those of the next stand `rows` such rows behind */
        f32x16 sum = {};
        for (int64_t c = 0; c < F; c += LANES) {
            f32x16 x = load_f32(sums + c / SIDE * w->rows * SIDE + c % SIDE) + widen(a->last.bias + c) + widen(a->residual + (first + r) * F + c);
            if (a->last.updates) x = add_update(x, w->last + r, c, F);
            STORE(row + c, x);
            sum += x;
        }
        normalise(a->out + (first + r) * F, row, sum, F, a->norm);
    }
}

INLINE void run_rows(const dense *a, const workspace *w, int64_t first, int64_t count) {
    const int64_t D = a->before.panels ? a->before.width : a->last.width, F = a->last.rows;
    take_rows(w, a->x + first * D, count, D);
    if (a->before.updates) {
        find_updates(w->before, w->before_low, a->before.updates, first, w->rows);
        add_to_low(w, &a->before, w->before, w->x, 0, D);
    }
    if (a->last.updates) find_updates(w->last, w->last_low, a->last.updates, first, w->rows);
    if (a->last.updates && !a->before.panels) add_to_low(w, &a->last, w->last, w->x, 0, D);
    if (a->residual) {
        sum_layers(a, w);
        norm_rows(a, w, first, count);
        return;
    }
    const text_updates *updates = a->last.updates;
    const target out = {a->out + first * F, SIDE * F, SIDE, F, count, a->last.bias, 0, updates ? w->last : NULL, w->rows,
                        updates ? F / updates->num_layers : F, 0};
    finish_layer(w, &a->last, 0, F, &out);
}

int blocks_are_fast(void) { return BLOCKS_ARE_FAST; }

int lay_out_weight(const dense_weight *a) {
#pragma omp parallel for num_threads(a->num_threads)
    for (int64_t f = 0; f < a->F; f += SIDE)
        for (int64_t d = 0; d < a->D; d += DEPTH) lay_out_slab(a->panels + f * a->D + d * SIDE, a->w + f * a->D + d, a->D);
    return 0;
}

/* Every row is computed alone, so neither threads nor other rows change its bits. */
int dense_forward(const dense *a) {
    workspace w = {.rows = SIDE};
    const int64_t most = (a->before.panels ? FOR_TWO_LAYERS : FOR_ONE_LAYER) / lay_out(&w, NULL, a) * SIDE;
    w.rows = rows_at_once(a->T, a->num_threads, larger(SIDE, most), SIDE);
    const int64_t at_once = w.rows, size = round_up(lay_out(&w, NULL, a), 4096);
    int fails = 0;
#pragma omp parallel num_threads(a->num_threads) firstprivate(w) reduction(| : fails)
    { /* each has memory of its own: that of many threads in one piece would be mapped anew in every call */
        char *memory = aligned_alloc(4096, size);
        float finishing[2 * SIDE * SIDE] __attribute__((aligned(64)));
        tile_config before = begin_tiles();
        w.finishing = finishing;
        fails = !memory;
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < a->T; first += at_once) {
            if (!memory) continue;
            const int64_t count = smaller(at_once, a->T - first);
            w.rows = round_up(count, SIDE);
            lay_out(&w, memory, a);
            run_rows(a, &w, first, count);
        }
        end_tiles(before);
        free(memory);
    }
    return fails;
}
