/* Attention of one head of one pair in bfloat16, on a CPU with AVX-512 BF16, 16 queries at a time.
 *
 * Logits are products of blocks, softmax goes row by row, and the weighted values are products of blocks again. With
 * AMX a product multiplies tiles, else vectors by dot products; both take the same blocks. A block has 16 rows of 64
 * bytes. The right factor of a product is in VNNI layout: lane n of row k holds elements (2k, n) and (2k + 1, n), as
 * TDPBF16PS and VDPBF16PS require (Intel, "Intel Architecture Instruction Set Extensions and Future Features",
 * chapter 3). Logits and sums are float32; weights are rounded to bfloat16 before they multiply the values, as in
 * torch's kernel.
 */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"

/* hardware.has_avx512_bf16 and hardware.has_amx check for the same features. */
#define ON_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define ON_AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))

enum {
    ROWS = 16,  /* of a block */
    HALF = 8,   /* of these rows */
    LANES = 16, /* floats, or pairs of bfloat16, in a row of a block or a vector */
    DEPTH = 32, /* bfloat16 in a row of a block */
    BLOCK = ROWS * LANES,
};

typedef uint16_t bf16;

typedef struct { /* a thread's scratch; `width` is the tokens of a pair rounded up to DEPTH */
    int32_t *keys, *values; /* blocks of (16 tokens, 32 elements), and of (32 tokens, 16 elements) */
    float *logits, *mixed, *inverse_sum; /* (ROWS, width), (ROWS, head_size), (ROWS,) */
    bf16 *weights, *queries; /* (ROWS, width), (ROWS, head_size) */
} Scratch;

static int64_t round_up_to_depth(int64_t tokens) { return (tokens + DEPTH - 1) / DEPTH * DEPTH; }

/* Bytes of a thread's scratch for pairs of up to `longest` tokens: a multiple of 64, as head_size is one of DEPTH. */
static int64_t bfloat16_scratch_bytes(int64_t longest, int64_t head_size) {
    const int64_t width = round_up_to_depth(longest);
    const int64_t blocks = 2 * width * head_size, block = ROWS * (width + head_size);
    return blocks * (int64_t)sizeof(bf16) + (block + ROWS) * (int64_t)sizeof(float) + block * (int64_t)sizeof(bf16);
}

static Scratch scratch_at(char *memory, int64_t longest, int64_t head_size) {
    const int64_t width = round_up_to_depth(longest);
    Scratch s;
    s.keys = (int32_t *)memory;
    s.values = s.keys + width * head_size / 2;
    s.logits = (float *)(s.values + width * head_size / 2);
    s.mixed = s.logits + ROWS * width;
    s.inverse_sum = s.mixed + ROWS * head_size;
    s.weights = (bf16 *)(s.inverse_sum + ROWS);
    s.queries = s.weights + ROWS * width;
    /* Products read all 16 rows, also of a block with fewer queries, and must not read what was never written. */
    memset(s.weights, 0, ROWS * width * sizeof(bf16));
    memset(s.queries, 0, ROWS * head_size * sizeof(bf16));
    return s;
}

ON_AVX512 static inline __m512i lane_numbers(void) {
    return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}

/* Write a block in VNNI layout of 16 keys, transposed: `count` rows of 32 elements, 0 for the others. */
ON_AVX512 static void transpose_keys(const bf16 *keys, int64_t stride, int64_t count, int32_t *block) {
    const __m512i lane = lane_numbers();
    __m512i row[ROWS];
    for (int i = 0; i < ROWS; i++)
        row[i] = i < count ? _mm512_loadu_si512(keys + i * stride) : _mm512_setzero_si512();
    /* Swap off-diagonal blocks of size `step`; an index of LANES or more selects from the row below. */
    for (int step = 1; step < ROWS; step *= 2) {
        const __mmask16 upper = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(step));
        const __m512i left = _mm512_mask_add_epi32(lane, upper, lane, _mm512_set1_epi32(LANES - step));
        const __m512i right = _mm512_mask_add_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(step)), upper, lane,
                                                    _mm512_set1_epi32(LANES));
        for (int i = 0; i < ROWS; i++)
            if (!(i & step)) {
                const __m512i above = row[i], below = row[i + step];
                row[i] = _mm512_permutex2var_epi32(above, left, below);
                row[i + step] = _mm512_permutex2var_epi32(above, right, below);
            }
    }
    for (int i = 0; i < ROWS; i++) _mm512_store_si512(block + LANES * i, row[i]);
}

