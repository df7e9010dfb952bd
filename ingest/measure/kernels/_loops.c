/* The loops of numpy_loops.py as a C extension: the same names, arguments and results to the bit.

   Every function takes C-contiguous buffers and releases the GIL while it loops. numpy_loops.py documents what each one does, and
   the shapes and types of its arguments; tests/test_kernels.py compares the two. Sums have a fixed order of additions, so
   products and sums must not be contracted to fused multiply-adds: -ffp-contract=off. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* VECTORISED functions are compiled twice; the dynamic linker selects one by the processor, which needs glibc. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("default", "avx2")))
#ifndef NARROW /* tests define it, to compile the code for machines without AVX2 */
#define HAS_WIDE
#endif
#else
#define VECTORISED
#endif

#if !defined(__GNUC__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "needs the vector types of GCC or Clang and a little-endian machine; without this extension numpy_loops.py is used"
#endif
#define ANYWHERE __attribute__((aligned(1), may_alias))
/* A compiler barrier: GCC 12 would delay the stores of an unrolled loop, and spill registers for it. */
#define KEEP_STORES __asm__ __volatile__("" : : : "memory")
/* Bytes of the page cache are often in no processor cache, and the hardware prefetcher stops at the end of each page. So bytes
   are prefetched into L2 far ahead, and into L1, which the tables nearly fill, shortly before they are used. */
#define FETCH(address)                                                                                                     \
    do {                                                                                                                   \
        __builtin_prefetch((const char *)(address) + FAR_AHEAD, 0, 2);                                                     \
        __builtin_prefetch((const char *)(address) + AHEAD, 0, 3);                                                         \
    } while (0)
#define INLINE static inline __attribute__((always_inline))

/* Values of a file may lie at any address, and are read both as floats and as bit patterns. */
typedef uint16_t ANYWHERE u16;
typedef uint32_t ANYWHERE u32;
typedef uint64_t ANYWHERE u64;
typedef int32_t ANYWHERE i32;
typedef int64_t ANYWHERE i64;
typedef float ANYWHERE f32;
typedef double ANYWHERE f64;

/* LANES values in a vector; compilers emulate vectors on machines without such registers. */
typedef float floats __attribute__((vector_size(16)));
typedef double doubles __attribute__((vector_size(32)));
typedef int64_t longs __attribute__((vector_size(32)));
typedef floats ANYWHERE some_floats;
typedef int32_t masks __attribute__((vector_size(16)));
#ifdef __SSE__
#include <xmmintrin.h>
#define LESSER(a, b) _mm_min_ps(a, b)
#define GREATER(a, b) _mm_max_ps(a, b)
#else
#define CHOSEN(mask, a, b) ((floats)(((masks)(a) & (mask)) | ((masks)(b) & ~(mask))))
#define LESSER(a, b) CHOSEN((masks)((a) < (b)), a, b)
#define GREATER(a, b) CHOSEN((masks)((a) > (b)), a, b)
#endif
#ifdef __SSE2__
#include <immintrin.h>
#endif
#define WIDENED(few) __builtin_convertvector(few, doubles)
#define SIZE_OF(few) ((doubles)((longs)(few) & no_sign))
#define JOINED(sums) ((sums[0] + sums[2]) + (sums[1] + sums[3]))

enum { SUB_BLOCK = 4096, ROW = 6, LANES = 4, SPAN = 256, STRIP = 64, MANY_ZEROS = SUB_BLOCK / 4 };
enum { MOST_BUFFERS = 10, MOST_PERCENTS = 16, LINE = 64, FAR_AHEAD = 16384, AHEAD = 512 };
static const double FLAT = 0.01;
static const int LEAST_EXPONENT = -1000;

INLINE Py_ssize_t least_of(Py_ssize_t a, Py_ssize_t b) { return a < b ? a : b; }

INLINE void fetch(const void *address, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i += LINE)
        FETCH((const char *)address + i);
}

/* ---- XXH3 of 128 bits, for inputs of over 240 bytes: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md

   The xxhash library would read all bytes again, which takes a third of the time of counting them. Here lines of 64 bytes are
   mixed in while increments wait for memory. A block of 16 lines is scrambled once it is known that a byte follows it. ---- */

enum { BLOCK = 16 * LINE };

typedef struct {
    uint64_t sums[8], left, total; /* left: bytes of `total` that are not mixed in yet */
    uint8_t last[LINE];            /* the last bytes that were mixed in */
} Hash;

static const uint8_t SECRET[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9,
    0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78,
    0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6,
    0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f,
    0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31,
    0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff,
    0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f,
    0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

/* The 8 sums are loaded and stored by lanes of the loop's vector type, so that they stay in registers; memcpy would force them
   into memory. */
#define EACH(i, sums) _Pragma("GCC unroll 8") for (size_t i = 0; i < LINE / sizeof *(sums); i++)
#define LOAD_SUMS(sums, hash, Some) EACH(lane, sums)(sums)[lane] = ((const Some *)(hash)->sums)[lane]
#define STORE_SUMS(sums, hash, Some) EACH(lane, sums)((Some *)(hash)->sums)[lane] = (sums)[lane]
#define SCRAMBLE(sums, Some)                                                                                               \
    EACH(lane, sums)(sums)[lane] =                                                                                         \
        ((sums)[lane] ^ (sums)[lane] >> 47 ^ ((const Some *)(SECRET + sizeof SECRET - LINE))[lane]) * 0x9E3779B1

/* Each lane of a line adds to the sums its neighbour, and the product of its own halves after an XOR with the secret. */
#ifdef __SSE2__
typedef uint64_t Lanes __attribute__((vector_size(16), may_alias));
typedef Lanes ANYWHERE SomeLanes;
INLINE void mix_line(Lanes *sums, const void *line, const uint8_t *secret)
{
    EACH(i, sums) {
        __m128i data = (__m128i)((const SomeLanes *)line)[i], keyed = data ^ (__m128i)((const SomeLanes *)secret)[i];
        sums[i] += (Lanes)_mm_mul_epu32(keyed, _mm_srli_epi64(keyed, 32)) + (Lanes)_mm_shuffle_epi32(data, 0x4E);
    }
}
#else
typedef uint64_t Lanes;
typedef u64 SomeLanes;
INLINE void mix_line(Lanes *sums, const void *line, const uint8_t *secret)
{
    EACH(i, sums) {
        uint64_t keyed = ((const u64 *)line)[i] ^ ((const u64 *)secret)[i];
        sums[i] += ((const u64 *)line)[i ^ 1] + (keyed & 0xFFFFFFFF) * (keyed >> 32);
    }
}
#endif

#ifdef HAS_WIDE
typedef uint64_t WideLanes __attribute__((vector_size(32), may_alias));
typedef WideLanes ANYWHERE SomeWideLanes;
__attribute__((target("avx2"), always_inline)) static inline void mix_line_wide(WideLanes *sums, const void *line,
                                                                                const uint8_t *secret)
{
    EACH(i, sums) {
        __m256i data = (__m256i)((const SomeWideLanes *)line)[i], keyed = data ^ (__m256i)((const SomeWideLanes *)secret)[i];
        sums[i] += (WideLanes)_mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32)) + (WideLanes)_mm256_shuffle_epi32(data, 0x4E);
    }
}
#endif

static void begin(Hash *hash, uint64_t total)
{
    *hash = (Hash){{0xC2B2AE3D, 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x85EBCA77,
                    0x27D4EB2F165667C5, 0x9E3779B1},
                   total, total, {0}};
}

/* The number of whole blocks in these bytes that are to be scrambled: a block that ends the input is not. */
INLINE Py_ssize_t blocks_of(const Hash *hash, Py_ssize_t size)
{
    return (Py_ssize_t)((uint64_t)size == hash->left ? size - 1 : size) / BLOCK;
}

INLINE void mix_blocks(Hash *hash, const uint8_t *bytes, Py_ssize_t blocks)
{
    Lanes sums[LINE / sizeof(Lanes)];
    LOAD_SUMS(sums, hash, SomeLanes);
    for (Py_ssize_t block = 0; block < blocks; block++, bytes += BLOCK) {
        for (int line = 0; line < 16; line++) {
            FETCH(bytes + LINE * line);
            mix_line(sums, bytes + LINE * line, SECRET + 8 * line);
        }
        SCRAMBLE(sums, SomeLanes);
    }
    STORE_SUMS(sums, hash, SomeLanes);
}

