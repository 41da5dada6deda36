/* Attention over packed texts, forward and backward, one task for each text and head.

   Scores stand with keys as rows and queries as columns, sixteen queries (a panel) at a time: sums over keys
   are then sums of whole vectors, and two neighbouring rows are already the pairs that the next product
   wants. No score leaves the cache: the backward pass computes them again from the stored maxima and sums,
   as Dao et al., 2022 (FlashAttention) do, and draws the same dropout again.

   Letters: T tokens, N heads, H head width, L keys of a text. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "tiles.h"

/* One text and head, and this thread's memory for it. */
typedef struct {
    const attention *of;
    int64_t first, length, queries, head, padded; /* padded: keys, rounded up to DEPTH */
    const float *by_distance;                     /* of this head, at a distance of 0; or NULL */
    uint32_t key[2];
    uint16_t *k_rows, *v_rows;                    /* (padded, H) */
    uint32_t *k_columns, *v_columns;              /* (H, padded / 2) pairs of keys */
    uint32_t *pairs;                              /* (padded / 2, H) */
    uint32_t *q_panel, *o_panel, *grad_panel;     /* (H / 2, 16) pairs of head columns */
    uint32_t *q_pairs, *grad_pairs;               /* (16, H) pairs of 32 queries */
    float *scores, *grad_weights;                 /* (padded, 16) */
    uint32_t *weight_pairs;                       /* (padded / 2, 16) pairs of keys */
    uint16_t *weight_rows, *grad_rows;            /* (padded, 32) */
    float *columns;                               /* (H, 16) */
    float *grad_k, *grad_v;                       /* (padded, H) */
} task;

/* Cuts this thread's memory into the buffers of a task; without memory it says how much that is. */
static size_t lay_out(task *t, char *memory, int64_t longest, int64_t H) {
    size_t used = 0, L = round_up(longest, DEPTH);
    TAKE(t->k_rows, L * H), TAKE(t->v_rows, L * H);
    TAKE(t->k_columns, L * H / 2), TAKE(t->v_columns, L * H / 2), TAKE(t->pairs, L * H / 2);
    TAKE(t->q_panel, 8 * H), TAKE(t->o_panel, 8 * H), TAKE(t->grad_panel, 8 * H);
    TAKE(t->q_pairs, 16 * H), TAKE(t->grad_pairs, 16 * H);
    TAKE(t->scores, L * LANES), TAKE(t->grad_weights, L * LANES), TAKE(t->weight_pairs, L * LANES / 2);
    TAKE(t->weight_rows, L * DEPTH), TAKE(t->grad_rows, L * DEPTH);
    TAKE(t->columns, H * LANES), TAKE(t->grad_k, L * H), TAKE(t->grad_v, L * H);
    return used;
}

/* Which of sixteen queries see a key. */
INLINE u32x16 visible(int64_t window, int64_t query, int64_t key) {
    const u32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (u32x16)(lane + (uint32_t)(query - key + window - 1) < (uint32_t)(2 * window - 1) + (u32x16){});
}

/* The keys that `count` queries from `query` on see, in whole depths. */
INLINE void keys_of(const task *t, int64_t query, int64_t count, int64_t *first, int64_t *last) {
    int64_t window = t->of->window;
    *first = window ? larger(0, query - window + 1) / DEPTH * DEPTH : 0;
    *last = window ? smaller(t->padded, round_up(query + count + window - 1, DEPTH)) : t->padded;
}

INLINE const uint16_t *head_of(const uint16_t *x, const int64_t strides[2], const task *t) {
    return x + t->first * strides[0] + t->head * strides[1];
}

/* Levels of the dropout of two rows of keys. */
INLINE u32x16 levels_of(const task *t, int64_t query, int64_t key) {
    return random_bits((uint32_t)(key / 2 * round_up(t->length, LANES) + query), t->key);
}

