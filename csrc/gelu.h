/* GELU(x) = x Phi(x), the exact form, and its derivative Phi(x) + x phi(x); Phi and phi are the normal distribution's
   (Hendrycks and Gimpel, 2016, arXiv 1606.08415).

   Both factors are 1/2 plus an odd function that ends at 1/2: a polynomial fitted to the least greatest error
   (Chebyshev), which leaves 3e-5 in GELU and 7e-5 in the derivative. Half a step of bf16 is more for every
   value above 0.014. */
#pragma once

#include "vectors.h"

/* 1/2 + x P(2 (x / end)^2 - 1) with x no further than `end` from 0. */
INLINE f32x16 sigmoid_like(f32x16 x, const float end, const float *coefficients, const int count) {
    x = at_most(at_least(x, -end), end);
    f32x16 z = x * x * (2 / (end * end)) - 1.0f, p = (f32x16){} + coefficients[0];
    for (int i = 1; i < count; i++) p = p * z + coefficients[i];
    return x * p + 0.5f;
}

INLINE f32x16 gelu_of(f32x16 x) {
    const float end = 4.375f; /* what is left of the factor there times -1e30 would not be nothing */
    const float p[] = {2.62538833e-3f,  -7.55199045e-3f, 1.06758773e-2f,  -1.57629531e-2f, 2.65808757e-2f,
                       -3.99557017e-2f, 5.53448051e-2f,  -7.89732412e-2f, 0.161302656f};
    return at_least(x, -end) * sigmoid_like(x, end, p, 9);
}

INLINE f32x16 gelu_slope(f32x16 x) {
    const float p[] = {-2.82570608e-2f, 6.28308356e-2f,  -4.74346168e-2f, 4.59291488e-2f,  -8.8143944e-2f,
                       0.10480044f,     -9.25141796e-2f, 8.30253884e-2f,  -8.76449645e-2f, 0.156998083f};
    return sigmoid_like(x, 4.5625f, p, 10);
}
