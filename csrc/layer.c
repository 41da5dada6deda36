/* Layers of BERT's kind in int8 as one call each way: attention with adapters, what is behind it, and the feed-forward block.

   Behind attention some rows at a time pass through all that is left of the layer, and come back through it, before the next
   do: what lies between stays in the second cache.

   Letters: T tokens, D model width, F width between both layers of the feed-forward block, S texts. Rows behind attention: T,
   or S where only first tokens are wanted. */
#include <omp.h>
#include <stdlib.h>

#include "quantized.h"

/* A layer on its way through a pass, with a place for all that its parts write. */
typedef struct {
    layer of;
    uint16_t *qkv;                    /* (T, 3 D) */
    uint16_t *pre_gelu;                /* of the feed-forward block: see `product` */
    uint16_t *grad_qkv, *grad_heads;  /* (T, 3 D) and (T, D): of a backward pass */
    uint16_t *scratch;                /* (2, rows, D), where only first tokens are wanted */
} pass;

/* Cuts the memory of what is kept into its parts; without memory it says how much that is. */
static size_t lay_out_kept(pass *p, char *memory) {
    layer *a = &p->of;
    adapter_forward *down = &a->down;
    const int64_t T = down->T, D = down->D, R = down->R, rows = a->is_last_pass ? 0 : a->norm.num_rows;
    size_t used = 0;
    TAKE(down->A, R * D), TAKE(down->B, down->F * R), TAKE(down->low, round_up(T, SIDE) * R);
    if (drops_some(down->mask)) TAKE(down->dropped, T * D);
    TAKE(p->qkv, T * 3 * D);
    TAKE(a->heads.out, T * D), TAKE(a->heads.stats, a->is_last_pass ? 0 : 2 * a->heads.num_heads * T);
    TAKE(a->norm.sum, rows * D), TAKE(a->norm.stats, rows);
    TAKE(p->pre_gelu, blocks_of(rows, a->up_proj.rows));
    TAKE(a->last_norm.sum, rows * D), TAKE(a->last_norm.stats, rows);
    if (a->is_last_pass) {
        a->heads.stats = NULL, p->pre_gelu = NULL;
        a->norm.sum = a->last_norm.sum = NULL, a->norm.stats = a->last_norm.stats = NULL;
    }
    return used;
}

/* The same of what a pass needs for itself. */
static size_t lay_out_own(pass *p, char *memory, const int is_backward) {
    const int64_t T = p->of.down.T, D = p->of.down.D;
    size_t used = 0;
    TAKE(p->scratch, p->of.heads.only_first ? 2 * p->of.norm.num_rows * D : 0);
    if (is_backward) TAKE(p->grad_qkv, T * 3 * D), TAKE(p->grad_heads, T * D);
    return used;
}

static pass begin_pass(const layer *a) {
    pass p = {.of = *a};
    lay_out_kept(&p, a->kept);
    return p;
}

int layer_measure(layer *a) {
    pass p = {.of = *a};
    a->kept_bytes = lay_out_kept(&p, NULL);
    return 0;
}

static attention heads_of(const pass *p) {
    attention heads = p->of.heads;
    const int64_t D = p->of.down.D;
    heads.q = p->qkv, heads.k = p->qkv + D, heads.v = p->qkv + 2 * D;
    heads.q_strides[0] = heads.k_strides[0] = heads.v_strides[0] = heads.grad_stride = 3 * D;
    heads.q_strides[1] = heads.k_strides[1] = heads.v_strides[1] = heads.head_width;
    heads.grad_out = p->grad_heads;
    heads.grad_q = p->grad_qkv, heads.grad_k = p->grad_qkv + D, heads.grad_v = p->grad_qkv + 2 * D;
    return heads;
}

/* (T, D), or its first tokens as (S, D) where no others are wanted. */
static const uint16_t *wanted_rows(const layer *a, uint16_t *memory, const uint16_t *x) {
    const int64_t D = a->down.D;
    if (!a->heads.only_first) return x;
    for (int64_t s = 0; s < a->heads.num_texts; s++) memcpy(memory + s * D, x + a->heads.cu_seqlens[s] * D, D * sizeof *x);
    return memory;
}

