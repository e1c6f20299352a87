/* Which documents of many: the best, those that may be among the best, and whether that is proven.

   `ops.selection` and `ops.certificate` say what each function does. In torch each is a dozen small operations, which
   together take longer than the scan of a small bank. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agreed.h"
#include "heap.h"

#define BLOCK 64   /* numbers that are passed over together when the largest of them is too small */
#define AHEAD 2048 /* numbers: so far ahead they are fetched, many of them from other processors' caches */
#define MEAN_SLACK 0x1p-22 /* of a mean of bounds, so that it bounds the means of scores in float32 */
#define LARGE 1e38f /* stands for infinity where bounds are reckoned with */

/* Fetch the block of numbers that comes AHEAD of one. */
static inline void fetch_ahead(const float *block)
{
#ifdef __GNUC__
    for (int i = 0; i < BLOCK; i += 16)
        __builtin_prefetch(block + AHEAD + i);
#endif
}

struct found {
    float score;
    int64_t document;
};

/* Keep the best of `count` numbers and of what a heap holds. Returns whether all of them are numbers. */
static int raise_heap(float *heap, int64_t size, const float *values, int64_t count)
{
    int are_numbers = 1;
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        const int64_t end = begin + BLOCK < count ? begin + BLOCK : count;
        const float worst = heap[0];
        int is_raised = 0;
        fetch_ahead(values + begin);
        for (int64_t i = begin; i < end; i++)
            is_raised |= !(values[i] <= worst);
        for (int64_t i = begin; i < end && is_raised; i++) {
            are_numbers &= values[i] == values[i];
            if (values[i] > heap[0])
                replace_worst(heap, size, values[i]);
        }
    }
    return are_numbers;
}

/* What a number must not lie below to reach a bar: -inf reaches none. */
static float least(float bar)
{
    return bar < -FLT_MAX ? -FLT_MAX : bar;
}

/* A bound that may be infinite, for reckoning with it. */
static inline float within_reach(float bound)
{
    return bound < -LARGE ? -LARGE : bound > LARGE ? LARGE : bound;
}

/* best is (requests, k) heaps, scores (requests, documents), bar (requests,) becomes the worst of each heap. Returns 0,
   or NOT_A_NUMBER. */
int memsparse_raise_best(float *best, int64_t requests, int64_t k, const float *scores, int64_t documents, float *bar)
{
    int are_numbers = 1;
    for (int64_t request = 0; request < requests; request++) {
        are_numbers &= raise_heap(best + request * k, k, scores + request * documents, documents);
        bar[request] = best[request * k];
    }
    return are_numbers ? NONE : NOT_A_NUMBER;
}

/* upper is (requests, documents), bar (requests,); beyond, (requests,), is raised. `kept` has room for all documents;
   returns how many there are in it. */
int64_t memsparse_reaching(
    const float *upper, int64_t requests, int64_t documents, const float *bar, float *beyond, int64_t *kept)
{
    int64_t count = 0;
    for (int64_t begin = 0; begin < documents; begin += BLOCK) {
        const int64_t here = documents - begin < BLOCK ? documents - begin : BLOCK;
        int reaches[BLOCK] = {0}, any = 0;
        for (int64_t request = 0; request < requests; request++) {
            const float *row = upper + request * documents + begin, own = least(bar[request]);
            fetch_ahead(row);
            for (int64_t i = 0; i < here; i++)
                reaches[i] |= row[i] >= own;
        }
        for (int64_t i = 0; i < here; i++)
            any |= reaches[i];
        for (int64_t request = 0; request < requests; request++) {
            const float *row = upper + request * documents + begin, highest = beyond[request];
            int is_raised = 0;
            for (int64_t i = 0; i < here; i++)
                is_raised |= !reaches[i] & (row[i] > highest);
            for (int64_t i = 0; i < here && is_raised; i++)
                if (!reaches[i] && row[i] > beyond[request])
                    beyond[request] = row[i];
        }
        for (int64_t i = 0; i < here && any; i++) {
            kept[count] = begin + i; /* the next one takes its place if it is out */
            count += reaches[i];
        }
    }
    return count;
}

