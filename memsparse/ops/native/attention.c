/* Requests attend to their own keys, causally, one softmax each (paper Eq. 4), in bfloat16 with sums of float32.

   A request has too few tokens for a general product to pay off, and no two of them share keys. Here 32 rows, which are
   the query heads of a group side by side, token after token, meet all keys they see: scores lie key by key with
   rows in the lanes, so that a softmax wants no sum across lanes, and become the other factor of the product with the
   values where they are. Both products run by tiles where the processor has them, or by vectors of bfloat16. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agreed.h"
#include "threads.h"

/* One request, as Python lays it out: K and V are (groups, keys, width), so many bytes from group to group and from
   key to key; q, (tokens, heads, width), lies in one piece, as out does. The bias on every key, float32, may be
   missing. The last `added` keys and values are still to be written: they are own_k and own_v, (added, groups, width)
   in one piece. */
struct request {
    const char *q, *own_k, *own_v;
    char *k, *v;
    const float *bias;
    char *out;
    int64_t tokens, added, keys, k_group, k_key, v_group, v_key;
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(MEMSPARSE_PORTABLE)
#include "products.h"

struct work {
    const struct request *requests;
    int64_t count, groups, shared, width, most_keys, next;
    float scale;
    int by_tiles;
    multiply *multiply;
};

static inline int64_t padded(int64_t keys)
{
    return (keys + ROWS - 1) / ROWS * ROWS;
}

/* V of a group, `apart` bytes from key to key, as (width, padded keys), 0 where there is no key. */
TARGET static void lay_values(const char *v, int64_t apart, int64_t keys, int64_t width, char *to)
{
    uint16_t turns[2][COLUMNS];
    for (int i = 0; i < COLUMNS; i++)
        for (int half = 0; half < 2; half++) /* columns of the half, each of one key, then of the next */
            turns[half][i] = (uint16_t)(half * LANES + i / 2 + i % 2 * COLUMNS);
    const __m512i first_half = _mm512_loadu_si512(turns[0]), second_half = _mm512_loadu_si512(turns[1]);
    const int64_t stride = padded(keys) * SIZE;
    for (int64_t key = 0; key < keys; key += ROWS)
        for (int64_t column = 0; column < width; column += COLUMNS) {
            __m512i first[LANES], second[LANES];
#pragma GCC unroll 16
            for (int pair = 0; pair < LANES; pair++) {
                const int64_t at = key + 2 * pair;
                const char *from = v + at * apart + column * SIZE;
                const __m512i one = at < keys ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
                const __m512i next = at + 1 < keys ? _mm512_loadu_si512(from + apart) : _mm512_setzero_si512();
                first[pair] = _mm512_permutex2var_epi16(one, first_half, next);
                second[pair] = _mm512_permutex2var_epi16(one, second_half, next);
            }
            transpose(first);
            transpose(second);
            char *place = to + column * stride + key * SIZE;
#pragma GCC unroll 16
            for (int row = 0; row < LANES; row++) {
                _mm512_storeu_si512(place + row * stride, first[row]);
                _mm512_storeu_si512(place + (LANES + row) * stride, second[row]);
            }
        }
}

/* Where row `row` of a group's is in (tokens, heads, width). */
static inline int64_t place_of(const struct work *work, int64_t group, int64_t row)
{
    const int64_t shared = work->shared;
    return (row / shared * work->groups * shared + group * shared + row % shared) * work->width * SIZE;
}

/* `used` rows of queries from `begin` on as vectors of 16, 0 where there is none. */
TARGET static void lay_queries(
    const struct work *work, const struct request *of, int64_t group, int64_t begin, int used, char *to)
{
    for (int first = 0; first < used; first += LANES, to += LANES * work->width * SIZE) {
        const char *rows[LANES];
        for (int row = 0; row < LANES; row++)
            rows[row] = first + row < used ? of->q + place_of(work, group, begin + first + row) : NULL;
        lay_vector(rows, work->width * SIZE, to);
    }
}

/* What rows of queries share: sees[lane] is the last key that a row sees. */
struct rows {
    int64_t first_sees, last_sees;
    int32_t sees[ROWS];
    const float *bias;
    float factor; /* on products, log2(e) in it */
};

/* Turn products, (padded keys, 2, LANES), of one vector of rows into weights, laid out as a vector of 16 rows; returns
   their sums. */
TARGET static __m512 weigh(const struct rows *rows, int vector, float *products, char *weights)
{
    const int64_t keys = rows->last_sees + 1, end = padded(keys);
    const __m512i sees = _mm512_loadu_si512(rows->sees + vector * LANES);
    const __m512 factor = _mm512_set1_ps(rows->factor), hidden = _mm512_set1_ps(-INFINITY);
    __m512 highest = hidden, sum = _mm512_setzero_ps();
    products += vector * LANES;
    for (int64_t key = 0; key < keys; key++) {
        const float bias = rows->bias == NULL ? 0 : rows->bias[key] * LOG2_E;
        __m512 score = _mm512_fmadd_ps(_mm512_loadu_ps(products + key * ROWS), factor, _mm512_set1_ps(bias));
        if (key > rows->first_sees)
            score = _mm512_mask_mov_ps(score, _mm512_cmplt_epi32_mask(sees, _mm512_set1_epi32((int)key)), hidden);
        _mm512_storeu_ps(products + key * ROWS, score);
        highest = _mm512_max_ps(highest, score);
    }
    uint16_t turns[COLUMNS];
    for (int i = 0; i < COLUMNS; i++)
        turns[i] = (uint16_t)(i / 2 + i % 2 * LANES);
    const __m512i interleaved = _mm512_loadu_si512(turns);
    for (int64_t key = keys; key < end; key++)
        _mm512_storeu_ps(products + key * ROWS, hidden);
    for (int64_t key = 0; key < end; key += 2, weights += LINE) {
        const __m512 one = power_of_two(_mm512_sub_ps(_mm512_loadu_ps(products + key * ROWS), highest));
        const __m512 next = power_of_two(_mm512_sub_ps(_mm512_loadu_ps(products + (key + 1) * ROWS), highest));
        sum = _mm512_add_ps(sum, _mm512_add_ps(one, next));
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(next, one);
        _mm512_storeu_si512(weights, _mm512_permutexvar_epi16(interleaved, both));
    }
    return sum;
}

/* What a thread works with. */
struct room {
    char *values, *lanes, *weights, *last_keys;
    float *products, *mixed;
};

/* The rows of a group from `begin` on, `used` of them. */
TARGET static void attend_rows(
    const struct work *work, const struct request *of, int64_t group, int64_t begin, int used, struct room *room)
{
    const int64_t width = work->width, bytes = width * SIZE, before = of->keys - of->tokens;
    const char *k = of->k + group * of->k_group;
    const int vectors = (used + LANES - 1) / LANES;
    struct rows rows = {.bias = of->bias, .factor = work->scale * LOG2_E};
    rows.first_sees = before + begin / work->shared;
    rows.last_sees = before + (begin + used - 1) / work->shared;
    for (int row = 0; row < ROWS; row++)
        rows.sees[row] = (int32_t)(before + (begin + smaller(row, used - 1)) / work->shared);
    const int64_t keys = rows.last_sees + 1, end = padded(keys), apart = LANES * bytes;
    lay_queries(work, of, group, begin, used, room->lanes);
    for (int64_t key = 0; key < end; key += ROWS) {
        const int is_whole = key + ROWS <= of->keys;
        work->multiply(is_whole ? k + key * of->k_key : room->last_keys, is_whole ? of->k_key : bytes, bytes,
                       room->lanes, apart, vectors, room->products + key * ROWS);
    }
    __m512 share[2];
    for (int vector = 0; vector < vectors; vector++)
        share[vector] = _mm512_div_ps(
            _mm512_set1_ps(1), weigh(&rows, vector, room->products, room->weights + vector * end * LINE / 2));
    for (int64_t column = 0; column < width; column += ROWS)
        work->multiply(room->values + column * padded(of->keys) * SIZE, padded(of->keys) * SIZE, end * SIZE,
                       room->weights, end * LINE / 2, vectors, room->mixed + column * ROWS);
    for (int vector = 0; vector < vectors; vector++)
        for (int64_t column = 0; column < width; column += LANES) {
            __m512i mixed[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                mixed[i] = _mm512_castps_si512(_mm512_mul_ps(
                    share[vector], _mm512_loadu_ps(room->mixed + (column + i) * ROWS + vector * LANES)));
            transpose(mixed);
            for (int i = 0; i < LANES && vector * LANES + i < used; i++) {
                const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_castsi512_ps(mixed[i]));
                char *to = of->out + column * SIZE + place_of(work, group, begin + vector * LANES + i);
                _mm256_storeu_si256((__m256i *)to, (__m256i)rounded);
            }
        }
}

/* Copy rows of `bytes` from and to where they lie so far apart. */
static void copy_rows(const char *rows, int64_t apart, int64_t count, int64_t bytes, char *to, int64_t to_apart)
{
    for (int64_t i = 0; i < count; i++)
        memcpy(to + i * to_apart, rows + i * apart, bytes);
}

/* All tokens of a request for the query heads that share a group of keys. */
TARGET static void attend_group(const struct work *work, const struct request *of, int64_t group, struct room *room)
{
    const int64_t bytes = work->width * SIZE, whole = of->keys / ROWS * ROWS, rows = of->tokens * work->shared;
    const int64_t before = of->keys - of->added, token = work->groups * bytes;
    char *k = of->k + group * of->k_group, *v = of->v + group * of->v_group;
    copy_rows(of->own_k + group * bytes, token, of->added, bytes, k + before * of->k_key, of->k_key);
    copy_rows(of->own_v + group * bytes, token, of->added, bytes, v + before * of->v_key, of->v_key);
    memset(room->last_keys, 0, ROWS * bytes);
    copy_rows(k + whole * of->k_key, of->k_key, of->keys - whole, bytes, room->last_keys, bytes);
    lay_values(v, of->v_key, of->keys, work->width, room->values);
    for (int64_t begin = 0; begin < rows; begin += ROWS)
        attend_rows(work, of, group, begin, (int)smaller(rows - begin, ROWS), room);
}

static void take_parts(void *given)
{
    struct work *work = given;
    const int64_t keys = padded(work->most_keys), bytes = work->width * SIZE;
    const int64_t sizes[] = {keys * bytes, ROWS * bytes, keys * LINE, ROWS * bytes, keys * ROWS * 4, ROWS * 2 * bytes};
    int64_t total = 0;
    for (int i = 0; i < 6; i++)
        total += sizes[i];
    char *held = aligned_alloc(LINE, total);
    if (held == NULL)
        return;
    char *part[6] = {held};
    for (int i = 1; i < 6; i++)
        part[i] = part[i - 1] + sizes[i - 1];
    struct room room = {part[0], part[1], part[2], part[3], (float *)part[4], (float *)part[5]};
    if (work->by_tiles)
        begin_tiles();
    for (;;) {
        const int64_t at = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (at >= work->count * work->groups)
            break;
        attend_group(work, work->requests + at / work->groups, at % work->groups, &room);
    }
    if (work->by_tiles)
        end_tiles();
    free(held);
}

int memsparse_has_bfloat16(int by_tiles)
{
    return has_kernel(by_tiles);
}

/* Attend for the last `tokens` of each request's keys: every token sees those before, then causally. `width` is a
   multiple of 32, `shared` heads have a group of keys. Returns 0, or which problem there is. */
int memsparse_attend(
    const struct request *requests, int64_t count, int64_t groups, int64_t shared, int64_t width, float scale,
    int by_tiles, at_once *work_at_once, int threads)
{
    if (!memsparse_has_bfloat16(by_tiles))
        return NO_SUCH_KERNEL;
    struct work work = {.requests = requests, .count = count, .groups = groups, .shared = shared, .width = width,
                        .scale = scale, .by_tiles = by_tiles,
                        .multiply = by_tiles ? multiply_by_tiles : multiply_by_vectors};
    for (int64_t i = 0; i < count; i++)
        if (requests[i].keys > work.most_keys)
            work.most_keys = requests[i].keys;
    share_among(work_at_once, threads, take_parts, &work);
    return work.next < count * groups ? NO_MEMORY : NONE;
}
#else

int memsparse_has_bfloat16(int by_tiles)
{
    (void)by_tiles;
    return 0;
}

int memsparse_attend(
    const struct request *requests, int64_t count, int64_t groups, int64_t shared, int64_t width, float scale,
    int by_tiles, at_once *work_at_once, int threads)
{
    (void)requests, (void)count, (void)groups, (void)shared, (void)width, (void)scale, (void)by_tiles,
        (void)work_at_once, (void)threads;
    return NO_SUCH_KERNEL;
}

#endif