/* (S, D) to where first tokens are in (T, D). */
static void put_first_rows(const layer *a, uint16_t *to, const uint16_t *x) {
    const int64_t D = a->down.D;
    for (int64_t s = 0; s < a->heads.num_texts; s++) memcpy(to + a->heads.cu_seqlens[s] * D, x + s * D, D * sizeof *x);
}

/* What a thread holds of some rows. */
typedef struct {
    int64_t rows;
    char *rounded;
    uint16_t *between;                /* (rows, F) in blocks */
    uint16_t *one, *other, *third;    /* (rows, D) */
} bench;

/* Cuts memory into the buffers of a thread; without memory it says how much that is. */
static size_t lay_out(bench *b, char *memory, int64_t D, int64_t F) {
    size_t used = 0;
    TAKE(b->rounded, workspace_size(b->rows, larger(D, F)));
    TAKE(b->between, blocks_of(b->rows, F));
    TAKE(b->one, b->rows * D), TAKE(b->other, b->rows * D), TAKE(b->third, b->rows * D);
    return used;
}

/* Rows from `first` on, from attention to the end of the layer. */
static void rows_forward(const pass *p, const bench *b, const uint16_t *attended, const uint16_t *x, int64_t first, int64_t count) {
    const layer *a = &p->of;
    const int64_t D = a->down.D, place = first * D;
    uint16_t *hidden = b->one;
    const result behind = {.count = count, .w = &a->out_proj, .out = b->other};
    const result activated = {.count = count, .w = &a->up_proj, .bias = a->gelu_bias,
                              .pre_gelu = p->pre_gelu ? p->pre_gelu + blocks_of(first, a->up_proj.rows) : NULL, .out = b->between};
    const result last = {.count = count, .w = &a->down_proj, .out = b->other};
    multiply(behind, b->rounded, b->rows, attended + place, 0);
    forward_rows(&a->norm, first, count, behind.out, x + place, hidden, are_lines(a->norm.sum, D));
    multiply_then_gelu(activated, b->rounded, b->rows, hidden, 0);
    multiply(last, b->rounded, b->rows, b->between, 1);
    forward_rows(&a->last_norm, first, count, last.out, hidden, a->last_norm.out + place, are_lines(a->last_norm.sum, D));
}

/* And back: gradients of what came from attention, and of what came past it. */
static void rows_backward(const pass *p, const bench *b, uint16_t *grad_heads, uint16_t *grad_x, int64_t first, int64_t count) {
    const layer *a = &p->of;
    const int64_t D = a->down.D, place = first * D;
    uint16_t *grad_hidden = drops_some(a->last_norm.mask) ? b->other : b->one;
    uint16_t *grad_behind = drops_some(a->norm.mask) ? b->third : grad_x + place;
    const result sloped = {.count = count, .w = &a->down_proj_back, .bias = a->gelu_bias,
                           .pre_gelu = p->pre_gelu + blocks_of(first, a->up_proj.rows), .out = b->between};
    const result hidden = {.count = count, .w = &a->up_proj_back, .out = grad_hidden, .adds = 1};
    const result heads = {.count = count, .w = &a->out_proj_back, .out = grad_heads + place, .streams = are_lines(grad_heads, D)};
    backward_rows(&a->last_norm, first, count, a->grad_out + place, b->one, grad_hidden);
    multiply_times_slope(sloped, b->rounded, b->rows, b->one, 0);
    multiply(hidden, b->rounded, b->rows, b->between, 1);
    backward_rows(&a->norm, first, count, grad_hidden, b->third, grad_x + place);
    multiply(heads, b->rounded, b->rows, grad_behind, 0);
}