/* bounds is (requests, documents), bar (requests,); counts, (requests,), become how many of each reach its bar. */
void memsparse_count_reaching(
    const float *bounds, int64_t requests, int64_t documents, const float *bar, int64_t *counts)
{
    for (int64_t request = 0; request < requests; request++) {
        const float *row = bounds + request * documents, own = least(bar[request]);
        int64_t count = 0;
        for (int64_t i = 0; i < documents; i++)
            count += row[i] >= own;
        counts[request] = count;
    }
}

/* lower and upper are (requests, documents); counts, (requests,), become how many upper bounds of each reach the k-th
   best guess: scores lie at a `share` of their intervals, and not above what is known. Returns 0, or which problem. */
int memsparse_count_promising(
    const float *lower, const float *upper, int64_t requests, int64_t documents, int64_t k, float share, int64_t *counts)
{
    float *heap = malloc((k + 1) * sizeof *heap);
    for (int64_t request = 0; request < requests && heap != NULL; request++) {
        const float *low = lower + request * documents, *high = upper + request * documents;
        clear(heap, k);
        for (int64_t begin = 0; begin < documents; begin += BLOCK) {
            const int64_t here = documents - begin < BLOCK ? documents - begin : BLOCK;
            float guess[BLOCK];
            fetch_ahead(low + begin), fetch_ahead(high + begin);
            for (int64_t i = 0; i < here; i++) {
                const float from = within_reach(low[begin + i]), to = within_reach(high[begin + i]);
                const float at = from + share * (to - from);
                guess[i] = at < high[begin + i] ? at : high[begin + i];
            }
            raise_heap(heap, k, guess, here);
        }
        memsparse_count_reaching(high, 1, documents, heap, counts + request);
    }
    if (heap == NULL)
        return NO_MEMORY;
    free(heap);
    return NONE;
}

/* documents and upper are lists, `counts` of each, documents ascending; beyond, (lists,), bounds what a list does not
   have. found and means, which have room for all, become every document once and the mean of its bounds. Returns how
   many there are, or -1 without memory. */
int64_t memsparse_mean_bounds(
    int64_t lists, const int64_t *const *documents, const float *const *upper, const int64_t *counts,
    const double *beyond, int64_t *found, float *means)
{
    int64_t *at = calloc(lists + 1, sizeof *at), count = 0;
    for (int is_left = at != NULL; is_left;) {
        int64_t next = INT64_MAX;
        double sum = 0;
        is_left = 0;
        for (int64_t i = 0; i < lists; i++)
            if (at[i] < counts[i]) {
                next = documents[i][at[i]] < next ? documents[i][at[i]] : next;
                is_left = 1;
            }
        for (int64_t i = 0; i < lists && is_left; i++)
            sum += at[i] < counts[i] && documents[i][at[i]] == next ? (double)upper[i][at[i]++] : beyond[i];
        if (is_left) { /* inf and -inf make no number: without a score in a list there is no mean */
            const double mean = sum == sum ? sum / lists : -INFINITY;
            found[count] = next;
            means[count++] = (float)(isinf(mean) ? mean : mean + fabs(mean) * MEAN_SLACK);
        }
    }
    if (at == NULL)
        return -1;
    free(at);
    return count;
}

/* Whether no number is smaller than the one before it. */
int memsparse_ascend(const int64_t *numbers, int64_t count)
{
    int ascend = 1;
    for (int64_t i = 1; i < count; i++)
        ascend &= numbers[i] >= numbers[i - 1];
    return ascend;
}

/* bounds is (requests, documents), where what is taken becomes -inf; wanted is (requests,), none above `most`, taken
   (requests, most), -1 where there are fewer. Returns 0, or which problem there is. */
int memsparse_take_best(
    float *bounds, int64_t requests, int64_t documents, const int64_t *wanted, int64_t most, int64_t *taken)
{
    float *heap = malloc((most + 1) * sizeof *heap);
    for (int64_t request = 0; request < requests && heap != NULL; request++) {
        const int64_t own = wanted[request];
        float *row = bounds + request * documents, cut = INFINITY;
        int64_t *to = taken + request * most, count = 0, above = 0;
        if (own > 0) {
            clear(heap, own);
            raise_heap(heap, own, row, documents);
            cut = least(heap[0]);
        }
        for (int64_t i = 0; i < documents; i++)
            above += row[i] > cut;
        for (int64_t i = 0, equal = own - above; i < documents && count < own; i++)
            if (row[i] > cut || (row[i] == cut && equal-- > 0)) /* of those at the cut the first */
                row[i] = -INFINITY, to[count++] = i;
        while (count < most)
            to[count++] = -1;
    }
    if (heap == NULL)
        return NO_MEMORY;
    free(heap);
    return NONE;
}

