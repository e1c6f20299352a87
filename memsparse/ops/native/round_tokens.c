/* Routing tokens: folded from query heads, rounded as the kernel of best_products.c multiplies them, and what that
   took from them.

   In torch these are some thirty small operations and as many tensors, which take longer than the scan of a small
   bank; after a scan of a large one, which leaves nothing of them in any cache, several times as long. Nothing here
   asks for special instructions. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "agreed.h"
#include "scan.h"

#define LARGEST 127     /* of int8 */
#define TINIEST 0x1p-90 /* tokens count as no smaller, so that a unit is a normal number */
#define SHORTEST 1e-12f /* heads count as no shorter where they are normalised, as torch does it */
#define COLUMNS 64      /* of a token that are rounded together */
#define SUMS 8          /* that run side by side */

/* The norm of a head. */
static float norm_of(const float *head, int64_t width)
{
    float squares[LANES] = {0}, square = 0;
    for (int64_t begin = 0; begin < width; begin += LANES) {
        const int here = width - begin < LANES ? (int)(width - begin) : LANES;
        for (int lane = 0; lane < here; lane++)
            squares[lane] += head[begin + lane] * head[begin + lane];
    }
    for (int lane = 0; lane < LANES; lane++)
        square += squares[lane];
    return sqrtf(square);
}

/* Fold query heads, (tokens, heads, width), `together` of each group, into `to`, (tokens, groups, width): their sum, each
   made norm 1 before if `normalise` says so, times a factor. */
void memsparse_collapse_queries(
    const float *heads, int64_t tokens, int64_t groups, int64_t together, int64_t width, int normalise, float factor,
    float *to)
{
    for (int64_t group = 0; group < tokens * groups; group++, to += width) {
        memset(to, 0, width * sizeof *to);
        for (int64_t head = 0; head < together; head++, heads += width) {
            const float norm = normalise ? norm_of(heads, width) : 1, by = 1 / (norm < SHORTEST ? SHORTEST : norm);
            for (int64_t i = 0; i < width; i++)
                to[i] += heads[i] * by;
        }
        for (int64_t i = 0; i < width; i++)
            to[i] *= factor;
    }
}

/* Round `count` numbers, at most COLUMNS, as `kind` has them; they are written to `to`, and as floats to `rounded`. */
static inline void round_columns(int kind, const float *values, int count, float *rounded, char *to)
{
    int8_t bytes[COLUMNS];
    uint16_t halves[COLUMNS];
    uint32_t bits[COLUMNS];
    if (kind == INT8) {
        for (int i = 0; i < count; i++)
            rounded[i] = (values[i] + 0x1.8p23f) - 0x1.8p23f; /* to the nearest integer, ties to even */
        for (int i = 0; i < count; i++)
            bytes[i] = (int8_t)(int32_t)rounded[i];
        memcpy(to, bytes, count);
        return;
    }
    memcpy(bits, values, 4 * count);
    if (kind == BFLOAT16) {
        for (int i = 0; i < count; i++)
            bits[i] = (bits[i] + 0x7FFF + (bits[i] >> 16 & 1)) & 0xFFFF0000; /* likewise */
        for (int i = 0; i < count; i++)
            halves[i] = bits[i] >> 16;
    }
    memcpy(rounded, bits, 4 * count);
    memcpy(to, kind == BFLOAT16 ? (const void *)halves : rounded, (kind == BFLOAT16 ? 2 : 4) * count);
}

/* Add the squares of `count` numbers to SUMS sums. */
static inline void add_squares(const float *values, int count, double *sums)
{
    int i = 0;
    for (; i + SUMS <= count; i += SUMS)
        for (int lane = 0; lane < SUMS; lane++)
            sums[lane] += (double)values[i + lane] * values[i + lane];
    for (; i < count; i++)
        sums[0] += (double)values[i] * values[i];
}

static inline double total(const double *sums)
{
    double all = 0;
    for (int lane = 0; lane < SUMS; lane++)
        all += sums[lane];
    return all;
}

/* Round a token into its lane; squares of its norm and of what it lost, in units, are returned in two numbers. */
static inline void round_token(
    int kind, int size, const float *token, int64_t width, float unit, char *lane, double *square, double *lost_square)
{
    double squares[SUMS] = {0}, lost[SUMS] = {0};
    for (int64_t begin = 0; begin < width; begin += COLUMNS) {
        const int count = width - begin < COLUMNS ? (int)(width - begin) : COLUMNS;
        float values[COLUMNS], rounded[COLUMNS];
        char written[4 * COLUMNS];
        for (int i = 0; i < count; i++)
            values[i] = token[begin + i] / unit;
        round_columns(kind, values, count, rounded, written);
        for (int i = 0; i < count; i++)
            rounded[i] = values[i] - rounded[i];
        add_squares(values, count, squares);
        add_squares(rounded, count, lost);
        for (int at = 0; at < count * size; at += 4)
            memcpy(lane + (begin * size + at) * LANES, written + at, 4);
    }
    *square = total(squares), *lost_square = total(lost);
}