/* All rows behind attention: forward, or backward into `grad_heads` and `grad_x`; 0 if there was memory for it. */
static int all_rows(const pass *p, const uint16_t *attended, const uint16_t *x, uint16_t *grad_heads, uint16_t *grad_x) {
    const layer *a = &p->of;
    const int64_t rows = a->norm.num_rows, D = a->down.D, F = a->up_proj.rows, threads = a->down.num_threads;
    bench b = {.rows = rows_at_once(rows, threads, most_rows(D * D + 2 * D * F, 1), SIDE)};
    const size_t size = lay_out(&b, NULL, D, F);
    char *memory = aligned_alloc(64, size * threads);
    if (!memory) return 1;
#pragma omp parallel num_threads(threads) firstprivate(b)
    {
        lay_out(&b, memory + size * omp_get_thread_num(), D, F);
        tile_config before = begin_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < rows; first += b.rows) {
            const int64_t count = smaller(b.rows, rows - first);
            if (grad_heads) rows_backward(p, &b, grad_heads, grad_x, first, count);
            else rows_forward(p, &b, attended, x, first, count);
        }
        end_streams();
        end_tiles(before);
    }
    free(memory);
    return 0;
}

static int forward(const pass *p) {
    const layer *a = &p->of;
    const adapter_forward *down = &a->down;
    const product projected = {.x = down->x, .T = down->T, .last = a->qkv, .low = down->low, .up = down->B, .R = down->R,
                               .out = p->qkv, .num_threads = down->num_threads};
    const attention heads = heads_of(p);
    if (adapter_down(down) || multiply_quantized(&projected) || attention_forward(&heads)) return 1;
    const uint16_t *attended = wanted_rows(a, p->scratch, heads.out);
    const uint16_t *x = wanted_rows(a, p->scratch + a->norm.num_rows * down->D, down->x);
    return all_rows(p, attended, x, NULL, NULL);
}

static int backward(const pass *p) {
    const layer *a = &p->of;
    const adapter_forward *down = &a->down;
    const int64_t T = down->T, D = down->D, threads = down->num_threads;
    const int only_first = a->heads.only_first != 0;
    uint16_t *grad_heads = only_first ? p->scratch : p->grad_heads;
    uint16_t *grad_x = only_first ? p->scratch + a->norm.num_rows * D : a->grad_x;
    if (all_rows(p, NULL, NULL, grad_heads, grad_x)) return 1;
    if (only_first && T) { /* no rows may be at no address */
        put_first_rows(a, p->grad_heads, grad_heads); /* of other rows nothing is read */
        memset(a->grad_x, 0, T * D * sizeof *a->grad_x), put_first_rows(a, a->grad_x, grad_x);
    }
    const attention heads = heads_of(p);
    const product projected = {.x = p->grad_qkv, .T = T, .last = a->qkv_back, .out = a->grad_x, .adds = 1, .num_threads = threads};
    const adapter_backward up = {.grad = p->grad_qkv, .dropped = down->dropped ? down->dropped : down->x, .low = down->low,
                                 .A = down->A, .B = down->B, .projections = a->gradients,
                                 .num_projections = down->num_projections, .T = T, .D = D, .F = down->F, .R = down->R,
                                 .grad_x = a->wants_x ? a->grad_x : NULL, .mask = down->mask, .num_threads = threads};
    return attention_backward(&heads) || (a->wants_x && multiply_quantized(&projected)) || adapter_up(&up);
}

/* 0 if there was memory for it. */
static int run(const layer *a, const int is_backward) {
    pass p = begin_pass(a);
    char *memory = aligned_alloc(64, larger(64, lay_out_own(&p, NULL, is_backward)));
    if (!memory) return 1;
    lay_out_own(&p, memory, is_backward);
    const int fails = is_backward ? backward(&p) : forward(&p);
    free(memory);
    return fails;
}

int layers_forward(const stack *s) {
    int fails = 0;
    for (int64_t i = 0; !fails && i < s->num_layers; i++) fails = run(s->layers[i], 0);
    return fails;
}

int layers_backward(const stack *s) {
    int fails = 0;
    for (int64_t i = s->num_layers; !fails && i > 0; i--) fails = run(s->layers[i - 1], 1);
    return fails;
}
