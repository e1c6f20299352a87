/* Work that several threads share. */

#ifndef MEMSPARSE_THREADS_H
#define MEMSPARSE_THREADS_H

#include <stddef.h>

/* Has so many threads, the caller among them, run a function at once: GOMP_parallel, which every OpenMP has. */
typedef void at_once(void (*function)(void *), void *given, unsigned threads, unsigned flags);

/* Run `take_parts`, which takes parts of the work until there are none, on the threads there are. */
static inline void share_among(at_once *work_at_once, int threads, void (*take_parts)(void *), void *work)
{
    if (work_at_once != NULL && threads > 1)
        work_at_once(take_parts, work, (unsigned)threads, 0);
    else
        take_parts(work);
}

#endif
