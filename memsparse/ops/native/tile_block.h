/* The kernel of block.h by tiles: one instruction multiplies 16 keys with a vector, 64 bytes of each. Included once
   for each kind of number that tiles hold.

   Keys lie in a tile as they are stored, the 16 steps of a vector as they are laid out, and both factors of int8 are
   signed. Of eight tiles four hold the sums of TOGETHER keys with two vectors.

   KIND(x), TARGET  as in block.h
   ADD(s, k, t)     add the products of the keys of tile k and the tokens of tile t to tile s, all told by number
   FLOATS(s)        sixteen sums in memory as floats */

/* Sums of TOGETHER rows with `count` (1 or 2) vectors: (vectors, rows, lanes). `fetches`: bring the rows that come next
   into a cache. */
TARGET static inline __attribute__((always_inline)) void KIND(multiply)(
    const char *rows, int64_t stride, const char *first, const char *second, const int count, int fetches,
    int32_t sums[2][TOGETHER][LANES])
{
    const char *later = rows + TILE_ROWS * stride;
    WRITTEN;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t at = 0; at < stride; at += TILE_BYTES) {
        if (fetches)
#pragma GCC unroll 32
            for (int row = 0; row < TOGETHER; row++) /* the same place in the rows that come next */
                _mm_prefetch(rows + (row + TOGETHER) * stride + at, _MM_HINT_T1);
        _tile_loadd(4, rows + at, stride);
        _tile_loadd(5, later + at, stride);
        _tile_loadd(6, first + at * LANES, TILE_BYTES);
        ADD(0, 4, 6);
        ADD(1, 5, 6);
        if (count == 2) {
            _tile_loadd(7, second + at * LANES, TILE_BYTES);
            ADD(2, 4, 7);
            ADD(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], TILE_BYTES);
    _tile_stored(1, sums[0] + TILE_ROWS, TILE_BYTES);
    if (count == 2) {
        _tile_stored(2, sums[1], TILE_BYTES);
        _tile_stored(3, sums[1] + TILE_ROWS, TILE_BYTES);
    }
    WRITTEN;
}

/* Raise best[request * span + row] of the first `used` of TOGETHER rows to what two vectors give. */
TARGET static inline __attribute__((always_inline)) void KIND(raise_block)(
    const char *rows, int64_t stride, int used, const char *first, const char *second, const int count, int fetches,
    const int32_t *request, int64_t span, float *best)
{
    int32_t sums[2][TOGETHER][LANES] __attribute__((aligned(64)));
    __m512 floats[LANES];
    KIND(multiply)(rows, stride, first, second, count, fetches, sums);
    const int is_shared = count == 2 && request[0] == request[1];
    for (int begin = 0; begin < used; begin += TILE_ROWS) {
        const int here = used - begin < TILE_ROWS ? used - begin : TILE_ROWS;
        for (int vector = 0; vector < (is_shared ? 1 : count); vector++) {
#pragma GCC unroll 16
            for (int row = 0; row < TILE_ROWS; row++) {
                floats[row] = FLOATS(sums[vector][begin + row]);
                if (is_shared)
                    floats[row] = _mm512_max_ps(floats[row], FLOATS(sums[1][begin + row]));
            }
            raise_rows(largest_lanes_float32(floats), here, best + request[vector] * span + begin);
        }
    }
}

/* All rows with all vectors, as in block.h. The first pair of vectors fetches for the others. */
TARGET static void KIND(raise)(
    const char *keys, int64_t rows, int64_t stride, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t span, float *best, char *spare)
{
    const int64_t step = stride * LANES; /* bytes of a vector */
    const int64_t part = rows_near(stride, TOGETHER);
    for (int64_t begin = 0; begin < rows; begin += part) {
        const int64_t end = begin + part < rows ? begin + part : rows;
        for (int64_t vector = 0; vector < vectors; vector += 2) {
            const char *first = lanes + vector * step;
            for (int64_t row = begin; row < end; row += TOGETHER) {
                const int used = end - row < TOGETHER ? (int)(end - row) : TOGETHER;
                const char *block = keys + row * stride;
                if (used < TOGETHER)
                    block = memcpy(spare, block, used * stride);
                if (vector + 1 < vectors)
                    KIND(raise_block)(block, stride, used, first, first + step, 2, vector == 0, request + vector,
                                      span, best + row);
                else
                    KIND(raise_block)(block, stride, used, first, NULL, 1, vector == 0, request + vector, span,
                                      best + row);
            }
        }
    }
}
