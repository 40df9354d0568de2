/* Attention of one head of one pair in float32, as many queries at a time as a vector has lanes, one in each.
 *
 * So keys and values are read in place, element by element, and the softmax of each query stays in its lane. Only the
 * queries are transposed, and their results transposed back. Included once for each width, with
 *
 *     WIDTH     floats in a vector
 *     TARGET    the instructions that the functions may use
 *     OF(name)  a name of its own for each width
 */
#include <stdint.h>

#include "native.h"

typedef float OF(Floats) __attribute__((vector_size(WIDTH * sizeof(float))));
typedef int32_t OF(Ints) __attribute__((vector_size(WIDTH * sizeof(int32_t))));
#define Floats OF(Floats)
#define Ints OF(Ints)

TARGET static inline Floats OF(in_each_lane)(float x) { return x - (Floats){0}; }

TARGET static inline Floats OF(max)(Floats x, Floats y) {
    const Ints is_y = y > x;
    return (Floats)((is_y & (Ints)y) | (~is_y & (Ints)x));
}

/* 2^x for x <= 0, no less than 2^-126. The minimax polynomial of degree 5 for 2^f, -0.5 <= f <= 0.5, fitted by
 * reweighted least squares: relative error at most 2.4e-7, rounding included. */
TARGET static inline Floats OF(exp2)(Floats x) {
    x = OF(max)(x, OF(in_each_lane)(-126.0f));
    const Ints whole = __builtin_convertvector(x - 0.5f, Ints); /* towards 0: the nearest to x */
    const Floats f = x - __builtin_convertvector(whole, Floats);
    Floats p = f * 0.00132764714f + 0.00967554157f;
    p = p * f + 0.0555071328f;
    p = p * f + 0.240221197f;
    p = p * f + 0.693146967f;
    p = p * f + 1.00000007f;
    return p * (Floats)((whole + 127) << 23); /* times a float with this exponent */
}

/* Write the logits of the queries, each in its lane, with each key; returns the largest of each lane. */
TARGET static Floats OF(logits_of)(const Attention *a, int64_t length, const Floats *queries, const float *keys,
                                   Floats *logits) {
    Floats largest = OF(in_each_lane)(-__builtin_inff());
    for (int64_t k = 0; k < length; k += GROUP) {
        Floats sums[GROUP] = {{0}};
        const float *key[GROUP];
        for (int g = 0; g < GROUP; g++) /* past the end, repeat the last key; its logits are dropped */
            key[g] = keys + (k + g < length ? k + g : length - 1) * a->key_stride;
        for (int64_t at = 0; at < a->head_size; at++) {
            const Floats query = queries[at];
#pragma GCC unroll 8
            for (int g = 0; g < GROUP; g++) sums[g] += query * key[g][at];
        }
        for (int g = 0; g < GROUP && k + g < length; g++) {
            logits[k + g] = sums[g];
            largest = OF(max)(largest, sums[g]);
        }
    }
    return largest;
}

/* Write the weighted mean of the values for each lane; `sum` is that of its weights. */
TARGET static void OF(weighted_mean)(const Attention *a, int64_t length, const Floats *weights, Floats sum,
                                     const float *values, Floats *mean) {
    const Floats inverse_sum = 1.0f / sum;
    for (int64_t at = 0; at < a->head_size; at += GROUP) {
        Floats sums[GROUP] = {{0}};
        for (int64_t k = 0; k < length; k++) {
            const Floats weight = weights[k];
            const float *value = values + k * a->value_stride + at;
#pragma GCC unroll 8
            for (int g = 0; g < GROUP; g++) sums[g] += weight * value[g];
        }
        for (int g = 0; g < GROUP; g++) mean[at + g] = sums[g] * inverse_sum;
    }
}

/* Attention of `count` queries, at most WIDTH, written to `out`; the memory holds head_size + length vectors. */
TARGET static void OF(attend_block)(const Attention *a, float *memory, int64_t length, int64_t count,
                                    const float *query, const float *keys, const float *values, float *out) {
    Floats *turned = (Floats *)memory, *weights = turned + a->head_size;
    for (int64_t at = 0; at < a->head_size; at++)
        for (int64_t lane = 0; lane < WIDTH; lane++) /* a lane without a query takes the first one */
            memory[at * WIDTH + lane] = query[(lane < count ? lane : 0) * a->query_stride + at];
    const Floats largest = OF(logits_of)(a, length, turned, keys, weights);
    const float scale = a->scale * 1.44269504f; /* log2(e) */
    Floats sum = {0};
    for (int64_t k = 0; k < length; k++) {
        /* Subtract first: the rounded product of a large logit would be off by whole powers of two. */
        weights[k] = OF(exp2)((weights[k] - largest) * scale);
        sum += weights[k];
    }
    OF(weighted_mean)(a, length, weights, sum, values, turned);
    for (int64_t lane = 0; lane < count; lane++)
        for (int64_t at = 0; at < a->head_size; at++) out[lane * a->out_stride + at] = memory[at * WIDTH + lane];
}

TARGET static void OF(attend)(const Attention *a, float *memory, int64_t pair, int64_t head) {
    const int64_t length = a->lengths[pair], start = a->starts[pair], at = head * a->head_size;
    const int64_t queries = a->first_only ? 1 : length, first = a->first_only ? pair : start;
    const float *query = (const float *)a->query + first * a->query_stride + at;
    const float *keys = (const float *)a->key + start * a->key_stride + at;
    const float *values = (const float *)a->value + start * a->value_stride + at;
    float *out = (float *)a->out + first * a->out_stride + at;
    for (int64_t done = 0; done < queries; done += WIDTH)
        OF(attend_block)(a, memory, length, queries - done < WIDTH ? queries - done : WIDTH,
                         query + done * a->query_stride, keys, values, out + done * a->out_stride);
}

#undef Floats
#undef Ints
