/* The best inner product of every key with each request's routing tokens: what a scan asks of a processor.

   A general matrix product writes all products to memory, from where they are read again for their maximum.
   Here ROWS keys meet two vectors of 16 tokens in registers, and maxima alone leave the nearest cache.

   A vector holds tokens of one request, filled up with copies of one of them, which changes no maximum: four
   bytes of each of its 16 tokens, then the next four bytes, as one instruction multiplies them (4 columns of
   int8, 2 of bfloat16, 1 of float32). Of int8 the instruction wants one factor unsigned: 128 is added to tokens by
   turning their highest bit, once for all ROWS keys, and 128 times the sum of a key, reckoned once for all vectors, is
   taken off its best sum. No product overflows up to 2**16 columns. Processors with AMX multiply the same
   vectors by tiles (tiles.h).

   Nothing here depends on Python. Instructions are chosen function by function, so that the file compiles for
   any x86-64; elsewhere, or with MEMSPARSE_PORTABLE defined, it compiles, too, and has no kernel. Compilers that do
   not know tiles want MEMSPARSE_NO_TILES. */

#include <stdint.h>
#include <stdlib.h>

#include "agreed.h"
#include "scan.h"
#include "threads.h"

/* Raised with every change of what Python calls, and with VERSION in library.py: an old library is not used. */
int memsparse_version(void)
{
    return 18;
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(MEMSPARSE_PORTABLE)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define INSTRUCTIONS __attribute__((target("avx512f")))
#include "bounds.h"

#define ROWS 12          /* by two vectors: 24 of the 32 registers hold sums */
#define HELD (80 * ROWS) /* rows whose products a thread holds until their documents are bounded: whole tiles, too */
#define LINE 64          /* bytes of a cache line */
#define NEAR (256 << 10) /* bytes of keys that meet all vectors before the next do: part of an L2 cache */
#define NEAREST (24 << 10) /* bytes of vectors that meet a block of keys before the next do: part of an L1 cache */

/* So many rows, whole blocks of `height`. */
static inline int64_t rows_near(int64_t row_bytes, int64_t height)
{
    return (NEAR / row_bytes / height + 1) * height;
}

static inline int32_t word(const char *from)
{
    int32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* Raise best[row] of the first `used` rows to a lane of each. */
__attribute__((target("avx512f"))) static inline void raise_rows(__m512 lanes, int used, float *best)
{
    const __mmask16 there = (__mmask16)((1u << used) - 1);
    _mm512_mask_storeu_ps(best, there, _mm512_max_ps(lanes, _mm512_maskz_loadu_ps(there, best)));
}

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))

/* 128 times the sum of each of ROWS rows. */
VNNI static inline __attribute__((always_inline)) void sums_128(const char *rows, int64_t bytes, int32_t *to)
{
    const __m512i weight = _mm512_set1_epi8((char)128);
    __m512i sums[ROWS];
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
        sums[row] = _mm512_setzero_si512();
    for (int64_t at = 0; at < bytes; at += LINE) {
        const __mmask64 there = bytes - at < LINE ? ((__mmask64)1 << (bytes - at)) - 1 : ~(__mmask64)0;
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++)
            sums[row] =
                _mm512_dpbusd_epi32(sums[row], weight, _mm512_maskz_loadu_epi8(there, rows + row * bytes + at));
    }
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
        to[row] = _mm512_reduce_add_epi32(sums[row]);
}

VNNI static inline __m512 less_sums(__m512i lanes, int used, const int32_t *sums)
{
    const __mmask16 there = (__mmask16)((1u << used) - 1);
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(lanes, _mm512_maskz_loadu_epi32(there, sums)));
}

