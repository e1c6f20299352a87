/* One kernel, as the macros say; included once for each kind of number. No include guard: that is the point.

   KIND(x)   x with the kind's name after it
   TARGET    what the processor must have
   SUMS      a register of 16 sums
   ADD(s,t,k)  s + products of the tokens t with the key's bytes k
   START(row, bytes)  what a row's sums begin with
   FLOATS(s)  the sums as 16 floats */

/* Sums of ROWS rows with `count` (1 or 2) vectors. A step is 4 bytes of each row and 64 of a vector. Rows are
   addressed from four of them, at distances the processor computes while it loads. */
TARGET static inline __attribute__((always_inline)) void KIND(multiply)(
    const char *rows, int64_t stride, const char *first, const char *second, const int count,
    SUMS sums[ROWS][2])
{
    const char *base[4] = {rows, rows + 3 * stride, rows + 6 * stride, rows + 9 * stride};
    SUMS total[ROWS][2];
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
        total[row][0] = total[row][1] = START(rows + row * stride, stride);
    for (int64_t at = 0; at < stride; at += 4) {
        const __m512i token = _mm512_loadu_si512(first + at * LANES);
        const __m512i other = count == 2 ? _mm512_loadu_si512(second + at * LANES) : token;
        if (at % LINE == 0) /* the same place in the rows that come next */
#pragma GCC unroll 12
            for (int row = 0; row < ROWS; row++)
                _mm_prefetch(base[row / 3] + (row % 3 + ROWS) * stride + at, _MM_HINT_T0);
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++) {
            const __m512i key = _mm512_set1_epi32(word(base[row / 3] + (row % 3) * stride + at));
            total[row][0] = ADD(total[row][0], token, key);
            if (count == 2)
                total[row][1] = ADD(total[row][1], other, key);
        }
    }
    memcpy(sums, total, sizeof total);
}

/* Raise best[row][request] of ROWS rows, of which `used` are there, to what two vectors give. */
TARGET static inline __attribute__((always_inline)) void KIND(raise_block)(
    const char *rows, int64_t stride, int used, const char *first, const char *second, const int count,
    const int32_t *request, int64_t requests, float *best)
{
    SUMS sums[ROWS][2];
    KIND(multiply)(rows, stride, first, second, count, sums);
    for (int row = 0; row < used; row++, best += requests) {
        __m512 here = FLOATS(sums[row][0]);
        if (count == 2) {
            const __m512 other = FLOATS(sums[row][1]);
            if (request[0] == request[1])
                here = _mm512_max_ps(here, other);
            else
                best[request[1]] = fmaxf(best[request[1]], _mm512_reduce_max_ps(other));
        }
        best[request[0]] = fmaxf(best[request[0]], _mm512_reduce_max_ps(here));
    }
}

/* All rows with all vectors. `spare` has room for ROWS rows: the last ones are multiplied there, in company. */
TARGET static void KIND(raise)(
    const char *keys, int64_t rows, int64_t stride, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t requests, float *best, char *spare)
{
    const int64_t step = stride * LANES; /* bytes of a vector */
    const int64_t tile = (TILE / stride / ROWS + 1) * ROWS;
    for (int64_t begin = 0; begin < rows; begin += tile) {
        const int64_t end = begin + tile < rows ? begin + tile : rows;
        for (int64_t vector = 0; vector < vectors; vector += 2) {
            const char *first = lanes + vector * step;
            for (int64_t row = begin; row < end; row += ROWS) {
                const int used = end - row < ROWS ? (int)(end - row) : ROWS;
                const char *block = keys + row * stride;
                if (used < ROWS)
                    block = memcpy(spare, block, used * stride);
                if (vector + 1 < vectors)
                    KIND(raise_block)(block, stride, used, first, first + step, 2, request + vector, requests,
                                      best + row * requests);
                else
                    KIND(raise_block)(block, stride, used, first, first, 1, request + vector, requests,
                                      best + row * requests);
            }
        }
    }
}
