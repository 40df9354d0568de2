/* Attention of packed pairs in bfloat16 on a CPU with AMX: each token takes from the tokens of its own pair.
 *
 * One head of one pair is a piece of work, 16 tokens of it a block: logits by tile products, softmax row by row, then
 * the values weighed, by tile products again. A product takes tiles of 16 rows with 64 bytes each; the right one has
 * its rows in twos: lane n of row k holds elements (2k, n) and (2k + 1, n), as TDPBF16PS wants them (Intel, "Intel
 * Architecture Instruction Set Extensions and Future Features", chapter 3).
 *
 * Logits and sums are float32; weights are rounded to bfloat16 before they meet the values, as torch's kernel does.
 * Nothing is allocated here and no thread is made: Python gives the memory, the OpenMP that torch uses its threads.
 */
#if defined(__x86_64__) && defined(__linux__)

#include <immintrin.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ON_AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))

enum {
    ROWS = 16,   /* of a tile, and floats in a vector */
    DEPTH = 32,  /* bfloat16 in a row of a tile */
    TILE = 256,  /* pairs of bfloat16, or floats, in a tile */
    REQUEST_PERMISSION = 0x1023,  /* ARCH_REQ_XCOMP_PERM of arch_prctl(2) */
    TILE_DATA = 18,
};

typedef uint16_t bf16;

typedef struct { /* sidecar/scoring/amx.py has the same fields in the same order */
    const bf16 *query, *key, *value; /* (rows, heads, size) each; what a token has of them lies together */
    bf16 *out;
    int64_t query_stride, key_stride, value_stride, out_stride; /* elements between tokens */
    const int64_t *starts, *lengths; /* of each pair: place of its first token, and its tokens */
    int64_t pairs, heads, size, longest;
    int64_t first_only; /* whether row p of query and out is the first token of pair p */
    float scale; /* factor of the logits */
    char *memory; /* of each thread so many bytes as sidecar_amx_bytes says, aligned to 64 */
    atomic_llong threads, taken; /* those that have begun, and pieces of work that are taken; 0 at first */
} Attention;

typedef struct { /* a thread's own memory */
    int32_t *keys, *values; /* tiles for the right side: by (16 tokens, 32 elements), and by (32 tokens, 16 elements) */
    float *logits, *mixed, *inverse; /* (ROWS, width), (ROWS, size), (ROWS,) */
    bf16 *weights, *rows; /* (ROWS, width), (ROWS, size) */
} Space;

static int64_t padded(int64_t tokens) { return (tokens + DEPTH - 1) / DEPTH * DEPTH; }

/* Bytes that a thread needs for pairs of up to `longest` tokens. */
int64_t sidecar_amx_bytes(int64_t longest, int64_t size) {
    const int64_t width = padded(longest);
    const int64_t tiles = 2 * width * size, block = ROWS * (width + size);
    return tiles * (int64_t)sizeof(bf16) + (block + ROWS) * (int64_t)sizeof(float) + block * (int64_t)sizeof(bf16);
}

static Space space_of(char *memory, int64_t longest, int64_t size) {
    const int64_t width = padded(longest);
    Space s;
    s.keys = (int32_t *)memory;
    s.values = s.keys + width * size / 2;
    s.logits = (float *)(s.values + width * size / 2);
    s.mixed = s.logits + ROWS * width;
    s.inverse = s.mixed + ROWS * size;
    s.weights = (bf16 *)(s.inverse + ROWS);
    s.rows = s.weights + ROWS * width;
    memset(s.weights, 0, ROWS * (width + size) * sizeof(bf16)); /* no NaN in rows that a block does not fill */
    return s;
}

