/* What attention is given. T tokens, N heads, H head width. */
#pragma once

#include <stdint.h>

typedef struct {
    const uint16_t *q, *k, *v;       /* (T, N, H), rows of H next to each other */
    int64_t q_strides[2], k_strides[2], v_strides[2]; /* of tokens and heads */
    const int32_t *cu_seqlens;       /* (num_texts + 1) */
    int64_t num_texts, num_heads, head_width, num_tokens, longest;
    int64_t window;                  /* a query sees keys less than this away; 0: all */
    int64_t only_first;              /* the first token of a text is its only query */
    const float *by_distance;        /* (N, distances): added to scaled scores, by query - key from 1 - R to R - 1, R at
                                        least the longest text rounded up to LANES; may be NULL */
    int64_t distances;               /* 2 R - 1 */
    float scaling;
    uint32_t kept_levels;            /* of 65,536; all of them: no dropout */
    uint32_t key[2];                 /* of the dropout */
    uint16_t *out;                   /* (T, N, H) contiguous */
    float *stats;                    /* (2, N, T): scaled maximum and 1 / sum of each query; may be NULL */
    const uint16_t *grad_out;        /* (T, N, H) contiguous */
    uint16_t *grad_q, *grad_k, *grad_v; /* (T, N, H), the heads of a token next to each other */
    int64_t grad_stride;             /* of their tokens */
    int64_t num_threads;
} attention;

/* 0 if there was memory for it. */
int attention_forward(const attention *a);
int attention_backward(const attention *a);
