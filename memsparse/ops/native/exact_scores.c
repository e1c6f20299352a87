/* Scores of a few documents from their keys as they are stored, in float64: the last word on a score.

   A product of torch would first want all keys side by side as float64, and may sum in another order for another
   number of keys. Here keys are read where they lie, and every sum runs over the columns in their order, whatever
   it is computed beside.

   One chunk of a document has its score, and of many documents a few may be wanted. So rough products come first where
   that pays, by the kernel of best_products.c, and only those chunks are multiplied in float64 that may have the score
   of a document that may be wanted. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agreed.h"
#include "heap.h"
#include "scan.h"
#include "threads.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(MEMSPARSE_PORTABLE)
#include <immintrin.h>

#define HALF (LANES / 2) /* tokens of a vector of float64 */
#define ROWS 6           /* by four vectors: 24 of the 32 registers hold sums */
#define VECTORS 4        /* at a time */
#define PART 24          /* rows a thread takes at a time */
#define ROUGH_PART 96    /* likewise, where products are rough */
#define AHEAD 4          /* rows that are fetched while one is copied: they lie apart */
#define SUMS 4           /* of squares that run side by side */
#define PANEL 64         /* columns that meet all rows of a part while they are in the nearest cache */
#define PAYS 3           /* rows to each wanted from which rough products pay, in float32 with more tokens than LANES */
#define SMALL 0x1p-40    /* norms count as no smaller, so that what float32 flushes to 0 is within reach */
#define TARGET __attribute__((target("avx512f")))

/* A chunk of a document, and what is known of its best product. */
struct row {
    const char *keys;
    double exact;
    float low, high;
    int is_exact; /* whether it is multiplied exactly */
};

/* Rows that threads share: each takes the next `height` of a request until there are none. */
struct list {
    int64_t requests, height, next;
    int64_t *first; /* (requests + 1,) of each request */
    struct row **rows;
};

/* What a thread takes. */
struct part {
    int64_t request;
    int used;
    struct row **rows;
};

/* Tokens of a request, laid out twice: (vectors, width, HALF), and as best_products.c wants them. */
struct tokens {
    int64_t count;
    int are_finite;
    double *lanes;
    char *rough;
    float unit; /* of the rough ones, in which are */
    double longest, lost;
};

