/* From the best products of a scan to bounds of documents: the interval around every chunk's score, and the
   highest ends of a document's chunks, in one pass over what torch reads and writes a dozen times.

   As `ops.scan` does it without this file; that one explains the arithmetic. */

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "threads.h"

#define BLOCK 256 /* chunks whose intervals wait in the nearest cache */

static const float UNDERFLOW_NORM = 0x1p-80f, SMALLEST = 0x1p-120f;

struct work {
    const float *best, *scales, *errors, *norms, *units, *of_errors, *of_norms;
    const int64_t *document;
    int64_t chunks, requests, part, next;
    float rounded_sum;
    float *lower, *upper;
};

static inline float finite_or(float value, float other)
{
    return fabsf(value) <= FLT_MAX ? value : other;
}

static inline float larger(float left, float right)
{
    return left > right ? left : right;
}

/* Raise bounds to the intervals of `count` chunks, at most BLOCK. */
static void raise_block(const struct work *work, int64_t begin, int64_t count)
{
    float low[BLOCK], high[BLOCK];
    const int64_t requests = work->requests, *document = work->document + begin;
    for (int64_t request = 0; request < requests; request++) {
        const float unit = work->units[request], error = work->of_errors[request];
        const float norm = work->of_norms[request];
        for (int64_t i = 0; i < count; i++) {
            const int64_t chunk = begin + i;
            const float scale = work->scales == NULL ? 1 : work->scales[chunk];
            const float middle = work->best[chunk * requests + request] * scale * unit;
            const float own_norm = larger(UNDERFLOW_NORM, work->norms[chunk]);
            float half = work->errors[chunk] * error + SMALLEST;
            half += own_norm * norm;
            half += fabsf(middle) * work->rounded_sum;
            low[i] = finite_or(middle - half, -INFINITY);
            high[i] = finite_or(middle + half, INFINITY);
        }
        for (int64_t i = 0; i < count;) { /* run by run of chunks of one document */
            const int64_t owner = document[i], place = owner * requests + request;
            float highest_low = work->lower[place], highest_high = work->upper[place];
            for (; i < count && document[i] == owner; i++) {
                highest_low = larger(low[i], highest_low);
                highest_high = larger(high[i], highest_high);
            }
            work->lower[place] = highest_low, work->upper[place] = highest_high;
        }
    }
}

/* The first chunk from `at` on that does not go on with the document before it. */
static int64_t border(const struct work *work, int64_t at)
{
    while (at > 0 && at < work->chunks && work->document[at] == work->document[at - 1])
        at++;
    return at < work->chunks ? at : work->chunks;
}

static void take_parts(void *given)
{
    struct work *work = given;
    for (;;) {
        const int64_t at = __atomic_fetch_add(&work->next, work->part, __ATOMIC_RELAXED);
        if (at >= work->chunks)
            return;
        const int64_t end = border(work, at + work->part);
        for (int64_t begin = border(work, at); begin < end; begin += BLOCK)
            raise_block(work, begin, end - begin < BLOCK ? end - begin : BLOCK);
    }
}

/* Raise lower and upper, (documents, requests), to the intervals of chunks.

   best is (chunks, requests), in units; scales, which may be missing, errors and norms are (chunks,), document is
   (chunks,) in any order; units, of_errors and of_norms are (requests,). Documents in ascending order are shared
   among `threads` threads, `part` chunks at a time. Returns 0, or 1 at a document that is out of range, before
   anything is raised. */
int memsparse_raise_bounds(
    const float *best, int64_t chunks, int64_t requests, int64_t documents, const float *scales, const float *errors,
    const float *norms, const int64_t *document, const float *units, const float *of_errors,
    const float *of_norms, float rounded_sum, float *lower, float *upper, at_once *work_at_once, int threads,
    int64_t part)
{
    int outside = 0, descends = 0;
    for (int64_t i = 0; i < chunks; i++) {
        outside |= document[i] < 0 || document[i] >= documents;
        descends |= document[i] < document[i > 0 ? i - 1 : 0];
    }
    if (outside)
        return 1;
    struct work work = {best, scales, errors, norms, units, of_errors, of_norms, document, chunks, requests,
                        part, 0, rounded_sum, lower, upper};
    if (descends) /* parts of one document may lie anywhere: two threads would raise the same bound */
        threads = 1, work.part = chunks > 0 ? chunks : 1;
    share_among(work_at_once, threads, take_parts, &work);
    return 0;
}
