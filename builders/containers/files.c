/* Many small files of one zoo: their listing, their sizes and times, and their content checked against what is known.

   Nothing here decides what a file means. `zoo_read` takes the places to compare from a file that was parsed
   in full; a file that differs anywhere is only reported as different. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEEPEST = 64 };

/* Texts that grow, each ended by a zero byte. */
typedef struct {
    char *data;
    int64_t size, capacity;
} Text;

static int put(Text *text, const char *data, size_t size)
{
    if (!size)
        return 1;
    if (text->size + (int64_t)size > text->capacity) {
        int64_t capacity = 2 * text->capacity + (int64_t)size + (1 << 12);
        char *grown = realloc(text->data, (size_t)capacity);
        if (!grown)
            return 0;
        text->data = grown;
        text->capacity = capacity;
    }
    memcpy(text->data + text->size, data, size);
    text->size += (int64_t)size;
    return 1;
}

static int put_path(Text *text, const char *first, const Text *prefix, const char *name)
{
    return put(text, first, strlen(first)) && put(text, prefix->data, (size_t)prefix->size) &&
           put(text, name, strlen(name) + 1);
}

/* Names in the order of their paths: a folder's name ends with a slash. */
static int by_name(const void *one, const void *other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

typedef struct {
    Text entries, refused, stamps;
} Listing;

/* What lies below a folder, whose descriptor is closed. Returns 0 where there is no memory left. */
static int list_below(int folder, Text *prefix, Listing *found, int depth);

static int not_listed(Text *prefix, Listing *found, int reason)
{
    char text[24];
    snprintf(text, sizeof text, "/%d:", reason); /* no path begins with a slash */
    return put_path(&found->refused, text, prefix, "");
}

static int stamp(int folder, const char *name, Listing *found)
{
    struct stat status;
    int64_t told[2] = {-1, -1};
    if (!fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW)) {
        told[0] = status.st_size;
        told[1] = (int64_t)((uint64_t)status.st_mtim.tv_sec * 1000000000u + (uint64_t)status.st_mtim.tv_nsec);
    }
    return put(&found->stamps, (const char *)told, sizeof told);
}

static int add(int folder, char *name, size_t length, Text *prefix, Listing *found, int depth)
{
    if (!put_path(&found->entries, "", prefix, name))
        return 0;
    if (name[length - 1] != '/')
        return *name == '.' || stamp(folder, name, found);
    int64_t before = prefix->size;
    if (!put(prefix, name, length))
        return 0;
    name[length - 1] = 0;
    int below = depth < DEEPEST ? openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    int fine = below >= 0 ? list_below(below, prefix, found, depth + 1)
                          : not_listed(prefix, found, depth < DEEPEST ? errno : ENAMETOOLONG);
    prefix->size = before;
    return fine;
}

static unsigned char kind_of(int folder, const struct dirent64 *entry)
{
    struct stat status;
    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type;
    return fstatat(folder, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) ? DT_UNKNOWN : IFTODT(status.st_mode);
}

static int take(int folder, const struct dirent64 *entry, Text *prefix, Text *names, int64_t *count, Listing *found)
{
    const char *name = entry->d_name;
    if (!strcmp(name, ".") || !strcmp(name, ".."))
        return 1;
    unsigned char kind = kind_of(folder, entry);
    *count += 1;
    return put(names, name, strlen(name)) && put(names, "/", kind == DT_DIR) && put(names, "", 1) &&
           (kind == DT_DIR || kind == DT_REG || put_path(&found->refused, "", prefix, name));
}

