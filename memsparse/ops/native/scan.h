/* What one file has of another's: tokens rounded, and their products with keys. */

#ifndef MEMSPARSE_SCAN_H
#define MEMSPARSE_SCAN_H

#include <stdint.h>

#include "threads.h"

#define LANES 16 /* tokens of a vector */

int memsparse_can_multiply(int kind);
int memsparse_raise_best_products(
    int kind, const char *keys, int64_t rows, int64_t row_bytes, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t requests, float *best, at_once *work_at_once, int threads, int64_t part);
int memsparse_round_tokens(
    int kind, const float *tokens, int64_t width, const int64_t *counts, int64_t requests, char *lanes,
    int32_t *of_request, float *units, double *longest, double *lost);

#endif