/* Scaled scores of sixteen queries for a key, to the base of 2. */
INLINE f32x16 scores_of(const task *t, int64_t query, int64_t key, const int biased) {
    const float log2_e = 1.44269504f;
    f32x16 score = load_f32(t->scores + key * LANES) * (t->of->scaling * log2_e);
    return biased ? score + load_f32(t->by_distance + query - key) * log2_e : score;
}

/* Weights before division by their sum, as pairs; returns the factor that their products get. */
INLINE f32x16 softmax_panel(task *t, int64_t query, int64_t first, int64_t last, f32x16 stats[2], const int drops,
                            const int windowed, const int biased) {
    const attention *a = t->of;
    const int64_t end = smaller(last, t->length);
    f32x16 highest = (f32x16){} - INFINITY, sum = {};
    const f32x16 lowest = highest;
    for (int64_t key = first; key < end; key++) {
        f32x16 score = scores_of(t, query, key, biased);
        if (windowed) score = choose(visible(a->window, query, key), score, lowest);
        highest = greater_f32(score, highest);
    }
    for (int64_t key = first; key < end; key += 2) {
        f32x16 weight[2] = {};
        for (int i = 0; i < 2 && key + i < end; i++) {
            weight[i] = exp2_f32(scores_of(t, query, key + i, biased) - highest);
            if (windowed) weight[i] = kept(visible(a->window, query, key + i), weight[i]);
            sum += weight[i];
        }
        if (drops) {
            u32x16 levels = levels_of(t, query, key);
            weight[0] = kept((u32x16)((levels & 0xffff) < a->kept_levels), weight[0]);
            weight[1] = kept((u32x16)((levels >> 16) < a->kept_levels), weight[1]);
        }
        u32x16 pairs = pairs_bf16(weight[0], weight[1]);
        STORE(t->weight_pairs + key / 2 * LANES, pairs);
    }
    for (int64_t p = (end + 1) / 2; p < last / 2; p++) memset(t->weight_pairs + p * LANES, 0, 64);
    stats[0] = highest, stats[1] = 1.0f / sum;
    return stats[1] * (65536.0f / a->kept_levels);
}

INLINE void forward_task(task *t, const int64_t H, const int drops, const int windowed, const int biased) {
    const attention *a = t->of;
    const int64_t row = a->num_heads * H;
    const uint16_t *q = head_of(a->q, a->q_strides, t);
    copy_rows(t->k_rows, head_of(a->k, a->k_strides, t), a->k_strides[0], t->length, t->padded, H);
    pair_rows(t->pairs, head_of(a->v, a->v_strides, t), a->v_strides[0], t->length, t->padded, H);
    transpose_dwords(t->v_columns, t->pairs, t->padded / 2, H);
    for (int64_t query = 0; query < t->queries; query += LANES) {
        int64_t first, last, count = smaller(LANES, t->queries - query);
        f32x16 stats[2];
        keys_of(t, query, count, &first, &last);
        panel_of(t->q_panel, q + query * a->q_strides[0], a->q_strides[0], count, H);
        products(t->scores, t->k_rows, H, t->q_panel, first, last, H);
        f32x16 factor = softmax_panel(t, query, first, last, stats, drops, windowed, biased);
        products(t->columns, (uint16_t *)t->v_columns + first, t->padded, t->weight_pairs + first / 2 * LANES, 0, H,
                 last - first);
        write_columns(a->out + (t->first + query) * row + t->head * H, row, t->columns, factor, count, H);
        if (a->stats)
            for (int i = 0; i < 2; i++)
                memcpy(a->stats + (i * a->num_heads + t->head) * a->num_tokens + t->first + query, &stats[i],
                       count * sizeof(float));
    }
}

/* Weights and the gradients of scores, from the scores and the gradients of dropped weights: as rows of
   queries for the products that sum over queries, and as pairs of keys for the one that sums over keys. */