/* Mix in the bytes after the last whole block if they end the input; else keep the last line, which the next call may need. */
static void mix_rest(Hash *hash, const uint8_t *bytes, Py_ssize_t size)
{
    if ((uint64_t)size == hash->left) {
        Lanes sums[LINE / sizeof(Lanes)];
        uint8_t line[LINE];
        Py_ssize_t start = blocks_of(hash, size) * BLOCK, lines = (size - start - 1) / LINE, before = LINE - size;
        LOAD_SUMS(sums, hash, SomeLanes);
        for (Py_ssize_t i = 0; i < lines; i++)
            mix_line(sums, bytes + start + LINE * i, SECRET + 8 * i);
        if (before > 0) {
            memcpy(line, hash->last + size, (size_t)before);
            memcpy(line + before, bytes, (size_t)size);
        } else {
            memcpy(line, bytes + size - LINE, LINE);
        }
        mix_line(sums, line, SECRET + sizeof SECRET - LINE - 7);
        STORE_SUMS(sums, hash, SomeLanes);
    } else {
        memcpy(hash->last, bytes + size - LINE, LINE);
    }
    hash->left -= (uint64_t)size;
}

static void mix(const uint8_t *bytes, Py_ssize_t size, Hash *hash)
{
    mix_blocks(hash, bytes, blocks_of(hash, size));
    mix_rest(hash, bytes, size);
}

