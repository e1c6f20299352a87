/* The best numbers so far, as a heap: none is better than those it stands above, so that the first is the worst. */

#ifndef MEMSPARSE_HEAP_H
#define MEMSPARSE_HEAP_H

#include <math.h>
#include <stdint.h>

/* Make a heap of `count` numbers hold nothing. */
static inline void clear(float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = -INFINITY;
}

/* Put a number in place of the worst of `count`. */
static inline void replace_worst(float *heap, int64_t count, float value)
{
    int64_t at = 0, below;
    while ((below = 2 * at + 1) < count) {
        below += below + 1 < count && heap[below + 1] < heap[below];
        if (heap[below] >= value)
            break;
        heap[at] = heap[below], at = below;
    }
    heap[at] = value;
}

#endif