INLINE void softmax_backward_panel(task *t, const int64_t H, int64_t query, int64_t first, int64_t last,
                                   const f32x16 stats[2], const int drops, const int windowed,
                                   const int biased) {
    const attention *a = t->of;
    const float kept_value = 65536.0f / a->kept_levels;
    const int64_t end = smaller(last, t->length);
    f32x16 mean = {}; /* of the gradient under the weights: the product of output and its gradient */
    for (int64_t p = 0; p < H / 2; p++) {
        u32x16 o = load_u32(t->o_panel + p * LANES), grad = load_u32(t->grad_panel + p * LANES);
        mean += first_of(o) * first_of(grad) + second_of(o) * second_of(grad);
    }
    for (int64_t key = first; key < end; key += 2) {
        u32x16 levels = drops ? levels_of(t, query, key) : (u32x16){};
        f32x16 grad[2] = {}, dropped[2] = {};
        for (int i = 0; i < 2 && key + i < end; i++, levels >>= 16) {
            f32x16 weight = exp2_f32(scores_of(t, query, key + i, biased) - stats[0]) * stats[1];
            if (windowed) weight = kept(visible(a->window, query, key + i), weight);
            dropped[i] = weight;
            f32x16 grad_weight = load_f32(t->grad_weights + (key + i) * LANES);
            if (drops) {
                u32x16 mask = (u32x16)((levels & 0xffff) < a->kept_levels);
                dropped[i] = kept(mask, weight), grad_weight = kept(mask, grad_weight) * kept_value;
            }
            grad[i] = weight * (grad_weight - mean);
        }
        const int64_t place = key * DEPTH + query % DEPTH; /* behind an odd last key there is a row, too */
        store_rows_bf16(t->weight_rows + place, DEPTH, dropped);
        u32x16 pairs = store_rows_bf16(t->grad_rows + place, DEPTH, grad);
        STORE(t->weight_pairs + key / 2 * LANES, pairs);
    }
    for (int64_t p = (end + 1) / 2; p < last / 2; p++) memset(t->weight_pairs + p * LANES, 0, 64);
}

/* Sixteen queries: their own gradient, and what they add to those of keys and values as rows. */
INLINE void backward_panel(task *t, const int64_t H, int64_t query, int64_t first, int64_t last, const int drops,
                           const int windowed, const int biased) {
    const attention *a = t->of;
    const int64_t row = a->num_heads * H, count = smaller(LANES, t->queries - query);
    const int64_t place = (t->first + query) * row + t->head * H;
    f32x16 stats[2] = {};
    for (int i = 0; i < 2; i++)
        memcpy(&stats[i], a->stats + (i * a->num_heads + t->head) * a->num_tokens + t->first + query,
               count * sizeof(float));
    panel_of(t->q_panel, head_of(a->q, a->q_strides, t) + query * a->q_strides[0], a->q_strides[0], count, H);
    panel_of(t->o_panel, a->out + place, row, count, H);
    panel_of(t->grad_panel, a->grad_out + place, row, count, H);
    products(t->scores, t->k_rows, H, t->q_panel, first, last, H);
    products(t->grad_weights, t->v_rows, H, t->grad_panel, first, last, H);
    softmax_backward_panel(t, H, query, first, last, stats, drops, windowed, biased);
    products(t->columns, (uint16_t *)t->k_columns + first, t->padded, t->weight_pairs + first / 2 * LANES, 0, H,
             last - first);
    write_columns(a->grad_q + (t->first + query) * a->grad_stride + t->head * H, a->grad_stride, t->columns, (f32x16){} + a->scaling, count, H);
}

