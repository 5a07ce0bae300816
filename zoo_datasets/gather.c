/* Rows from anywhere in memory into one buffer. While a row is copied the next one is asked for: the start of
   each of its pages, so that the translation is known, and its first lines, which the processor's own
   prefetcher only begins to see when they are late. */
#include <stdint.h>
#include <string.h>

enum { PAGE = 4096, LINE = 64, HEAD = 512 };

void zoo_gather(char *out, const int64_t *addresses, int64_t rows, int64_t bytes)
{
    for (int64_t row = 0; row < rows; row++) {
        if (row + 1 < rows) {
            const char *next = (const char *)addresses[row + 1];
            for (int64_t at = PAGE; at < bytes && at < 8 * PAGE; at += PAGE)
                __builtin_prefetch(next + at);
            for (int64_t at = 0; at < bytes && at < HEAD; at += LINE)
                __builtin_prefetch(next + at);
        }
        memcpy(out + row * bytes, (const void *)addresses[row], (size_t)bytes);
    }
}
