/* Attention of one head of one pair in bfloat16, on a CPU with AVX-512 BF16, 32 queries at a time.
 *
 * Logits are products of blocks, softmax goes row by row, and the weighted values are products of blocks again: see
 * blocks.h. Logits and sums are float32; weights are rounded to bfloat16 before they multiply the values, as in torch's
 * kernel.
 */
#ifndef SIDECAR_ATTENTION_BFLOAT16_H
#define SIDECAR_ATTENTION_BFLOAT16_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "blocks.h"
#include "native.h"

typedef struct { /* a thread's scratch; `width` is the tokens of a pair rounded up to DEPTH */
    int32_t *keys, *values; /* panels of 32 tokens, and of 32 elements */
    float *logits, *mixed, *inverse_sum; /* (STRIP, width), (STRIP, head_size), (STRIP,) */
    bf16 *weights, *queries; /* (STRIP, width), (STRIP, head_size) */
} Scratch;

static int64_t round_up_to_depth(int64_t tokens) { return (tokens + DEPTH - 1) / DEPTH * DEPTH; }

/* Bytes of a thread's scratch for pairs of up to `longest` tokens: a multiple of 64, as head_size is one of DEPTH. */
static int64_t bfloat16_scratch_bytes(int64_t longest, int64_t head_size) {
    const int64_t width = round_up_to_depth(longest);
    const int64_t blocks = 2 * width * head_size, strip = STRIP * (width + head_size);
    return blocks * (int64_t)sizeof(bf16) + (strip + STRIP) * (int64_t)sizeof(float) + strip * (int64_t)sizeof(bf16);
}

static Scratch scratch_at(char *memory, int64_t longest, int64_t head_size) {
    const int64_t width = round_up_to_depth(longest);
    Scratch s;
    s.keys = (int32_t *)memory;
    s.values = s.keys + width * head_size / 2;
    s.logits = (float *)(s.values + width * head_size / 2);
    s.mixed = s.logits + STRIP * width;
    s.inverse_sum = s.mixed + STRIP * head_size;
    s.weights = (bf16 *)(s.inverse_sum + STRIP);
    s.queries = s.weights + STRIP * width;
    /* Products read whole blocks, also if there are fewer queries, and must not read what was never written. */
    memset(s.weights, 0, STRIP * width * sizeof(bf16));
    memset(s.queries, 0, STRIP * head_size * sizeof(bf16));
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

/* Write one of the `steps` steps of each panel, in VNNI layout: `count` of 32 values, 0 for the others. */
ON_AVX512 static void interleave_values(const bf16 *values, int64_t stride, int64_t count, int64_t head_size,
                                        int64_t steps, int32_t *panels) {
    /* Each lane takes an element of the even row and the same one of the odd row, whose indices begin at DEPTH. */
    const __m512i lane = lane_numbers();
    const __m512i low = _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(DEPTH)), 16));
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(LANES));
    for (int64_t at = 0; at < head_size; at += WIDE, panels += steps * STEP)
        for (int k = 0; k < ROWS; k++) {
            const bf16 *row = values + 2 * k * stride + at;
            const __m512i even = 2 * k < count ? _mm512_loadu_si512(row) : _mm512_setzero_si512();
            const __m512i odd = 2 * k + 1 < count ? _mm512_loadu_si512(row + stride) : _mm512_setzero_si512();
            _mm512_store_si512(panels + LANES * k, _mm512_permutex2var_epi16(even, low, odd));
            _mm512_store_si512(panels + BLOCK + LANES * k, _mm512_permutex2var_epi16(even, high, odd));
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

/* Reduce each of 16 vectors to one number, its largest element or the sum of all: lane n is that of vector n. Each step
 * halves the number of vectors, as each takes from two of them what it joins with the other half of the same two. */
ALWAYS_INLINE ON_AVX512 __m512 reduced(const __m512 vectors[ROWS], int largest) {
    __m512 v[ROWS];
#define JOINED(some, others) (largest ? _mm512_max_ps(some, others) : _mm512_add_ps(some, others))
    for (int i = 0; i < 8; i++) {
        const __m512 a = vectors[i], b = vectors[i + 8];
        v[i] = JOINED(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    for (int i = 0; i < 4; i++) {
        const __m512d a = _mm512_castps_pd(v[i]), b = _mm512_castps_pd(v[i + 4]);
        v[i] = JOINED(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    for (int i = 0; i < 2; i++)
        v[i] = JOINED(_mm512_shuffle_f32x4(v[i], v[i + 2], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 2], 0xee));
    v[0] = JOINED(_mm512_shuffle_f32x4(v[0], v[1], 0x88), _mm512_shuffle_f32x4(v[0], v[1], 0xdd));
#undef JOINED
    /* Lane n is now that of the vector whose number has the bits of n in reverse. */
    return _mm512_permutexvar_ps(_mm512_set_epi32(15, 7, 11, 3, 13, 5, 9, 1, 14, 6, 10, 2, 12, 4, 8, 0), v[0]);
}

/* Softmax of `count` rows of logits, at most ROWS from row `first` on: writes exponentials, 0 from `length` on, to
 * weights, 1 / sum to inverse_sum. */
ON_AVX512 static void softmax_rows(const Scratch *s, int64_t first, int64_t count, int64_t length, int64_t width,
                                   float scale) {
    const __m512 by = _mm512_set1_ps(scale * 1.44269504f); /* log2(e) */
    const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
    const int64_t whole = length / WIDE * WIDE, rest = length - whole;
    const __mmask16 left = (__mmask16)(rest < LANES ? (1u << rest) - 1 : 0xffff);
    const __mmask16 right = (__mmask16)(rest < LANES ? 0 : (1u << (rest - LANES)) - 1);
    __m512 of_rows[ROWS]; /* of rows beyond `count`: anything, as of them nothing is read */
    float row_max[ROWS];
    for (int64_t r = 0; r < count; r++) {
        const float *logits = s->logits + (first + r) * width;
        __m512 max_left = lowest, max_right = lowest;
        for (int64_t k = 0; k < whole; k += WIDE) {
            max_left = _mm512_max_ps(max_left, _mm512_load_ps(logits + k));
            max_right = _mm512_max_ps(max_right, _mm512_load_ps(logits + k + LANES));
        }
        const __m512 left_rest = _mm512_maskz_loadu_ps(left, logits + whole);
        const __m512 right_rest = _mm512_maskz_loadu_ps(right, logits + whole + LANES);
        max_left = _mm512_mask_max_ps(max_left, left, max_left, left_rest);
        max_right = _mm512_mask_max_ps(max_right, right, max_right, right_rest);
        of_rows[r] = _mm512_max_ps(max_left, max_right);
    }
    _mm512_storeu_ps(row_max, reduced(of_rows, 1));
    for (int64_t r = 0; r < count; r++) {
        const float *logits = s->logits + (first + r) * width;
        bf16 *weights = s->weights + (first + r) * width;
        const __m512 max = _mm512_set1_ps(row_max[r]);
        __m512 sum_left = _mm512_setzero_ps(), sum_right = _mm512_setzero_ps();
        for (int64_t k = 0; k < width; k += WIDE) {
            /* Subtract first: the rounded product of a large logit would be off by whole powers of two. */
            __m512 x = exp2_ps(_mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(logits + k), max), by));
            __m512 y = exp2_ps(_mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(logits + k + LANES), max), by));
            if (k == whole) x = _mm512_maskz_mov_ps(left, x), y = _mm512_maskz_mov_ps(right, y);
            sum_left = _mm512_add_ps(sum_left, x);
            sum_right = _mm512_add_ps(sum_right, y);
            _mm512_store_si512(weights + k, (__m512i)_mm512_cvtne2ps_pbh(y, x));
        }
        of_rows[r] = _mm512_add_ps(sum_left, sum_right);
    }
    _mm512_store_ps(s->inverse_sum + first, _mm512_div_ps(_mm512_set1_ps(1.0f), reduced(of_rows, 0)));
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
    const int64_t deep = size / DEPTH, steps = round_up_to_depth(length) / DEPTH;
    for (int64_t k = 0; k < length; k += ROWS)
        for (int64_t at = 0; at < deep; at++)
            transpose_keys(key + k * a->key_stride + DEPTH * at, a->key_stride, length - k,
                           s->keys + (k / STRIP * deep + at) * STEP + k / ROWS % 2 * BLOCK);
    for (int64_t step = 0; step < steps; step++)
        interleave_values(value + DEPTH * step * a->value_stride, a->value_stride, length - DEPTH * step, size, steps,
                          s->values + step * STEP);
}

