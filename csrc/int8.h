/* What a product with rounded matrices is given. Letters: T rows of x, D their width, F rows of W. */
#pragma once

#include <stdint.h>

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
    uint16_t *before;          /* (T, F) bf16 in blocks: the first product, without that bias; NULL: nobody wants it */
    int64_t takes_slope;       /* the first product is multiplied by GELU's slope at before + gelu_bias, which is there */
    matrix last;               /* (width of out, D or F) */
    const uint16_t *bias;      /* (width of out) bf16; NULL: none */
    const uint16_t *low, *up;  /* (T rounded up to SIDE, R) and (width of out, R) bf16: their product is added; NULL: none */
    int64_t R;                 /* a multiple of DEPTH */
    uint16_t *out;             /* (T, width of out) bf16; x may be the same memory */
    int64_t adds;              /* the result is added to what out holds */
    int64_t num_threads;
} product;

/* x through one matrix, or through two and what is between them; 0 if there was memory for it. */
int multiply_rounded(const product *a);
