/* Low-rank updates of frozen layers of one input: what is thin in their passes, in one pass over the rows each way.

   Letters: T rows of x, D their width, F columns of all outputs, R rank of all updates, filled up with zeros to a multiple
   of DEPTH. D and F: multiples of 32. */
#include <omp.h>
#include <stdlib.h>

#include "rows.h"
#include "tiles.h"

enum { MOST_ROWS = 128, MOST_SHARES = 16 };

/* Rows of whose products each has sums of its own, added in order: no bit depends on the number of threads. */
static int64_t rows_of_share(int64_t T) { return round_up(larger(1, (T + MOST_SHARES - 1) / MOST_SHARES), SIDE); }

/* (rows, R) sums, R / 16 blocks of sixteen columns, as rows of bf16. */
INLINE void write_low(uint16_t *low, const float *sums, int64_t rows, int64_t R) {
    for (int64_t column = 0; column < R; column += LANES, sums += rows * LANES)
        for (int64_t r = 0; r < rows; r++) store_bf16(low + r * R + column, load_f32(sums + r * LANES));
}

/* `rows` (padded, depth), or a copy of them with zeros behind where there are fewer. */
INLINE const uint16_t *full_rows(uint16_t *copy, const uint16_t *rows, int64_t count, int64_t padded, int64_t depth) {
    if (count == padded) return rows;
    copy_rows(copy, rows, depth, count, padded, depth);
    return copy;
}

/* W (R, depth) as panels of sixteen rows of it. */
static void lay_out_panels(uint32_t *panels, const uint16_t *W, int64_t R, int64_t depth) {
    for (int64_t r = 0; r < R; r += LANES) panel_of(panels + r * depth / 2, W + r * depth, depth, LANES, depth);
}

/* Fewer than LANES numbers, or as many. */
INLINE void store_some_bf16(uint16_t *to, const float *from, int64_t count) {
    f32x16 x = {};
    uint16_t rounded[LANES];
    memcpy(&x, from, count * sizeof *from);
    store_bf16(rounded, x);
    memcpy(to, rounded, count * sizeof *to);
}

/* A and B of all projections. */
static void join_factors(const adapter_forward *a) {
    const int64_t D = a->D, R = a->R;
    memset(a->A, 0, R * D * sizeof *a->A);
    memset(a->B, 0, a->F * R * sizeof *a->B);
    for (const projection *p = a->projections; p < a->projections + a->num_projections; p++) {
        for (int64_t r = 0; p->A && r < p->rank; r++) {
            const float scale = p->E[r] * p->scaling;
            for (int64_t d = 0; d < D; d += LANES) store_bf16(a->A + (p->first + r) * D + d, load_f32(p->A + r * D + d) * scale);
        }
        for (int64_t c = 0; c < p->columns; c++) {
            uint16_t *row = a->B + (p->column + c) * R;
            for (int64_t r = 0; p->A && r < p->rank; r += LANES)
                store_some_bf16(row + p->first + r, p->B + c * p->rank + r, smaller(LANES, p->rank - r));
            if (p->bias) row[R - 1] = p->bias[c];
        }
    }
}

INLINE void drop_row(const adapter_forward *a, int64_t row) {
    for (int64_t i = row * a->D; i < (row + 1) * a->D; i += 2 * LANES) drop_two_vectors(a->dropped, a->x, i, a->mask);
}

int adapter_down(const adapter_forward *a) {
    const int64_t D = a->D, R = a->R, at_once = rows_at_once(a->T, a->num_threads, MOST_ROWS, SIDE);
    const int64_t for_sums = at_once * R * sizeof(float), size = round_up(for_sums + at_once * D * 2, 64);
    char *memory = aligned_alloc(64, round_up(R * D * 2, 64) + size * a->num_threads);
    if (!memory) return 1;
    uint32_t *panels = (uint32_t *)memory;
    join_factors(a);
    lay_out_panels(panels, a->A, R, D);
#pragma omp parallel num_threads(a->num_threads)
    {
        char *own = memory + round_up(R * D * 2, 64) + size * omp_get_thread_num();
        tile_config before = begin_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < a->T; first += at_once) {
            const int64_t count = smaller(at_once, a->T - first), padded = round_up(count, SIDE);
            for (int64_t r = 0; a->dropped && r < count; r++) drop_row(a, first + r);
            const uint16_t *x = (a->dropped ? a->dropped : a->x) + first * D;
            float *sums = (float *)own;
            x = full_rows((uint16_t *)(own + for_sums), x, count, padded, D);
            for (int64_t r = 0; r < R; r += LANES) products(sums + r * padded, x, D, panels + r * D / 2, 0, padded, D);
            write_low(a->low + first * R, sums, padded, R);
            for (int64_t r = 0; r < padded; r++) a->low[(first + r + 1) * R - 1] = 0x3f80; /* 1 */
        }
        end_tiles(before);
    }
    free(memory);
    return 0;
}