#define KIND(name) name##_int8
#define TARGET VNNI
#define SUMS __m512i
#define ZERO _mm512_setzero_si512()
#define LOWEST _mm512_set1_epi32(INT32_MIN)
#define TOKENS(from) _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8((char)128))
#define KEY(from) _mm512_set1_epi32(word(from))
#define ADD(sums, token, key) _mm512_dpbusd_epi32(sums, token, key)
#define LARGER(left, right) _mm512_max_epi32(left, right)
#define BITS(sums) _mm512_castsi512_ps(sums)
#define OF(bits) _mm512_castps_si512(bits)
#define FINISH(lanes, used, prepared) less_sums(lanes, used, prepared)
#define PREPARE(rows, bytes, prepared) sums_128(rows, bytes, prepared)
#include "block.h"
#undef KIND
#undef TARGET
#undef SUMS
#undef ZERO
#undef LOWEST
#undef TOKENS
#undef ADD
#undef LARGER
#undef BITS
#undef OF
#undef FINISH
#undef PREPARE

#define KIND(name) name##_bfloat16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512bf16")))
#define SUMS __m512
#define ZERO _mm512_setzero_ps()
#define LOWEST _mm512_set1_ps(-INFINITY)
#define TOKENS(from) _mm512_loadu_si512(from)
#define ADD(sums, token, key) _mm512_dpbf16_ps(sums, (__m512bh)(token), (__m512bh)(key))
#define LARGER(left, right) _mm512_max_ps(left, right)
#define BITS(sums) (sums)
#define OF(bits) (bits)
#define FINISH(lanes, used, prepared) (lanes)
#define PREPARE(rows, bytes, prepared) ((void)(prepared))
#include "block.h"
#undef KIND
#undef TARGET
#undef ADD

#define KIND(name) name##_float32
#define TARGET __attribute__((target("avx512f")))
#define ADD(sums, token, key) _mm512_fmadd_ps(_mm512_castsi512_ps(token), _mm512_castsi512_ps(key), sums)
#include "block.h"
#undef KIND
#undef TARGET
#undef SUMS
#undef ZERO
#undef LOWEST
#undef TOKENS
#undef KEY
#undef ADD
#undef LARGER
#undef BITS
#undef OF
#undef FINISH
#undef PREPARE

#if defined(__linux__) && !defined(MEMSPARSE_NO_TILES)
#include "tiles.h"

#define TOGETHER (2 * TILE_ROWS)

static inline int is_tiled(enum kind kind)
{
    return kind == INT8_BY_TILES || kind == BFLOAT16_BY_TILES;
}

#define TARGET TILED

#define KIND(name) name##_int8_tiles
#define ADD(sums, keys, tokens) _tile_dpbssd(sums, keys, tokens)
#define FLOATS(sums) _mm512_cvtepi32_ps(_mm512_loadu_si512(sums))
#include "tile_block.h"
#undef KIND
#undef ADD
#undef FLOATS

#define KIND(name) name##_bfloat16_tiles
#define ADD(sums, keys, tokens) _tile_dpbf16ps(sums, keys, tokens)
#define FLOATS(sums) _mm512_loadu_ps(sums)
#include "tile_block.h"
#undef KIND
#undef ADD
#undef FLOATS
#undef TARGET
#else
#define TOGETHER ROWS
#endif

_Static_assert(HELD % ROWS == 0 && HELD % TOGETHER == 0, "either kernel multiplies whole blocks of what is held");

int memsparse_can_multiply(int kind)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512f"))
        return 0;
    switch (kind) {
    case INT8:
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
    case BFLOAT16:
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512bf16");
    case FLOAT32:
    case INT8_BY_FLOAT32:
        return 1;
#ifdef TILED
    case INT8_BY_TILES:
        return has_tiles(AMX_INT8);
    case BFLOAT16_BY_TILES:
        return has_tiles(AMX_BF16);
#endif
    }
    return 0;
}

/* What the threads share: each takes the next `part` rows until there are none. */
struct work {
    int kind;
    const char *keys, *lanes;
    int64_t rows, row_bytes, vectors, requests, part, next;
    const int32_t *request;
    float *best;             /* (requests, rows), to be raised; NULL: only bounds are asked for */
    const struct bounds *to; /* NULL: only best products are asked for */
    int problem;             /* of the documents */
};