/* Write blocks in VNNI layout of 32 values, one for each 16 elements: `count` rows, 0 for the others. */
ON_AVX512 static void interleave_values(const bf16 *values, int64_t stride, int64_t count, int64_t head_size,
                                        int32_t *blocks) {
    /* Each lane takes an element of the even row and the same one of the odd row, whose indices begin at DEPTH. */
    const __m512i lane = lane_numbers();
    const __m512i low = _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(DEPTH)), 16));
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(LANES));
    for (int64_t at = 0; at < head_size; at += DEPTH)
        for (int k = 0; k < ROWS; k++) {
            const bf16 *row = values + 2 * k * stride + at;
            const __m512i even = 2 * k < count ? _mm512_loadu_si512(row) : _mm512_setzero_si512();
            const __m512i odd = 2 * k + 1 < count ? _mm512_loadu_si512(row + stride) : _mm512_setzero_si512();
            int32_t *block = blocks + at / LANES * BLOCK + LANES * k;
            _mm512_store_si512(block, _mm512_permutex2var_epi16(even, low, odd));
            _mm512_store_si512(block + BLOCK, _mm512_permutex2var_epi16(even, high, odd));
        }
}

typedef struct { /* the right factor of a product, (32 * deep, 16 * wide), in blocks */
    const int32_t *blocks;
    int64_t deep, wide;
    int64_t below, beside; /* int32 from a block to the next one of its column, and of its row */
} Right;

/* out (count, 16 * wide) = left (count, 32 * deep) times `right`; up to 16 rows of both are read and written. */
typedef void Multiply(const bf16 *left, int64_t stride, int64_t count, Right right, float *out, int64_t out_stride);

/* Two columns of blocks at a time: the left factor is loaded once for both, and one sum goes on while the other waits
 * for its last product. Tiles 0 and 1 hold the sums, 2 the left factor, 3 and 4 the right one. */
ON_AMX static void multiply_by_tiles(const bf16 *left, int64_t stride, int64_t count, Right right, float *out,
                                     int64_t out_stride) {
    (void)count; /* a tile multiplies as many rows as its configuration says */
    const int64_t left_bytes = stride * (int64_t)sizeof(bf16), out_bytes = out_stride * (int64_t)sizeof(float);
    __asm__ volatile("" ::: "memory"); /* gcc does not know that a tile is loaded from memory */
    for (int64_t column = 0; column < right.wide; column += 2) {
        const int two = column + 1 < right.wide;
        const int32_t *block = right.blocks + column * right.beside;
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t step = 0; step < right.deep; step++, block += right.below) {
            _tile_loadd(2, left + DEPTH * step, left_bytes);
            _tile_loadd(3, block, LANES * sizeof(int32_t));
            _tile_dpbf16ps(0, 2, 3);
            if (two) {
                _tile_loadd(4, block + right.beside, LANES * sizeof(int32_t));
                _tile_dpbf16ps(1, 2, 4);
            }
        }
        _tile_stored(0, out + LANES * column, out_bytes);
        if (two) _tile_stored(1, out + LANES * (column + 1), out_bytes);
    }
}

