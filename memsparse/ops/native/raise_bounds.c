/* From the best products of a scan to bounds of documents, in one pass over what torch reads and writes a dozen
   times: for products that torch computed, or documents in any order. */

#include "agreed.h"
#include "bounds.h"

/* Raise lower and upper to the intervals of chunks; best is (requests, chunks), in units, the rest as in
   `struct bounds`. Returns 0, or the problem of a document that is out of range, before anything is
   raised. */
int memsparse_raise_bounds(
    const float *best, int64_t chunks, int64_t requests, int64_t documents, const float *scales, const float *errors,
    const float *norms, const int64_t *document, const float *units, const float *of_errors,
    const float *of_norms, float rounded_sum, float *lower, float *upper)
{
    const struct bounds to = {scales, errors, norms, units, of_errors, of_norms, document, chunks, requests,
                              documents, rounded_sum, lower, upper};
    if (!are_inside(&to, 0, chunks))
        return DOCUMENT_OUTSIDE;
    raise_bounds(&to, best, chunks, 0, chunks);
    return 0;
}