INLINE void backward_task(task *t, const int64_t H, const int drops, const int windowed, const int biased) {
    const attention *a = t->of;
    const int64_t row = a->num_heads * H;
    const uint16_t *q = head_of(a->q, a->q_strides, t), *k = head_of(a->k, a->k_strides, t);
    const uint16_t *v = head_of(a->v, a->v_strides, t), *grad = a->grad_out + t->first * row + t->head * H;
    copy_rows(t->k_rows, k, a->k_strides[0], t->length, t->padded, H);
    copy_rows(t->v_rows, v, a->v_strides[0], t->length, t->padded, H);
    pair_rows(t->pairs, k, a->k_strides[0], t->length, t->padded, H);
    transpose_dwords(t->k_columns, t->pairs, t->padded / 2, H);
    memset(t->grad_k, 0, t->padded * H * sizeof *t->grad_k);
    memset(t->grad_v, 0, t->padded * H * sizeof *t->grad_v);
    for (int64_t query = 0; query < t->queries; query += DEPTH) {
        int64_t first, last, count = smaller(DEPTH, t->queries - query);
        keys_of(t, query, count, &first, &last);
        pair_rows(t->q_pairs, q + query * a->q_strides[0], a->q_strides[0], count, DEPTH, H);
        pair_rows(t->grad_pairs, grad + query * row, row, count, DEPTH, H);
        backward_panel(t, H, query, first, last, drops, windowed, biased);
        if (count > LANES) backward_panel(t, H, query + LANES, first, last, drops, windowed, biased);
        else
            for (int64_t key = first; key < last; key++) {
                memset(t->weight_rows + key * DEPTH + LANES, 0, LANES * sizeof *t->weight_rows);
                memset(t->grad_rows + key * DEPTH + LANES, 0, LANES * sizeof *t->grad_rows);
            }
        for (int64_t key = first; key < last; key += LANES)
            for (int64_t h = 0; h < H; h += LANES) {
                tile_product(t->grad_v + key * H + h, H, t->weight_rows + key * DEPTH, DEPTH, t->grad_pairs + h, H,
                             DEPTH, 1);
                tile_product(t->grad_k + key * H + h, H, t->grad_rows + key * DEPTH, DEPTH, t->q_pairs + h, H, DEPTH,
                             1);
            }
    }
    const int64_t place = t->first * a->grad_stride + t->head * H;
    const float kept_value = 65536.0f / a->kept_levels;
    for (int64_t key = 0; key < t->length; key++)
        for (int64_t h = 0; h < H; h += 2 * LANES) {
            f32x16 k[2], v[2];
            for (int i = 0; i < 2; i++) {
                k[i] = load_f32(t->grad_k + key * H + h + i * LANES) * a->scaling;
                v[i] = load_f32(t->grad_v + key * H + h + i * LANES) * kept_value;
            }
            store_two_bf16(a->grad_k + place + key * a->grad_stride + h, k);
            store_two_bf16(a->grad_v + place + key * a->grad_stride + h, v);
        }
}

static void set_task(task *t, const attention *a, int64_t index) {
    const int64_t text = a->num_texts - 1 - index / a->num_heads; /* the longest texts first */
    t->of = a;
    t->head = index % a->num_heads;
    t->first = a->cu_seqlens[text];
    t->length = a->cu_seqlens[text + 1] - t->first;
    t->queries = a->only_first ? 1 : t->length;
    t->padded = round_up(t->length, DEPTH);
    t->by_distance = a->by_distance ? a->by_distance + t->head * a->distances + a->distances / 2 : NULL;
    u32x16 key = random_bits((uint32_t)index, a->key); /* masks of different tasks have nothing in common */
    t->key[0] = key[0], t->key[1] = key[0] * 0x9e3779b9U + a->key[1];
}

typedef void run_task(task *t);

/* Where all is inlined, the compiler knows the width of a head, and leaves out what is not asked for. */
#define VARIANT(name, suffix, H, drops, windowed, biased) \
    static void name##suffix(task *t) { name(t, H, drops, windowed, biased); }
#define GENERAL(name) VARIANT(name, _any, t->of->head_width, t->of->kept_levels < 65536, t->of->window > 0, !!t->by_distance)
#if IS_INLINED
#define VARIANTS(name)                                                                                  \
    VARIANT(name, _32, 32, 0, 0, 0)                                                                     \
    VARIANT(name, _32_drops, 32, 1, 0, 0)                                                               \
    VARIANT(name, _64, 64, 0, 0, 0)                                                                     \
    VARIANT(name, _64_drops, 64, 1, 0, 0)                                                               \
    VARIANT(name, _64_biased, 64, 0, 0, 1)                                                              \
    VARIANT(name, _64_biased_drops, 64, 1, 0, 1)                                                        \
    GENERAL(name)                                                                                       \
    static run_task *const name##_variants[] = {name##_32,        name##_32_drops,                      \
                                                name##_64,        name##_64_drops,                      \
                                                name##_64_biased, name##_64_biased_drops, name##_any};

