/* One kernel, as the macros say; included once for each kind of number. No include guard: that is the point.

   KIND(x)         x with the kind's name after it
   TARGET          what the processor must have
   SUMS            a register of 16 sums
   ZERO, LOWEST    one of 16 zeros, and of what is lower than all sums
   TOKENS(p)       four bytes of each token of a vector
   KEY(p)          four bytes of a key, for every lane
   ADD(s, t, k)    s and the products of the tokens t with a key k
   LARGER(a, b)    lane by lane
   BITS(s), OF(b)  a register as one of floats, bit for bit, and back
   FINISH(s, n, p) sums of n rows, one in a lane, as floats, by what PREPARE wrote
   PREPARE(r, b, p)  write what ROWS rows r of b bytes need besides, once for all vectors */

/* The largest lane of each of 16 registers, in their order: the maxima of two registers' halves lie side by side in
   one, then those of four registers' quarters, until one has a lane of each. */
#define BESIDE(a, b, how) OF(_mm512_shuffle_f32x4(BITS(a), BITS(b), how))
TARGET static inline __attribute__((always_inline)) SUMS KIND(largest_lanes)(const SUMS of[LANES])
{
    SUMS eight[8], four[4], two[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        eight[i] = LARGER(BESIDE(of[i], of[i + 8], 0x44), BESIDE(of[i], of[i + 8], 0xEE));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        four[i] = LARGER(BESIDE(eight[i], eight[i + 4], 0x88), BESIDE(eight[i], eight[i + 4], 0xDD));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        two[i] = LARGER(OF(_mm512_unpacklo_ps(BITS(four[i]), BITS(four[i + 2]))),
                        OF(_mm512_unpackhi_ps(BITS(four[i]), BITS(four[i + 2]))));
    const SUMS mixed = LARGER(OF(_mm512_shuffle_ps(BITS(two[0]), BITS(two[1]), 0x44)),
                              OF(_mm512_shuffle_ps(BITS(two[0]), BITS(two[1]), 0xEE)));
    const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
    return OF(_mm512_permutexvar_ps(order, BITS(mixed)));
}
#undef BESIDE

/* Raise best sums of ROWS rows to those with `count` (1 or 2) vectors; where `of_second` is not `best`, it is made those
   with the second. The best so far is LARGER's second factor, which is what comes of one that is not a number. A step
   is 4 bytes of each row and 64 of a vector. Rows are addressed from four of them, at distances the processor computes
   while it loads. */
TARGET static inline __attribute__((always_inline)) void KIND(multiply)(
    const char *rows, int64_t stride, const char *first, const char *second, const int count,
    SUMS best[ROWS], SUMS *of_second)
{
    const char *base[4] = {rows, rows + 3 * stride, rows + 6 * stride, rows + 9 * stride};
    SUMS total[ROWS][2];
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
        total[row][0] = total[row][1] = ZERO;
    for (int64_t at = 0; at < stride; at += 4) {
        const __m512i token = TOKENS(first + at * LANES);
        const __m512i other = count == 2 ? TOKENS(second + at * LANES) : token;
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
        const int is_shared = count == 2 && of_second == best;
        const SUMS larger = is_shared ? LARGER(total[row][0], total[row][1]) : total[row][0];
        best[row] = LARGER(larger, best[row]);
        if (count == 2 && !is_shared)
            of_second[row] = total[row][1];
    }
}

/* Raise best[row] of the first `used` rows to the largest of their sums, which begin again. */
TARGET static inline __attribute__((always_inline)) void KIND(finish)(
    SUMS sums[LANES], int used, const int32_t *prepared, float *best)
{
    (void)prepared;
    raise_rows(FINISH(KIND(largest_lanes)(sums), used, prepared), used, best);
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
        sums[row] = LOWEST;
}

/* All rows with all vectors: raise best[request * span + row]. As many vectors meet a block of rows as the nearest cache
   holds, two by two, and the maximum of those of one request is taken at once. `spare` has room for ROWS rows: the
   last ones are multiplied there, in company; `prepared` for a number of each row that is NEAR. */
TARGET static void KIND(raise)(
    const char *keys, int64_t rows, int64_t stride, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t span, float *best, char *spare, int32_t *prepared)
{
    const int64_t step = stride * LANES; /* bytes of a vector */
    const int64_t part = rows_near(stride, ROWS), most = NEAREST / step < 2 ? 2 : NEAREST / step / 2 * 2;
    for (int64_t begin = 0; begin < rows; begin += part) {
        const int64_t end = begin + part < rows ? begin + part : rows;
        for (int64_t vector = 0; vector < vectors; vector += most) {
            const int64_t last = vectors - vector < most ? vectors : vector + most;
            for (int64_t row = begin; row < end; row += ROWS) {
                const int used = end - row < ROWS ? (int)(end - row) : ROWS;
                const char *block = keys + row * stride;
                if (used < ROWS)
                    block = memcpy(spare, block, used * stride);
                if (vector == 0)
                    PREPARE(block, stride, prepared + row - begin);
                float *to = best + row;
                const int32_t *of_rows = prepared + row - begin;
                SUMS sums[LANES], others[ROWS];
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++)
                    sums[i] = LOWEST;
                for (int64_t at = vector; at < last; at += 2) {
                    const char *first = lanes + at * step;
                    int32_t held = request[at];
                    if (at + 1 == last)
                        KIND(multiply)(block, stride, first, NULL, 1, sums, sums);
                    else if (request[at + 1] == held)
                        KIND(multiply)(block, stride, first, first + step, 2, sums, sums);
                    else {
                        KIND(multiply)(block, stride, first, first + step, 2, sums, others);
                        KIND(finish)(sums, used, of_rows, to + held * span);
                        held = request[at + 1];
#pragma GCC unroll 12
                        for (int i = 0; i < ROWS; i++)
                            sums[i] = others[i];
                    }
                    if (at + 2 >= last || request[at + 2] != held)
                        KIND(finish)(sums, used, of_rows, to + held * span);
                }
            }
        }
    }
}
