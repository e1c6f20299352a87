/* From the best products of a scan to bounds of documents: the interval around every chunk's score, and the
   highest ends of a document's chunks, in one pass over what torch reads and writes a dozen times.

   As `ops.scan` does it without this file; that one explains the arithmetic. */

#include <float.h>
#include <math.h>
#include <stdint.h>

#define BLOCK 256 /* chunks whose intervals wait in the nearest cache */

static const float UNDERFLOW_NORM = 0x1p-80f, SMALLEST = 0x1p-120f;

static inline float finite_or(float value, float other)
{
    return fabsf(value) <= FLT_MAX ? value : other;
}

/* Raise lower and upper, (documents, requests), to the intervals of chunks.

   best is (chunks, requests), in units; scales, which may be missing, errors and norms are (chunks,), document is
   (chunks,) in any order; units, of_errors and of_norms are (requests,). Returns 0, or 1 at a document that is
   out of range. */
int memsparse_raise_bounds(
    const float *best, int64_t chunks, int64_t requests, int64_t documents, const float *scales, const float *errors,
    const float *norms, const int64_t *document, const float *units, const float *of_errors,
    const float *of_norms, float rounded_sum, float *lower, float *upper)
{
    float low[BLOCK], high[BLOCK];
    for (int64_t begin = 0; begin < chunks; begin += BLOCK) {
        const int64_t count = chunks - begin < BLOCK ? chunks - begin : BLOCK;
        for (int64_t i = 0; i < count; i++)
            if (document[begin + i] < 0 || document[begin + i] >= documents)
                return 1;
        for (int64_t request = 0; request < requests; request++) {
            const float unit = units[request], error = of_errors[request], norm = of_norms[request];
            for (int64_t i = 0; i < count; i++) {
                const int64_t chunk = begin + i;
                const float scale = scales == 0 ? 1 : scales[chunk];
                const float middle = best[chunk * requests + request] * scale * unit;
                const float own_norm = norms[chunk] < UNDERFLOW_NORM ? UNDERFLOW_NORM : norms[chunk];
                float half = errors[chunk] * error + SMALLEST;
                half += own_norm * norm;
                half += fabsf(middle) * rounded_sum;
                low[i] = finite_or(middle - half, -INFINITY);
                high[i] = finite_or(middle + half, INFINITY);
            }
            for (int64_t i = 0; i < count; i++) {
                const int64_t place = document[begin + i] * requests + request;
                if (low[i] > lower[place])
                    lower[place] = low[i];
                if (high[i] > upper[place])
                    upper[place] = high[i];
            }
        }
    }
    return 0;
}
