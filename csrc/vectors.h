/* Sixteen numbers at a time: bf16 in memory, fp32 in registers, and products of 16 x 16 tiles.

   GCC and clang turn these vectors into whatever the machine has. bf16 is the upper half of fp32. */
#pragma once

#include <string.h>

#include "kernels.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define LANES 16
#define DEPTH 32 /* numbers that one tile product sums over: a tile row of 64 bytes */

typedef float f32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

/* A vector of 64 bytes is a register of AVX512. Where it is two of them, or where memory is watched, everything in one function
   is too much for the compiler. */
#if defined __AVX512F__ && !defined __SANITIZE_ADDRESS__
#define IS_INLINED 1
#define INLINE static inline __attribute__((always_inline))
#else
#define IS_INLINED 0
#define INLINE static inline
#endif

INLINE f32x16 load_f32(const float *from) {
    f32x16 x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE u32x16 load_u32(const void *from) {
    u32x16 x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE u16x16 load_u16(const uint16_t *from) {
    u16x16 x;
    memcpy(&x, from, sizeof x);
    return x;
}

#define STORE(to, x) memcpy((to), &(x), sizeof(x))

/* GCC 12 takes the general form of these two conversions apart into many instructions. */
#ifdef __AVX512F__
INLINE u32x16 load_words(const uint16_t *from) { return (u32x16)_mm512_cvtepu16_epi32((__m256i)load_u16(from)); }
INLINE u16x16 low_words(u32x16 x) { return (u16x16)_mm512_cvtepi32_epi16((__m512i)x); }
#else
INLINE u32x16 load_words(const uint16_t *from) { return __builtin_convertvector(load_u16(from), u32x16); }
INLINE u16x16 low_words(u32x16 x) { return __builtin_convertvector(x, u16x16); }
#endif

INLINE f32x16 widen(const uint16_t *from) { return (f32x16)(load_words(from) << 16); }

/* Rounds to the nearest bf16, ties to even; it is the upper half of the result. A NaN stays one: those of
   bf16 inputs and of the processor's own making have no low bits to carry over from. */
INLINE u32x16 round_bf16(f32x16 x) {
    u32x16 bits = (u32x16)x;
    return bits + 0x7fff + ((bits >> 16) & 1);
}

INLINE u16x16 greater_words(u16x16 a, u16x16 b) {
#ifdef __AVX2__
    return (u16x16)_mm256_max_epu16((__m256i)a, (__m256i)b);
#else
    u16x16 is_more = (u16x16)(a > b);
    return (is_more & a) | (~is_more & b);
#endif
}

INLINE uint16_t greatest_word(u16x16 x) {
#ifdef __AVX2__
    const __m128i most = _mm_max_epu16(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    return ~_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_xor_si128(most, _mm_set1_epi32(-1))));
#else
    uint16_t most = 0;
    for (int i = 0; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
#endif
}

INLINE f32x16 first_of(u32x16 pairs) { return (f32x16)(pairs << 16); }
INLINE f32x16 second_of(u32x16 pairs) { return (f32x16)(pairs & 0xffff0000); }

#ifdef __AVX512BF16__
/* Two rows of bf16 as pairs: the first in the lower half of each dword. */
INLINE u32x16 pairs_of_rows(__m512i rows) {
#define PAIR(i) i, 16 + i
    typedef uint16_t u16x32 __attribute__((vector_size(64)));
    const u16x32 places = {PAIR(0), PAIR(1), PAIR(2),  PAIR(3),  PAIR(4),  PAIR(5),  PAIR(6),  PAIR(7),
                           PAIR(8), PAIR(9), PAIR(10), PAIR(11), PAIR(12), PAIR(13), PAIR(14), PAIR(15)};
#undef PAIR
    return (u32x16)_mm512_permutexvar_epi16((__m512i)places, rows);
}
#endif

/* The same of two rows of fp32. */
INLINE u32x16 pairs_bf16(f32x16 first, f32x16 second) {
#ifdef __AVX512BF16__
    return pairs_of_rows((__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
#else
    return (round_bf16(first) >> 16) | (round_bf16(second) & 0xffff0000);
#endif
}

INLINE void store_bf16(uint16_t *to, f32x16 x) {
#ifdef __AVX512BF16__
    u16x16 half = (u16x16)_mm512_cvtneps_pbh((__m512)x); /* numbers below 2^-126 become 0 */
#else
    u16x16 half = low_words(round_bf16(x) >> 16);
#endif
    STORE(to, half);
}

/* 2 LANES numbers next to each other. */
INLINE void store_two_bf16(uint16_t *to, const f32x16 x[2]) {
#ifdef __AVX512BF16__
    __m512bh both = _mm512_cvtne2ps_pbh((__m512)x[1], (__m512)x[0]);
    STORE(to, both);
#else
    for (int i = 0; i < 2; i++) store_bf16(to + i * LANES, x[i]);
#endif
}

/* Two vectors to rows that are `stride` apart; returns them as pairs. */
INLINE u32x16 store_rows_bf16(uint16_t *to, int64_t stride, const f32x16 x[2]) {
#ifdef __AVX512BF16__
    const __m512i rows = (__m512i)_mm512_cvtne2ps_pbh((__m512)x[1], (__m512)x[0]);
    const __m256i first = _mm512_castsi512_si256(rows), second = _mm512_extracti64x4_epi64(rows, 1);
    STORE(to, first);
    STORE(to + stride, second);
    return pairs_of_rows(rows);
#else
    for (int i = 0; i < 2; i++) store_bf16(to + i * stride, x[i]);
    return pairs_bf16(x[0], x[1]);
#endif
}

/* The same past the caches: memory that is not read again soon need not be fetched before it is written. `to` is a whole
   cache line, and `end_streams` comes before anybody reads. */
INLINE void stream_two_bf16(uint16_t *to, const f32x16 x[2]) {
#ifdef __AVX512BF16__
    _mm512_stream_si512((__m512i *)to, (__m512i)_mm512_cvtne2ps_pbh((__m512)x[1], (__m512)x[0]));
#else
    store_two_bf16(to, x);
#endif
}
INLINE void write_two_bf16(uint16_t *to, const f32x16 x[2], const int streams) {
    if (streams) stream_two_bf16(to, x);
    else store_two_bf16(to, x);
}
INLINE void end_streams(void) {
#ifdef __AVX512BF16__
    _mm_sfence();
#endif
}

/* Whether rows of bf16, `stride` numbers from one to the next, are whole cache lines. */
INLINE int are_lines(const uint16_t *x, int64_t stride) { return ((uintptr_t)x | (uintptr_t)stride * 2) % 64 == 0; }

/* a where the mask (all bits or none, as comparisons give it) is set, else b. */
INLINE f32x16 choose(u32x16 mask, f32x16 a, f32x16 b) {
    return (f32x16)((mask & (u32x16)a) | (~mask & (u32x16)b));
}

/* a where it is greater, else b. */
INLINE f32x16 greater_f32(f32x16 a, f32x16 b) {
#ifdef __AVX512F__
    return (f32x16)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return choose((u32x16)(a > b), a, b);
#endif
}

/* x or a bound; a NaN stays one: of the two, the instructions then return the second. */
#ifdef __AVX512F__
INLINE f32x16 at_least(f32x16 x, float low) { return (f32x16)_mm512_max_ps((__m512)((f32x16){} + low), (__m512)x); }
INLINE f32x16 at_most(f32x16 x, float high) { return (f32x16)_mm512_min_ps((__m512)((f32x16){} + high), (__m512)x); }
#else
INLINE f32x16 at_least(f32x16 x, float low) {
    const f32x16 bound = (f32x16){} + low;
    return choose((u32x16)(x < bound), bound, x);
}
INLINE f32x16 at_most(f32x16 x, float high) {
    const f32x16 bound = (f32x16){} + high;
    return choose((u32x16)(x > bound), bound, x);
}
#endif

INLINE float total(f32x16 x) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)x); /* by halves: one number after the other takes as long as half of the row */
#else
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
#endif
}

INLINE f32x16 kept(u32x16 mask, f32x16 x) { return (f32x16)(mask & (u32x16)x); }

/* 2^x to 2e-7, for x below 127; NaN stays NaN. */
INLINE f32x16 exp2_f32(f32x16 x) {
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: what is added to it loses its fraction */
    x = at_least(x, -126.0f);
    f32x16 shifted = x + to_integer;
    f32x16 f = x - (shifted - to_integer);
    f32x16 y = f * 1.32764608e-3f + 9.67554096e-3f; /* a minimax fit of 2^f on [-1/2, 1/2] */
    y = y * f + 5.55071346e-2f;
    y = y * f + 2.40221202e-1f;
    y = y * f + 6.93146944e-1f;
    y = y * f + 1.00000012f;
    return y * (f32x16)(((u32x16)shifted << 23) + 0x3f800000);
}

/* Sixteen random dwords: a hash of the counter (lowbias32 of C. Wellons, 2018) with a key before and
   between its rounds. Nothing is stored, so a backward pass draws its masks again. */
INLINE u32x16 random_bits(uint32_t counter, const uint32_t key[2]) {
    const u32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    u32x16 x = lane + (counter + key[0]);
    x = (x ^ (x >> 16)) * 0x7feb352dU;
    x = (x ^ (x >> 15)) + key[1];
    x = x * 0x846ca68bU;
    return x ^ (x >> 16);
}

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (u32x16){__VA_ARGS__})
#endif

/* Exchanges lanes between rows that are `distance` apart, for every pair of them. */
#define EXCHANGE(x, distance, low, high)                   \
    for (int r = 0; r < LANES; r++)                        \
        if (!(r & (distance))) {                           \
            u32x16 first = x[r], second = x[r + (distance)]; \
            x[r] = SHUFFLE(first, second, low);            \
            x[r + (distance)] = SHUFFLE(first, second, high); \
        }

#define LOW_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define LOW_4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define HIGH_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define LOW_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define LOW_1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define HIGH_1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31

/* 16 rows of 16 dwords become columns. */
INLINE void transpose(u32x16 x[LANES]) {
    EXCHANGE(x, 8, LOW_8, HIGH_8)
    EXCHANGE(x, 4, LOW_4, HIGH_4)
    EXCHANGE(x, 2, LOW_2, HIGH_2)
    EXCHANGE(x, 1, LOW_1, HIGH_1)
}
