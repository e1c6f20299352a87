/* Processors with AMX, whose tiles are 16 rows of 64 bytes. */

#ifndef MEMSPARSE_TILES_H
#define MEMSPARSE_TILES_H

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILE_ROWS 16
#define TILE_BYTES 64 /* of a row */
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

#endif
