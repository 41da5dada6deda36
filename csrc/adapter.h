/* What the passes of low-rank updates are given. Letters as in adapter.c. */
#pragma once

#include "dropout.h"

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

/* 0 if there was memory for it. */
int adapter_down(const adapter_forward *a);
int adapter_up(const adapter_backward *a);
