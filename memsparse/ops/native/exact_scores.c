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
#define PART 24    /* rows a thread takes at a time */
#define PANEL 64   /* columns that meet all rows of a part while they are in the nearest cache */
#define TARGET __attribute__((target("avx512f")))

/* What the threads share: each takes the next PART rows of a request until there are none. */
struct work {
    int kind;
    int64_t width, requests, parts, next;
    const int64_t *counts;    /* (requests,) tokens */
    const double *lanes;      /* (vectors of all requests, width, LANES) */
    const int64_t *first_row; /* (requests + 1,) of a request among those of all */
    const char **rows;
    double *best; /* of every row */
};

/* Rows of a part, PANEL columns of them at a time, and their sums with the vectors that run along. */
struct room {
    double columns[PART][PANEL];
    __m512d sums[PART][VECTORS];
};

static inline int64_t divided_up(int64_t number, int64_t by)
{
    return (number + by - 1) / by;
}

/* Bytes of a stored number. */
static inline int64_t size_of(int kind)
{
    return kind == FLOAT32 ? 4 : 2;
}

/* Eight stored numbers as float64. */
TARGET static inline __m512d widen(const char *from, int kind)
{
    if (kind == FLOAT32)
        return _mm512_cvtps_pd(_mm256_loadu_ps((const float *)from));
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)));
}

/* `count` columns of a row as float64; what is left of eight is not read beyond its end. */
TARGET static void widen_columns(const char *row, int kind, int64_t count, double *to)
{
    const int64_t size = size_of(kind), left = count % LANES;
    for (int64_t at = 0; at < count - left; at += LANES)
        _mm512_storeu_pd(to + at, widen(row + at * size, kind));
    if (left > 0) {
        char last[LANES * sizeof(float)] = {0};
        memcpy(last, row + (count - left) * size, left * size);
        _mm512_storeu_pd(to + count - left, widen(last, kind));
    }
}

/* Add to the sums of ROWS rows the products of `columns` of their columns with `count` vectors, `step` apart. */
TARGET static inline __attribute__((always_inline)) void add_products(
    const double rows[][PANEL], int64_t columns, const double *lanes, int64_t step, const int count,
    __m512d held[][VECTORS])
{
    __m512d sums[ROWS][VECTORS];
    for (int row = 0; row < ROWS; row++)
        for (int vector = 0; vector < count; vector++)
            sums[row][vector] = held[row][vector];
    for (int64_t column = 0; column < columns; column++) {
        __m512d token[VECTORS];
#pragma GCC unroll 4
        for (int vector = 0; vector < count; vector++)
            token[vector] = _mm512_loadu_pd(lanes + vector * step + column * LANES);
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; row++) {
            const __m512d key = _mm512_set1_pd(rows[row][column]);
#pragma GCC unroll 4
            for (int vector = 0; vector < count; vector++)
                sums[row][vector] = _mm512_fmadd_pd(token[vector], key, sums[row][vector]);
        }
    }
    for (int row = 0; row < ROWS; row++)
        for (int vector = 0; vector < count; vector++)
            held[row][vector] = sums[row][vector];
}

/* Raise the best products of `used` rows to those with `count` vectors. */
TARGET static void raise_part(
    const struct work *work, const char **rows, int used, const double *lanes, int count, struct room *room,
    double *best)
{
    const int64_t width = work->width, size = size_of(work->kind), step = width * LANES;
    for (int row = 0; row < PART; row++)
        for (int vector = 0; vector < count; vector++)
            room->sums[row][vector] = _mm512_setzero_pd();
    for (int64_t begin = 0; begin < width; begin += PANEL) {
        const int64_t columns = width - begin < PANEL ? width - begin : PANEL;
        for (int row = 0; row < used; row++) {
            for (int64_t ahead = 0; ahead < PANEL * size; ahead += 64) /* what comes next of the row */
                _mm_prefetch(rows[row] + (begin + PANEL) * size + ahead, _MM_HINT_T0);
            widen_columns(rows[row] + begin * size, work->kind, columns, room->columns[row]);
        }
        for (int row = 0; row < used; row += ROWS) {
            const double(*of)[PANEL] = room->columns + row, *with = lanes + begin * LANES;
            __m512d(*sums)[VECTORS] = room->sums + row;
            if (count == VECTORS)
                add_products(of, columns, with, step, VECTORS, sums);
            else if (count == 3)
                add_products(of, columns, with, step, 3, sums);
            else if (count == 2)
                add_products(of, columns, with, step, 2, sums);
            else
                add_products(of, columns, with, step, 1, sums);
        }
    }
    for (int row = 0; row < used; row++)
        for (int vector = 0; vector < count; vector++)
            best[row] = fmax(best[row], _mm512_reduce_max_pd(room->sums[row][vector]));
}

