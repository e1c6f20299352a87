/* One kernel, as the macros say; included once for each kind of number. No include guard: that is the point.

   KIND(x)         x with the kind's name after it
   TARGET          what the processor must have
   SUMS            a register of 16 sums
   START(r, b, f, n, s)  make the sums of ROWS rows of b bytes begin with n numbers, to be written if f
   TOKENS(p)       four bytes of each token of a vector
   KEY(p)          four bytes of a key, for every lane
   ADD(s, t, k)    s and the products of the tokens t with a key k
   FLOATS(s)       the sums as 16 floats */

#define HEIGHT ROWS

/* Two vectors, or one twice. */
struct KIND(pair) {
    const char *first, *second;
    int is_first; /* of all */
};

TARGET static inline __attribute__((always_inline)) struct KIND(pair) KIND(pair_of)(
    const char *first, const char *second, int64_t place)
{
    return (struct KIND(pair)){first, second, place == 0};
}

/* Sums of ROWS rows with `count` (1 or 2) vectors. A step is 4 bytes of each row and 64 of a vector. Rows are
   addressed from four of them, at distances the processor computes while it loads. */
TARGET static inline __attribute__((always_inline)) void KIND(multiply)(
    const char *rows, int64_t stride, const struct KIND(pair) *pair, const int count, int32_t *starts,
    SUMS sums[ROWS][2])
{
    const char *base[4] = {rows, rows + 3 * stride, rows + 6 * stride, rows + 9 * stride};
    SUMS start[ROWS], total[ROWS][2];
    START(rows, stride, pair->is_first, starts, start);
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
        total[row][0] = total[row][1] = start[row];
    for (int64_t at = 0; at < stride; at += 4) {
        const __m512i token = TOKENS(pair->first + at * LANES);
        const __m512i other = count == 2 ? TOKENS(pair->second + at * LANES) : token;
        if (at % LINE == 0) /* the same place in the rows that come next */
#pragma GCC unroll 12
            for (int row = 0; row < ROWS; row++)
                _mm_prefetch(base[row / 3] + (row % 3 + ROWS) * stride + at, _MM_HINT_T0);
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++) {
            const __m512i key = KEY(base[row / 3] + (row % 3) * stride + at);
            total[row][0] = ADD(total[row][0], token, key);
            if (count == 2)
                total[row][1] = ADD(total[row][1], other, key);
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++) {
        __asm__("" : "+v"(total[row][0]), "+v"(total[row][1])); /* else GCC stores them in every step */
        sums[row][0] = total[row][0], sums[row][1] = total[row][1];
    }
}

/* Raise best[request * span + row] of ROWS rows, of which `used` are there, to what two vectors give. */
TARGET static inline __attribute__((always_inline)) void KIND(raise_block)(
    const char *rows, int64_t stride, int used, const struct KIND(pair) *pair, const int count,
    const int32_t *request, int64_t span, float *best, int32_t *starts)
{
    SUMS sums[ROWS][2];
    __m512 floats[LANES];
    KIND(multiply)(rows, stride, pair, count, starts, sums);
    if (count == 2 && request[0] == request[1]) {
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++)
            floats[row] = _mm512_max_ps(FLOATS(sums[row][0]), FLOATS(sums[row][1]));
        raise_rows(floats, ROWS, used, best + request[0] * span);
        return;
    }
#pragma GCC unroll 2
    for (int vector = 0; vector < count; vector++) {
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++)
            floats[row] = FLOATS(sums[row][vector]);
        raise_rows(floats, ROWS, used, best + request[vector] * span);
    }
}

#include "every_row.h"
#undef HEIGHT
