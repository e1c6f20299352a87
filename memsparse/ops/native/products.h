/* Products of bfloat16 with sums of float32, by tiles where the processor has them (AMX), or by vectors: what
   attention.c and linear.c are made of. A sum runs over its columns in their order, whatever is computed beside it; so
   what comes of a token does not depend on its company. */

#ifndef MEMSPARSE_PRODUCTS_H
#define MEMSPARSE_PRODUCTS_H

#include <string.h>

#include "bfloat16.h"

#if defined(__linux__) && !defined(MEMSPARSE_NO_TILES)
#include "tiles.h"
#else /* none are asked for where there are none */
enum { AMX_BF16 };
#define has_tiles(feature) 0
#define begin_tiles() ((void)0)
#define end_tiles() ((void)0)
#define multiply_by_tiles multiply_by_vectors
#endif

#define ROWS (2 * LANES) /* that are multiplied together */
#define LINE 64          /* bytes of a vector, and of a row of a tile */
#define COLUMNS (LINE / SIZE)

/* Products of ROWS rows, `stride` bytes apart, of which `bytes` count, with one or two vectors of 16 others,
   `apart` bytes from one to the other, that are laid out as a tile wants them: four bytes of each, then the next
   four. Sums are (ROWS, 2, LANES). */
typedef void multiply(
    const char *rows, int64_t stride, int64_t bytes, const char *lanes, int64_t apart, int vectors, float *sums);

#ifdef TILED
TILED static void multiply_by_tiles(
    const char *rows, int64_t stride, int64_t bytes, const char *lanes, int64_t apart, int vectors, float *sums)
{
    const char *later = rows + TILE_ROWS * stride;
    const int is_pair = vectors == 2;
    WRITTEN;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t at = 0; at < bytes; at += TILE_BYTES) {
        _tile_loadd(4, rows + at, stride);
        _tile_loadd(5, later + at, stride);
        _tile_loadd(6, lanes + at * LANES, TILE_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        if (is_pair) {
            _tile_loadd(7, lanes + apart + at * LANES, TILE_BYTES);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, ROWS * sizeof *sums);
    _tile_stored(1, sums + TILE_ROWS * ROWS, ROWS * sizeof *sums);
    _tile_stored(2, sums + LANES, ROWS * sizeof *sums);
    _tile_stored(3, sums + TILE_ROWS * ROWS + LANES, ROWS * sizeof *sums);
    WRITTEN;
}
#endif

TARGET static void multiply_by_vectors(
    const char *rows, int64_t stride, int64_t bytes, const char *lanes, int64_t apart, int vectors, float *sums)
{
    enum { TOGETHER = 8 };
    for (int begin = 0; begin < ROWS; begin += TOGETHER, rows += TOGETHER * stride) {
        __m512 total[TOGETHER][2];
#pragma GCC unroll 8
        for (int row = 0; row < TOGETHER; row++)
            total[row][0] = total[row][1] = _mm512_setzero_ps();
        for (int64_t at = 0; at < bytes; at += 4) {
            const __m512bh first = (__m512bh)_mm512_loadu_si512(lanes + at * LANES);
            const __m512bh second =
                vectors == 2 ? (__m512bh)_mm512_loadu_si512(lanes + apart + at * LANES) : first;
#pragma GCC unroll 8
            for (int row = 0; row < TOGETHER; row++) {
                int32_t pair;
                memcpy(&pair, rows + row * stride + at, sizeof pair);
                const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                total[row][0] = _mm512_dpbf16_ps(total[row][0], first, both);
                if (vectors == 2)
                    total[row][1] = _mm512_dpbf16_ps(total[row][1], second, both);
            }
        }
#pragma GCC unroll 8
        for (int row = 0; row < TOGETHER; row++) {
            __asm__("" : "+v"(total[row][0]), "+v"(total[row][1])); /* else GCC stores them in every step */
            _mm512_storeu_ps(sums + (begin + row) * ROWS, total[row][0]);
            _mm512_storeu_ps(sums + (begin + row) * ROWS + LANES, total[row][1]);
        }
    }
}

/* Swap rows and columns of 16 rows of 16 numbers of four bytes. */
TARGET static inline __attribute__((always_inline)) void transpose(__m512i of[LANES])
{
    __m512i pairs[LANES], fours[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(of[i], of[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(of[i], of[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) /* fours[i + c]: columns c, c + 4, c + 8 and c + 12 of four rows */
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            fours[i + 2 * half] = _mm512_unpacklo_epi64(pairs[i + half], pairs[i + 2 + half]);
            fours[i + 2 * half + 1] = _mm512_unpackhi_epi64(pairs[i + half], pairs[i + 2 + half]);
        }
#pragma GCC unroll 4
    for (int column = 0; column < 4; column++) {
        const __m512i a = fours[column], b = fours[4 + column], c = fours[8 + column], d = fours[12 + column];
        const __m512i low = _mm512_shuffle_i32x4(a, b, 0x88), high = _mm512_shuffle_i32x4(a, b, 0xDD);
        const __m512i later_low = _mm512_shuffle_i32x4(c, d, 0x88), later_high = _mm512_shuffle_i32x4(c, d, 0xDD);
        of[column] = _mm512_shuffle_i32x4(low, later_low, 0x88);
        of[column + 4] = _mm512_shuffle_i32x4(high, later_high, 0x88);
        of[column + 8] = _mm512_shuffle_i32x4(low, later_low, 0xDD);
        of[column + 12] = _mm512_shuffle_i32x4(high, later_high, 0xDD);
    }
}

/* Lay 16 rows of `bytes`, a multiple of LINE, out as a vector; a missing one counts as 0. */
TARGET static inline void lay_vector(const char *const rows[LANES], int64_t bytes, char *to)
{
    for (int64_t at = 0; at < bytes; at += LINE) {
        __m512i words[LANES];
        for (int row = 0; row < LANES; row++)
            words[row] = rows[row] == NULL ? _mm512_setzero_si512() : _mm512_loadu_si512(rows[row] + at);
        transpose(words);
        for (int row = 0; row < LANES; row++)
            _mm512_storeu_si512(to + at * LANES + row * LINE, words[row]);
    }
}

static int has_kernel(int by_tiles)
{
    return has_vectors() && (!by_tiles || has_tiles(AMX_BF16));
}

#endif
