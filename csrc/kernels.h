/* What the kernels are given, and what they are called: all that Python sees of them.

   Letters: T tokens or rows, N heads, H head width, D model width, F columns of outputs, R ranks, S texts. Numbers are bf16 where
   nothing else is said, arrays contiguous. Structures that Python fills are listed in structures.c, which tells it where their
   fields are. */
#pragma once

#include <stdint.h>

/* Every instruction set has functions of its own: `adapter_up` is `adapter_up_amx`, say. */
#define JOIN(name, level) name##_##level
#define NAMED(name, level) JOIN(name, level)
#define adapter_down NAMED(adapter_down, LEVEL)
#define adapter_up NAMED(adapter_up, LEVEL)
#define attention_forward NAMED(attention_forward, LEVEL)
#define attention_backward NAMED(attention_backward, LEVEL)
#define blocks_are_fast NAMED(blocks_are_fast, LEVEL)
#define dense_forward NAMED(dense_forward, LEVEL)
#define embedding_forward NAMED(embedding_forward, LEVEL)
#define gelu_forward NAMED(gelu_forward, LEVEL)
#define gelu_backward NAMED(gelu_backward, LEVEL)
#define lay_out_weight NAMED(lay_out_weight, LEVEL)
#define layer_measure NAMED(layer_measure, LEVEL)
#define layers_forward NAMED(layers_forward, LEVEL)
#define layers_backward NAMED(layers_backward, LEVEL)
#define multi_lora_forward NAMED(multi_lora_forward, LEVEL)
#define multiplies_bytes NAMED(multiplies_bytes, LEVEL)
#define multiply_quantized NAMED(multiply_quantized, LEVEL)
#define residual_forward NAMED(residual_forward, LEVEL)
#define residual_backward NAMED(residual_backward, LEVEL)
#define round_weight NAMED(round_weight, LEVEL)

typedef struct {
    uint32_t kept_levels; /* of 65,536: random numbers below keep their element */
    uint32_t key[2];
} dropout_mask;

typedef struct {
    const uint16_t *x;      /* (rows, width), as all that follow */
    const uint16_t *bias;   /* (width) added to x first; NULL: none */
    int64_t num_rows, width; /* width: a multiple of 16 */
    uint16_t *out;
    const uint16_t *grad_out;
    uint16_t *grad_x;
    int64_t num_threads;
} gelu;

/* LayerNorm. */
typedef struct {
    const uint16_t *gamma, *beta; /* (width) */
    float epsilon;
} norm;

typedef struct {
    float mean, rate; /* rate: 1 / deviation */
} moments;

typedef struct {
    const int64_t *word_ids, *type_ids, *position_ids; /* (rows) */
    const uint16_t *words, *types, *positions;         /* (ids, width); NULL: no such table, but for words */
    norm norm;
    int64_t num_rows, width;                           /* a multiple of 16 */
    uint16_t *out;                                     /* (rows, width) */
    int64_t num_threads;
} embedding;

/* LayerNorm(dropout(x + bias) + residual). */
typedef struct {
    const uint16_t *x, *residual;      /* (rows, width), as all that follow; x may be the memory of sum */
    const uint16_t *bias;              /* (width); NULL: none */
    norm norm;
    int64_t num_rows, width;           /* a multiple of 32 */
    dropout_mask mask;                 /* all levels kept: no dropout */
    uint16_t *out, *sum;               /* sum: dropout(x + bias) + residual, for the backward pass; may be NULL */
    moments *stats;                    /* (rows); may be NULL */
    const uint16_t *grad_out;
    uint16_t *grad_x, *grad_residual;  /* without dropout both are one */
    int64_t num_threads;
} residual;

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

/* A frozen layer of the input, and its update scaling B (A * E). */
typedef struct {
    const float *A, *E, *B;          /* (rank, D), (rank) and (columns, rank), contiguous; NULL: there is no update */
    const uint16_t *bias;            /* (columns) bf16; NULL: none */
    int64_t columns, rank;
    int64_t column, first;           /* where they begin among all columns and ranks */
    float scaling;
    float *grad_A, *grad_E, *grad_B; /* of A, E and B; NULL: nobody wants it */
} projection;

typedef struct {
    const uint16_t *x; /* (T, D) contiguous bf16, as all that follow */
    const projection *projections;
    int64_t num_projections, T, D, F, R;
    uint16_t *A, *B;   /* (R, D): rows of A, scaled by E; (F, R): B, and the biases in the last column; zero where nothing is */
    uint16_t *dropped; /* (T, D): dropout(x); NULL: there is none */
    uint16_t *low;     /* (T rounded up to SIDE, R): dropout(x) A^T, and ones in the last column */
    dropout_mask mask;
    int64_t num_threads;
} adapter_forward;

typedef struct {
    const uint16_t *grad;         /* (T, F) contiguous bf16, of the outputs, as all that follow */
    const uint16_t *dropped;      /* (T, D): dropout(x), or x */
    const uint16_t *low;          /* (T, R) */
    const uint16_t *A, *B;        /* (R, D) and (F, R) */
    const projection *projections;
    int64_t num_projections, T, D, F, R;
    uint16_t *grad_x;             /* (T, D): the gradient through the update is added; NULL: nobody wants it */
    dropout_mask mask;            /* all levels kept: no dropout */
    int64_t num_threads;
} adapter_backward;

/* An update B A of a frozen layer: A (rank, D), and B transposed (rank, columns). */
typedef struct {
    const uint16_t *A, *B;
    int64_t rank;            /* 0: there is no update */
} low_rank;