/* The place of the function for these settings. */
static int variant_of(const attention *a) {
    const int biased = a->by_distance != NULL, drops = a->kept_levels < 65536;
    if (!a->window && a->head_width == 32 && !biased) return drops;
    if (!a->window && a->head_width == 64) return (biased ? 4 : 2) + drops;
    return 6;
}
#else
#define VARIANTS(name) \
    GENERAL(name)      \
    static run_task *const name##_variants[] = {name##_any};
static int variant_of(const attention *a) { return (void)a, 0; }
#endif

VARIANTS(forward_task)
VARIANTS(backward_task)

/* The rows of one head lie apart, so the processor does not see them coming: ask for all of a text at once. */
static void fetch_text(const task *t) {
    const attention *a = t->of;
    const int64_t width = a->num_heads * a->head_width, place = t->first * width;
    fetch_rows(a->q + t->first * a->q_strides[0], a->q_strides[0], t->queries, width);
    fetch_rows(a->k + t->first * a->k_strides[0], a->k_strides[0], t->length, width);
    fetch_rows(a->v + t->first * a->v_strides[0], a->v_strides[0], t->length, width);
    fetch_rows(a->out + place, width, t->queries, width);
    if (!a->grad_out) return;
    fetch_rows(a->grad_out + place, width, t->queries, width);
    const int64_t grad_place = t->first * a->grad_stride;
    fetch_rows(a->grad_q + grad_place, a->grad_stride, t->queries, width);
    fetch_rows(a->grad_k + grad_place, a->grad_stride, t->length, width);
    fetch_rows(a->grad_v + grad_place, a->grad_stride, t->length, width);
}

/* Every thread takes the next task; each is computed alone, so the number of threads changes no bit. */
static int run_all(const attention *a, run_task *const variants[]) {
    run_task *run = variants[variant_of(a)];
    const int64_t size = lay_out(&(task){}, NULL, a->longest, a->head_width);
    /* up to eight arrays of the longest text beside the buffers in a cache of a megabyte or two */
    const int fits = a->longest * a->num_heads * a->head_width * 8 * 2 <= 3 << 19;
    const int64_t heads = fits && a->num_texts >= 8 * a->num_threads ? a->num_heads : 1;
    char *memory = aligned_alloc(64, size * a->num_threads);
    if (!memory) return 1;
#pragma omp parallel num_threads(a->num_threads)
    {
        task t;
        tile_config before = begin_tiles();
        lay_out(&t, memory + size * omp_get_thread_num(), a->longest, a->head_width);
#pragma omp for schedule(dynamic, heads)
        for (int64_t index = 0; index < a->num_texts * a->num_heads; index++) {
            set_task(&t, a, index);
            if (fits && t.head == 0) fetch_text(&t);
            run(&t);
        }
        end_tiles(before);
    }
    free(memory);
    return 0;
}

/* Zero the rows that no task writes: tokens of no text, or all but the first of each. */
static void clear_unwritten(const attention *a, uint16_t *x, int64_t stride, int only_first) {
    const int64_t first = only_first ? 0 : a->cu_seqlens[a->num_texts];
#pragma omp parallel for num_threads(a->num_threads) if (only_first)
    for (int64_t row = first; row < a->num_tokens; row++)
        memset(x + row * stride, 0, a->num_heads * a->head_width * sizeof *x);
}

int attention_forward(const attention *a) {
    clear_unwritten(a, a->out, a->num_heads * a->head_width, a->only_first);
    return run_all(a, forward_task_variants);
}

int attention_backward(const attention *a) {
    clear_unwritten(a, a->grad_q, a->grad_stride, a->only_first);
    clear_unwritten(a, a->grad_k, a->grad_stride, 0);
    clear_unwritten(a, a->grad_v, a->grad_stride, 0);
    return run_all(a, backward_task_variants);
}