/* The largest number among those of some tokens; not a number if one of them is infinite or none. */
static float peak_of(const float *tokens, int64_t count)
{
    float peaks[LANES] = {0}, peak = 0;
    int infinite[LANES] = {0}, is_finite = 1;
    for (int64_t begin = 0; begin < count; begin += LANES) {
        const int here = count - begin < LANES ? (int)(count - begin) : LANES;
        for (int lane = 0; lane < here; lane++) {
            const float size = fabsf(tokens[begin + lane]);
            infinite[lane] |= !(size <= FLT_MAX);
            peaks[lane] = size > peaks[lane] ? size : peaks[lane];
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        is_finite &= !infinite[lane];
        peak = peaks[lane] > peak ? peaks[lane] : peak;
    }
    return is_finite ? peak : NAN;
}

/* What one of a request's tokens is worth: 127 steps up to its largest number, or a power of two above it. */
static float unit_of(int kind, double peak)
{
    int exponent;
    if (peak < TINIEST)
        peak = TINIEST;
    if (kind == INT8)
        return (float)(peak / LARGEST);
    const double fraction = frexp(peak, &exponent);
    return (float)ldexp(1, fraction > 0.5 ? exponent : exponent - 1);
}

/* The least float not below a number. */
static float rounded_up(double number)
{
    const float nearest = (float)number;
    return nearest < number ? nextafterf(nearest, INFINITY) : nearest;
}

/* From what rounding tokens took, (requests,) each, factors of a chunk's error and of its norm: `ops.scan` explains the
   arithmetic. `slack` is that of sums, relative to the longest token, and `over` what float32 takes after them. */
void memsparse_half_widths(
    const float *units, const double *longest, const double *lost, int64_t requests, double slack, double over,
    float *of_errors, float *of_norms)
{
    for (int64_t request = 0; request < requests; request++) {
        const double unit = units[request] * over, least = longest[request] < 0.5 ? 0.5 : longest[request];
        of_errors[request] = rounded_up(longest[request] * unit);
        of_norms[request] = rounded_up((lost[request] + slack * least) * unit);
    }
}

/* Round tokens, (tokens of all requests, width), `counts` of each request, at least one, into lanes,
   (vectors, width * size / 4, 16, 4 / size): vectors of one request, the last one filled up with its last token;
   of_request, (vectors,), becomes whose they are.

   units, longest and lost, (requests,), become what one is worth, the longest token's norm, and the most that
   rounding took from one, as norms in units: not numbers where a token has one that is infinite or none, and then
   lanes are 0. Returns 0, or which problem there is. */
int memsparse_round_tokens(
    int kind, const float *tokens, int64_t width, const int64_t *counts, int64_t requests, char *lanes,
    int32_t *of_request, float *units, double *longest, double *lost)
{
    if (kind != INT8 && kind != BFLOAT16 && kind != FLOAT32)
        return NO_SUCH_KERNEL;
    const int size = kind == INT8 ? 1 : kind == BFLOAT16 ? 2 : 4;
    /* Dividing rounds to float32, by a power of two only what is too small for it. */
    const double inexact = (kind == INT8 ? LARGEST * 0x1p-23 : 0x1p-125) * sqrt((double)width);
    for (int64_t request = 0; request < requests; tokens += counts[request++] * width) {
        const int64_t count = counts[request], vectors = (count + LANES - 1) / LANES;
        const float peak = peak_of(tokens, count * width), unit = isnan(peak) ? NAN : unit_of(kind, peak);
        double longest_square = 0, most_lost = 0, square, lost_square;
        if (isnan(peak))
            memset(lanes, 0, vectors * LANES * width * size);
        for (int64_t i = 0; i < count && !isnan(peak); i++) {
            char *lane = lanes + i / LANES * LANES * width * size + i % LANES * 4;
            round_token(kind, size, tokens + i * width, width, unit, lane, &square, &lost_square);
            longest_square = fmax(longest_square, square);
            most_lost = fmax(most_lost, lost_square);
        }
        for (int64_t i = 0; i < vectors; i++)
            *of_request++ = (int32_t)request;
        for (int64_t i = count; i < vectors * LANES; i++) {
            char *lane = lanes + (vectors - 1) * LANES * width * size + i % LANES * 4;
            for (int64_t at = 0; at < width * size; at += 4)
                memcpy(lane + at * LANES, lane - 4 + at * LANES, 4);
        }
        units[request] = unit;
        longest[request] = isnan(peak) ? NAN : sqrt(longest_square);
        lost[request] = isnan(peak) ? NAN : sqrt(most_lost) + inexact;
        lanes += vectors * LANES * width * size;
    }
    return NONE;
}