/* Attention of `count` queries of a head, at most STRIP of them, written to `out`. */
ON_AVX512 static void attend_strip(const Attention *a, const Scratch *s, int64_t length, int64_t count,
                                   const bf16 *query, bf16 *out) {
    const int64_t size = a->head_size, width = round_up_to_depth(length);
    const int64_t deep = size / DEPTH, steps = width / DEPTH; /* of products with keys, and with values */
    Multiply *multiply = a->work.way == BY_TILES ? multiply_by_tiles : multiply_by_vectors;
    int64_t stride = a->query_stride;
    if (count % ROWS) { /* a product reads whole blocks, and other data may follow those of the pair */
        for (int64_t i = 0; i < count; i++) memcpy(s->queries + i * size, query + i * stride, size * sizeof(bf16));
        query = s->queries, stride = size;
    }
    for (int64_t k = 0; k < length; k += WIDE)
        multiply(query, stride, count, s->keys + k / WIDE * deep * STEP, deep, length - k > LANES ? 2 : 1,
                 s->logits + k, width);
    for (int64_t row = 0; row < count; row += ROWS)
        softmax_rows(s, row, least(count - row, ROWS), length, width, a->scale);
    for (int64_t at = 0; at < size; at += WIDE)
        multiply(s->weights, width, count, s->values + at / WIDE * steps * STEP, steps, 2, s->mixed + at, size);
    write_out(s, count, size, out, a->out_stride);
}

ON_AVX512 static void attend_in_bfloat16(const Attention *a, const Scratch *s, int64_t pair, int64_t head) {
    const int64_t length = a->lengths[pair], at = head * a->head_size;
    const int64_t queries = a->first_only ? 1 : length, first = a->first_only ? pair : a->starts[pair];
    const bf16 *query = (const bf16 *)a->query + first * a->query_stride + at;
    bf16 *out = (bf16 *)a->out + first * a->out_stride + at;
    load_keys_and_values(a, s, pair, head);
    for (int64_t done = 0; done < queries; done += STRIP)
        attend_strip(a, s, length, least(queries - done, STRIP), query + done * a->query_stride,
                     out + done * a->out_stride);
}

#endif