/* The product of 8 rows and `columns` columns of blocks, 1 or 2: a constant, so that the sums stay in registers. */
__attribute__((always_inline)) ON_AVX512 static inline void multiply_half(
    const bf16 *left, int64_t stride, const int32_t *block, Right right, int columns, float *out, int64_t out_stride) {
    __m512 sums[HALF][2];
#pragma GCC unroll 8
    for (int r = 0; r < HALF; r++)
        for (int c = 0; c < columns; c++) sums[r][c] = _mm512_setzero_ps();
    for (int64_t step = 0; step < right.deep; step++, block += right.below)
        for (int k = 0; k < ROWS; k++) {
            __m512bh factor[2];
            for (int c = 0; c < columns; c++)
                factor[c] = (__m512bh)_mm512_load_si512(block + right.beside * c + LANES * k);
#pragma GCC unroll 8
            for (int r = 0; r < HALF; r++) {
                int32_t two; /* elements of the row */
                memcpy(&two, left + r * stride + DEPTH * step + 2 * k, sizeof(two));
                for (int c = 0; c < columns; c++)
                    sums[r][c] = _mm512_dpbf16_ps(sums[r][c], (__m512bh)_mm512_set1_epi32(two), factor[c]);
            }
        }
#pragma GCC unroll 8
    for (int r = 0; r < HALF; r++)
        for (int c = 0; c < columns; c++) _mm512_store_ps(out + r * out_stride + c * LANES, sums[r][c]);
}

/* Two columns of blocks and half of the rows at a time: an element of the left factor is loaded once for both. */
ON_AVX512 static void multiply_by_vectors(const bf16 *left, int64_t stride, int64_t count, Right right, float *out,
                                          int64_t out_stride) {
    for (int64_t row = 0; row < count; row += HALF) {
        const bf16 *rows = left + row * stride;
        float *to = out + row * out_stride;
        const int32_t *block = right.blocks;
        int64_t column = 0;
        for (; column + 1 < right.wide; column += 2, block += 2 * right.beside)
            multiply_half(rows, stride, block, right, 2, to + LANES * column, out_stride);
        if (column < right.wide) multiply_half(rows, stride, block, right, 1, to + LANES * column, out_stride);
    }
}

/* 2^x. The minimax polynomial of degree 3 for 2^f, 0 <= f < 1, fitted by reweighted least squares: relative error at
 * most 7.5e-5, where bfloat16 rounds by 2e-3. */
ON_AVX512 static inline __m512 exp2_ps(__m512 x) {
    const __m512 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
    __m512 p = _mm512_set1_ps(0.0780245236f);
    p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.226067163f));
    p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.695833533f));
    p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.99992522f));
    return _mm512_scalef_ps(p, x); /* times 2 to the floor of x */
}

/* Softmax of `count` rows of logits: writes exponentials, 0 from `length` on, to weights, 1 / sum to inverse_sum. */
ON_AVX512 static void softmax_rows(const Scratch *s, int64_t count, int64_t length, int64_t width, float scale) {
    const __m512 by = _mm512_set1_ps(scale * 1.44269504f); /* log2(e) */
    const int64_t whole = length / LANES * LANES;
    const __mmask16 rest = (__mmask16)((1u << (length - whole)) - 1);
    for (int64_t r = 0; r < count; r++) {
        const float *logits = s->logits + r * width;
        bf16 *weights = s->weights + r * width;
        __m512 row_max = _mm512_set1_ps(-__builtin_inff()), sum = _mm512_setzero_ps();
        for (int64_t k = 0; k < whole; k += LANES) row_max = _mm512_max_ps(row_max, _mm512_load_ps(logits + k));
        row_max = _mm512_mask_max_ps(row_max, rest, row_max, _mm512_maskz_loadu_ps(rest, logits + whole));
        row_max = _mm512_set1_ps(_mm512_reduce_max_ps(row_max));
        for (int64_t k = 0; k < width; k += LANES) {
            const __mmask16 seen = k < whole ? 0xffff : k == whole ? rest : 0;
            const __m512 logit = _mm512_maskz_loadu_ps(seen, logits + k);
            /* Subtract first: the rounded product of a large logit would be off by whole powers of two. */
            const __m512 power = _mm512_mul_ps(_mm512_sub_ps(logit, row_max), by);
            const __m512 weight = _mm512_maskz_mov_ps(seen, exp2_ps(power));
            sum = _mm512_add_ps(sum, weight);
            _mm256_store_si256((__m256i *)(weights + k), (__m256i)_mm512_cvtneps_pbh(weight));
        }
        s->inverse_sum[r] = 1.0f / _mm512_reduce_add_ps(sum);
    }
}

