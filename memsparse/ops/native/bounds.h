/* The interval around every chunk's score, and the highest ends of a document's chunks.

   As `ops.scan` does it without this file; that one explains the arithmetic. */

#ifndef MEMSPARSE_BOUNDS_H
#define MEMSPARSE_BOUNDS_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* What compilers may use for these functions, if a file knows that it is there. */
#ifndef INSTRUCTIONS
#define INSTRUCTIONS
#endif

#define BLOCK 256 /* chunks whose intervals wait in the nearest cache */

static const float UNDERFLOW_NORM = 0x1p-80f, SMALLEST = 0x1p-120f;

/* scales, which may be missing, errors, norms and document are (chunks,); units, of_errors and of_norms are
   (requests,); lower and upper, (documents, requests), are raised. */
struct bounds {
    const float *scales, *errors, *norms, *units, *of_errors, *of_norms;
    const int64_t *document;
    int64_t chunks, requests, documents;
    float rounded_sum;
    float *lower, *upper;
};

INSTRUCTIONS static inline float finite_or(float value, float other)
{
    return fabsf(value) <= FLT_MAX ? value : other;
}

INSTRUCTIONS static inline float larger(float left, float right)
{
    return left > right ? left : right;
}

/* Raise bounds to the intervals of `count` chunks, at most BLOCK; best, (requests, span), is in units. */
INSTRUCTIONS static inline void raise_block(
    const struct bounds *to, const float *best, int64_t span, int64_t begin, int64_t count)
{
    float low[BLOCK], high[BLOCK];
    const int64_t requests = to->requests, *document = to->document + begin;
    for (int64_t request = 0; request < requests; request++) {
        const float unit = to->units[request], error = to->of_errors[request];
        const float norm = to->of_norms[request];
        for (int64_t i = 0; i < count; i++) {
            const int64_t chunk = begin + i;
            const float scale = to->scales == NULL ? 1 : to->scales[chunk];
            const float middle = best[request * span + i] * scale * unit;
            const float own_norm = larger(UNDERFLOW_NORM, to->norms[chunk]);
            float half = to->errors[chunk] * error + SMALLEST;
            half += own_norm * norm;
            half += fabsf(middle) * to->rounded_sum;
            low[i] = finite_or(middle - half, -INFINITY);
            high[i] = finite_or(middle + half, INFINITY);
        }
        for (int64_t i = 0; i < count;) { /* run by run of chunks of one document */
            const int64_t owner = document[i], place = owner * requests + request;
            float highest_low = to->lower[place], highest_high = to->upper[place];
            for (; i < count && document[i] == owner; i++) {
                highest_low = larger(low[i], highest_low);
                highest_high = larger(high[i], highest_high);
            }
            to->lower[place] = highest_low, to->upper[place] = highest_high;
        }
    }
}

/* Raise bounds to the intervals of chunks from `begin` to `end`, the first of which `best` begins with. */
static inline void raise_bounds(
    const struct bounds *to, const float *best, int64_t span, int64_t begin, int64_t end)
{
    for (int64_t at = begin; at < end; at += BLOCK)
        raise_block(to, best + at - begin, span, at, end - at < BLOCK ? end - at : BLOCK);
}

/* The first chunk from `at` on that does not go on with the document before it. */
static inline int64_t border(const struct bounds *to, int64_t at)
{
    while (at > 0 && at < to->chunks && to->document[at] == to->document[at - 1])
        at++;
    return at < to->chunks ? at : to->chunks;
}

/* Whether the documents of chunks from `begin` to `end` are all in range. */
INSTRUCTIONS static inline int are_inside(const struct bounds *to, int64_t begin, int64_t end)
{
    int outside = 0;
    for (int64_t i = begin; i < end; i++)
        outside |= (uint64_t)to->document[i] >= (uint64_t)to->documents;
    return !outside;
}

/* Whether they ascend from the one before them on, so that threads may share documents between borders. */
INSTRUCTIONS static inline int ascend(const struct bounds *to, int64_t begin, int64_t end)
{
    int descends = 0;
    for (int64_t i = begin > 0 ? begin : 1; i < end; i++)
        descends |= to->document[i] < to->document[i - 1];
    return !descends;
}

#endif