/* Rows of integers as float32, multiplied while they are in the nearest cache. */
static void raise_widened(
    const struct work *work, const char *keys, int64_t rows, int64_t span, float *best, float *wide, char *spare,
    int32_t *prepared)
{
    const int64_t width = work->row_bytes;
    for (int64_t begin = 0; begin < rows; begin += ROWS) {
        const int64_t used = rows - begin < ROWS ? rows - begin : ROWS;
        const int8_t *from = (const int8_t *)keys + begin * width;
        for (int64_t i = 0; i < used * width; i++)
            wide[i] = from[i];
        raise_float32((const char *)wide, used, 4 * width, work->lanes, work->vectors, work->request, span,
                      best + begin, spare, prepared);
    }
}

/* Raise best, (requests, span), of rows from `begin` to `end`, the first of which it begins with. */
static void raise_rows_of(
    const struct work *work, int64_t begin, int64_t end, int64_t span, float *best, char *spare, int32_t *prepared)
{
    const int64_t stride = work->row_bytes, vectors = work->vectors, rows = end - begin;
    const char *keys = work->keys + begin * stride, *lanes = work->lanes;
    if (work->kind == INT8_BY_FLOAT32)
        raise_widened(work, keys, rows, span, best, (float *)(spare + 4 * ROWS * stride), spare, prepared);
    else if (work->kind == INT8)
        raise_int8(keys, rows, stride, lanes, vectors, work->request, span, best, spare, prepared);
    else if (work->kind == BFLOAT16)
        raise_bfloat16(keys, rows, stride, lanes, vectors, work->request, span, best, spare, prepared);
#ifdef TILED
    else if (work->kind == INT8_BY_TILES)
        raise_int8_tiles(keys, rows, stride, lanes, vectors, work->request, span, best, spare);
    else if (work->kind == BFLOAT16_BY_TILES)
        raise_bfloat16_tiles(keys, rows, stride, lanes, vectors, work->request, span, best, spare);
#endif
    else
        raise_float32(keys, rows, stride, lanes, vectors, work->request, span, best, spare, prepared);
}

/* Raise bounds to rows from `begin` to `end`, without more of their products than `own` holds. Returns 0, or the problem
   of their documents, of which nothing is raised then. */
static int bound_rows(
    const struct work *work, int64_t begin, int64_t end, float *own, char *spare, int32_t *prepared)
{
    if (!are_inside(work->to, begin, end))
        return DOCUMENT_OUTSIDE;
    if (!ascend(work->to, begin, end))
        return DOCUMENTS_MIXED;
    for (int64_t at = begin; at < end; at += HELD) {
        const int64_t to = end - at < HELD ? end : at + HELD;
        for (int64_t request = 0; request < work->requests; request++)
            for (int64_t i = 0; i < to - at; i++)
                own[request * HELD + i] = -INFINITY;
        raise_rows_of(work, at, to, HELD, own, spare, prepared);
        raise_bounds(work->to, own, HELD, at, to);
    }
    return NONE;
}

static void take_parts(void *given)
{
    struct work *work = given;
    char *spare = calloc(TOGETHER, work->kind == INT8_BY_FLOAT32 ? 8 * work->row_bytes : work->row_bytes);
    float *own = malloc(HELD * work->requests * sizeof *own);
    int32_t *prepared = malloc(rows_near(work->row_bytes, ROWS) * sizeof *prepared);
#ifdef TILED
    if (is_tiled(work->kind))
        begin_tiles();
#endif
    while (spare != NULL && own != NULL && prepared != NULL &&
           __atomic_load_n(&work->problem, __ATOMIC_RELAXED) == NONE) {
        const int64_t begin = __atomic_fetch_add(&work->next, work->part, __ATOMIC_RELAXED);
        if (begin >= work->rows)
            break;
        const int64_t end = work->rows - begin < work->part ? work->rows : begin + work->part;
        int problem = NONE;
        if (work->to == NULL)
            raise_rows_of(work, begin, end, work->rows, work->best + begin, spare, prepared);
        else
            problem = bound_rows(work, border(work->to, begin), border(work->to, end), own, spare, prepared);
        if (problem != NONE)
            __atomic_store_n(&work->problem, problem, __ATOMIC_RELAXED);
    }
#ifdef TILED
    if (is_tiled(work->kind))
        end_tiles();
#endif
    free(prepared);
    free(own);
    free(spare);
}