ON_AVX512 static void write_out(const Scratch *s, int64_t count, int64_t head_size, bf16 *out, int64_t stride) {
    for (int64_t r = 0; r < count; r++) {
        const __m512 by = _mm512_set1_ps(s->inverse_sum[r]);
        for (int64_t at = 0; at < head_size; at += LANES) {
            const __m512 mixed = _mm512_mul_ps(_mm512_load_ps(s->mixed + r * head_size + at), by);
            _mm256_storeu_si256((__m256i *)(out + r * stride + at), (__m256i)_mm512_cvtneps_pbh(mixed));
        }
    }
}

ON_AVX512 static void load_keys_and_values(const Attention *a, const Scratch *s, int64_t pair, int64_t head) {
    const int64_t size = a->head_size, length = a->lengths[pair], start = a->starts[pair];
    const bf16 *key = (const bf16 *)a->key + start * a->key_stride + head * size;
    const bf16 *value = (const bf16 *)a->value + start * a->value_stride + head * size;
    int32_t *block = s->keys;
    for (int64_t k = 0; k < length; k += ROWS)
        for (int64_t at = 0; at < size; at += DEPTH, block += BLOCK)
            transpose_keys(key + k * a->key_stride + at, a->key_stride, length - k, block);
    for (int64_t k = 0; k < length; k += DEPTH)
        interleave_values(value + k * a->value_stride, a->value_stride, length - k, size,
                          s->values + k / DEPTH * (size / LANES) * BLOCK);
}

/* Attention of `count` queries of a head, at most ROWS of them, written to `out`. */
ON_AVX512 static void attend_block(const Attention *a, const Scratch *s, int64_t length, int64_t count,
                                   const bf16 *query, bf16 *out) {
    const int64_t size = a->head_size, width = round_up_to_depth(length);
    const int64_t deep = size / DEPTH, wide = size / LANES; /* blocks of a key, and of a value */
    const Right keys = {s->keys, deep, (length + LANES - 1) / LANES, BLOCK, deep * BLOCK};
    const Right values = {s->values, width / DEPTH, wide, wide * BLOCK, BLOCK};
    Multiply *multiply = a->way == BY_TILES ? multiply_by_tiles : multiply_by_vectors;
    int64_t stride = a->query_stride;
    if (count < ROWS) { /* a product reads 16 rows, and other data may follow those of the pair */
        for (int64_t i = 0; i < count; i++) memcpy(s->queries + i * size, query + i * stride, size * sizeof(bf16));
        query = s->queries, stride = size;
    }
    multiply(query, stride, count, keys, s->logits, width);
    softmax_rows(s, count, length, width, a->scale);
    multiply(s->weights, width, count, values, s->mixed, size);
    write_out(s, count, size, out, a->out_stride);
}

ON_AVX512 static void attend_in_bfloat16(const Attention *a, const Scratch *s, int64_t pair, int64_t head) {
    const int64_t length = a->lengths[pair], at = head * a->head_size;
    const int64_t queries = a->first_only ? 1 : length, first = a->first_only ? pair : a->starts[pair];
    const bf16 *query = (const bf16 *)a->query + first * a->query_stride + at;
    bf16 *out = (bf16 *)a->out + first * a->out_stride + at;
    load_keys_and_values(a, s, pair, head);
    for (int64_t done = 0; done < queries; done += ROWS)
        attend_block(a, s, length, queries - done < ROWS ? queries - done : ROWS, query + done * a->query_stride,
                     out + done * a->out_stride);
}

/* Five tiles of 16 rows with 64 bytes each, as LDTILECFG reads it. */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TILES = {1, 0, {0}, {64, 64, 64, 64, 64}, {ROWS, ROWS, ROWS, ROWS, ROWS}};

ON_AMX static void begin_tiles(void) { _tile_loadconfig(&TILES); }
ON_AMX static void end_tiles(void) { _tile_release(); }
