/* The best inner product of a few keys with one request's routing tokens in float64: the last word on a score.

   A product of torch would first want all keys as float64, and may sum in another order for another number of
   keys. Here every sum runs over the columns in their order, whatever it is computed beside. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agreed.h"
#include "threads.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(MEMSPARSE_PORTABLE)
#include <immintrin.h>

#define ROWS 6     /* by four vectors: 24 of the 32 registers hold sums */
#define VECTORS 4  /* at a time */
#define LANES 8    /* tokens of a vector */

struct work {
    int kind;
    const char *keys;
    int64_t rows, width, vectors, next;
    const double *lanes;
    double *best;
};

/* A row of keys as float64, every ROWS-th number of `to`. */
static void spread(const char *row, int kind, int64_t width, double *to)
{
    for (int64_t column = 0; column < width; column++) {
        uint32_t bits = 0;
        if (kind == BFLOAT16)
            memcpy((char *)&bits + 2, row + 2 * column, 2);
        else
            memcpy(&bits, row + 4 * column, 4);
        float value;
        memcpy(&value, &bits, sizeof value);
        to[column * ROWS] = value;
    }
}

/* Raise the best of ROWS rows, (width, ROWS), to their products with `count` vectors. */
__attribute__((target("avx512f"))) static inline __attribute__((always_inline)) void multiply(
    const double *rows, int64_t width, const double *lanes, const int count, __m512d best[ROWS])
{
    __m512d sums[ROWS][VECTORS];
    for (int row = 0; row < ROWS; row++)
        for (int vector = 0; vector < count; vector++)
            sums[row][vector] = _mm512_setzero_pd();
    for (int64_t column = 0; column < width; column++) {
        __m512d token[VECTORS];
#pragma GCC unroll 4
        for (int vector = 0; vector < count; vector++)
            token[vector] = _mm512_loadu_pd(lanes + (vector * width + column) * LANES);
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; row++) {
            const __m512d key = _mm512_set1_pd(rows[column * ROWS + row]);
#pragma GCC unroll 4
            for (int vector = 0; vector < count; vector++)
                sums[row][vector] = _mm512_fmadd_pd(token[vector], key, sums[row][vector]);
        }
    }
    for (int row = 0; row < ROWS; row++)
        for (int vector = 0; vector < count; vector++)
            best[row] = _mm512_max_pd(best[row], sums[row][vector]);
}

__attribute__((target("avx512f"))) static void take_parts(void *given)
{
    struct work *work = given;
    const int64_t bytes = work->width * (work->kind == BFLOAT16 ? 2 : 4);
    double *rows = calloc(ROWS, work->width * sizeof *rows);
    if (rows == NULL)
        return;
    for (;;) {
        const int64_t begin = __atomic_fetch_add(&work->next, ROWS, __ATOMIC_RELAXED);
        if (begin >= work->rows)
            break;
        const int used = work->rows - begin < ROWS ? (int)(work->rows - begin) : ROWS;
        __m512d best[ROWS];
        for (int row = 0; row < ROWS; row++)
            best[row] = _mm512_set1_pd(-INFINITY);
        for (int row = 0; row < used; row++)
            spread(work->keys + (begin + row) * bytes, work->kind, work->width, rows + row);
        int64_t vector = 0;
        for (; vector + VECTORS <= work->vectors; vector += VECTORS)
            multiply(rows, work->width, work->lanes + vector * work->width * LANES, VECTORS, best);
        for (; vector < work->vectors; vector++)
            multiply(rows, work->width, work->lanes + vector * work->width * LANES, 1, best);
        for (int row = 0; row < used; row++)
            work->best[begin + row] = _mm512_reduce_max_pd(best[row]);
    }
    free(rows);
}

/* Tokens as (vectors, width, 8 tokens), the last vector filled up with the last token; NULL without memory. */
static double *lay_out(const float *tokens, int64_t count, int64_t width, int64_t vectors)
{
    double *lanes = malloc(vectors * width * LANES * sizeof *lanes);
    for (int64_t i = 0; i < vectors * LANES && lanes != NULL; i++) {
        const float *token = tokens + (i < count ? i : count - 1) * width;
        double *lane = lanes + i / LANES * LANES * width + i % LANES;
        for (int64_t column = 0; column < width; column++)
            lane[column * LANES] = token[column];
    }
    return lanes;
}

static int are_finite(const float *values, int64_t count)
{
    int finite = 1;
    for (int64_t i = 0; i < count; i++)
        finite &= fabsf(values[i]) <= FLT_MAX;
    return finite;
}

int memsparse_can_multiply_exactly(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f");
}

/* best[row] becomes the best product of a row of keys with any token.

   keys is (rows, width) of bfloat16 or float32, as `kind` says; tokens is (count, width), at least one. Returns 0, or
   which problem there is: tokens that are not finite are one, because a maximum may pass over them. */
int memsparse_best_exact_products(
    int kind, const char *keys, int64_t rows, int64_t width, const float *tokens, int64_t count, double *best,
    at_once *work_at_once, int threads)
{
    if (!memsparse_can_multiply_exactly())
        return NO_SUCH_KERNEL;
    if (!are_finite(tokens, count * width))
        return NOT_FINITE;
    const int64_t vectors = (count + LANES - 1) / LANES;
    double *lanes = lay_out(tokens, count, width, vectors);
    if (lanes == NULL)
        return NO_MEMORY;
    struct work work = {kind, keys, rows, width, vectors, 0, lanes, best};
    share_among(work_at_once, threads, take_parts, &work);
    free(lanes);
    return work.next < rows ? NO_MEMORY : NONE;
}

#else

int memsparse_can_multiply_exactly(void)
{
    return 0;
}

int memsparse_best_exact_products(
    int kind, const char *keys, int64_t rows, int64_t width, const float *tokens, int64_t count, double *best,
    at_once *work_at_once, int threads)
{
    (void)kind, (void)keys, (void)rows, (void)width, (void)tokens, (void)count, (void)best, (void)work_at_once,
        (void)threads;
    return NO_SUCH_KERNEL;
}

#endif