static uint64_t merged(const uint64_t *sums, const uint8_t *secret, uint64_t start)
{
    const u64 *key = (const u64 *)secret;
    for (int i = 0; i < 8; i += 2) {
        unsigned __int128 product = (unsigned __int128)(sums[i] ^ key[i]) * (sums[i + 1] ^ key[i + 1]);
        start += (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    start = (start ^ start >> 37) * 0x165667919E3779F9;
    return start ^ start >> 32;
}

static void digest(const Hash *hash, uint8_t *bytes)
{
    uint64_t low = merged(hash->sums, SECRET + 11, hash->total * 0x9E3779B185EBCA87);
    uint64_t high = merged(hash->sums, SECRET + sizeof SECRET - LINE - 11, ~(hash->total * 0xC2B2AE3D27D4EB4F));
    for (int i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(high >> (56 - 8 * i));
        bytes[8 + i] = (uint8_t)(low >> (56 - 8 * i));
    }
}

/* ---- counts ---- */

static void count_bytes(const uint8_t *codes, Py_ssize_t size, uint32_t *tables, Hash *hash)
{
    Py_ssize_t i = 0, blocks = hash ? blocks_of(hash, size) : 0;
    for (Py_ssize_t block = 0; i + 4 <= size; block++) {
        for (Py_ssize_t end = least_of(i + BLOCK, size); i + 4 <= end; i += 4) {
            if (i % LINE == 0)
                FETCH(codes + i);
            tables[codes[i]]++;
            tables[256 + codes[i + 1]]++;
            tables[512 + codes[i + 2]]++;
            tables[768 + codes[i + 3]]++;
        }
        if (block < blocks)
            mix_blocks(hash, codes + block * BLOCK, 1);
    }
    for (; i < size; i++)
        tables[codes[i]]++;
    if (hash)
        mix_rest(hash, codes, size);
}

/* Count two patterns, each in its own table. The addresses are computed first: an increment with a base and an index register
   decodes to more micro-operations than fit beside the mixing. */
INLINE void count_two(const u16 *codes, uint32_t *first, uint32_t *second)
{
    uint32_t *a = first + codes[0], *b = second + codes[1];
    __asm__("" : "+r"(a), "+r"(b));
    ++*a;
    ++*b;
}

/* Count four patterns where zeros are frequent: an increment waits for the previous one of the same entry, so zeros are counted
   in `turns`, an entry each. */
INLINE void count_sparse(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint32_t *first, uint32_t *second, uint32_t *turns)
{
    uint32_t *places[4];
    __asm__("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
    places[0] = a ? first + a : turns;
    places[1] = b ? second + b : turns + 1;
    places[2] = c ? first + c : turns + 2;
    places[3] = d ? second + d : turns + 3;
    /* Keeps the four selections branchless, as the branches would be mispredicted. */
    __asm__ __volatile__("" : "+r"(places[0]), "+r"(places[1]), "+r"(places[2]), "+r"(places[3]));
    ++*places[0];
    ++*places[1];
    ++*places[2];
    ++*places[3];
}

INLINE void count_sparse_word(uint64_t word, uint32_t *first, uint32_t *second, uint32_t *turns)
{
    count_sparse(word & 0xFFFF, word >> 16 & 0xFFFF, word >> 32 & 0xFFFF, word >> 48, first, second, turns);
}

/* Count lines of 8 words, and mix them in if there is a hash. Returns how many of their patterns are zero. */
#define COUNT_LINES(name, TARGET, MIX_LINE, Lanes, Some)                                                                   \
    TARGET static uint32_t name(const u64 *words, Py_ssize_t lines, int is_sparse, Hash *hash, uint32_t *tables)           \
    {                                                                                                                      \
        uint32_t *first = tables, *second = tables + 65536, before = first[0] + second[0], zeros = 0, turns[32] = {0};     \
        Lanes sums[LINE / sizeof(Lanes)] = {0};                                                                            \
        if (hash)                                                                                                          \
            LOAD_SUMS(sums, hash, Some);                                                                                   \
        for (Py_ssize_t number = 0; number < lines; number++, words += 8) {                                                \
            FETCH(words);                                                                                                  \
            if (hash)                                                                                                      \
                MIX_LINE(sums, words, SECRET + 8 * (number % 16));                                                         \
            if (words[0] == 0 && (words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7]) == 0)        \
                zeros += 32;                                                                                               \
            else if (!is_sparse)                                                                                           \
                for (int i = 0; i < 32; i += 2)                                                                            \
                    count_two((const u16 *)words + i, first, second);                                                      \
            else                                                                                                           \
                for (int i = 0; i < 8; i++)                                                                                \
                    count_sparse_word(words[i], first, second, turns + 4 * i);                                             \
            KEEP_STORES;                                                                                                   \
            if (hash && number % 16 == 15)                                                                                 \
                SCRAMBLE(sums, Some);                                                                                      \
        }                                                                                                                  \
        if (hash)                                                                                                          \
            STORE_SUMS(sums, hash, Some);                                                                                   \
        for (int i = 0; i < 32; i++)                                                                                       \
            zeros += turns[i];                                                                                             \
        first[0] += zeros;                                                                                                 \
        return first[0] + second[0] - before;                                                                              \
    }
COUNT_LINES(count_lines_plain, , mix_line, Lanes, SomeLanes)
#ifdef HAS_WIDE
COUNT_LINES(count_lines_wide, __attribute__((target("avx2"))), mix_line_wide, WideLanes, SomeWideLanes)
#endif

static uint32_t count_lines(const u64 *words, Py_ssize_t lines, int is_sparse, Hash *hash, uint32_t *tables)
{
#ifdef HAS_WIDE
    if (__builtin_cpu_supports("avx2"))
        return count_lines_wide(words, lines, is_sparse, hash, tables);
#endif
    return count_lines_plain(words, lines, is_sparse, hash, tables);
}

static void count_words(const u64 *words, Py_ssize_t size, const u16 *rest, Py_ssize_t left, uint32_t *tables, Hash *hash)
{
    uint32_t zeros = 0; /* in the last SUB_BLOCK patterns */
    Py_ssize_t lines = size / 8, bytes = 8 * size + 2 * left, mixed = hash ? blocks_of(hash, bytes) * (BLOCK / LINE) : 0;
    for (Py_ssize_t line = 0, length; line < lines; line += length) {
        int is_mixed = line < mixed;
        length = least_of(SUB_BLOCK / 32, (is_mixed ? mixed : lines) - line);
        zeros = count_lines(words + 8 * line, length, zeros > MANY_ZEROS, is_mixed ? hash : NULL, tables);
    }
    for (Py_ssize_t i = 32 * lines; i < 4 * size; i += 2)
        count_two((const u16 *)words + i, tables, tables + 65536);
    for (Py_ssize_t i = 0; i < left; i++)
        tables[rest[i]]++;
    tables[0] += tables[65536]; /* zeros are reported in the first table */
    tables[65536] = 0;
    if (hash)
        mix_rest(hash, (const uint8_t *)words, bytes);
}

VECTORISED
static int64_t drain(uint32_t *tables, Py_ssize_t lanes, Py_ssize_t width, uint16_t *codes, int64_t *counts)
{
    enum { STEP = 64 }; /* most patterns do not occur: skip so many at once */
    int64_t number = 0;
    for (Py_ssize_t start = 0; start < width; start += STEP) {
        uint32_t any = 0;
        for (Py_ssize_t lane = 0; lane < lanes; lane++)
            for (int k = 0; k < STEP; k++)
                any |= tables[lane * width + start + k];
        if (any == 0)
            continue;
        for (Py_ssize_t code = start; code < start + STEP; code++) {
            int64_t total = 0;
            for (Py_ssize_t lane = 0; lane < lanes; lane++)
                total += tables[lane * width + code];
            if (total) {
                codes[number] = (uint16_t)code;
                counts[number++] = total;
            }
        }
        for (Py_ssize_t lane = 0; lane < lanes; lane++)
            memset(tables + lane * width + start, 0, STEP * sizeof *tables);
    }
    return number;
}

static int64_t count_few(const u16 *codes, Py_ssize_t size, uint32_t *table, uint16_t *distinct, int64_t *counts)
{
    int64_t number = 0;
    for (Py_ssize_t i = 0; i < size; i++)
        if (table[codes[i]]++ == 0)
            distinct[number++] = codes[i];
    for (int64_t i = 0; i < number; i++) {
        counts[i] = table[distinct[i]];
        table[distinct[i]] = 0;
    }
    return number;
}

/* ---- statistics of counted patterns ---- */

/* The magnitude at `rank` among the finite values whose pattern rank has this high byte. */
static double magnitude_at(uint64_t rank, int high, const u16 *codes, Py_ssize_t size, const uint64_t *counts,
                           const double *values, const uint16_t *ranks)
{
    uint64_t by_low_byte[SPAN] = {0};
    double magnitudes[SPAN] = {0};
    for (Py_ssize_t i = 0; i < size; i++) {
        double magnitude = fabs(values[codes[i]]);
        if (ranks[codes[i]] / SPAN == high && magnitude <= DBL_MAX) {
            by_low_byte[ranks[codes[i]] % SPAN] += counts[i];
            magnitudes[ranks[codes[i]] % SPAN] = magnitude;
        }
    }
    int low = 0;
    while (low < SPAN - 1 && by_low_byte[low] < rank)
        rank -= by_low_byte[low++];
    return magnitudes[low];
}

typedef struct {
    uint64_t zeros, near_zeros, nans, infs, finite;
    double least, greatest;
} Description;

/* Quantiles are found by two histograms of ranks: of the high byte, and of the low byte within the high one. */
static void describe_codes(const u16 *codes, Py_ssize_t size, const uint64_t *counts, const double *values,
                           const uint16_t *ranks, double near_zero, const uint64_t *percents, Py_ssize_t num_percents,
                           Description *description, double *quantiles)
{
    uint64_t by_rank[SPAN] = {0};
    Description sums = {.least = INFINITY, .greatest = -INFINITY};
    for (Py_ssize_t i = 0; i < size; i++) {
        double value = values[codes[i]], magnitude = fabs(value);
        if (magnitude <= DBL_MAX) {
            sums.least = value < sums.least ? value : sums.least;
            sums.greatest = value > sums.greatest ? value : sums.greatest;
            if (magnitude == 0.0)
                sums.zeros += counts[i];
            if (magnitude <= near_zero)
                sums.near_zeros += counts[i];
            sums.finite += counts[i];
            by_rank[ranks[codes[i]] / SPAN] += counts[i];
        } else if (value != value) {
            sums.nans += counts[i];
        } else {
            sums.infs += counts[i];
        }
    }
    *description = sums;
    uint64_t hundreds = sums.finite / 100, rest = sums.finite % 100;
    for (Py_ssize_t k = 0; k < num_percents; k++) {
        uint64_t rank = percents[k] * hundreds + (percents[k] * rest + 99) / 100;
        int high = 0;
        while (high < SPAN - 1 && by_rank[high] < rank)
            rank -= by_rank[high++];
        quantiles[k] = magnitude_at(rank, high, codes, size, counts, values, ranks);
    }
}

static void sum_codes(const u16 *codes, Py_ssize_t size, const uint64_t *counts, const int32_t *significands,
                      const uint16_t *groups, int64_t *sums)
{
    for (Py_ssize_t i = 0; i < size; i++) {
        int64_t significand = significands[codes[i]], product = significand * (int64_t)counts[i];
        int64_t *row = sums + 3 * groups[codes[i]];
        row[0] += product;
        row[1] += product < 0 ? -product : product;
        row[2] += significand * product;
    }
}

/* ---- moments of wide types ---- */

static void sum_row(double *values, Py_ssize_t size, double top, double *row)
{
    int exponent = LEAST_EXPONENT;
    if (top > 0.0) {
        frexp(top, &exponent);
        exponent = exponent < LEAST_EXPONENT ? LEAST_EXPONENT : exponent;
    }
    double scale = ldexp(1.0, -exponent);
    double sum_0 = 0, sum_1 = 0, size_0 = 0, size_1 = 0, square_0 = 0, square_1 = 0, deviation_0 = 0, deviation_1 = 0;
    Py_ssize_t even = size / 2 * 2, i;
    for (i = 0; i < even; i += 2) {
        double a = values[i] * scale, b = values[i + 1] * scale;
        values[i] = a;
        values[i + 1] = b;
        sum_0 += a;
        sum_1 += b;
        size_0 += fabs(a);
        size_1 += fabs(b);
        square_0 += a * a;
        square_1 += b * b;
    }
    for (; i < size; i++) {
        double a = values[i] * scale;
        values[i] = a;
        sum_0 += a;
        size_0 += fabs(a);
        square_0 += a * a;
    }
    double total = sum_0 + sum_1, mean = size ? total / (double)size : 0.0;
    for (i = 0; i < even; i += 2) {
        double a = values[i] - mean, b = values[i + 1] - mean;
        deviation_0 += a * a;
        deviation_1 += b * b;
    }
    for (; i < size; i++) {
        double a = values[i] - mean;
        deviation_0 += a * a;
    }
    row[0] = (double)size;
    row[1] = exponent;
    row[2] = total;
    row[3] = size_0 + size_1;
    row[4] = square_0 + square_1;
    row[5] = deviation_0 + deviation_1;
}

static void add_up(const double *terms, Py_ssize_t size, Py_ssize_t rows, double *sums)
{
    for (Py_ssize_t row = 0; row < rows; row++, terms += size) {
        double high = 0, low = 0;
        for (Py_ssize_t i = 0; i < size; i++) {
            double total = high + terms[i], added = total - high;
            low += (high - (total - added)) + (terms[i] - added);
            high = total;
        }
        sums[row] = high + low;
    }
}

INLINE double squares_around(double mean, const f32 *values, Py_ssize_t size)
{
    doubles squares = {0};
    Py_ssize_t whole = size / LANES * LANES;
    for (Py_ssize_t i = 0; i < whole; i += LANES) {
        doubles apart = WIDENED(*(const some_floats *)(values + i)) - mean;
        squares += apart * apart;
    }
    for (Py_ssize_t i = whole; i < size; i++)
        squares[i % LANES] += ((double)values[i] - mean) * ((double)values[i] - mean);
    return JOINED(squares);
}

/* In one loop: the sums of a row, the counts of the top halves of patterns, and the first `mixed` lines mixed into the hash. The
   increments wait for memory, and the other work fills that time. Minimum and maximum are valid if all values are finite, which
   a finite sum of magnitudes proves. Returns how many patterns have a top half of 0 or 0x8000: zeros and tiny values. */
#define SUM_AND_COUNT(name, TARGET, MIX_LINE, Lanes, Some)                                                             \
    TARGET static uint32_t name(const f32 *values, Py_ssize_t size, int is_sparse, Py_ssize_t mixed, Hash *hash, double *row,\
                                double *ends, uint32_t *tables)                                                        \
    {                                                                                                                  \
        enum { STEP = LINE / sizeof(float) };                                                                          \
        uint32_t *first = tables, *second = tables + 65536, zeros = 0, turns[STEP] = {0};                              \
        uint32_t before = first[0] + second[0] + first[0x8000] + second[0x8000];                                       \
        const longs no_sign = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};                                            \
        doubles totals = {0}, sizes = {0}, squares = {0};                                                              \
        floats lows = {INFINITY, INFINITY, INFINITY, INFINITY}, highs = -lows;                                         \
        Py_ssize_t whole = size / STEP * STEP;                                                                         \
        Lanes sums[LINE / sizeof(Lanes)] = {0};                                                                        \
        if (mixed)                                                                                                     \
            LOAD_SUMS(sums, hash, Some);                                                                               \
        for (Py_ssize_t number = 0; number < whole / STEP; number++) {                                                 \
            const some_floats *parts = (const some_floats *)(values + STEP * number);                                  \
            const u32 *patterns = (const u32 *)parts;                                                                  \
            FETCH(parts);                                                                                              \
            if (number < mixed) {                                                                                      \
                MIX_LINE(sums, parts, SECRET + 8 * (number % 16));                                                     \
                if (number % 16 == 15)                                                                                 \
                    SCRAMBLE(sums, Some);                                                                              \
            }                                                                                                          \
            floats part[4] = {parts[0], parts[1], parts[2], parts[3]};                                                 \
            doubles a = WIDENED(part[0]), b = WIDENED(part[1]), c = WIDENED(part[2]), d = WIDENED(part[3]);            \
            totals += (a + b) + (c + d);                                                                               \
            sizes += (SIZE_OF(a) + SIZE_OF(b)) + (SIZE_OF(c) + SIZE_OF(d));                                            \
            squares += (a * a + b * b) + (c * c + d * d);                                                              \
            floats low = LESSER(part[0], part[1]), other_low = LESSER(part[2], part[3]);                               \
            floats high = GREATER(part[0], part[1]), other_high = GREATER(part[2], part[3]);                           \
            low = LESSER(low, other_low);                                                                              \
            high = GREATER(high, other_high);                                                                          \
            lows = LESSER(low, lows);                                                                                  \
            highs = GREATER(high, highs);                                                                              \
            if (!is_sparse)                                                                                            \
                for (int k = 0; k < STEP; k += 2) {                                                                    \
                    first[patterns[k] >> 16]++;                                                                        \
                    second[patterns[k + 1] >> 16]++;                                                                   \
                }                                                                                                      \
            else                                                                                                       \
                for (int k = 0; k < STEP; k += 4)                                                                      \
                    count_sparse(patterns[k] >> 16, patterns[k + 1] >> 16, patterns[k + 2] >> 16, patterns[k + 3] >> 16, first,\
                                 second, turns + k);                                                                   \
            KEEP_STORES;                                                                                               \
        }                                                                                                              \
        if (mixed)                                                                                                     \
            STORE_SUMS(sums, hash, Some);                                                                               \
        for (Py_ssize_t i = whole; i < size; i++) {                                                                    \
            double value = values[i];                                                                                  \
            lows[0] = values[i] < lows[0] ? values[i] : lows[0];                                                       \
            highs[0] = values[i] > highs[0] ? values[i] : highs[0];                                                    \
            totals[i % LANES] += value;                                                                                \
            sizes[i % LANES] += fabs(value);                                                                           \
            squares[i % LANES] += value * value;                                                                       \
            (i % 2 ? second : first)[((const u32 *)values)[i] >> 16]++;                                                \
        }                                                                                                              \
        for (int k = 0; k < LANES; k++) {                                                                              \
            ends[0] = lows[k] < ends[0] ? lows[k] : ends[0];                                                           \
            ends[1] = highs[k] > ends[1] ? highs[k] : ends[1];                                                         \
        }                                                                                                              \
        row[0] = (double)size;                                                                                         \
        row[1] = 0.0;                                                                                                  \
        row[2] = JOINED(totals);                                                                                       \
        row[3] = JOINED(sizes);                                                                                        \
        row[4] = JOINED(squares);                                                                                      \
        double mean = size ? row[2] / (double)size : 0.0;                                                              \
        row[5] = row[4] - row[2] * mean;                                                                               \
        if (row[5] < FLAT * row[4])                                                                                    \
            row[5] = squares_around(mean, values, size);                                                               \
        for (int k = 0; k < STEP; k++)                                                                                 \
            zeros += turns[k];                                                                                         \
        first[0] += zeros;                                                                                             \
        return first[0] + second[0] + first[0x8000] + second[0x8000] - before;                                         \
    }
SUM_AND_COUNT(sum_and_count_plain, , mix_line, Lanes, SomeLanes)
#ifdef HAS_WIDE
SUM_AND_COUNT(sum_and_count_wide, __attribute__((target("avx2"))), mix_line_wide, WideLanes, SomeWideLanes)
#endif

static uint32_t sum_and_count(const f32 *values, Py_ssize_t size, int is_sparse, Py_ssize_t mixed, Hash *hash, double *row,
                              double *ends, uint32_t *tables)
{
#ifdef HAS_WIDE
    if (__builtin_cpu_supports("avx2"))
        return sum_and_count_wide(values, size, is_sparse, mixed, hash, row, ends, tables);
#endif
    return sum_and_count_plain(values, size, is_sparse, mixed, hash, row, ends, tables);
}

/* One loop for both types: Type is float or double. */
#define SCAN_BLOCK(name, Type)                                                                                             \
    static void name(const Type *values, Py_ssize_t size, double near_zero, int64_t *counts, double *ends, double *row)    \
    {                                                                                                                      \
        double scratch[SUB_BLOCK], top = 0.0;                                                                              \
        Py_ssize_t finite = 0;                                                                                             \
        for (Py_ssize_t i = 0; i < size; i++) {                                                                            \
            double value = values[i], magnitude = fabs(value);                                                             \
            if (magnitude <= DBL_MAX) {                                                                                    \
                scratch[finite++] = value;                                                                                 \
                top = magnitude > top ? magnitude : top;                                                                   \
                counts[0] += magnitude == 0.0;                                                                             \
                counts[3] += magnitude <= near_zero;                                                                       \
                ends[0] = value < ends[0] ? value : ends[0];                                                               \
                ends[1] = value > ends[1] ? value : ends[1];                                                               \
            } else if (value != value) {                                                                                   \
                counts[1]++;                                                                                               \
            } else {                                                                                                       \
                counts[2]++;                                                                                               \
            }                                                                                                              \
        }                                                                                                                  \
        sum_row(scratch, finite, top, row);                                                                                \
    }
SCAN_BLOCK(scan_floats, f32)
SCAN_BLOCK(scan_doubles, f64)

VECTORISED
static void moments_of_floats(const f32 *values, Py_ssize_t size, double near_zero, int64_t *counts, double *ends, double *rows,
                              uint32_t *tables, Hash *hash)
{
    Py_ssize_t bytes = 4 * size, lines = hash ? blocks_of(hash, bytes) * (BLOCK / LINE) : 0; /* still to be mixed in */
    uint32_t near = 0; /* zeros and tiny values in the last SUB_BLOCK values */
    for (Py_ssize_t start = 0; start < size; start += SUB_BLOCK, rows += ROW) {
        Py_ssize_t length = least_of(SUB_BLOCK, size - start), mixed = least_of(lines, 4 * SUB_BLOCK / LINE);
        const f32 *part = values + start;
        double own[2] = {INFINITY, -INFINITY};
        near = sum_and_count(part, length, near > MANY_ZEROS, mixed, hash, rows, own, tables);
        lines -= mixed;
        if (!(rows[3] <= DBL_MAX)) {
            scan_floats(part, length, near_zero, counts, ends, rows);
            continue;
        }
        ends[0] = own[0] < ends[0] ? own[0] : ends[0];
        ends[1] = own[1] > ends[1] ? own[1] : ends[1];
        if (near) {
            int32_t zeros = 0;
            for (Py_ssize_t i = 0; i < length; i++)
                zeros += part[i] == 0.0f;
            counts[0] += zeros;
        }
        if (near_zero >= 0)
            for (Py_ssize_t i = 0; i < length; i++)
                counts[3] += fabs((double)part[i]) <= near_zero;
    }
    tables[0] += tables[65536]; /* zeros are reported in the first table, as by count_words */
    tables[65536] = 0;
    if (hash)
        mix_rest(hash, (const uint8_t *)values, bytes);
}

/* ---- zero rows, zero columns, N:M patterns ----

   Once every column holds a value and no N:M pattern is left ("settled"), each row is read only up to its first value. The check
   costs as much as a row, so it is made only where rows are short compared with the chunk. ---- */

INLINE int is_no_pattern_left(const int64_t *fullest, int64_t width)
{
    return width % 4 || (fullest[0] > 2 && (width % 8 || fullest[1] > 4));
}

#define MARK_NONZEROS(name, Type)                                                                                          \
    static void name(const Type *patterns, Py_ssize_t size, uint64_t mask, int64_t start, uint8_t *row_used,               \
                     uint8_t *column_used, int64_t width, int64_t *fullest)                                                \
    {                                                                                                                      \
        const Type bits = (Type)mask;                                                                                      \
        int is_settled = width <= size / 4 && is_no_pattern_left(fullest, width);                                          \
        for (int64_t i = 0; i < width && is_settled; i++)                                                                  \
            is_settled = column_used[i];                                                                                   \
        for (int64_t position = 0; position < size;) {                                                                     \
            int64_t row = (start + position) / width, first = start + position - row * width;                              \
            int64_t length = least_of(width - first, size - position);                                                     \
            const Type *part = patterns + position;                                                                        \
            uint8_t used = 0, *columns = column_used + first;                                                              \
            position += length;                                                                                            \
            if (is_settled) {                                                                                              \
                for (int64_t i = 0; i < length && !row_used[row]; i++)                                                     \
                    row_used[row] = (part[i] & bits) != 0;                                                                 \
                continue;                                                                                                  \
            }                                                                                                              \
            for (int64_t i = 0; i < length; i++) {                                                                         \
                uint8_t mark = (part[i] & bits) != 0;                                                                      \
                columns[i] |= mark;                                                                                        \
                used |= mark;                                                                                              \
            }                                                                                                              \
            if (used) {                                                                                                    \
                row_used[row] = 1;                                                                                         \
                int by_eight = width % 8 == 0 && (fullest[0] <= 2 || fullest[1] <= 4);                                     \
                if (by_eight || (width % 8 && width % 4 == 0 && fullest[0] <= 2)) {                                        \
                    for (int64_t i = 0; i < length; i += by_eight ? 8 : 4) {                                               \
                        int64_t left = 0, right = 0;                                                                       \
                        for (int k = 0; k < 4; k++) {                                                                      \
                            left += (part[i + k] & bits) != 0;                                                             \
                            right += by_eight && (part[i + 4 + k] & bits) != 0;                                            \
                        }                                                                                                  \
                        int64_t most = left > right ? left : right;                                                        \
                        fullest[0] = most > fullest[0] ? most : fullest[0];                                                \
                        if (by_eight)                                                                                      \
                            fullest[1] = left + right > fullest[1] ? left + right : fullest[1];                            \
                    }                                                                                                      \
                }                                                                                                          \
            }                                                                                                              \
        }                                                                                                                  \
    }
MARK_NONZEROS(mark_nonzeros_8, uint8_t)
MARK_NONZEROS(mark_nonzeros_16, u16)
MARK_NONZEROS(mark_nonzeros_32, u32)
MARK_NONZEROS(mark_nonzeros_64, u64)

INLINE uint64_t held_of(uint64_t word, uint64_t top) { return (((word & ~top) + ~top) | word) & top; }

INLINE void raise_fullest(uint64_t over_1, uint64_t over_2, uint64_t over_4, int64_t *fullest)
{
    int64_t four = over_2 & 8 ? 3 : over_1 & 8 ? 2 : 1, eight = over_4 & 16 ? 5 : 4;
    fullest[0] = four > fullest[0] ? four : fullest[0];
    fullest[1] = eight > fullest[1] ? eight : fullest[1];
}

INLINE void fullest_of_words(const u64 *words, int64_t size, uint64_t mask, uint64_t top, int64_t *fullest)
{
    uint64_t over_1 = 0, over_2 = 0, over_4 = 0;
    for (int64_t i = 0; i < size; i += 2) {
        uint64_t left = held_of(words[i] & mask, top), right = held_of(words[i + 1] & mask, top);
        uint64_t both = (left >> 15) | (right >> 7);
        both += both >> 32;
        both += both >> 16;
        uint64_t in_left = both & 7, in_right = both >> 8 & 7;
        over_1 |= (in_left + 6) | (in_right + 6);
        over_2 |= (in_left + 5) | (in_right + 5);
        over_4 |= in_left + in_right + 11;
    }
    raise_fullest(over_1, over_2, over_4, fullest);
}

INLINE void fullest_of_pairs(const u64 *words, int64_t size, uint64_t mask, uint64_t top, int64_t *fullest)
{
    uint64_t over_1 = 0, over_2 = 0, over_4 = 0;
    for (int64_t i = 0; i < size; i += 4) {
        uint64_t left = (held_of(words[i] & mask, top) >> 31) + (held_of(words[i + 1] & mask, top) >> 31);
        uint64_t right = (held_of(words[i + 2] & mask, top) >> 31) + (held_of(words[i + 3] & mask, top) >> 31);
        uint64_t in_left = (left + (left >> 32)) & 7, in_right = (right + (right >> 32)) & 7;
        over_1 |= (in_left + 6) | (in_right + 6);
        over_2 |= (in_left + 5) | (in_right + 5);
        over_4 |= in_left + in_right + 11;
    }
    raise_fullest(over_1, over_2, over_4, fullest);
}

VECTORISED
static void mark_nonzero_words(const u64 *words, int64_t size, uint64_t mask, uint64_t top, int64_t start, uint8_t *row_used,
                               uint64_t *column_flags, int64_t per_row, int64_t *fullest)
{
    int is_by_four = top == 0x8000800080008000u;
    int64_t first_word = start / (is_by_four ? 4 : 2);
    int is_settled = per_row <= size / 4 && is_no_pattern_left(fullest, 8);
    for (int64_t i = 0; i < per_row && is_settled; i++)
        is_settled = (column_flags[i] & top) == top;
    for (int64_t position = 0; position < size;) {
        int64_t row = (first_word + position) / per_row, first = first_word + position - row * per_row;
        int64_t length = least_of(per_row - first, size - position);
        const u64 *part = words + position;
        uint64_t used = 0, *flags = column_flags + first;
        position += length;
        if (is_settled) {
            for (int64_t i = 0; i < length && !row_used[row]; i++)
                row_used[row] = (part[i] & mask) != 0;
            continue;
        }
        for (int64_t strip = 0; strip < length; strip += STRIP) {
            fetch(part + strip, STRIP * 8);
            for (int64_t i = strip; i < least_of(strip + STRIP, length); i++) {
                uint64_t held = held_of(part[i] & mask, top);
                flags[i] |= held;
                used |= held;
            }
        }
        if (used) {
            row_used[row] = 1;
            if (fullest[0] <= 2 || fullest[1] <= 4) {
                if (is_by_four)
                    fullest_of_words(part, length, mask, top, fullest);
                else
                    fullest_of_pairs(part, length, mask, top, fullest);
            }
        }
    }
}

/* ---- comparing, profiles ---- */

/* Element i belongs to lane i % 8 of each sum. Branchless: with half-zero weights every other branch would be mispredicted. */
#define COUNT_DIFFERENCES(name, Type)                                                                                      \
    VECTORISED                                                                                                             \
    static void name(const Type *values, const Type *base, const Type *rounded, Py_ssize_t size, int64_t *counts,          \
                     double *sums)                                                                                         \
    {                                                                                                                      \
        typedef Type Stored __attribute__((vector_size(4 * sizeof(Type))));                                                \
        longs changed = {0}, zeroed = {0}, filled = {0}, other = {0};                                                      \
        doubles apart[2] = {{0}}, own[2] = {{0}}, of_base[2] = {{0}}, product[2] = {{0}};                                  \
        for (Py_ssize_t i = 0; i < size; i += 8)                                                                           \
            for (int half = 0; half < 2; half++) {                                                                         \
                Py_ssize_t at = i + 4 * half, length = size - at;                                                          \
                Stored value_here = {0}, base_here = {0}, rounded_here = {0}; /* padded with zeros */ \
                if (length >= 4) {                                                                                         \
                    memcpy(&value_here, values + at, sizeof(Stored));                                                      \
                    memcpy(&base_here, base + at, sizeof(Stored));                                                         \
                    memcpy(&rounded_here, rounded + at, sizeof(Stored));                                                   \
                } else                                                                                                     \
                    for (Py_ssize_t k = 0; k < length; k++) {                                                              \
                        value_here[k] = values[at + k];                                                                    \
                        base_here[k] = base[at + k];                                                                       \
                        rounded_here[k] = rounded[at + k];                                                                 \
                    }                                                                                                      \
                doubles value = __builtin_convertvector(value_here, doubles);                                              \
                doubles there = __builtin_convertvector(base_here, doubles);                                               \
                doubles near = __builtin_convertvector(rounded_here, doubles);                                             \
                longs is_changed = ~((value == there) | ((value != value) & (there != there)));                            \
                longs is_apart = is_changed & ~((value == near) | ((value != value) & (near != near)));                    \
                longs is_zero = value == 0, was_zero = there == 0;                                                         \
                longs is_finite = (value - value == 0) & (there - there == 0);                                             \
                changed -= is_changed;                                                                                     \
                zeroed -= is_apart & is_zero;                                                                              \
                filled -= is_apart & was_zero;                                                                             \
                other -= is_apart & ~is_zero & ~was_zero;                                                                  \
                value = (doubles)((longs)value & is_finite), there = (doubles)((longs)there & is_finite);                  \
                apart[half] += (value - there) * (value - there);                                                          \
                own[half] += value * value;                                                                                \
                of_base[half] += there * there;                                                                            \
                product[half] += value * there;                                                                            \
            }                                                                                                              \
        for (int lane = 0; lane < 4; lane++) {                                                                             \
            counts[0] += changed[lane], counts[1] += zeroed[lane];                                                         \
            counts[2] += filled[lane], counts[3] += other[lane];                                                           \
        }                                                                                                                  \
        for (int lane = 0; lane < 8; lane++) {                                                                             \
            sums[0] += apart[lane / 4][lane % 4], sums[1] += own[lane / 4][lane % 4];                                      \
            sums[2] += of_base[lane / 4][lane % 4], sums[3] += product[lane / 4][lane % 4];                                \
        }                                                                                                                  \
    }
COUNT_DIFFERENCES(count_differences_32, float)
COUNT_DIFFERENCES(count_differences_64, double)

#define ADD_SQUARES(name, Type)                                                                                            \
    VECTORISED                                                                                                             \
    static void name(const Type *values, Py_ssize_t size, int64_t start, int64_t run, double *squares, int64_t entries)    \
    {                                                                                                                      \
        int64_t entry = start / run % entries, left = run - start % run;                                                   \
        for (int64_t done = 0; done < size;) {                                                                             \
            const Type *part = values + done;                                                                              \
            int64_t length = least_of(run == 1 ? entries - entry : left, size - done);                                     \
            if (run == 1) {                                                                                                \
                for (int64_t i = 0; i < length; i++)                                                                       \
                    squares[entry + i] += (double)part[i] * (double)part[i];                                               \
                entry = 0;                                                                                                 \
            } else {                                                                                                       \
                double total = squares[entry];                                                                             \
                for (int64_t i = 0; i < length; i++)                                                                       \
                    total += (double)part[i] * (double)part[i];                                                            \
                squares[entry] = total;                                                                                    \
                entry = (entry + 1) % entries;                                                                             \
                left = run;                                                                                                \
            }                                                                                                              \
            done += length;                                                                                                \
        }                                                                                                                  \
    }
ADD_SQUARES(add_squares_32, f32)
ADD_SQUARES(add_squares_64, f64)

/* Output `index` of SplitMix64 from seed 0 (Steele, Lea, Flood 2014). */
static inline uint64_t split_mix(uint64_t index)
{
    uint64_t z = (index + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

#define SIGN_LANES 64

#define ADD_SIGNED(name, Type)                                                                                             \
    VECTORISED                                                                                                             \
    static void name(const Type *values, Py_ssize_t size, int64_t start, double *lanes)                                    \
    {                                                                                                                      \
        int64_t lane = start % SIGN_LANES, row = start / SIGN_LANES;                                                       \
        for (int64_t done = 0; done < size; row++, lane = 0) {                                                             \
            uint64_t signs = split_mix((uint64_t)row);                                                                     \
            const Type *part = values + done;                                                                              \
            int64_t length = least_of(SIGN_LANES - lane, size - done);                                                     \
            for (int64_t i = 0; i < length; i++) {                                                                         \
                double value = (double)part[i];                                                                            \
                uint64_t bits;                                                                                             \
                memcpy(&bits, &value, sizeof bits);                                                                        \
                bits ^= signs >> (lane + i) << 63;                                                                         \
                memcpy(&value, &bits, sizeof bits);                                                                        \
                lanes[lane + i] += value;                                                                                  \
            }                                                                                                              \
            done += length;                                                                                                \
        }                                                                                                                  \
    }
ADD_SIGNED(add_signed_32, f32)
ADD_SIGNED(add_signed_64, f64)

VECTORISED
static void project(const double *profile, Py_ssize_t size, const int8_t *signs, double *out, Py_ssize_t dimensions)
{
    for (Py_ssize_t i = 0; i < size; i++)
        for (Py_ssize_t k = 0; k < dimensions; k++)
            out[k] += profile[i] * (double)signs[i * dimensions + k];
}

static void add_bfloat16(uint16_t *sums, const i64 *places, Py_ssize_t size, const u16 *values)
{
    for (Py_ssize_t i = 0; i < size; i++) {
        uint32_t bits[2] = {(uint32_t)sums[places[i]] << 16, (uint32_t)values[i] << 16}, pattern;
        float pair[2];
        memcpy(pair, bits, sizeof pair);
        pair[0] += pair[1];
        memcpy(&pattern, pair, sizeof pattern);
        if ((pattern & 0x7FFFFFFF) > 0x7F800000)
            sums[places[i]] = 0x7FC0;
        else
            sums[places[i]] = (uint16_t)((pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16);
    }
}

/* ---- the Python interface ---- */

typedef struct {
    Py_buffer views[MOST_BUFFERS];
    int count;
} Buffers;

static void release(Buffers *buffers)
{
    while (buffers->count)
        PyBuffer_Release(&buffers->views[--buffers->count]);
}

/* Get the buffers of arguments, by a letter each: b, h, i, q have items of 1, 2, 4, 8 bytes, f of 4 or 8, p of any of these; an
   upper-case letter is written to. A number is `-` and parsed by the caller. */
static int get_buffers(PyObject *const *arguments, Py_ssize_t num_arguments, const char *letters, Buffers *buffers)
{
    buffers->count = 0;
    if (num_arguments != (Py_ssize_t)strlen(letters)) {
        PyErr_Format(PyExc_TypeError, "%zd arguments, not %zd", (Py_ssize_t)strlen(letters), num_arguments);
        return 0;
    }
    for (Py_ssize_t i = 0; i < num_arguments; i++) {
        char letter = letters[i];
        if (letter == '-')
            continue;
        int is_written = letter < 'a';
        letter = (char)(letter | 32);
        Py_buffer *view = &buffers->views[buffers->count];
        if (PyObject_GetBuffer(arguments[i], view, is_written ? PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS : PyBUF_C_CONTIGUOUS) < 0) {
            release(buffers);
            return 0;
        }
        buffers->count++;
        Py_ssize_t size = view->itemsize;
        int is_item_size = letter == 'b'   ? size == 1
                       : letter == 'h' ? size == 2
                       : letter == 'i' ? size == 4
                       : letter == 'q' ? size == 8
                       : letter == 'f' ? size == 4 || size == 8
                                       : size == 1 || size == 2 || size == 4 || size == 8;
        if (!is_item_size) {
            PyErr_Format(PyExc_TypeError, "argument %zd has items of %zd bytes", i + 1, size);
            release(buffers);
            return 0;
        }
    }
    return 1;
}

INLINE Py_ssize_t items(const Buffers *buffers, int at) { return buffers->views[at].len / buffers->views[at].itemsize; }

/* Whether the sizes are right; if not, the buffers are released and an error is set. */
static int check_sizes(Buffers *buffers, int are_right)
{
    if (!are_right) {
        release(buffers);
        PyErr_SetString(PyExc_ValueError, "arguments whose sizes do not match");
    }
    return are_right;
}

static int parse_double(PyObject *object, double *number)
{
    *number = PyFloat_AsDouble(object);
    return !(*number == -1.0 && PyErr_Occurred());
}

static int parse_int(PyObject *object, int64_t *number)
{
    PyObject *whole = PyNumber_Index(object);
    if (whole == NULL)
        return 0;
    *number = PyLong_AsLongLong(whole);
    Py_DECREF(whole);
    return !(*number == -1 && PyErr_Occurred());
}

static int parse_bits(PyObject *object, uint64_t *number)
{
    PyObject *whole = PyNumber_Index(object);
    if (whole == NULL)
        return 0;
    *number = PyLong_AsUnsignedLongLong(whole);
    Py_DECREF(whole);
    return !(*number == (uint64_t)-1 && PyErr_Occurred());
}

#define AT(type, at) ((type *)buffers.views[at].buf)
#define SIZE(at) items(&buffers, at)
#define FUNCTION(name) static PyObject *py_##name(PyObject *Py_UNUSED(self), PyObject *const *arguments, Py_ssize_t num_arguments)
#define LOOP(call)               \
    do {                         \
        Py_BEGIN_ALLOW_THREADS   \
        call;                    \
        Py_END_ALLOW_THREADS     \
        release(&buffers);     \
    } while (0)

/* Whether so many bytes may be mixed in next: whole blocks, or all bytes that are left. */
static int is_mixable(const Hash *hash, Py_ssize_t hash_size, Py_ssize_t size)
{
    return hash_size == (Py_ssize_t)sizeof(Hash) && hash->total > 240 && size > 0 &&
           ((uint64_t)size == hash->left || ((uint64_t)size < hash->left && size % BLOCK == 0));
}

/* Three functions take a Hash as an optional last argument. */
#define IS_MIXABLE(at, size) is_mixable(AT(Hash, at), SIZE(at), size)

FUNCTION(count_bytes)
{
    Buffers buffers;
    int is_mixed = num_arguments == 3;
    if (!get_buffers(arguments, num_arguments, is_mixed ? "bIB" : "bI", &buffers) ||
        !check_sizes(&buffers, SIZE(1) == 1024 && (!is_mixed || IS_MIXABLE(2, SIZE(0)))))
        return NULL;
    LOOP(count_bytes(AT(uint8_t, 0), SIZE(0), AT(uint32_t, 1), is_mixed ? AT(Hash, 2) : NULL));
    Py_RETURN_NONE;
}

FUNCTION(count_words)
{
    Buffers buffers;
    int is_mixed = num_arguments == 4;
    if (!get_buffers(arguments, num_arguments, is_mixed ? "qhIB" : "qhI", &buffers) || !check_sizes(&buffers, SIZE(2) == 131072))
        return NULL;
    if (is_mixed && !check_sizes(&buffers, IS_MIXABLE(3, 8 * SIZE(0) + 2 * SIZE(1)) &&
                                               (SIZE(1) == 0 || AT(u64, 0) + SIZE(0) == AT(u64, 1))))
        return NULL;
    LOOP(count_words(AT(u64, 0), SIZE(0), AT(u16, 1), SIZE(1), AT(uint32_t, 2), is_mixed ? AT(Hash, 3) : NULL));
    Py_RETURN_NONE;
}

/* begin(size) -> the state of the hash of so many bytes. */
static PyObject *py_begin(PyObject *Py_UNUSED(self), PyObject *size)
{
    uint64_t total;
    Hash hash;
    if (!parse_bits(size, &total))
        return NULL;
    if (total <= 240) {
        PyErr_SetString(PyExc_ValueError, "XXH3 of up to 240 bytes is another function");
        return NULL;
    }
    begin(&hash, total);
    return PyByteArray_FromStringAndSize((const char *)&hash, sizeof hash);
}

FUNCTION(mix)
{
    Buffers buffers;
    if (!get_buffers(arguments, num_arguments, "bB", &buffers) || !check_sizes(&buffers, IS_MIXABLE(1, SIZE(0))))
        return NULL;
    LOOP(mix(AT(uint8_t, 0), SIZE(0), AT(Hash, 1)));
    Py_RETURN_NONE;
}

FUNCTION(digest)
{
    Buffers buffers;
    uint8_t bytes[16];
    if (!get_buffers(arguments, num_arguments, "b", &buffers) ||
        !check_sizes(&buffers, SIZE(0) == (Py_ssize_t)sizeof(Hash) && AT(Hash, 0)->left == 0 && AT(Hash, 0)->total > 240))
        return NULL;
    LOOP(digest(AT(Hash, 0), bytes));
    return PyBytes_FromStringAndSize((const char *)bytes, sizeof bytes);
}

FUNCTION(drain)
{
    Buffers buffers;
    int64_t number;
    if (!get_buffers(arguments, num_arguments, "IHQ", &buffers))
        return NULL;
    Py_ssize_t width = SIZE(0) == 1024 ? 256 : 65536;
    if (!check_sizes(&buffers, SIZE(0) % width == 0 && SIZE(1) >= width && SIZE(2) >= width))
        return NULL;
    LOOP(number = drain(AT(uint32_t, 0), SIZE(0) / width, width, AT(uint16_t, 1), AT(int64_t, 2)));
    return PyLong_FromLongLong(number);
}

FUNCTION(count_few)
{
    Buffers buffers;
    int64_t number;
    if (!get_buffers(arguments, num_arguments, "hIHQ", &buffers) ||
        !check_sizes(&buffers, SIZE(1) == 65536 && SIZE(2) >= least_of(SIZE(0), 65536) && SIZE(3) >= least_of(SIZE(0), 65536)))
        return NULL;
    LOOP(number = count_few(AT(u16, 0), SIZE(0), AT(uint32_t, 1), AT(uint16_t, 2), AT(int64_t, 3)));
    return PyLong_FromLongLong(number);
}

static int are_below(const i64 *codes, Py_ssize_t size, int64_t limit)
{
    for (Py_ssize_t i = 0; i < size; i++)
        if (codes[i] < 0 || codes[i] >= limit)
            return 0;
    return 1;
}

static int are_patterns_below(const u16 *codes, Py_ssize_t size, int64_t limit)
{
    uint16_t most = 0;
    for (Py_ssize_t i = 0; i < size; i++)
        most = codes[i] > most ? codes[i] : most;
    return size == 0 || most < limit;
}

FUNCTION(describe_codes)
{
    Buffers buffers;
    Description description;
    double near_zero, quantiles[MOST_PERCENTS];
    if (!get_buffers(arguments, num_arguments, "hqqh-q", &buffers))
        return NULL;
    Py_ssize_t num_percents = SIZE(4);
    if (!check_sizes(&buffers, SIZE(1) == SIZE(0) && SIZE(3) == SIZE(2) && num_percents <= MOST_PERCENTS &&
                            are_patterns_below(AT(u16, 0), SIZE(0), SIZE(2))))
        return NULL;
    if (!parse_double(arguments[4], &near_zero)) {
        release(&buffers);
        return NULL;
    }
    LOOP(describe_codes(AT(u16, 0), SIZE(0), AT(uint64_t, 1), AT(double, 2), AT(uint16_t, 3), near_zero, AT(uint64_t, 4),
                        num_percents, &description, quantiles));
    PyObject *magnitudes = PyTuple_New(num_percents);
    for (Py_ssize_t i = 0; magnitudes && i < num_percents; i++) {
        PyObject *number = PyFloat_FromDouble(quantiles[i]);
        if (number == NULL || PyTuple_SetItem(magnitudes, i, number) < 0)
            Py_CLEAR(magnitudes);
    }
    if (magnitudes == NULL)
        return NULL;
    return Py_BuildValue("KKKKKddN", (unsigned long long)description.zeros, (unsigned long long)description.near_zeros,
                         (unsigned long long)description.nans, (unsigned long long)description.infs,
                         (unsigned long long)description.finite, description.least, description.greatest, magnitudes);
}

FUNCTION(sum_codes)
{
    Buffers buffers;
    if (!get_buffers(arguments, num_arguments, "hqihQ", &buffers))
        return NULL;
    if (!check_sizes(&buffers, SIZE(1) == SIZE(0) && SIZE(3) == SIZE(2) && are_patterns_below(AT(u16, 0), SIZE(0), SIZE(2)) &&
                            are_patterns_below(AT(u16, 3), SIZE(3), SIZE(4) / 3)))
        return NULL;
    LOOP(sum_codes(AT(u16, 0), SIZE(0), AT(uint64_t, 1), AT(int32_t, 2), AT(uint16_t, 3), AT(int64_t, 4)));
    Py_RETURN_NONE;
}

FUNCTION(add_up)
{
    Buffers buffers;
    if (!get_buffers(arguments, num_arguments, "qQ", &buffers) || !check_sizes(&buffers, SIZE(1) > 0 && SIZE(0) % SIZE(1) == 0))
        return NULL;
    LOOP(add_up(AT(double, 0), SIZE(0) / SIZE(1), SIZE(1), AT(double, 1)));
    Py_RETURN_NONE;
}

static void moments(const f64 *values, Py_ssize_t size, double near_zero, int64_t *counts, double *ends, double *rows)
{
    for (Py_ssize_t start = 0; start < size; start += SUB_BLOCK, rows += ROW)
        scan_doubles(values + start, least_of(SUB_BLOCK, size - start), near_zero, counts, ends, rows);
}

INLINE int has_rows(Py_ssize_t values, Py_ssize_t rows) { return rows == (values + SUB_BLOCK - 1) / SUB_BLOCK * ROW; }

FUNCTION(moments)
{
    Buffers buffers;
    double near_zero;
    if (!get_buffers(arguments, num_arguments, "q-QQQ", &buffers) ||
        !check_sizes(&buffers, SIZE(1) == 4 && SIZE(2) == 2 && has_rows(SIZE(0), SIZE(3))))
        return NULL;
    if (!parse_double(arguments[1], &near_zero)) {
        release(&buffers);
        return NULL;
    }
    LOOP(moments(AT(f64, 0), SIZE(0), near_zero, AT(int64_t, 1), AT(double, 2), AT(double, 3)));
    Py_RETURN_NONE;
}

FUNCTION(moments_of_floats)
{
    Buffers buffers;
    double near_zero;
    int is_mixed = num_arguments == 7;
    if (!get_buffers(arguments, num_arguments, is_mixed ? "i-QQQIB" : "i-QQQI", &buffers) ||
        !check_sizes(&buffers, SIZE(1) == 4 && SIZE(2) == 2 && has_rows(SIZE(0), SIZE(3)) && SIZE(4) == 131072 &&
                            (!is_mixed || IS_MIXABLE(5, 4 * SIZE(0)))))
        return NULL;
    if (!parse_double(arguments[1], &near_zero)) {
        release(&buffers);
        return NULL;
    }
    LOOP(moments_of_floats(AT(f32, 0), SIZE(0), near_zero, AT(int64_t, 1), AT(double, 2), AT(double, 3), AT(uint32_t, 4),
                           is_mixed ? AT(Hash, 5) : NULL));
    Py_RETURN_NONE;
}

/* Whether `size` elements from `start` on lie in a matrix of so many rows. */
INLINE int lies_in(int64_t start, int64_t size, int64_t rows, int64_t width)
{
    return start >= 0 && (size == 0 || (width > 0 && (start + size - 1) / width < rows));
}

FUNCTION(mark_nonzeros)
{
    Buffers buffers;
    uint64_t mask;
    int64_t start;
    if (!get_buffers(arguments, num_arguments, "p--BBQ", &buffers))
        return NULL;
    if (!parse_bits(arguments[1], &mask) || !parse_int(arguments[2], &start)) {
        release(&buffers);
        return NULL;
    }
    int64_t width = SIZE(2), group = width % 8 == 0 ? 8 : width % 4 == 0 ? 4 : 1;
    if (!check_sizes(&buffers, lies_in(start, SIZE(0), SIZE(1), width) && SIZE(3) == 2 && start % group == 0 &&
                                   SIZE(0) % group == 0))
        return NULL;
    switch (buffers.views[0].itemsize) {
    case 1:
        LOOP(mark_nonzeros_8(AT(uint8_t, 0), SIZE(0), mask, start, AT(uint8_t, 1), AT(uint8_t, 2), width, AT(int64_t, 3)));
        break;
    case 2:
        LOOP(mark_nonzeros_16(AT(u16, 0), SIZE(0), mask, start, AT(uint8_t, 1), AT(uint8_t, 2), width, AT(int64_t, 3)));
        break;
    case 4:
        LOOP(mark_nonzeros_32(AT(u32, 0), SIZE(0), mask, start, AT(uint8_t, 1), AT(uint8_t, 2), width, AT(int64_t, 3)));
        break;
    default:
        LOOP(mark_nonzeros_64(AT(u64, 0), SIZE(0), mask, start, AT(uint8_t, 1), AT(uint8_t, 2), width, AT(int64_t, 3)));
    }
    Py_RETURN_NONE;
}

FUNCTION(mark_nonzero_words)
{
    Buffers buffers;
    uint64_t mask, top;
    int64_t start;
    if (!get_buffers(arguments, num_arguments, "q---BQQ", &buffers))
        return NULL;
    if (!parse_bits(arguments[1], &mask) || !parse_bits(arguments[2], &top) || !parse_int(arguments[3], &start)) {
        release(&buffers);
        return NULL;
    }
    int64_t in_word = top == 0x8000800080008000u ? 4 : 2, group = 8 / in_word;
    if (!check_sizes(&buffers, lies_in(start / in_word, SIZE(0), SIZE(1), SIZE(2)) && SIZE(3) == 2 && start % 8 == 0 &&
                            SIZE(0) % group == 0 && SIZE(2) % group == 0))
        return NULL;
    LOOP(mark_nonzero_words(AT(u64, 0), SIZE(0), mask, top, start, AT(uint8_t, 1), AT(uint64_t, 2), SIZE(2), AT(int64_t, 3)));
    Py_RETURN_NONE;
}

FUNCTION(count_differences)
{
    Buffers buffers;
    if (!get_buffers(arguments, num_arguments, "fffQQ", &buffers))
        return NULL;
    Py_ssize_t size = buffers.views[0].itemsize;
    if (!check_sizes(&buffers, SIZE(1) == SIZE(0) && SIZE(2) == SIZE(0) && SIZE(3) == 4 && SIZE(4) == 4 &&
                            buffers.views[1].itemsize == size && buffers.views[2].itemsize == size))
        return NULL;
    if (size == 4)
        LOOP(count_differences_32(AT(float, 0), AT(float, 1), AT(float, 2), SIZE(0), AT(int64_t, 3), AT(double, 4)));
    else
        LOOP(count_differences_64(AT(double, 0), AT(double, 1), AT(double, 2), SIZE(0), AT(int64_t, 3), AT(double, 4)));
    Py_RETURN_NONE;
}

FUNCTION(add_squares)
{
    Buffers buffers;
    int64_t start, run;
    if (!get_buffers(arguments, num_arguments, "f--Q", &buffers))
        return NULL;
    if (!parse_int(arguments[1], &start) || !parse_int(arguments[2], &run)) {
        release(&buffers);
        return NULL;
    }
    if (!check_sizes(&buffers, start >= 0 && run > 0 && SIZE(1) > 0))
        return NULL;
    if (buffers.views[0].itemsize == 4)
        LOOP(add_squares_32(AT(f32, 0), SIZE(0), start, run, AT(double, 1), SIZE(1)));
    else
        LOOP(add_squares_64(AT(f64, 0), SIZE(0), start, run, AT(double, 1), SIZE(1)));
    Py_RETURN_NONE;
}

FUNCTION(add_signed)
{
    Buffers buffers;
    int64_t start;
    if (!get_buffers(arguments, num_arguments, "f-Q", &buffers))
        return NULL;
    if (!parse_int(arguments[1], &start)) {
        release(&buffers);
        return NULL;
    }
    if (!check_sizes(&buffers, start >= 0 && SIZE(1) == SIGN_LANES))
        return NULL;
    if (buffers.views[0].itemsize == 4)
        LOOP(add_signed_32(AT(f32, 0), SIZE(0), start, AT(double, 1)));
    else
        LOOP(add_signed_64(AT(f64, 0), SIZE(0), start, AT(double, 1)));
    Py_RETURN_NONE;
}

FUNCTION(project)
{
    Buffers buffers;
    if (!get_buffers(arguments, num_arguments, "qbQ", &buffers) || !check_sizes(&buffers, SIZE(1) >= SIZE(0) * SIZE(2)))
        return NULL;
    LOOP(project(AT(double, 0), SIZE(0), AT(int8_t, 1), AT(double, 2), SIZE(2)));
    Py_RETURN_NONE;
}

FUNCTION(add_bfloat16)
{
    Buffers buffers;
    if (!get_buffers(arguments, num_arguments, "Hqh", &buffers) ||
        !check_sizes(&buffers, SIZE(1) == SIZE(2) && are_below(AT(int64_t, 1), SIZE(1), SIZE(0))))
        return NULL;
    LOOP(add_bfloat16(AT(uint16_t, 0), AT(i64, 1), SIZE(1), AT(u16, 2)));
    Py_RETURN_NONE;
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, "See numpy_loops.py, or ContentHash."}

static PyMethodDef methods[] = {
    METHOD(count_bytes),        METHOD(count_words),       METHOD(drain),       METHOD(count_few), METHOD(describe_codes),
    METHOD(sum_codes),          METHOD(add_up),            METHOD(moments),     METHOD(moments_of_floats), METHOD(mark_nonzeros),
    METHOD(mark_nonzero_words), METHOD(count_differences), METHOD(add_squares), METHOD(project),   METHOD(add_bfloat16),
    METHOD(add_signed),         METHOD(mix),               METHOD(digest),      {"begin", py_begin, METH_O, "See ContentHash."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_loops", "Loops over the bytes of tensors; see numpy_loops.py.", 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__loops(void) { return PyModuleDef_Init(&module); }
