/* Rows from anywhere in memory into one buffer.

   The processor fetches ahead by itself only within a page and only after it has seen a few lines of it, which
   is late for a row of some pages. So what will be copied AHEAD bytes later, in this row or in the next, is asked
   for by hand, and the pages of the next row even earlier, so that their addresses are translated by then. */
#include <stdint.h>
#include <string.h>

enum { PAGE = 4096, LINE = 64, BLOCK = 4 * LINE, AHEAD = 4096, PAGES_AHEAD = 16 };

void zoo_gather(char *out, const int64_t *addresses, int64_t rows, int64_t bytes)
{
    for (int64_t row = 0; row < rows; row++) {
        const char *from = (const char *)addresses[row];
        const char *next = row + 1 < rows ? (const char *)addresses[row + 1] : from;
        char *to = out + row * bytes;
        int64_t at = 0;
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
