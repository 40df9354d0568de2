/* The task that Python passes: attention of packed pairs, each token over the tokens of its own pair. */
#ifndef SIDECAR_ATTENTION_H
#define SIDECAR_ATTENTION_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    VERSION = 1, /* of the interface to Python: to be raised with every change of a field or a function */
    GROUP = 8,   /* sums computed together in float32; head_size must be a multiple of it there */
};

enum { BY_TILES, BY_VECTORS, FLOAT32_AVX512, FLOAT32_AVX2 }; /* Way of sidecar/scoring/native_attention.py */

typedef struct { /* _Attention of sidecar/scoring/native_attention.py: the same fields in the same order */
    const void *query, *key, *value; /* (rows, heads, head_size) each; heads and elements of a row are contiguous */
    void *out;
    int64_t query_stride, key_stride, value_stride, out_stride; /* elements from row to row */
    const int64_t *starts, *lengths; /* of each pair: row of its first token, and its tokens */
    int64_t pairs, heads, head_size, longest;
    int64_t first_only; /* whether row p of query and out is the first token of pair p */
    int64_t way;        /* number type of the rows, and how they are multiplied */
    float scale;        /* factor of the logits, above 0 */
    char *scratch;      /* sidecar_attention_scratch_bytes for each thread, aligned to 64 bytes */
    atomic_llong next_thread, next_item; /* 0 at the start */
} Attention;

#endif