/* Tile for the right side of (16 elements in twos, 16 tokens): `count` rows of 32 elements, turned; 0 for the others. */
ON_AMX static void turn(const bf16 *rows, int64_t stride, int64_t count, int32_t *tile) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i row[ROWS];
    for (int i = 0; i < ROWS; i++)
        row[i] = i < count ? _mm512_loadu_si512(rows + i * stride) : _mm512_setzero_si512();
    for (int step = 1; step < ROWS; step *= 2) { /* swaps blocks of `step` off the diagonal */
        const __mmask16 upper = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(step));
        const __m512i left = _mm512_mask_add_epi32(lane, upper, lane, _mm512_set1_epi32(ROWS - step));
        const __m512i right = _mm512_mask_add_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(step)), upper, lane,
                                                    _mm512_set1_epi32(ROWS));
        for (int i = 0; i < ROWS; i++)
            if (!(i & step)) {
                const __m512i above = row[i], below = row[i + step];
                row[i] = _mm512_permutex2var_epi32(above, left, below);
                row[i + step] = _mm512_permutex2var_epi32(above, right, below);
            }
    }
    for (int i = 0; i < ROWS; i++) _mm512_store_si512(tile + ROWS * i, row[i]);
}

/* Tiles for the right side of (16 tokens in twos, 16 elements), one for each 16 of `size`; 0 behind `count` tokens. */
ON_AMX static void pair_up(const bf16 *rows, int64_t stride, int64_t count, int64_t size, int32_t *tiles) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i low = _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(DEPTH)), 16));
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(ROWS));
    for (int64_t at = 0; at < size; at += DEPTH)
        for (int k = 0; k < ROWS; k++) {
            const bf16 *even = rows + 2 * k * stride + at;
            const __m512i one = 2 * k < count ? _mm512_loadu_si512(even) : _mm512_setzero_si512();
            const __m512i two = 2 * k + 1 < count ? _mm512_loadu_si512(even + stride) : _mm512_setzero_si512();
            int32_t *tile = tiles + at / ROWS * TILE + ROWS * k;
            _mm512_store_si512(tile, _mm512_permutex2var_epi16(one, low, two));
            _mm512_store_si512(tile + TILE, _mm512_permutex2var_epi16(one, high, two));
        }
}

/* out (16, 16) = rows (16, 32 * steps) times `steps` tiles, which lie `apart` from each other. */
ON_AMX static inline void multiply(const bf16 *rows, int64_t stride, const int32_t *tiles, int64_t apart, int64_t steps,
                                   float *out, int64_t out_stride) {
    _tile_zero(0);
    for (int64_t step = 0; step < steps; step++) {
        _tile_loadd(1, rows + DEPTH * step, stride * (int64_t)sizeof(bf16));
        _tile_loadd(2, tiles + apart * step, ROWS * (int64_t)sizeof(int32_t));
        _tile_dpbf16ps(0, 1, 2);
    }
    _tile_stored(0, out, out_stride * (int64_t)sizeof(float));
}

/* 2^x for x <= 0: a polynomial for the fraction, least largest relative error (7.5e-5; bfloat16 rounds by 2e-3). */
ON_AMX static inline __m512 power_of_two(__m512 x) {
    const __m512 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
    __m512 p = _mm512_set1_ps(0.0780245236f);
    p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.226067163f));
    p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.695833533f));
    p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.99992522f));
    return _mm512_scalef_ps(p, x); /* by 2 to the whole part */
}

/* Weights of `count` rows of logits: exponentials, 0 behind `length`; what they are to be divided by, inverted. */
ON_AMX static void soften(const Space *s, int64_t count, int64_t length, int64_t width, float scale) {
    const __m512 by = _mm512_set1_ps(scale * 1.44269504f); /* log2(e) */
    const int64_t whole = length / ROWS * ROWS;
    const __mmask16 rest = (__mmask16)((1u << (length - whole)) - 1);
    for (int64_t r = 0; r < count; r++) {
        const float *logits = s->logits + r * width;
        bf16 *weights = s->weights + r * width;
        __m512 most = _mm512_set1_ps(-__builtin_inff()), sum = _mm512_setzero_ps();
        for (int64_t k = 0; k < whole; k += ROWS) most = _mm512_max_ps(most, _mm512_load_ps(logits + k));
        most = _mm512_mask_max_ps(most, rest, most, _mm512_maskz_loadu_ps(rest, logits + whole));
        const __m512 shift = _mm512_mul_ps(_mm512_set1_ps(-_mm512_reduce_max_ps(most)), by);
        for (int64_t k = 0; k < width; k += ROWS) {
            const __mmask16 seen = k < whole ? 0xffff : k == whole ? rest : 0;
            const __m512 logit = _mm512_maskz_loadu_ps(seen, logits + k);
            const __m512 weight = _mm512_maskz_mov_ps(seen, power_of_two(_mm512_fmadd_ps(logit, by, shift)));
            sum = _mm512_add_ps(sum, weight);
            _mm256_store_si256((__m256i *)(weights + k), (__m256i)_mm512_cvtneps_pbh(weight));
        }
        s->inverse[r] = 1.0f / _mm512_reduce_add_ps(sum);
    }
}