static void take_parts(void *given)
{
    struct work *work = given;
    struct room *room = aligned_alloc(sizeof(__m512d), sizeof *room);
    if (room != NULL)
        memset(room, 0, sizeof *room); /* rows that a part does not have are multiplied, too */
    while (room != NULL) {
        int64_t part = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED), vector = 0, request = 0;
        if (part >= work->parts)
            break;
        for (;; request++) { /* whose part it is */
            const int64_t own = divided_up(work->first_row[request + 1] - work->first_row[request], PART);
            if (part < own)
                break;
            part -= own, vector += divided_up(work->counts[request], LANES);
        }
        const int64_t row = work->first_row[request] + part * PART, left = work->first_row[request + 1] - row;
        const int64_t end = vector + divided_up(work->counts[request], LANES);
        const int used = left < PART ? (int)left : PART;
        for (int i = 0; i < used; i++)
            work->best[row + i] = -INFINITY;
        while (vector < end) {
            const int count = end - vector < VECTORS ? (int)(end - vector) : VECTORS;
            raise_part(work, work->rows + row, used, work->lanes + vector * work->width * LANES, count, room,
                       work->best + row);
            vector += count;
        }
    }
    free(room);
}

/* Write tokens of a request as (vectors, width, 8 tokens), the last vector filled up with the last token. */
TARGET static void lay_out(const float *tokens, int64_t count, int64_t width, double *lanes)
{
    for (int64_t first = 0; first < count; first += LANES, lanes += width * LANES) {
        const float *token[LANES];
        for (int lane = 0; lane < LANES; lane++)
            token[lane] = tokens + (first + lane < count ? first + lane : count - 1) * width;
        for (int64_t at = 0; at < width; at++)
            _mm512_storeu_pd(lanes + at * LANES,
                             _mm512_cvtps_pd(_mm256_setr_ps(token[0][at], token[1][at], token[2][at], token[3][at],
                                                            token[4][at], token[5][at], token[6][at], token[7][at])));
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

/* Whether every run of chunks, (requests * documents), lies in its block. */
static int are_inside(
    const int64_t *block, const int64_t *start, const int64_t *rows, int64_t runs, const int64_t *lengths, int64_t blocks)
{
    int inside = 1;
    for (int64_t i = 0; i < runs; i++)
        if (rows[i] != 0)
            inside &= rows[i] > 0 && block[i] >= 0 && block[i] < blocks && start[i] >= 0 && rows[i] <= lengths[block[i]] &&
                      start[i] <= lengths[block[i]] - rows[i];
    return inside;
}

/* Score documents of each request: scores and chunks, (requests, documents).

   tokens is (tokens of all requests, width), `counts` of each; a document is `rows` rows from `start` on of a `block`,
   (requests, documents) each, and a block has `lengths` rows, each (width,) of bfloat16 or float32, as `kind` says.
   A request with a token that is not finite scores nothing but NaN, because a maximum may pass over it. Returns 0, or
   which problem there is. */
int memsparse_score_stored(
    int kind, int64_t width, const float *tokens, const int64_t *counts, int64_t requests, const char *const *keys,
    const int64_t *lengths, int64_t blocks, const int64_t *block, const int64_t *start, const int64_t *rows,
    int64_t documents, float *scores, int64_t *chunks, at_once *work_at_once, int threads)
{
    if (!memsparse_can_score())
        return NO_SUCH_KERNEL;
    if (!are_inside(block, start, rows, requests * documents, lengths, blocks))
        return RUN_OUTSIDE;
    const float *token = tokens;
    const int64_t row_bytes = width * size_of(kind);
    int64_t vectors = 0, parts = 0, at = 0, vector = 0, done = 0;
    int64_t *first_row = calloc(requests + 1, sizeof *first_row);
    char *scored = calloc(requests + 1, 1);
    for (int64_t request = 0; request < requests && first_row != NULL && scored != NULL; request++) {
        const int64_t count = counts[request];
        scored[request] = count > 0 && are_finite(token, count * width);
        for (int64_t i = 0; i < documents && scored[request]; i++)
            at += rows[request * documents + i];
        first_row[request + 1] = at;
        parts += divided_up(at - first_row[request], PART);
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
                    row[at++] = keys[block[i]] + (start[i] + chunk) * row_bytes;
        }
        struct work work = {kind, width, requests, parts, 0, counts, lanes, first_row, row, best};
        share_among(work_at_once, threads, take_parts, &work);
        done = work.next >= parts, at = 0;
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
    int kind, int64_t width, const float *tokens, const int64_t *counts, int64_t requests, const char *const *keys,
    const int64_t *lengths, int64_t blocks, const int64_t *block, const int64_t *start, const int64_t *rows,
    int64_t documents, float *scores, int64_t *chunks, at_once *work_at_once, int threads)
{
    (void)kind, (void)width, (void)tokens, (void)counts, (void)requests, (void)keys, (void)lengths, (void)blocks,
        (void)block, (void)start, (void)rows, (void)documents, (void)scores, (void)chunks, (void)work_at_once,
        (void)threads;
    return NO_SUCH_KERNEL;
}

#endif