static int list_below(int folder, Text *prefix, Listing *found, int depth)
{
    /* The system's own call: readdir adds four others to each folder, and most hold two files. */
    _Alignas(struct dirent64) char buffer[8192];
    Text names = {0};
    int64_t count = 0;
    int fine = 1;
    ssize_t held;
    while (fine && (held = getdents64(folder, buffer, sizeof buffer)) > 0)
        for (ssize_t at = 0; fine && at < held; at += ((struct dirent64 *)(buffer + at))->d_reclen)
            fine = take(folder, (struct dirent64 *)(buffer + at), prefix, &names, &count, found);
    if (fine && held < 0)
        fine = not_listed(prefix, found, errno);
    char **sorted = count ? malloc((size_t)count * sizeof *sorted) : 0;
    fine = fine && (sorted || !count);
    char *next = names.data;
    for (int64_t index = 0; fine && index < count; index++, next += strlen(next) + 1)
        sorted[index] = next;
    if (fine && count)
        qsort(sorted, (size_t)count, sizeof *sorted, by_name);
    for (int64_t index = 0; fine && index < count; index++)
        fine = add(folder, sorted[index], strlen(sorted[index]), prefix, found, depth);
    free(sorted);
    free(names.data);
    close(folder);
    return fine;
}

/* A folder of `root`, whose name ends with a slash, and all that lies below it; without a name all that lies below
   `root`. Paths are relative to `root` and sorted, those of folders with a slash at the end; those that cannot be read: links and devices, and after "/errno:" folders; and in
   `stamps` two int64 of each file whose name begins with no dot, its size and its time of change in nanoseconds. The
   caller frees `data` of all, in any case. Returns 0 where there is no memory left. */
int zoo_list(const char *root, const char *name, Listing *found)
{
    memset(found, 0, sizeof *found);
    Text prefix = {0};
    char *copy = strdup(name);
    int folder = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fine = copy != 0;
    if (fine && folder >= 0 && !*copy) {
        fine = list_below(folder, &prefix, found, 0);
        folder = -1;
    } else if (fine && folder >= 0)
        fine = add(folder, copy, strlen(copy), &prefix, found, 0);
    else if (fine)
        fine = put(&prefix, copy, strlen(copy)) && not_listed(&prefix, found, errno);
    if (folder >= 0)
        close(folder);
    free(copy);
    free(prefix.data);
    return fine;
}

void zoo_free(void *memory)
{
    free(memory);
}

/* CRC-32 as of zip, reflected, polynomial 0x04C11DB7. */
static uint32_t table[8][256];

__attribute__((constructor)) static void fill_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int step = 1; step < 8; step++)
            table[step][byte] = table[step - 1][byte] >> 8 ^ table[0][table[step - 1][byte] & 255];
}

static uint32_t crc_by_table(uint32_t crc, const uint8_t *data, int64_t size)
{
    for (; size >= 8; size -= 8, data += 8) {
        uint32_t low = crc ^ (data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24);
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
              table[3][data[4]] ^ table[2][data[5]] ^ table[1][data[6]] ^ table[0][data[7]];
    }
    for (; size > 0; size--, data++)
        crc = crc >> 8 ^ table[0][(crc ^ *data) & 255];
    return crc;
}

#if defined(__PCLMUL__) && defined(__SSE4_1__)
#include <immintrin.h>

