/* What a thread holds while it computes attention of one text and head.

   T tokens, N heads, H head width. */
#pragma once

#include "panels.h"

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
