/* Scores of a few documents from their keys as they are stored, in float64: the last word on a score.

   A product of torch would first want all keys side by side as float64, and may sum in another order for another
   number of keys. Here keys are read where they lie, and every sum runs over the columns in their order, whatever
   it is computed beside. */

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

/* What the threads share: each takes the next ROWS rows of a request until there are none. */
struct work {
    int kind;
    int64_t width, requests, blocks, next;
    const int64_t *counts;    /* (requests,) tokens */
    const double *lanes;      /* (vectors of all requests, width, LANES) */
    const int64_t *first_row; /* (requests + 1,) of a request among those of all */
    const char **rows;
    double *best; /* of every row */
};

static inline int64_t divided_up(int64_t number, int64_t by)
{
    return (number + by - 1) / by;
}

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

/* The best products of `count` rows with a request's vectors. */
__attribute__((target("avx512f"))) static void multiply_rows(
    const struct work *work, const char **rows, int count, const double *lanes, int64_t vectors, double *spread_rows,
    double *best)
{
    const int64_t step = work->width * LANES;
    __m512d largest[ROWS];
    for (int row = 0; row < ROWS; row++)
        largest[row] = _mm512_set1_pd(-INFINITY);
    for (int row = 0; row < count; row++)
        spread(rows[row], work->kind, work->width, spread_rows + row);
    int64_t vector = 0;
    for (; vector + VECTORS <= vectors; vector += VECTORS)
        multiply(spread_rows, work->width, lanes + vector * step, VECTORS, largest);
    for (; vector < vectors; vector++)
        multiply(spread_rows, work->width, lanes + vector * step, 1, largest);
    for (int row = 0; row < count; row++)
        best[row] = _mm512_reduce_max_pd(largest[row]);
}

static void take_parts(void *given)
{
    struct work *work = given;
    double *spread_rows = calloc(ROWS, work->width * sizeof *spread_rows);
    while (spread_rows != NULL) {
        int64_t block = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED), vector = 0, request = 0;
        if (block >= work->blocks)
            break;
        for (;; request++) { /* whose block it is */
            const int64_t own = divided_up(work->first_row[request + 1] - work->first_row[request], ROWS);
            if (block < own)
                break;
            block -= own, vector += divided_up(work->counts[request], LANES);
        }
        const int64_t row = work->first_row[request] + block * ROWS, left = work->first_row[request + 1] - row;
        multiply_rows(work, work->rows + row, left < ROWS ? (int)left : ROWS, work->lanes + vector * work->width * LANES,
                      divided_up(work->counts[request], LANES), spread_rows, work->best + row);
    }
    free(spread_rows);
}

/* Write tokens of a request as (vectors, width, 8 tokens), the last vector filled up with the last token. */
static void lay_out(const float *tokens, int64_t count, int64_t width, double *lanes)
{
    for (int64_t i = 0; i < divided_up(count, LANES) * LANES; i++) {
        const float *token = tokens + (i < count ? i : count - 1) * width;
        double *lane = lanes + i / LANES * LANES * width + i % LANES;
        for (int64_t column = 0; column < width; column++)
            lane[column * LANES] = token[column];
    }
}

static int are_finite(const float *values, int64_t count)
{
    int finite = 1;
    for (int64_t i = 0; i < count; i++)
        finite &= fabsf(values[i]) <= FLT_MAX;
    return finite;
}

/* From the best products of a document's rows to its score and the first row that has it. */
static void choose(const double *best, int64_t count, float *score, int64_t *chunk)
{
    *score = -INFINITY, *chunk = -1;
    for (int64_t row = 0; row < count; row++)
        if (*chunk < 0 || (float)best[row] > *score)
            *score = (float)best[row], *chunk = row;
}

int memsparse_can_score(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f");
}

/* Score documents of each request: scores and chunks, (requests, documents).

   tokens is (tokens of all requests, width), `counts` of each; first, (requests, documents), is where a document's
   rows begin, `rows` of them, each (width,) of bfloat16 or float32, as `kind` says. A request with a token that is
   not finite scores nothing but NaN, because a maximum may pass over it. Returns 0, or which problem there is. */
int memsparse_score_stored(
    int kind, int64_t width, const float *tokens, const int64_t *counts, int64_t requests, const char *const *first,
    const int64_t *rows, int64_t documents, float *scores, int64_t *chunks, at_once *work_at_once, int threads)
{
    if (!memsparse_can_score())
        return NO_SUCH_KERNEL;
    const float *token = tokens;
    int64_t vectors = 0, blocks = 0, at = 0, vector = 0, done = 0;
    int64_t *first_row = calloc(requests + 1, sizeof *first_row);
    char *scored = calloc(requests + 1, 1);
    for (int64_t request = 0; request < requests && first_row != NULL && scored != NULL; request++) {
        const int64_t count = counts[request];
        scored[request] = count > 0 && are_finite(token, count * width);
        for (int64_t i = 0; i < documents && scored[request]; i++)
            at += rows[request * documents + i];
        first_row[request + 1] = at;
        blocks += divided_up(at - first_row[request], ROWS);
        token += count * width, vectors += divided_up(count, LANES);
    }
    const char **row = malloc((at + 1) * sizeof *row);
    double *best = malloc((at + 1) * sizeof *best), *lanes = malloc((vectors + 1) * width * LANES * sizeof *lanes);
    if (first_row != NULL && scored != NULL && row != NULL && best != NULL && lanes != NULL) {
        token = tokens, at = 0;
        for (int64_t request = 0; request < requests; request++) {
            lay_out(token, counts[request], width, lanes + vector * width * LANES);
            token += counts[request] * width, vector += divided_up(counts[request], LANES);
            for (int64_t i = request * documents; i < (request + 1) * documents && scored[request]; i++)
                for (int64_t chunk = 0; chunk < rows[i]; chunk++)
                    row[at++] = first[i] + chunk * width * (kind == BFLOAT16 ? 2 : 4);
        }
        struct work work = {kind, width, requests, blocks, 0, counts, lanes, first_row, row, best};
        share_among(work_at_once, threads, take_parts, &work);
        done = work.next >= blocks, at = 0;
        for (int64_t i = 0; i < requests * documents && done; i++) {
            const int64_t request = i / documents, own = scored[request] ? rows[i] : 0;
            choose(best + at, own, scores + i, chunks + i);
            if (counts[request] > 0 && rows[i] > 0 && !scored[request])
                scores[i] = NAN, chunks[i] = 0;
            at += own;
        }
    }
    free(first_row), free(scored), free(row), free(best), free(lanes);
    return done ? NONE : NO_MEMORY;
}

#else

int memsparse_can_score(void)
{
    return 0;
}

int memsparse_score_stored(
    int kind, int64_t width, const float *tokens, const int64_t *counts, int64_t requests, const char *const *first,
    const int64_t *rows, int64_t documents, float *scores, int64_t *chunks, at_once *work_at_once, int threads)
{
    (void)kind, (void)width, (void)tokens, (void)counts, (void)requests, (void)first, (void)rows, (void)documents,
        (void)scores, (void)chunks, (void)work_at_once, (void)threads;
    return NO_SUCH_KERNEL;
}

#endif