static __m128i fold(__m128i value, __m128i by, __m128i next)
{
    __m128i low = _mm_clmulepi64_si128(value, by, 0x00), high = _mm_clmulepi64_si128(value, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* Folding by carry-less multiplication: Gopal et al., Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
   Instruction (Intel 2009), with its constants for this polynomial. Whole blocks of 16 bytes, at least four. */
static uint32_t crc_by_folding(uint32_t crc, const uint8_t *data, int64_t size)
{
    const __m128i by_64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by_16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i by_8 = _mm_set_epi64x(0, 0x0163cd6124);
    const __m128i barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    const __m128i low_words = _mm_setr_epi32(-1, 0, -1, 0);
    const __m128i *block = (const __m128i *)data;
    __m128i lane[4];
    for (int i = 0; i < 4; i++)
        lane[i] = _mm_loadu_si128(block++);
    lane[0] = _mm_xor_si128(lane[0], _mm_cvtsi32_si128((int)crc));
    for (size -= 64; size >= 64; size -= 64)
        for (int i = 0; i < 4; i++)
            lane[i] = fold(lane[i], by_64, _mm_loadu_si128(block++));
    __m128i value = lane[0];
    for (int i = 1; i < 4; i++)
        value = fold(value, by_16, lane[i]);
    for (; size >= 16; size -= 16)
        value = fold(value, by_16, _mm_loadu_si128(block++));
    value = _mm_xor_si128(_mm_srli_si128(value, 8), _mm_clmulepi64_si128(value, by_16, 0x10));
    value = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(value, low_words), by_8, 0x00), _mm_srli_si128(value, 4));
    __m128i quotient = _mm_clmulepi64_si128(_mm_and_si128(value, low_words), barrett, 0x10);
    quotient = _mm_clmulepi64_si128(_mm_and_si128(quotient, low_words), barrett, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(value, quotient), 1);
}
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

uint32_t zoo_crc32(const uint8_t *data, int64_t size)
{
    uint32_t crc = 0xFFFFFFFFu;
#if defined(__PCLMUL__) && defined(__SSE4_1__)
    if (size >= 64) {
        int64_t whole = size & ~(int64_t)15;
        crc = crc_by_folding(crc, data, whole);
        data += whole;
        size -= whole;
    }
#elif defined(__ARM_FEATURE_CRC32)
    for (; size >= 8; size -= 8, data += 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        crc = __crc32d(crc, word);
    }
#endif
    return ~crc_by_table(crc, data, size);
}

/* What all files of one structure have in common: int64 [pieces, 2], start and length of bytes that are the same in
   all, whose values stand one after another in `same`; and int64 [checksums, 3], start and length of bytes, and where
   in the file their CRC stands. All places lie inside of a file of `length` bytes. */
typedef struct {
    int64_t length, pieces, checksums;
    const int64_t *piece, *checksum;
    const uint8_t *same;
} Structure;

static int fits(const uint8_t *file, const Structure *structure)
{
    const uint8_t *same = structure->same;
    const int64_t *piece = structure->piece, *checksum = structure->checksum;
    for (int64_t index = 0; index < structure->pieces; index++, same += piece[1], piece += 2)
        if (memcmp(file + piece[0], same, (size_t)piece[1]))
            return 0;
    for (int64_t index = 0; index < structure->checksums; index++, checksum += 3) {
        const uint8_t *told = file + checksum[2];
        uint32_t crc = told[0] | (uint32_t)told[1] << 8 | (uint32_t)told[2] << 16 | (uint32_t)told[3] << 24;
        if (zoo_crc32(file + checksum[0], checksum[1]) != crc)
            return 0;
    }
    return 1;
}

static int read_whole(int file, uint8_t *data, int64_t length)
{
    int64_t held = 0, more;
    do {
        more = read(file, data + held, (size_t)(length + 1 - held));
        held += more > 0 ? more : 0;
    } while (held < length && (more > 0 || (more < 0 && errno == EINTR)));
    return held == length;
}

/* Read files below a folder into the rows of `files` [count, length], which has a byte more than that; `good` tells
   of each whether it is of the structure and its checksums are right. */
void zoo_read(int folder, const char *paths, int64_t count, const Structure *structure, uint8_t *files, uint8_t *good)
{
    for (int64_t index = 0; index < count; index++, paths += strlen(paths) + 1, files += structure->length) {
        int file = openat(folder, paths, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        good[index] = file >= 0 && read_whole(file, files, structure->length) && fits(files, structure);
        if (file >= 0)
            close(file);
    }
}

/* The same of files that are in memory. */
void zoo_check(int64_t count, const Structure *structure, const uint8_t *files, uint8_t *good)
{
    for (int64_t index = 0; index < count; index++, files += structure->length)
        good[index] = (uint8_t)fits(files, structure);
}
