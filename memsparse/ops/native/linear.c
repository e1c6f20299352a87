/* Tokens times the weights of a linear layer, in bfloat16 with sums of float32; or of two, of which one gates the other.

   Both factors lie row by row along the columns they share, of which one has to be laid out as vectors: the weights, 32
   rows at a time, if there are many tokens, or the tokens, once, if there are few. Either way a sum is the same. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agreed.h"
#include "threads.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(MEMSPARSE_PORTABLE)
#include "products.h"

#define PANEL (1 << 20) /* bytes of tokens that meet all weights before the next do: part of an L2 cache */

struct work {
    const char *tokens, *weights, *passed; /* passed: weights of what the others gate, or NULL */
    char *out;
    int64_t count, outputs, bytes, next; /* of tokens, of rows of weights, of a row */
    int by_tiles;
    multiply *multiply;
};

/* 16 rows from `first` on, of which `used` are there, as a vector. */
TARGET static void lay_rows(const char *first, int64_t used, int64_t bytes, char *to)
{
    const char *rows[LANES];
    for (int row = 0; row < LANES; row++)
        rows[row] = row < used ? first + row * bytes : NULL;
    lay_vector(rows, bytes, to);
}

/* What comes of 16 sums, and of those that they gate. */
TARGET static inline __m512 gated(const float *sums, const float *passed)
{
    const __m512 own = _mm512_loadu_ps(sums);
    return passed == NULL ? own : let_through(rounded(own), rounded(_mm512_loadu_ps(passed)));
}

/* ROWS tokens or more, with ROWS rows of weights, the `next` ones of those they gate. The last tokens are multiplied in
   company of some before. */
TARGET static void many_tokens(
    const struct work *work, int64_t output, int64_t begin, int64_t end, const char *lanes, const char *next, float *sums)
{
    const int64_t bytes = work->bytes;
    float *passed = work->passed == NULL ? NULL : sums + ROWS * ROWS;
    for (int64_t token = begin; token < end; token += ROWS) {
        const int64_t first = smaller(token, work->count - ROWS);
        work->multiply(work->tokens + first * bytes, bytes, bytes, lanes, LANES * bytes, 2, sums);
        if (passed != NULL)
            work->multiply(work->tokens + first * bytes, bytes, bytes, next, LANES * bytes, 2, passed);
        char *to = work->out + (first * work->outputs + output) * SIZE;
        for (int row = 0; row < ROWS; row++) {
            const float *own = sums + row * ROWS, *other = passed == NULL ? NULL : passed + row * ROWS;
            const __m512 low = gated(own, other), high = gated(own + LANES, other == NULL ? NULL : other + LANES);
            _mm512_storeu_si512(to + row * work->outputs * SIZE, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
    }
}

/* Fewer tokens, as vectors, with ROWS rows of weights. */
TARGET static void few_tokens(const struct work *work, int64_t output, const char *lanes, float *sums)
{
    const int64_t bytes = work->bytes;
    const int vectors = work->count > LANES ? 2 : 1;
    work->multiply(work->weights + output * bytes, bytes, bytes, lanes, LANES * bytes, vectors, sums);
    if (work->passed != NULL) {
        float *passed = sums + ROWS * ROWS;
        work->multiply(work->passed + output * bytes, bytes, bytes, lanes, LANES * bytes, vectors, passed);
        for (int at = 0; at < ROWS * ROWS; at += LANES)
            if (at % ROWS < vectors * LANES)
                _mm512_storeu_ps(sums + at, gated(sums + at, passed + at));
    }
    for (int vector = 0; vector < vectors; vector++)
        for (int half = 0; half < 2; half++) {
            __m512i of[LANES];
            for (int row = 0; row < LANES; row++)
                of[row] = _mm512_loadu_si512(sums + (half * LANES + row) * ROWS + vector * LANES);
            transpose(of);
            for (int token = 0; token < LANES && vector * LANES + token < work->count; token++) {
                char *to = work->out +
                           ((vector * LANES + token) * work->outputs + output + half * LANES) * SIZE;
                _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(_mm512_castsi512_ps(of[token])));
            }
        }
}

/* ROWS rows of weights from one on as two vectors. */
TARGET static void lay_weights(const char *weights, int64_t bytes, char *to)
{
    for (int first = 0; first < ROWS; first += LANES)
        lay_rows(weights + first * bytes, LANES, bytes, to + first * bytes);
}

static void take_parts(void *given)
{
    struct work *work = given;
    const int64_t blocks = work->outputs / ROWS, bytes = work->bytes;
    const int64_t panel = (PANEL / bytes / ROWS + 1) * ROWS, panels = (work->count + panel - 1) / panel;
    const int is_few = work->count < ROWS;
    const int products = work->passed == NULL ? 1 : 2;
    char *lanes = aligned_alloc(LINE, products * (ROWS * bytes + ROWS * ROWS * sizeof(float)));
    if (lanes == NULL)
        return;
    char *next = lanes + ROWS * bytes; /* of weights that others gate */
    float *sums = (float *)(lanes + products * ROWS * bytes);
    if (work->by_tiles)
        begin_tiles();
    for (int64_t first = 0; is_few && first < work->count; first += LANES)
        lay_rows(work->tokens + first * bytes, work->count - first, bytes, lanes + first * bytes);
    for (;;) {
        const int64_t at = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (at >= panels * blocks)
            break;
        const int64_t output = at % blocks * ROWS, begin = at / blocks * panel;
        if (is_few) {
            few_tokens(work, output, lanes, sums);
            continue;
        }
        lay_weights(work->weights + output * bytes, bytes, lanes);
        if (work->passed != NULL)
            lay_weights(work->passed + output * bytes, bytes, next);
        many_tokens(work, output, begin, smaller(begin + panel, work->count), lanes, next, sums);
    }
    if (work->by_tiles)
        end_tiles();
    free(lanes);
}

/* out, (tokens, outputs), from tokens, (tokens, bytes), and weights, (outputs, bytes), without room between rows. With
   other weights in `passed`, products with these are let through as far as the others open: SiLU of one times the other,
   both rounded first. `bytes` are a multiple of 64 and outputs of 32. Returns 0, or which problem there is. */
int memsparse_linear(
    const char *tokens, int64_t count, const char *weights, const char *passed, int64_t outputs, int64_t bytes, char *out,
    int by_tiles, at_once *work_at_once, int threads)
{
    if (!has_kernel(by_tiles))
        return NO_SUCH_KERNEL;
    struct work work = {.tokens = tokens, .weights = weights, .passed = passed, .out = out, .count = count,
                        .outputs = outputs, .bytes = bytes, .by_tiles = by_tiles,
                        .multiply = by_tiles ? multiply_by_tiles : multiply_by_vectors};
    if (count > 0)
        share_among(work_at_once, threads, take_parts, &work);
    return count > 0 && work.next == 0 ? NO_MEMORY : NONE;
}
#else

int memsparse_linear(
    const char *tokens, int64_t count, const char *weights, const char *passed, int64_t outputs, int64_t bytes, char *out,
    int by_tiles, at_once *work_at_once, int threads)
{
    (void)tokens, (void)count, (void)weights, (void)passed, (void)outputs, (void)bytes, (void)out, (void)by_tiles,
        (void)work_at_once, (void)threads;
    return NO_SUCH_KERNEL;
}

#endif