/* What a thread holds for some rows of a backward pass. */
typedef struct {
    const int64_t *spans;             /* (R / 16, 2): the columns of outputs that sixteen ranks can change, whole SIDEs of
                                         them; from no column to none: no rank is among them */
    int64_t count, padded;            /* these rows, and with zeros behind */
    uint16_t *copy;                   /* (MOST_ROWS, F): rows of grad with zeros behind */
    float *sums;                      /* (R / 16, MOST_ROWS, 16) */
    uint16_t *grad_low;               /* (MOST_ROWS, R) */
    uint32_t *pairs;                  /* (MOST_ROWS / 2, SIDE or R) */
    uint32_t *low_rows, *grad_low_rows; /* (R, MOST_ROWS / 2): transposed, pairs of tokens */
} workspace;

/* Cuts this thread's memory into its buffers; without memory it says how much that is. */
static size_t lay_out(workspace *w, char *memory, int64_t F, int64_t R) {
    size_t used = 0;
    TAKE(w->copy, MOST_ROWS * F), TAKE(w->sums, MOST_ROWS * R), TAKE(w->grad_low, MOST_ROWS * R);
    TAKE(w->pairs, MOST_ROWS / 2 * larger(SIDE, R));
    TAKE(w->low_rows, R * MOST_ROWS / 2), TAKE(w->grad_low_rows, R * MOST_ROWS / 2);
    return used;
}

INLINE int64_t begin_of(const workspace *w, int64_t r) { return w->spans[r / LANES * 2]; }
INLINE int64_t end_of(const workspace *w, int64_t r) { return w->spans[r / LANES * 2 + 1]; }

static void find_spans(int64_t *spans, const adapter_backward *a) {
    for (int64_t r = 0; r < a->R; r += LANES, spans += 2) {
        spans[0] = spans[1] = 0;
        for (const projection *p = a->projections; p < a->projections + a->num_projections; p++) {
            if (!p->A || p->first >= r + LANES || p->first + p->rank <= r) continue;
            if (spans[0] == spans[1]) spans[0] = p->column;
            spans[1] = p->column + p->columns;
        }
    }
}

/* grad B, of these rows. */
INLINE void find_grad_low(const adapter_backward *a, const workspace *w, const uint16_t *grad, const uint32_t *B_panels) {
    grad = full_rows(w->copy, grad, w->count, w->padded, a->F);
    for (int64_t r = 0; r < a->R; r += LANES) {
        const int64_t begin = begin_of(w, r), depth = end_of(w, r) - begin;
        float *sums = w->sums + r * w->padded;
        if (depth) products(sums, grad + begin, a->F, B_panels + (r * a->F + begin * LANES) / 2, 0, w->padded, depth);
        else memset(sums, 0, w->padded * LANES * sizeof *sums);
    }
    write_low(w->grad_low, w->sums, w->padded, a->R);
}

/* (count, R) bf16 as (R, padded) bf16, in dwords. */
INLINE void transpose_low(const workspace *w, uint32_t *to, const uint16_t *low, int64_t R) {
    pair_rows(w->pairs, low, R, w->count, w->padded, R);
    transpose_dwords(to, w->pairs, w->padded / 2, R);
}

/* to (R, width), rows `stride` apart, = or += low (R, padded) x (count, width), where spans say; `is_whole`: in all columns
   that any rank has. */
INLINE void add_outer(const adapter_backward *a, const workspace *w, float *to, int64_t stride, const uint32_t *low,
                      const uint16_t *x, int64_t width, int is_whole, int adds) {
    for (int64_t column = 0; column < width; column += SIDE) {
        int is_paired = 0;
        for (int64_t r = 0; r < a->R; r += LANES) {
            const int64_t begin = begin_of(w, r), end = end_of(w, r);
            if (begin == end || (!is_whole && (column < begin || column >= end))) continue;
            if (!is_paired) pair_rows(w->pairs, x + column, width, w->count, w->padded, SIDE), is_paired = 1;
            for (int64_t c = 0; c < SIDE; c += LANES)
                tile_product(to + r * stride + column + c, stride, (const uint16_t *)(low + r * w->padded / 2), w->padded,
                             w->pairs + c, SIDE, w->padded, adds);
        }
    }
}

/* grad_x += the mask times grad_low A. */
INLINE void add_to_input(const adapter_backward *a, const workspace *w, const uint32_t *A_pairs, int64_t first) {
    const int64_t D = a->D;
    float sums[LANES * SIDE];
    for (int64_t row = 0; row < w->count; row += LANES)
        for (int64_t column = 0; column < D; column += SIDE) {
            for (int64_t c = 0; c < SIDE; c += LANES)
                tile_product(sums + c, SIDE, w->grad_low + row * a->R, a->R, A_pairs + column + c, D, a->R, 0);
            for (int64_t r = 0; r < smaller(LANES, w->count - row); r++) {
                const int64_t place = (first + row + r) * D + column;
                f32x16 factor[2];
                dropout_factors(factor, place, a->mask);
                for (int i = 0; i < 2; i++) {
                    uint16_t *to = a->grad_x + place + i * LANES;
                    store_bf16(to, load_f32(sums + r * SIDE + i * LANES) * factor[i] + widen(to));
                }
            }
        }
}