/* Raise best, (requests, rows) of float, to the best products of keys, (rows, row_bytes), with the vectors.

   row_bytes is a multiple of 4, by tiles of 64, and for integers by float32 any number; lanes is (vectors, bytes of
   a token / 4, 16 tokens, 4 bytes), and request[vector] says whose they are. `threads` threads take `part` rows at
   a time, if there is a way to have them work at once. Returns 0, or which problem there is. */
int memsparse_raise_best_products(
    int kind, const char *keys, int64_t rows, int64_t row_bytes, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t requests, float *best, at_once *work_at_once, int threads, int64_t part)
{
    if (!memsparse_can_multiply(kind))
        return NO_SUCH_KERNEL;
    struct work work = {kind, keys, lanes, rows, row_bytes, vectors, requests, part, 0, request, best, NULL, NONE};
    share_among(work_at_once, threads, take_parts, &work);
    return work.next < rows ? NO_MEMORY : NONE;
}

/* Raise bounds of documents to those of their chunks, without writing down a product: the two functions above and in
   raise_bounds.c in one. Returns 0, or which problem there is. Documents that do not ascend are one; threads may then have
   raised some bounds, never too far, or lost what another raised: whoever raises them all again has them right. */
int memsparse_scan(
    int kind, const char *keys, int64_t rows, int64_t row_bytes, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t requests, int64_t documents, const float *scales, const float *errors,
    const float *norms, const int64_t *document, const float *units, const float *of_errors, const float *of_norms,
    float rounded_sum, float *lower, float *upper, at_once *work_at_once, int threads, int64_t part)
{
    if (!memsparse_can_multiply(kind))
        return NO_SUCH_KERNEL;
    const struct bounds to = {scales, errors, norms, units, of_errors, of_norms, document, rows, requests, documents,
                              rounded_sum, lower, upper};
    struct work work = {kind, keys, lanes, rows, row_bytes, vectors, requests, part, 0, request, NULL, &to, NONE};
    share_among(work_at_once, threads, take_parts, &work);
    if (work.problem != NONE)
        return are_inside(&to, 0, rows) ? work.problem : DOCUMENT_OUTSIDE;
    return work.next < rows ? NO_MEMORY : NONE;
}
#else

#include "bounds.h"

int memsparse_can_multiply(int kind)
{
    (void)kind;
    return 0;
}

int memsparse_raise_best_products(
    int kind, const char *keys, int64_t rows, int64_t row_bytes, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t requests, float *best, at_once *work_at_once, int threads, int64_t part)
{
    (void)kind, (void)keys, (void)rows, (void)row_bytes, (void)lanes, (void)vectors, (void)request,
        (void)requests, (void)best, (void)work_at_once, (void)threads, (void)part;
    return NO_SUCH_KERNEL;
}

int memsparse_scan(
    int kind, const char *keys, int64_t rows, int64_t row_bytes, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t requests, int64_t documents, const float *scales, const float *errors,
    const float *norms, const int64_t *document, const float *units, const float *of_errors, const float *of_norms,
    float rounded_sum, float *lower, float *upper, at_once *work_at_once, int threads, int64_t part)
{
    (void)kind, (void)keys, (void)rows, (void)row_bytes, (void)lanes, (void)vectors, (void)request, (void)requests,
        (void)documents, (void)scales, (void)errors, (void)norms, (void)document, (void)units, (void)of_errors,
        (void)of_norms, (void)rounded_sum, (void)lower, (void)upper, (void)work_at_once, (void)threads, (void)part;
    return NO_SUCH_KERNEL;
}

#endif
