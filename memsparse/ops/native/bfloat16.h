/* Vectors of bfloat16 and of float32. */

#ifndef MEMSPARSE_BFLOAT16_H
#define MEMSPARSE_BFLOAT16_H

#include <immintrin.h>
#include <stdint.h>

#define LANES 16 /* of a vector */
#define SIZE 2   /* bytes of a number */
#define TARGET __attribute__((target("avx512f,avx512bw,avx512bf16")))
#define LOG2_E 0x1.715476p0f

static inline int64_t smaller(int64_t left, int64_t right)
{
    return left < right ? left : right;
}

/* 2 to the power of what is 0 or less; the error is below 3e-6 of it, and what is not a number stays so. What would
   be subnormal is 0: such results take a processor a hundred times as long. */
TARGET static inline __m512 power_of_two(__m512 exponent)
{
    const __m512 least = _mm512_set1_ps(-126);
    const __mmask16 counts = _mm512_cmp_ps_mask(exponent, least, _CMP_NLT_UQ);
    exponent = _mm512_max_ps(least, exponent);
    const __m512 whole = _mm512_roundscale_ps(exponent, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(exponent, whole);
    __m512 sum = _mm512_set1_ps(0x1.5d87fep-10f); /* ln(2)^k / k!, k from 5 to 0 */
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0x1.3b2ab6p-7f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0x1.c6b08ep-5f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0x1.ebfbep-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0x1.62e43p-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1));
    return _mm512_maskz_scalef_ps(counts, sum, whole);
}

TARGET static inline __m512 floats(__m256i bits)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

TARGET static inline __m512 rounded(__m512 values)
{
    return floats((__m256i)_mm512_cvtneps_pbh(values));
}

/* Numbers times their sigmoid (SiLU), rounded, times others: not rounded yet. */
TARGET static inline __m512 let_through(__m512 open, __m512 passed)
{
    const __m512 one = _mm512_set1_ps(1);
    const __m512 power = power_of_two(_mm512_mul_ps(_mm512_abs_ps(open), _mm512_set1_ps(-LOG2_E)));
    const __mmask16 below = _mm512_cmp_ps_mask(open, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 share = _mm512_div_ps(_mm512_mask_mov_ps(one, below, power), _mm512_add_ps(one, power));
    return _mm512_mul_ps(rounded(_mm512_mul_ps(open, share)), passed);
}

static inline int has_vectors(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512bf16");
}

#endif