ON_AMX static void write_out(const Space *s, int64_t count, int64_t size, bf16 *out, int64_t stride) {
    for (int64_t r = 0; r < count; r++) {
        const __m512 by = _mm512_set1_ps(s->inverse[r]);
        for (int64_t at = 0; at < size; at += ROWS) {
            const __m512 mixed = _mm512_mul_ps(_mm512_load_ps(s->mixed + r * size + at), by);
            _mm256_storeu_si256((__m256i *)(out + r * stride + at), (__m256i)_mm512_cvtneps_pbh(mixed));
        }
    }
}

ON_AMX static void attend(const Attention *a, const Space *s, int64_t pair, int64_t head) {
    const int64_t size = a->size, length = a->lengths[pair], start = a->starts[pair], width = padded(length);
    const int64_t deep = size / DEPTH, wide = size / ROWS;
    const bf16 *key = a->key + start * a->key_stride + head * size;
    const bf16 *value = a->value + start * a->value_stride + head * size;
    for (int64_t k = 0; k < length; k += ROWS)
        for (int64_t d = 0; d < deep; d++)
            turn(key + k * a->key_stride + DEPTH * d, a->key_stride, length - k,
                 s->keys + (k / ROWS * deep + d) * TILE);
    for (int64_t k = 0; k < length; k += DEPTH)
        pair_up(value + k * a->value_stride, a->value_stride, length - k, size, s->values + k / DEPTH * wide * TILE);

    const int64_t rows = a->first_only ? 1 : length, first = a->first_only ? pair : start;
    for (int64_t r = 0; r < rows; r += ROWS) {
        const int64_t count = rows - r < ROWS ? rows - r : ROWS;
        const bf16 *query = a->query + (first + r) * a->query_stride + head * size;
        int64_t stride = a->query_stride;
        if (count < ROWS) { /* a tile reads 16 rows, whatever lies behind those of the pair */
            for (int64_t i = 0; i < count; i++) memcpy(s->rows + i * size, query + i * stride, size * sizeof(bf16));
            query = s->rows, stride = size;
        }
        for (int64_t k = 0; k < length; k += ROWS)
            multiply(query, stride, s->keys + k / ROWS * deep * TILE, TILE, deep, s->logits + k, width);
        soften(s, count, length, width, a->scale);
        for (int64_t w = 0; w < wide; w++)
            multiply(s->weights, width, s->values + w * TILE, wide * TILE, width / DEPTH, s->mixed + w * ROWS, size);
        write_out(s, count, size, a->out + (first + r) * a->out_stride + head * size, a->out_stride);
    }
}

/* Three tiles of 16 rows with 64 bytes each, as LDTILECFG reads it. */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TILES = {1, 0, {0}, {64, 64, 64}, {16, 16, 16}};

/* What each thread does: pieces of work, the last pairs first, which are the longest where pairs are sorted. */
ON_AMX static void work(void *task) {
    Attention *a = task;
    const int64_t bytes = sidecar_amx_bytes(a->longest, a->size);
    const Space s = space_of(a->memory + bytes * atomic_fetch_add(&a->threads, 1), a->longest, a->size);
    _tile_loadconfig(&TILES);
    for (int64_t left; (left = a->pairs * a->heads - 1 - atomic_fetch_add(&a->taken, 1)) >= 0;)
        attend(a, &s, left / a->heads, left % a->heads);
    _tile_release();
}

typedef void Parallel(void (*)(void *), void *, unsigned threads, unsigned flags); /* GOMP_parallel */

void sidecar_amx_attend(Attention *task, Parallel *parallel, unsigned threads) { parallel(work, task, threads, 0); }

/* Whether the kernel lets this process use tiles: asked once, for all of its threads. */
int sidecar_amx_permitted(void) { return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0; }

#else
int sidecar_amx_permitted(void) { return 0; }
#endif
