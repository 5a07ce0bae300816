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
