/* The best inner product of every key with each request's routing tokens: what a scan asks of a processor.

   A general matrix product writes all products to memory, from where they are read again for their maximum.
   Here ROWS keys meet two vectors of 16 tokens in registers, and only the maximum leaves them.

   A vector holds tokens of one request, filled up with copies of one of them, which changes no maximum: four
   bytes of each of its 16 tokens, then the next four bytes, as one instruction multiplies them (4 columns of
   int8, 2 of bfloat16, 1 of float32). Tokens of int8 come with 128 added, since the instruction wants one factor
   unsigned; 128 times the sum of the key is taken off first. No product overflows up to 2**16 columns.

   Nothing here depends on Python. Instructions are chosen function by function, so that the file compiles for
   any x86-64; elsewhere, or with MEMSPARSE_PORTABLE defined, it compiles, too, and has no kernel. */

#include <stdint.h>
#include <stdlib.h>

enum kind { INT8, BFLOAT16, FLOAT32 };
enum problem { NONE, NO_SUCH_KERNEL, NO_MEMORY };

#if defined(__x86_64__) && defined(__GNUC__) && !defined(MEMSPARSE_PORTABLE)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define ROWS 12          /* by two vectors: 24 of the 32 registers hold sums */
#define LANES 16         /* tokens of a vector */
#define LINE 64          /* bytes of a cache line */
#define TILE (256 << 10) /* bytes of keys that meet all vectors before the next do: part of an L2 cache */

static inline int32_t word(const char *from)
{
    int32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* -128 times the sum of a row of int8, in every lane. */
__attribute__((target("avx512f,avx512bw,avx512vnni"))) static __m512i minus_128_sums(const char *row, int64_t bytes)
{
    const __m512i weight = _mm512_set1_epi8((char)128);
    __m512i sums = _mm512_setzero_si512();
    int64_t at = 0;
    for (; at + LINE <= bytes; at += LINE)
        sums = _mm512_dpbusd_epi32(sums, weight, _mm512_loadu_si512(row + at));
    int32_t sum = _mm512_reduce_add_epi32(sums);
    for (; at < bytes; at++)
        sum += 128 * (int8_t)row[at];
    return _mm512_set1_epi32(-sum);
}

#define KIND(name) name##_int8
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define SUMS __m512i
#define START(row, bytes) minus_128_sums(row, bytes)
#define ADD(sums, token, key) _mm512_dpbusd_epi32(sums, token, key)
#define FLOATS(sums) _mm512_cvtepi32_ps(sums)
#include "block.h"
#undef KIND
#undef TARGET
#undef SUMS
#undef START
#undef ADD
#undef FLOATS

#define KIND(name) name##_bfloat16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512bf16")))
#define SUMS __m512
#define START(row, bytes) _mm512_setzero_ps()
#define ADD(sums, token, key) _mm512_dpbf16_ps(sums, (__m512bh)(token), (__m512bh)(key))
#define FLOATS(sums) (sums)
#include "block.h"
#undef KIND
#undef TARGET
#undef ADD

#define KIND(name) name##_float32
#define TARGET __attribute__((target("avx512f")))
#define ADD(sums, token, key) _mm512_fmadd_ps(_mm512_castsi512_ps(token), _mm512_castsi512_ps(key), sums)
#include "block.h"

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
        return 1;
    }
    return 0;
}

/* Raise best, (rows, requests) of float, to the best products of keys, (rows, row_bytes), with the vectors.

   row_bytes is a multiple of 4; lanes is (vectors, row_bytes / 4, 16 tokens, 4 bytes), and request[vector] says
   whose they are. Returns 0, or which problem there is. */
int memsparse_raise_best_products(
    int kind, const char *keys, int64_t rows, int64_t row_bytes, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t requests, float *best)
{
    if (!memsparse_can_multiply(kind))
        return NO_SUCH_KERNEL;
    char *spare = calloc(ROWS, row_bytes);
    if (spare == NULL)
        return NO_MEMORY;
    if (kind == INT8)
        raise_int8(keys, rows, row_bytes, lanes, vectors, request, requests, best, spare);
    else if (kind == BFLOAT16)
        raise_bfloat16(keys, rows, row_bytes, lanes, vectors, request, requests, best, spare);
    else
        raise_float32(keys, rows, row_bytes, lanes, vectors, request, requests, best, spare);
    free(spare);
    return NONE;
}

#else

int memsparse_can_multiply(int kind)
{
    (void)kind;
    return 0;
}

int memsparse_raise_best_products(
    int kind, const char *keys, int64_t rows, int64_t row_bytes, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t requests, float *best)
{
    (void)kind, (void)keys, (void)rows, (void)row_bytes, (void)lanes, (void)vectors, (void)request,
        (void)requests, (void)best;
    return NO_SUCH_KERNEL;
}

#endif