/* Of all rows of x: (R, F), the gradients of B, transposed, beside (R, D), those of A, scaled; a share of them after the
   other. */
typedef struct {
    const float *sums;
    int64_t width, share, count;
} shares;

INLINE f32x16 sum_of(const shares *s, int64_t rank, int64_t column) {
    f32x16 sum = {};
    for (int64_t i = 0; i < s->count; i++) sum += load_f32(s->sums + i * s->share + rank * s->width + column);
    return sum;
}

/* Those of a row of A and its E. */
INLINE void write_grad_A(const adapter_backward *a, const shares *s, const projection *p, int64_t r) {
    const float scale = p->E[r] * p->scaling;
    f32x16 products = {};
    for (int64_t d = 0; d < a->D; d += LANES) {
        const f32x16 grad = sum_of(s, p->first + r, a->F + d);
        products += grad * load_f32(p->A + r * a->D + d);
        const f32x16 scaled = grad * scale;
        if (p->grad_A) STORE(p->grad_A + r * a->D + d, scaled);
    }
    if (p->grad_E) p->grad_E[r] = total(products) * p->scaling;
}

/* Those of sixteen rows of B. */
INLINE void write_grad_B(const shares *s, const projection *p, int64_t row) {
    for (int64_t r = 0; r < p->rank; r++) {
        const f32x16 grad = sum_of(s, p->first + r, p->column + row);
        for (int i = 0; i < LANES; i++) p->grad_B[(row + i) * p->rank + r] = grad[i];
    }
}

static int has_updates(const adapter_backward *a) {
    for (int64_t i = 0; i < a->num_projections; i++)
        if (a->projections[i].A) return 1;
    return 0;
}

int adapter_up(const adapter_backward *a) {
    const int64_t T = a->T, D = a->D, F = a->F, R = a->R, width = F + D;
    const int64_t rows = rows_of_share(T), num_shares = (T + rows - 1) / rows, share = R * width;
    if (!has_updates(a)) return 0;
    workspace w;
    const size_t for_factors = round_up(R * width * 2, 64), for_sums = num_shares * share * sizeof(float);
    int64_t spans[R / LANES * 2];
    find_spans(spans, a);
    const size_t size = lay_out(&w, NULL, F, R);
    char *memory = aligned_alloc(64, round_up(for_factors + for_sums + size * a->num_threads, 64));
    if (!memory) return 1;
    uint32_t *B_panels = (uint32_t *)memory, *A_pairs = B_panels + R * F / 2;
    float *sums = (float *)(memory + for_factors);
    const shares all = {sums, width, share, num_shares};
    pair_rows(A_pairs, a->A, D, R, R, D);
#pragma omp parallel num_threads(a->num_threads) private(w)
    {
        tile_config before = begin_tiles();
        lay_out(&w, memory + for_factors + for_sums + size * omp_get_thread_num(), F, R);
        w.spans = spans;
#pragma omp for schedule(dynamic, 8)
        for (int64_t f = 0; f < F; f += 2 * LANES) /* B (F, R): pairs of rows, sixteen columns next to each other */
            for (int64_t r = 0; r < R; r += LANES)
                pair_rows(B_panels + r * F / 2 + f / 2 * LANES, a->B + f * R + r, R, 2 * LANES, 2 * LANES, LANES);
#pragma omp for schedule(dynamic)
        for (int64_t begin = 0; begin < T; begin += rows) {
            float *own = sums + begin / rows * share;
            const int64_t end = smaller(begin + rows, T);
            for (int64_t first = begin; first < end; first += MOST_ROWS) {
                const uint16_t *grad = a->grad + first * F;
                w.count = smaller(MOST_ROWS, end - first), w.padded = round_up(w.count, SIDE);
                find_grad_low(a, &w, grad, B_panels);
                transpose_low(&w, w.low_rows, a->low + first * R, R);
                transpose_low(&w, w.grad_low_rows, w.grad_low, R);
                add_outer(a, &w, own, width, w.low_rows, grad, F, 0, first > begin);
                add_outer(a, &w, own + F, width, w.grad_low_rows, a->dropped + first * D, D, 1, first > begin);
                if (a->grad_x) add_to_input(a, &w, A_pairs, first);
            }
        }
        for (const projection *p = a->projections; p < a->projections + a->num_projections; p++) {
            if (!p->A) continue;
#pragma omp for schedule(static) nowait
            for (int64_t r = 0; r < p->rank; r++) write_grad_A(a, &all, p, r);
#pragma omp for schedule(static) nowait
            for (int64_t row = 0; row < p->columns; row += LANES)
                if (p->grad_B) write_grad_B(&all, p, row);
        }
        end_tiles(before);
    }
    free(memory);
    return 0;
}
