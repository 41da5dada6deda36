/* LayerNorm(word + token type + position), one pass over the tokens. */
#include "norm.h"

int embedding_forward(const embedding *a) {
    const int64_t D = a->width;
#pragma omp parallel for schedule(dynamic, 32) num_threads(a->num_threads)
    for (int64_t row = 0; row < a->num_rows; row++) {
        const uint16_t *word = a->words + a->word_ids[row] * D;
        const uint16_t *type = a->types ? a->types + a->type_ids[row] * D : NULL;
        const uint16_t *position = a->positions ? a->positions + a->position_ids[row] * D : NULL;
        float values[D];
        f32x16 sum = {};
        for (int64_t c = 0; c < D; c += LANES) {
            f32x16 value = widen(word + c);
            if (type) value += widen(type + c);
            if (position) value += widen(position + c);
            STORE(values + c, value);
            sum += value;
        }
        normalise(a->out + row * D, values, sum, D, a->norm);
    }
    return 0;
}
