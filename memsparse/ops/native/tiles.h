/* The kernel of block.h for processors with AMX: one instruction multiplies 16 keys with a vector, 64 bytes of each.

   Keys lie in a tile as they are stored, the 16 steps of a vector as they are laid out, and both factors of int8 are
   signed. Of eight tiles four hold the sums of 2 * TILE_ROWS keys with two vectors. */

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILE_ROWS 16
#define TILE_BYTES 64 /* of a row */
#define TOGETHER (2 * TILE_ROWS)
#define TILED __attribute__((target("avx512f,amx-tile,amx-int8,amx-bf16")))

/* What is in memory is what tiles are loaded from: GCC's functions do not tell the compiler that they read it. */
#define WRITTEN __asm__ volatile("" ::: "memory")

enum { AMX_BF16 = 22, AMX_TILE = 24, AMX_INT8 = 25 }; /* bits of EDX in leaf 7 of CPUID */

/* Whether the processor multiplies such tiles, and the system lets this process do so. */
static int has_tiles(int feature)
{
    const long request_permission = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    enum { UNKNOWN = 1 }; /* no feature that is told of here */
    static unsigned remembered = UNKNOWN;
    unsigned features = __atomic_load_n(&remembered, __ATOMIC_RELAXED), a, b, c;
    if (features == UNKNOWN) { /* to ask takes microseconds on a virtual machine */
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &features) || !(features >> AMX_TILE & 1) ||
            syscall(SYS_arch_prctl, request_permission, tile_data) != 0)
            features = 0;
        features &= ~(unsigned)UNKNOWN;
        __atomic_store_n(&remembered, features, __ATOMIC_RELAXED);
    }
    return features >> feature & 1;
}

static inline int is_tiled(enum kind kind)
{
    return kind == INT8_BY_TILES || kind == BFLOAT16_BY_TILES;
}

/* Make all eight tiles of the calling thread 16 rows of 64 bytes. */
TILED static void begin_tiles(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++)
        shape.row_bytes[tile] = TILE_BYTES, shape.rows[tile] = TILE_ROWS;
    WRITTEN;
    _tile_loadconfig(&shape);
}

TILED static void end_tiles(void)
{
    _tile_release();
}

/* Sums of TOGETHER rows with `count` (1 or 2) vectors: (vectors, rows, lanes), of int32 or float. `fetches`: bring
   the rows that come next into a cache. */
TILED static inline __attribute__((always_inline)) void multiply_tiles(
    const int kind, const char *rows, int64_t stride, const char *first, const char *second, const int count,
    const int fetches, int32_t sums[2][TOGETHER][LANES])
{
#define ADD(to, keys, tokens) \
    do { \
        if (kind == INT8) \
            _tile_dpbssd(to, keys, tokens); \
        else \
            _tile_dpbf16ps(to, keys, tokens); \
    } while (0)
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

TILED static inline __attribute__((always_inline)) __m512 sums_as_floats(const int kind, const int32_t *sums)
{
    return kind == INT8 ? _mm512_cvtepi32_ps(_mm512_loadu_si512(sums)) : _mm512_loadu_ps(sums);
}

/* Raise best[request * span + row] of the first `used` of TOGETHER rows to what two vectors give. */
TILED static inline __attribute__((always_inline)) void raise_tiles(
    const int kind, const char *rows, int64_t stride, int64_t used, const char *first, const char *second,
    const int count, const int fetches, const int32_t *request, int64_t span, float *best)
{
    int32_t sums[2][TOGETHER][LANES] __attribute__((aligned(64)));
    __m512 floats[LANES];
    multiply_tiles(kind, rows, stride, first, second, count, fetches, sums);
    const int is_shared = count == 2 && request[0] == request[1];
    for (int64_t begin = 0; begin < used; begin += TILE_ROWS) {
        const int here = used - begin < TILE_ROWS ? (int)(used - begin) : TILE_ROWS;
        for (int vector = 0; vector < (is_shared ? 1 : count); vector++) {
#pragma GCC unroll 16
            for (int row = 0; row < TILE_ROWS; row++) {
                floats[row] = sums_as_floats(kind, sums[vector][begin + row]);
                if (is_shared)
                    floats[row] = _mm512_max_ps(floats[row], sums_as_floats(kind, sums[1][begin + row]));
            }
            raise_rows(floats, TILE_ROWS, here, best + request[vector] * span + begin);
        }
    }
}

TILED static inline __attribute__((always_inline)) void raise_all(
    const int kind, const char *keys, int64_t rows, int64_t stride, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t span, float *best, char *spare)
{
    const int64_t step = stride * LANES; /* bytes of a vector */
    const int64_t part = (NEAR / stride / TOGETHER + 1) * TOGETHER;
    for (int64_t begin = 0; begin < rows; begin += part) {
        const int64_t end = begin + part < rows ? begin + part : rows;
        for (int64_t vector = 0; vector < vectors; vector += 2) {
            const char *first = lanes + vector * step;
            for (int64_t row = begin; row < end; row += TOGETHER) {
                const int64_t used = end - row < TOGETHER ? end - row : TOGETHER;
                const char *block = keys + row * stride;
                if (used < TOGETHER)
                    block = memcpy(spare, block, used * stride);
                if (vector + 1 < vectors)
                    raise_tiles(kind, block, stride, used, first, first + step, 2, vector == 0, request + vector, span,
                                best + row);
                else
                    raise_tiles(kind, block, stride, used, first, first, 1, vector == 0, request + vector, span,
                                best + row);
            }
        }
    }
}

/* All rows with all vectors, as block.h does it; `stride` is a multiple of TILE_BYTES, `spare` has room for TOGETHER rows. */
TILED static void raise_by_tiles(
    enum kind kind, const char *keys, int64_t rows, int64_t stride, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t span, float *best, char *spare)
{
    if (kind == INT8_BY_TILES)
        raise_all(INT8, keys, rows, stride, lanes, vectors, request, span, best, spare);
    else
        raise_all(BFLOAT16, keys, rows, stride, lanes, vectors, request, span, best, spare);
}
