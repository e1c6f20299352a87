/* All rows with all vectors, block by block; a kernel includes it. No include guard: that is the point.

   KIND(x), TARGET    as in block.h
   HEIGHT             rows of a block
   KIND(pair_of)      what a block is told of two vectors; `place` is that of the first among all
   KIND(raise_block)  the kernel

   `spare` has room for HEIGHT rows: the last ones are multiplied there, in company; `starts` for a number of each row that
   is NEAR, which a block writes with the first vectors and reads with the others. */
TARGET static void KIND(raise)(
    const char *keys, int64_t rows, int64_t stride, const char *lanes, int64_t vectors,
    const int32_t *request, int64_t span, float *best, char *spare, int32_t *starts)
{
    const int64_t step = stride * LANES; /* bytes of a vector */
    const int64_t part = rows_near(stride, HEIGHT);
    for (int64_t begin = 0; begin < rows; begin += part) {
        const int64_t end = begin + part < rows ? begin + part : rows;
        for (int64_t vector = 0; vector < vectors; vector += 2) {
            const char *first = lanes + vector * step;
            const char *second = vector + 1 < vectors ? first + step : first;
            const struct KIND(pair) pair = KIND(pair_of)(first, second, vector);
            for (int64_t row = begin; row < end; row += HEIGHT) {
                const int used = end - row < HEIGHT ? (int)(end - row) : HEIGHT;
                const char *block = keys + row * stride;
                if (used < HEIGHT)
                    block = memcpy(spare, block, used * stride);
                if (second != first)
                    KIND(raise_block)(block, stride, used, &pair, 2, request + vector, span, best + row,
                                      starts + row - begin);
                else
                    KIND(raise_block)(block, stride, used, &pair, 1, request + vector, span, best + row,
                                      starts + row - begin);
            }
        }
    }
}