/* What the threads share besides. */
struct work {
    int kind, rough_kind, failed;
    int64_t width;
    const struct tokens *tokens; /* of each request */
    const int32_t *own;          /* zeros: whose vectors are where a kernel is given those of one request */
    struct list list;
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

/* Sixteen stored numbers as float32. */
TARGET static inline __m512 widen(const char *from, int kind)
{
    if (kind == FLOAT32)
        return _mm512_loadu_ps((const float *)from);
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

/* The same of `left`, if that is fewer: nothing is read behind them, and 0 takes their place. */
TARGET static inline __m512 widen_last(const char *from, int kind, int64_t left)
{
    char last[LANES * sizeof(float)] = {0};
    if (left >= LANES)
        return widen(from, kind);
    memcpy(last, from, left * size_of(kind));
    return widen(last, kind);
}

/* `count` columns of a row as float64. */
TARGET static void widen_columns(const char *row, int kind, int64_t count, double *to)
{
    for (int64_t at = 0; at < count; at += LANES) {
        const __m512 numbers = widen_last(row + at * size_of(kind), kind, count - at);
        const __m512 others = _mm512_shuffle_f32x4(numbers, numbers, 0xEE);
        _mm512_storeu_pd(to + at, _mm512_cvtps_pd(_mm512_castps512_ps256(numbers)));
        _mm512_storeu_pd(to + at + HALF, _mm512_cvtps_pd(_mm512_castps512_ps256(others)));
    }
}

/* The norm of a row, in float32. */
TARGET static float norm_of(const char *row, int kind, int64_t width)
{
    __m512 squares[SUMS], all = _mm512_setzero_ps();
    for (int sum = 0; sum < SUMS; sum++)
        squares[sum] = _mm512_setzero_ps();
    for (int64_t begin = 0; begin < width; begin += SUMS * LANES)
#pragma GCC unroll 4
        for (int sum = 0; sum < SUMS; sum++) {
            const int64_t at = begin + sum * LANES;
            if (at < width) {
                const __m512 numbers = widen_last(row + at * size_of(kind), kind, width - at);
                squares[sum] = _mm512_fmadd_ps(numbers, numbers, squares[sum]);
            }
        }
    for (int sum = 0; sum < SUMS; sum++)
        all = _mm512_add_ps(all, squares[sum]);
    return sqrtf(_mm512_reduce_add_ps(all));
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
            token[vector] = _mm512_loadu_pd(lanes + vector * step + column * HALF);
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

/* Raise the exact products of `used` rows to those with `count` vectors. */
TARGET static void raise_part(
    const struct work *work, struct row **rows, int used, const double *lanes, int count, struct room *room)
{
    const int64_t width = work->width, size = size_of(work->kind), step = width * HALF;
    for (int row = 0; row < PART; row++)
        for (int vector = 0; vector < count; vector++)
            room->sums[row][vector] = _mm512_setzero_pd();
    for (int64_t begin = 0; begin < width; begin += PANEL) {
        const int64_t columns = width - begin < PANEL ? width - begin : PANEL;
        for (int row = 0; row < used; row++) {
            const char *from = rows[row]->keys + begin * size;
            for (int64_t ahead = PANEL * size; ahead < 2 * PANEL * size; ahead += 64) /* what comes next of the row */
                _mm_prefetch(from + ahead, _MM_HINT_T0);
            widen_columns(from, work->kind, columns, room->columns[row]);
        }
        for (int row = 0; row < used; row += ROWS) {
            const double(*of)[PANEL] = room->columns + row, *with = lanes + begin * HALF;
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
            rows[row]->exact = fmax(rows[row]->exact, _mm512_reduce_max_pd(room->sums[row][vector]));
}

/* Take the next part of a list. Returns whether there is one. */
static int take_part(struct list *list, struct part *taken)
{
    int64_t part = __atomic_fetch_add(&list->next, 1, __ATOMIC_RELAXED);
    for (int64_t request = 0; request < list->requests; request++) {
        const int64_t begin = list->first[request] + part * list->height, left = list->first[request + 1] - begin;
        if (left > 0) {
            *taken = (struct part){request, (int)(left < list->height ? left : list->height), list->rows + begin};
            return 1;
        }
        part -= divided_up(list->first[request + 1] - list->first[request], list->height);
    }
    return 0;
}

/* Exact products of the rows listed with their request's tokens. */
static void multiply_exactly(void *given)
{
    struct work *work = given;
    struct part part;
    struct room *room = aligned_alloc(sizeof(__m512d), sizeof *room);
    if (room != NULL)
        memset(room, 0, sizeof *room); /* rows that a part does not have are multiplied, too */
    while (room != NULL && take_part(&work->list, &part)) {
        const struct tokens *tokens = work->tokens + part.request;
        const int64_t vectors = divided_up(tokens->count, HALF);
        for (int64_t vector = 0; vector < vectors; vector += VECTORS)
            raise_part(work, part.rows, part.used, tokens->lanes + vector * work->width * HALF,
                       vectors - vector < VECTORS ? (int)(vectors - vector) : VECTORS, room);
    }
    if (room == NULL)
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
    free(room);
}

/* Bound a row's best product, given a rough one. A float32 sum loses at most half a unit of its last place with every
   column, relative to the norms of its factors; here it is twice that, and so much over that no rounding of bounds and
   scores to float32 matters. */
static void bound(const struct work *work, const struct tokens *tokens, double rough, struct row *row)
{
    const double norm = norm_of(row->keys, work->kind, work->width), unit = tokens->unit;
    const double longest = fmax(tokens->longest, SMALL), slack = (work->width + 32) * 0x1p-23;
    const double reach = (tokens->lost + slack * longest) * fmax(norm, SMALL) * unit + 0x1p-120;
    const int is_known = isfinite(norm) && isfinite(unit); /* tokens in units are not above 1: no sum is infinite */
    row->low = is_known ? (float)(rough * unit - reach) : -INFINITY;
    row->high = is_known ? (float)(rough * unit + reach) : INFINITY;
}

/* Bounds of the rows listed, from rough products with their request's tokens. */
static void multiply_roughly(void *given)
{
    struct work *work = given;
    struct part part;
    const int64_t bytes = work->width * size_of(work->kind);
    char *keys = malloc(ROUGH_PART * bytes);
    float best[ROUGH_PART];
    int problem = keys == NULL ? NO_MEMORY : NONE;
    while (problem == NONE && take_part(&work->list, &part)) {
        const struct tokens *tokens = work->tokens + part.request;
        for (int row = 0; row < part.used; row++) {
            for (int64_t at = 0; at < bytes && row + AHEAD < part.used; at += 64)
                _mm_prefetch(part.rows[row + AHEAD]->keys + at, _MM_HINT_T0);
            memcpy(keys + row * bytes, part.rows[row]->keys, bytes);
            best[row] = -INFINITY;
        }
        problem = memsparse_raise_best_products(
            work->rough_kind, keys, part.used, bytes, tokens->rough, divided_up(tokens->count, LANES), work->own, 1,
            best, NULL, 1, ROUGH_PART);
        for (int row = 0; row < part.used && problem == NONE; row++)
            bound(work, tokens, best[row], part.rows[row]);
    }
    if (problem != NONE)
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
    free(keys);
}

/* Write tokens of a request as (vectors, width, 8 tokens), the last vector filled up with the last token. */
TARGET static void lay_out(const float *tokens, int64_t count, int64_t width, double *lanes)
{
    for (int64_t first = 0; first < count; first += HALF, lanes += width * HALF) {
        const float *token[HALF];
        for (int lane = 0; lane < HALF; lane++)
            token[lane] = tokens + (first + lane < count ? first + lane : count - 1) * width;
        for (int64_t at = 0; at < width; at++)
            _mm512_storeu_pd(lanes + at * HALF,
                             _mm512_cvtps_pd(_mm256_setr_ps(token[0][at], token[1][at], token[2][at], token[3][at],
                                                            token[4][at], token[5][at], token[6][at], token[7][at])));
    }
}

static int all_finite(const float *values, int64_t count)
{
    int finite = 1;
    for (int64_t i = 0; i < count; i++)
        finite &= fabsf(values[i]) <= FLT_MAX;
    return finite;
}

/* From the products of a document's rows to its score and the first row that has it; where none is exact, to what its
   score does not lie above, and -1. */
static void choose(const struct row *rows, int64_t count, float *score, int64_t *chunk)
{
    *score = -INFINITY, *chunk = -1;
    for (int64_t row = 0; row < count; row++)
        if (rows[row].is_exact && (*chunk < 0 || (float)rows[row].exact > *score))
            *score = (float)rows[row].exact, *chunk = row;
    for (int64_t row = 0; row < count && *chunk < 0; row++)
        *score = fmaxf(*score, rows[row].high);
}

/* The highest of a document's lower bounds. */
static float least_of(const struct row *rows, int64_t count)
{
    float least = -INFINITY;
    for (int64_t row = 0; row < count; row++)
        least = rows[row].low > least ? rows[row].low : least;
    return least;
}

/* What the k-th best document of a request has, at least; -inf if all are wanted. `chunks` says how many rows are whose,
   `heap` has room for k. */
static float bar_of(const struct row *rows, const int64_t *chunks, int64_t documents, int64_t k, float *heap)
{
    clear(heap, k);
    for (int64_t i = 0; i < documents && k > 0; rows += chunks[i++]) {
        const float least = least_of(rows, chunks[i]);
        if (least > heap[0])
            replace_worst(heap, k, least);
    }
    return k > 0 ? heap[0] : -INFINITY;
}

/* List the rows of each request's documents, of which it has the tokens: all, or, where products are to be exact, those
   that may have the score of a document that reaches its request's bar. */
static void list_rows(
    struct work *work, struct row *rows, const int64_t *chunks, int64_t documents, int exact, int64_t k, float *heap)
{
    struct list *list = &work->list;
    int64_t count = 0;
    list->height = exact ? PART : ROUGH_PART, list->next = 0;
    for (int64_t request = 0; request < list->requests; request++, chunks += documents) {
        const float bar = exact ? bar_of(rows, chunks, documents, k, heap) : -INFINITY;
        list->first[request] = count;
        for (int64_t i = 0; i < documents; rows += chunks[i++]) {
            const float least = least_of(rows, chunks[i]);
            float most = -INFINITY;
            for (int64_t row = 0; row < chunks[i]; row++)
                most = fmaxf(most, rows[row].high);
            for (int64_t row = 0; row < chunks[i] && most >= bar && work->tokens[request].are_finite; row++)
                if (rows[row].high >= least)
                    rows[row].is_exact = exact, list->rows[count++] = rows + row;
        }
    }
    list->first[list->requests] = count;
}

int memsparse_can_score(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f");
}

/* The kernel for rough products of such rows; -1 if there is none. */
static int rough_kind_of(int kind, int64_t row_bytes)
{
    if (kind == BFLOAT16 && row_bytes > 0 && row_bytes % 64 == 0 && memsparse_can_multiply(BFLOAT16_BY_TILES))
        return BFLOAT16_BY_TILES;
    return row_bytes > 0 && row_bytes % 4 == 0 && memsparse_can_multiply(kind) ? kind : -1;
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
   A request with a token that is not finite scores nothing but NaN, because a maximum may pass over it. Where k is not
   0, documents that are not among the k best of their request may have what their score does not lie above, less than
   the k-th best score, and -1. So many of `threads` threads work that each has a `share` of the products, at least.
   Returns 0, or which problem there is. */
int memsparse_score_stored(
    int kind, int64_t width, const float *tokens, const int64_t *counts, int64_t requests, const char *const *keys,
    const int64_t *lengths, int64_t blocks, const int64_t *block, const int64_t *start, const int64_t *rows,
    int64_t documents, int64_t k, float *scores, int64_t *chunks, at_once *work_at_once, int threads, int64_t share)
{
    if (!memsparse_can_score())
        return NO_SUCH_KERNEL;
    if (!are_inside(block, start, rows, requests * documents, lengths, blocks))
        return RUN_OUTSIDE;
    int64_t vectors = 0, most = 0, all = 0;
    if (k > documents)
        k = 0; /* all are wanted */
    for (int64_t request = 0; request < requests; request++) {
        vectors += divided_up(counts[request], LANES);
        most = counts[request] > most ? counts[request] : most;
    }
    for (int64_t i = 0; i < requests * documents; i++)
        all += rows[i];
    const int64_t laid = LANES * width, row_bytes = width * size_of(kind);
    const int64_t wanted = requests * (k > 0 ? k : documents);
    struct tokens *asking = calloc(requests + 1, sizeof *asking);
    struct row *row = malloc((all + 1) * sizeof *row), **list = malloc((all + 1) * sizeof *list);
    double *lanes = malloc((vectors + 1) * laid * sizeof *lanes);
    char *rough_lanes = malloc((vectors + 1) * laid * size_of(kind));
    int32_t *own = calloc(vectors + 1, sizeof *own);
    int64_t *first = malloc((requests + 1) * sizeof *first);
    float *heap = malloc((k + 1) * sizeof *heap);
    struct work work = {kind, rough_kind_of(kind, row_bytes), 0, width, asking, own, {requests, 0, 0, first, list}};
    const int is_rough = work.rough_kind >= 0 && all > PAYS * wanted && (kind == BFLOAT16 || most > LANES);
    int done = asking && row && list && lanes && rough_lanes && own && first && heap;
    for (int64_t request = 0, vector = 0, at = 0; request < requests && done; request++) {
        struct tokens *of = asking + request;
        of->count = counts[request], of->are_finite = of->count > 0 && all_finite(tokens, of->count * width);
        of->lanes = lanes + vector * laid, of->rough = rough_lanes + vector * laid * size_of(kind);
        lay_out(tokens, of->count, width, of->lanes);
        if (is_rough && of->are_finite)
            memsparse_round_tokens(
                kind, tokens, width, &of->count, 1, of->rough, own, &of->unit, &of->longest, &of->lost);
        tokens += of->count * width, vector += divided_up(of->count, LANES);
        for (int64_t i = request * documents; i < (request + 1) * documents; i++)
            for (int64_t chunk = start[i]; chunk < start[i] + rows[i]; chunk++)
                row[at++] = (struct row){keys[block[i]] + chunk * row_bytes, -INFINITY, -INFINITY, INFINITY, 0};
    }
    for (int exact = !is_rough; exact <= 1 && done; exact++) {
        list_rows(&work, row, rows, documents, exact, k, heap);
        const int64_t enough = first[requests] * most * width / share;
        share_among(work_at_once, enough < threads ? (int)enough : threads, exact ? multiply_exactly : multiply_roughly,
                    &work);
        done = !work.failed;
    }
    for (int64_t i = 0, at = 0; i < requests * documents && done; at += rows[i++]) {
        const struct tokens *of = asking + i / documents;
        if (of->are_finite || of->count == 0)
            choose(row + at, of->count > 0 ? rows[i] : 0, scores + i, chunks + i);
        else
            scores[i] = rows[i] > 0 ? NAN : -INFINITY, chunks[i] = rows[i] > 0 ? 0 : -1;
    }
    free(asking), free(row), free(list), free(lanes), free(rough_lanes), free(own), free(first), free(heap);
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
    int64_t documents, int64_t k, float *scores, int64_t *chunks, at_once *work_at_once, int threads, int64_t share)
{
    (void)kind, (void)width, (void)tokens, (void)counts, (void)requests, (void)keys, (void)lengths, (void)blocks,
        (void)block, (void)start, (void)rows, (void)documents, (void)k, (void)scores, (void)chunks, (void)work_at_once,
        (void)threads, (void)share;
    return NO_SUCH_KERNEL;
}

#endif
