/* What the adapters of many texts add to outputs that are there already, where products are not those of dense.c. */
#include <omp.h>
#include <stdlib.h>

#include "low_rank.h"

enum { AT_ONCE = 64 }; /* rows that a thread takes */

int multi_lora_forward(const multi_lora *a) {
    const text_updates *u = a->updates;
    const int64_t columns = a->F / u->num_layers;
    int fails = 0;
#pragma omp parallel num_threads(a->num_threads) reduction(| : fails)
    {
        row_update *updates = malloc(u->num_layers * AT_ONCE * sizeof *updates);
        float *low = malloc(low_numbers(u, AT_ONCE) * sizeof *low);
        fails = !updates || !low;
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < a->T; first += AT_ONCE) {
            if (fails) continue;
            const int64_t count = smaller(AT_ONCE, a->T - first);
            find_updates(updates, low, u, first, count);
            for (int64_t i = 0; i < u->num_layers * count; i++) {
                const int64_t row = first + i % count, column = i / count * columns;
                uint16_t *out = a->out + row * a->F + column;
                add_low(updates + i, a->x + row * a->D, DEPTH, 0, a->D, a->D);
                for (int64_t c = 0; updates[i].rank && c < columns; c += LANES)
                    store_bf16(out + c, add_update(widen(out + c), updates + i, c, columns));
            }
        }
        free(updates);
        free(low);
    }
    return fails;
}
