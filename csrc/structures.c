/* Where the fields of the structures are that Python fills: it compares them with its own before anything is called. */
#include <stddef.h>

#define LEVEL any
#include "kernels.h"

typedef struct {
    const char *structure, *field; /* field: NULL for the structure as a whole */
    int64_t offset, size;
} place;

#define WHOLE(s) {#s, NULL, 0, sizeof(s)},
#define FIELD(s, f) {#s, #f, offsetof(s, f), sizeof(((s *)0)->f)},

/* EACH(s, a, b, c): FIELD(s, a) FIELD(s, b) FIELD(s, c). */
#define PARENTHESES ()
#define EXPAND(...) EXPAND_4(EXPAND_4(EXPAND_4(__VA_ARGS__)))
#define EXPAND_4(...) EXPAND_3(EXPAND_3(EXPAND_3(__VA_ARGS__)))
#define EXPAND_3(...) EXPAND_2(EXPAND_2(EXPAND_2(__VA_ARGS__)))
#define EXPAND_2(...) __VA_ARGS__
#define EACH(s, ...) __VA_OPT__(EXPAND(EACH_NEXT(s, __VA_ARGS__)))
#define EACH_NEXT(s, f, ...) FIELD(s, f) __VA_OPT__(EACH_AGAIN PARENTHESES(s, __VA_ARGS__))
#define EACH_AGAIN() EACH_NEXT
#define STRUCTURE(s, ...) WHOLE(s) EACH(s, __VA_ARGS__)

static const place places[] = {
    STRUCTURE(dropout_mask, kept_levels, key)
    STRUCTURE(gelu, x, bias, num_rows, width, out, grad_out, grad_x, num_threads)
    STRUCTURE(norm, gamma, beta, epsilon)
    STRUCTURE(embedding, word_ids, type_ids, position_ids, words, types, positions, norm, num_rows, width, out, num_threads)
    STRUCTURE(residual, x, residual, bias, norm, num_rows, width, mask, out, sum, stats, grad_out, grad_x, grad_residual,
              num_threads)
    STRUCTURE(attention, q, k, v, q_strides, k_strides, v_strides, cu_seqlens, num_texts, num_heads, head_width, num_tokens,
              longest, window, only_first, by_distance, distances, scaling, kept_levels, key, out, stats, grad_out, grad_q,
              grad_k, grad_v, grad_stride, num_threads)
    STRUCTURE(projection, A, E, B, bias, columns, rank, column, first, scaling, grad_A, grad_E, grad_B)
    STRUCTURE(adapter_forward, x, projections, num_projections, T, D, F, R, A, B, dropped, low, mask, num_threads)
    STRUCTURE(adapter_backward, grad, dropped, low, A, B, projections, num_projections, T, D, F, R, grad_x, mask, num_threads)
    STRUCTURE(low_rank, A, B, rank)
    STRUCTURE(text_updates, updates, starts, num_texts, num_layers, stride, most_rank)
    STRUCTURE(multi_lora, x, updates, T, D, F, out, num_threads)
    STRUCTURE(dense_weight, w, F, D, panels, num_threads)
    STRUCTURE(dense_layer, panels, bias, rows, width, updates)
    STRUCTURE(dense, x, T, before, last, residual, norm, out, num_threads)
    STRUCTURE(int8_weight, w, F, D, panels, scales, num_threads)
    STRUCTURE(matrix, panels, scales, rows, width)
    STRUCTURE(product, x, T, first, gelu_bias, pre_gelu, takes_slope, last, bias, low, up, R, out, adds, num_threads)
    STRUCTURE(layer, down, heads, norm, last_norm, qkv, out_proj, up_proj, down_proj, gelu_bias, kept, kept_bytes, is_last_pass, grad_out,
              gradients, qkv_back, out_proj_back, up_proj_back, down_proj_back, grad_x, wants_x)
    STRUCTURE(stack, layers, num_layers)
};

__attribute__((visibility("default"))) const place *structure_places(void) { return places; }
__attribute__((visibility("default"))) int64_t num_structure_places(void) { return sizeof places / sizeof *places; }