static int by_score_then_document(const void *left, const void *right)
{
    const struct found *a = left, *b = right;
    if (a->score != b->score)
        return a->score < b->score ? 1 : -1;
    return (a->document > b->document) - (a->document < b->document);
}

/* The k best of `count` scores, ties to the lower document; without `documents` they are 0, 1, ... `room` is for all
   of them. */
static int rank(
    const float *scores, const int64_t *documents, int64_t count, int64_t k, struct found *room, float *best, int64_t *index)
{
    int64_t candidates = 0, equal = count;
    clear(best, k);
    if (!raise_heap(best, k, scores, count))
        return NOT_A_NUMBER;
    const float cut = least(best[0]);
    if (documents == NULL) { /* of those at the cut, which may be many, the first are the lowest */
        equal = k;
        for (int64_t i = 0; i < count; i++)
            equal -= scores[i] > cut;
    }
    for (int64_t i = 0; i < count; i++)
        if (scores[i] > cut || (scores[i] == cut && equal-- > 0))
            room[candidates++] = (struct found){scores[i], documents == NULL ? i : documents[i]};
    qsort(room, candidates, sizeof *room, by_score_then_document);
    for (int64_t i = 0; i < k; i++) {
        best[i] = i < candidates ? room[i].score : -INFINITY;
        index[i] = i < candidates ? room[i].document : -1;
    }
    return NONE;
}

/* scores is (requests, documents), best and index (requests, k). Returns 0, or which problem there is. */
int memsparse_top(const float *scores, int64_t requests, int64_t documents, int64_t k, float *best, int64_t *index)
{
    struct found *room = malloc((documents + 1) * sizeof *room);
    int problem = room == NULL ? NO_MEMORY : NONE;
    for (int64_t request = 0; request < requests && problem == NONE; request++)
        problem = rank(scores + request * documents, NULL, documents, k, room, best + request * k, index + request * k);
    free(room);
    return problem;
}

/* upper is (requests, documents), beyond (requests,); scored and exact are (requests, scores), -1 and -inf for none,
   best and index (requests, k), certified (requests,) bytes. Returns 0, or which problem there is. */
int memsparse_certify(
    const float *upper, int64_t requests, int64_t documents, const float *beyond, const int64_t *scored,
    const float *exact, int64_t scores, int64_t k, float *best, int64_t *index, char *certified)
{
    struct found *room = malloc((scores + 1) * sizeof *room);
    float *own = malloc((scores + 1) * sizeof *own);
    char *is_scored = malloc(documents + 1);
    int problem = room == NULL || own == NULL || is_scored == NULL ? NO_MEMORY : NONE;
    for (int64_t request = 0; request < requests && problem == NONE; request++) {
        const int64_t *document = scored + request * scores;
        const float *bounds = upper + request * documents;
        float highest = beyond[request];
        int is_known = 1;
        memset(is_scored, 0, documents);
        for (int64_t i = 0; i < scores; i++) {
            own[i] = document[i] < 0 ? -INFINITY : exact[request * scores + i];
            if (document[i] >= documents)
                problem = DOCUMENT_OUTSIDE;
            else if (document[i] >= 0)
                is_scored[document[i]] = 1;
        }
        for (int64_t i = 0; i < documents; i++) {
            is_known &= is_scored[i] || bounds[i] == bounds[i];
            highest = !is_scored[i] && bounds[i] > highest ? bounds[i] : highest;
        }
        if (problem == NONE)
            problem = rank(own, document, scores, k, room, best + request * k, index + request * k);
        if (problem == NONE)
            certified[request] = is_known && (highest < best[request * k + k - 1] || highest == -INFINITY);
    }
    free(room), free(own), free(is_scored);
    return problem;
}