/* Layers of one input, whose outputs stand side by side with as many columns each: every text has updates of its own. */
typedef struct {
    const low_rank *updates; /* (num_texts, stride): the first num_layers of a row are those of a text */
    const int64_t *starts;   /* (num_texts + 1): first row of each text; the rows behind the last have no updates */
    int64_t num_texts, num_layers, stride, most_rank;
} text_updates;

typedef struct {
    const uint16_t *x;           /* (T, D); D: a multiple of 32 */
    const text_updates *updates;
    int64_t T, D, F;
    uint16_t *out;               /* (T, F): what is added to; F / num_layers: a multiple of 16 */
    int64_t num_threads;
} multi_lora;

typedef struct {
    const uint16_t *w;    /* (F, D) contiguous bf16; F and D: multiples of 32 */
    int64_t F, D;
    uint16_t *panels;     /* (F / SIDE, D / DEPTH, slab) */
    int64_t num_threads;
} dense_weight;

typedef struct {
    const uint16_t *panels; /* of `dense_weight`; NULL: no layer */
    const uint16_t *bias;   /* (rows) */
    int64_t rows, width;    /* F, D */
    const text_updates *updates; /* NULL: none */
} dense_layer;

typedef struct {
    const uint16_t *x;        /* (T, D) contiguous bf16, as all that follow */
    int64_t T;
    dense_layer before;             /* with GELU behind it; or none, as without a residual */
    dense_layer last;
    const uint16_t *residual; /* (T, F), to which the last layer is added for `norm`; NULL: neither */
    norm norm;
    uint16_t *out;            /* (T, F) */
    int64_t num_threads;
} dense;

typedef struct {
    const uint16_t *w;   /* (F, D) contiguous bf16; F and D: multiples of 16 */
    int64_t F, D;
    uint8_t *panels;     /* of a `matrix` */
    float *scales;       /* (F) */
    int64_t num_threads;
} int8_weight;

/* A rounded matrix (rows, width): `panels` holds SIDE rows after SIDE rows, each at its `place_of`; both numbers,
   multiples of 16, are rounded up to SIDE and STEP there, with zeros in between. */
typedef struct {
    const uint8_t *panels;
    const float *scales; /* (rows) */
    int64_t rows, width;
} matrix;

typedef struct {
    const uint16_t *x;         /* (T, D) contiguous bf16 */
    int64_t T;
    matrix first;              /* (F, D): x goes through it and GELU, or through it and GELU's slope; no panels: none */
    const uint16_t *gelu_bias; /* (F) bf16, on the way to GELU */
    uint16_t *pre_gelu;        /* (T, F) bf16 in blocks: the first product, without that bias; NULL: nobody wants it */
    int64_t takes_slope;       /* the first product is multiplied by GELU's slope at pre_gelu + gelu_bias, which is there */
    matrix last;               /* (width of out, D or F) */
    const uint16_t *bias;      /* (width of out) bf16; NULL: none */
    const uint16_t *low, *up;  /* (T rounded up to SIDE, R) and (width of out, R) bf16: their product is added; NULL: none */
    int64_t R;                 /* a multiple of DEPTH */
    uint16_t *out;             /* (T, width of out) bf16; x may be the same memory */
    int64_t adds;              /* the result is added to what out holds */
    int64_t num_threads;
} product;

/* A layer of BERT's kind. Rows behind attention: T, or S where only first tokens are wanted. */
typedef struct {
    adapter_forward down;                   /* x, and the updates of query, key and value, without memory for anything */
    attention heads;                        /* the texts and how their heads attend, no more */
    residual norm, last_norm;               /* behind attention and behind all; last_norm.out is the layer's */
    matrix qkv, out_proj, up_proj, down_proj;  /* W of query, key and value (3 D, D), of the layer behind attention (D, D) and of
                                               the feed-forward block (F, D) and (D, F) */
    const uint16_t *gelu_bias;              /* (F) */
    char *kept;                             /* memory of the forward pass, and what it leaves for the backward pass */
    int64_t kept_bytes;                     /* of it: written by layer_measure */
    int64_t is_last_pass;                   /* no backward pass comes: nothing is left for it */

    const uint16_t *grad_out;               /* from here on for the backward pass: (rows, D) */
    const projection *gradients;            /* the projections of `down`, and where gradients of their factors go */
    matrix qkv_back, out_proj_back, up_proj_back, down_proj_back; /* columns of W, rounded */
    uint16_t *grad_x;                       /* (T, D) */
    int64_t wants_x;                        /* whether it is wanted; else it is memory */
} layer;

/* Layers, of which each takes what the one before gives. */
typedef struct {
    const layer *const *layers;
    int64_t num_layers;
} stack;

#pragma GCC visibility push(default)

/* 0 if there was memory for it, as all that return a number and are not asked a question. */
int adapter_down(const adapter_forward *a);
int adapter_up(const adapter_backward *a);
int attention_forward(const attention *a);
int attention_backward(const attention *a);
int dense_forward(const dense *a);
int embedding_forward(const embedding *a);
int gelu_forward(const gelu *a);
int gelu_backward(const gelu *a);
int layer_measure(layer *a);
int layers_forward(const stack *s);
int layers_backward(const stack *s);
int lay_out_weight(const dense_weight *a);
int multi_lora_forward(const multi_lora *a);
int multiply_quantized(const product *a); /* x through one matrix, or through two and what is between them */
int residual_forward(const residual *a);
int residual_backward(const residual *a);
int round_weight(const int8_weight *a);

/* Whether products in bf16 are faster here than torch's, and whether those of bytes are faster than those of bf16. */
int blocks_are_fast(void);
int multiplies_bytes(void);

#pragma GCC visibility pop
