/* Rows of a table whose chunks lie anywhere in memory, into one buffer.

   Chunk c begins at row starts[c] and at address addresses[c]; starts[chunks] is the number of rows. */
#include <stdint.h>
#include <string.h>

enum { PAGE = 4096, LINE = 64, BLOCK = 4 * LINE, AHEAD = 4096, PAGES_AHEAD = 16 };

static int64_t chunk_of(int64_t row, const int64_t *starts, int64_t chunks)
{
    int64_t low = 0, high = chunks;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (starts[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static const char *address_of(int64_t row, int64_t bytes, const int64_t *starts, const int64_t *addresses,
                              int64_t chunks)
{
    int64_t chunk = chunk_of(row, starts, chunks);
    return (const char *)addresses[chunk] + (row - starts[chunk]) * bytes;
}

/* The rows from first on, which are not checked. */
void zoo_copy(char *out, int64_t first, int64_t rows, int64_t bytes, const int64_t *starts, const int64_t *addresses,
              int64_t chunks)
{
    while (rows > 0) {
        int64_t chunk = chunk_of(first, starts, chunks), held = starts[chunk + 1] - first;
        int64_t count = held < rows ? held : rows;
        memcpy(out, (const char *)addresses[chunk] + (first - starts[chunk]) * bytes, (size_t)(count * bytes));
        out += count * bytes;
        first += count;
        rows -= count;
    }
}

/* The rows at `positions`; 0 where one is outside, and then nothing is copied.

   The processor fetches ahead by itself only within a page and only after it has seen a few lines of it, which
   is late for a row of some pages. So what will be copied AHEAD bytes later, in this row or in the next, is asked
   for by hand, and the pages of the next row even earlier, so that their addresses are translated by then. */
int zoo_gather(char *out, const int64_t *positions, int64_t rows, int64_t bytes, const int64_t *starts,
               const int64_t *addresses, int64_t chunks)
{
    for (int64_t row = 0; row < rows; row++)
        if (positions[row] < 0 || positions[row] >= starts[chunks])
            return 0;
    const char *next = rows ? address_of(positions[0], bytes, starts, addresses, chunks) : 0;
    for (int64_t row = 0; row < rows; row++) {
        const char *from = next;
        char *to = out + row * bytes;
        int64_t at = 0;
        if (row + 1 < rows)
            next = address_of(positions[row + 1], bytes, starts, addresses, chunks);
        for (int64_t page = 0; page < PAGES_AHEAD && page * PAGE < bytes; page++)
            __builtin_prefetch(next + page * PAGE);
        for (; at + BLOCK <= bytes; at += BLOCK) {
            int64_t later = at + AHEAD;
            const char *wanted = later < bytes ? from + later : next + (later - bytes);
            for (int line = 0; line < BLOCK; line += LINE)
                __builtin_prefetch(wanted + line); /* of any address: it never faults */
            memcpy(to + at, from + at, BLOCK);
        }
        memcpy(to + at, from + at, (size_t)(bytes - at));
    }
    return 1;
}

/* One tensor of each row, [outs, ins, block] numbers at `from`, rows `width` numbers apart, in another order of its
   first two axes: int64 [rows, outs] and [rows, ins], or null where an axis stays as it is. */
void zoo_reorder(float *to, const float *from, int64_t rows, int64_t width, int64_t outs, int64_t ins, int64_t block,
                 const int64_t *out_order, const int64_t *in_order)
{
    for (int64_t row = 0; row < rows; row++, to += width, from += width) {
        float *target = to;
        for (int64_t out = 0; out < outs; out++) {
            const float *line = from + (out_order ? out_order[row * outs + out] : out) * ins * block;
            if (!in_order) {
                memcpy(target, line, (size_t)(ins * block) * sizeof(float));
                target += ins * block;
                continue;
            }
            for (int64_t in = 0; in < ins; in++) {
                const float *source = line + in_order[row * ins + in] * block;
                for (int64_t at = 0; at < block; at++)
                    *target++ = source[at];
            }
        }
    }
}

/* Rows of any lengths, each to its place `stride` bytes apart, with zeros behind it. */
void zoo_place(char *out, int64_t stride, int64_t rows, const int64_t *addresses, const int64_t *sizes)
{
    for (int64_t row = 0; row < rows; row++, out += stride) {
        memcpy(out, (const char *)addresses[row], (size_t)sizes[row]);
        memset(out + sizes[row], 0, (size_t)(stride - sizes[row]));
    }
}

/* Rows of numbers cut into pieces: row r is copied by the plan at plans[r], of counts[r] triples (from, to, length) in
   numbers; what no piece fills is zero. */
void zoo_cut(float *out, int64_t stride, int64_t rows, const int64_t *addresses, const int64_t *plans,
             const int64_t *counts)
{
    for (int64_t row = 0; row < rows; row++, out += stride) {
        const float *from = (const float *)addresses[row];
        const int32_t *piece = (const int32_t *)plans[row];
        int64_t at = 0;
        for (int64_t index = 0; index < counts[row]; index++, piece += 3) {
            while (at < piece[1])
                out[at++] = 0;
            for (int32_t number = 0; number < piece[2]; number++)
                out[at++] = from[piece[0] + number];
        }
        memset(out + at, 0, (size_t)(stride - at) * sizeof(float));
    }
}
