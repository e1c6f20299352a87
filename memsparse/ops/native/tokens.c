/* What a model does to every token by itself, in bfloat16: norms, rotary positions, gates; and the means of chunks.
   Numbers are computed in float32 and rounded where torch rounds them, without a pass over memory for every step. */

#include <stdint.h>
#include <stdlib.h>

#include "agreed.h"
#include "threads.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(MEMSPARSE_PORTABLE)
#include <math.h>

#include "bfloat16.h"

#define PART (1 << 14) /* numbers that a thread takes at a time, about */

struct work {
    void (*change)(const struct work *work, int64_t begin, int64_t end); /* rows from `begin` to `end` */
    const uint16_t *from, *first, *second;
    const int64_t *starts, *counts; /* of the rows that a mean is of */
    uint16_t *to;
    int64_t rows, width, heads, part, next;
    float epsilon;
};

TARGET static inline __m512 widened(const uint16_t *from)
{
    return floats(_mm256_loadu_si256((const __m256i *)from));
}

TARGET static inline void store(uint16_t *to, __m512 values)
{
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values));
}

/* Rows divided by the root of their mean square, times weights. */
TARGET static void normalise(const struct work *work, int64_t begin, int64_t end)
{
    const int64_t width = work->width;
    for (int64_t row = begin; row < end; row++) {
        const uint16_t *from = work->from + row * width;
        __m512 low = _mm512_setzero_ps(), high = low;
        for (int64_t at = 0; at < width; at += 2 * LANES) {
            const __m512 left = widened(from + at), right = widened(from + at + LANES);
            low = _mm512_fmadd_ps(left, left, low), high = _mm512_fmadd_ps(right, right, high);
        }
        const float mean = _mm512_reduce_add_ps(_mm512_add_ps(low, high)) / (float)width;
        const __m512 factor = _mm512_set1_ps(1 / sqrtf(mean + work->epsilon));
        for (int64_t at = 0; at < width; at += LANES)
            store(work->to + row * width + at,
                  _mm512_mul_ps(widened(work->first + at), rounded(_mm512_mul_ps(widened(from + at), factor))));
    }
}

/* Rows, `heads` of each token, turned by the cosines and sines of its position: x cos + (-x2, x1) sin. */
TARGET static void rotate(const struct work *work, int64_t begin, int64_t end)
{
    const int64_t width = work->width, half = width / 2;
    for (int64_t row = begin; row < end; row++) {
        const uint16_t *low = work->from + row * width, *high = low + half;
        const uint16_t *cosines = work->first + row / work->heads * width;
        const uint16_t *sines = work->second + row / work->heads * width;
        uint16_t *to = work->to + row * width;
        for (int64_t at = 0; at < half; at += LANES) {
            const __m512 left = widened(low + at), right = widened(high + at);
            const __m512 against = _mm512_mul_ps(right, widened(sines + at));
            const __m512 along = _mm512_mul_ps(left, widened(sines + half + at));
            store(to + at, _mm512_sub_ps(rounded(_mm512_mul_ps(left, widened(cosines + at))), rounded(against)));
            store(to + half + at,
                  _mm512_add_ps(rounded(_mm512_mul_ps(right, widened(cosines + half + at))), rounded(along)));
        }
    }
}

/* Rows times the sigmoid of their own numbers, times other rows. */
TARGET static void gate(const struct work *work, int64_t begin, int64_t end)
{
    for (int64_t at = begin * work->width; at < end * work->width; at += LANES)
        store(work->to + at, let_through(widened(work->from + at), widened(work->first + at)));
}

/* Means of consecutive rows. */
TARGET static void pool(const struct work *work, int64_t begin, int64_t end)
{
    const int64_t width = work->width;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const uint16_t *from = work->from + work->starts[chunk] * width;
        const __m512 count = _mm512_set1_ps((float)work->counts[chunk]);
        for (int64_t at = 0; at < width; at += LANES) {
            __m512 sum = _mm512_setzero_ps();
            for (int64_t row = 0; row < work->counts[chunk]; row++)
                sum = _mm512_add_ps(sum, widened(from + row * width + at));
            store(work->to + chunk * width + at, _mm512_div_ps(sum, count));
        }
    }
}

static void take_parts(void *given)
{
    struct work *work = given;
    for (;;) {
        const int64_t begin = __atomic_fetch_add(&work->next, work->part, __ATOMIC_RELAXED);
        if (begin >= work->rows)
            break;
        work->change(work, begin, smaller(begin + work->part, work->rows));
    }
}

/* Change rows, (rows, width), into `to`, as `what` says: norms take their weights, (width,), for `first`; rotations
   cosines and sines, (rows / heads, width), for `first` and `second`; gates what they let through, (rows, width), for
   `first`. The width is a multiple of 32. Returns 0, or which problem there is. */
int memsparse_change_tokens(
    int what, const void *from, int64_t rows, int64_t width, int64_t heads, const void *first, const void *second,
    float epsilon, void *to, at_once *work_at_once, int threads)
{
    if (!has_vectors())
        return NO_SUCH_KERNEL;
    struct work work = {.change = what == NORM ? normalise : what == ROTATION ? rotate : gate, .from = from,
                        .first = first, .second = second, .to = to, .rows = rows, .width = width, .heads = heads,
                        .part = PART / width + 1, .epsilon = epsilon};
    share_among(work_at_once, threads, take_parts, &work);
    return NONE;
}

/* The means, (chunks, width), of so many rows from each start on; the width is a multiple of 32. Returns 0, or which
   problem there is. */
int memsparse_pool(
    const void *from, int64_t width, const int64_t *starts, const int64_t *counts, int64_t chunks, void *to,
    at_once *work_at_once, int threads)
{
    if (!has_vectors())
        return NO_SUCH_KERNEL;
    struct work work = {.change = pool, .from = from, .starts = starts, .counts = counts, .to = to, .rows = chunks,
                        .width = width, .part = PART / width / 16 + 1};
    share_among(work_at_once, threads, take_parts, &work);
    return NONE;
}

#else

int memsparse_pool(
    const void *from, int64_t width, const int64_t *starts, const int64_t *counts, int64_t chunks, void *to,
    at_once *work_at_once, int threads)
{
    (void)from, (void)width, (void)starts, (void)counts, (void)chunks, (void)to, (void)work_at_once, (void)threads;
    return NO_SUCH_KERNEL;
}

int memsparse_change_tokens(
    int what, const void *from, int64_t rows, int64_t width, int64_t heads, const void *first, const void *second,
    float epsilon, void *to, at_once *work_at_once, int threads)
{
    (void)what, (void)from, (void)rows, (void)width, (void)heads, (void)first, (void)second, (void)epsilon, (void)to,
        (void)work_at_once, (void)threads;
    return NO_SUCH_KERNEL;
}

#endif
