/* The tasks that Python passes: each structure has the fields of its namesake in sidecar/scoring, in the same order. */
#ifndef SIDECAR_NATIVE_H
#define SIDECAR_NATIVE_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    VERSION = 2, /* of the interface to Python: to be raised with every change of a field or a function */
    GROUP = 8,   /* sums computed together in float32; head_size must be a multiple of it there */
};

enum { BY_TILES, BY_VECTORS, FLOAT32_AVX512, FLOAT32_AVX2 }; /* Way of sidecar/scoring/native.py */

typedef struct { /* of each task: how it is computed, and by whom */
    int64_t way;    /* number type of the rows, and how they are multiplied */
    char *scratch;  /* as many bytes for each thread as the task's own function says, aligned to 64 bytes */
    int64_t threads;
    atomic_llong next_thread, next_item; /* 0 at the start */
} Work;

typedef struct { /* _Attention of native_attention.py: packed pairs, each token over the tokens of its own pair */
    Work work;
    const void *query, *key, *value; /* (rows, heads, head_size) each; heads and elements of a row are contiguous */
    void *out;
    int64_t query_stride, key_stride, value_stride, out_stride; /* elements from row to row */
    const int64_t *starts, *lengths; /* of each pair: row of its first token, and its tokens */
    int64_t pairs, heads, head_size, longest;
    int64_t first_only; /* whether row p of query and out is the first token of pair p */
    float scale;        /* factor of the logits, above 0 */
} Attention;

typedef struct { /* a linear layer in bfloat16; both sizes are multiples of 32 */
    const int32_t *panels; /* the weight, as blocks.h lays out a right factor: for each panel all its steps */
    const void *bias;      /* (out,) */
    int64_t in, out;
} Weights;

typedef struct { /* a layer norm in bfloat16 */
    const void *weight, *bias; /* (size,) each */
    float epsilon;
} Norm;

typedef struct { /* _Linear of native_linear.py: one linear layer of (count, in) to (count, out), by tiles */
    Work work;
    const void *rows;
    void *out;
    int64_t count; /* a multiple of 16 */
    int64_t rows_stride, out_stride;
    Weights layer;
} Linear;

typedef struct { /* _Rest of native_linear.py: all of an encoder's layer after attention, (count, hidden), by tiles */
    Work work;
    const void *rows, *other; /* what attention returned, and what the layer began with */
    void *out;
    int64_t count; /* a multiple of 16 */
    int64_t rows_stride, other_stride, out_stride;
    Weights output, inner, outer;
    Norm output_norm, outer_norm;
} Rest;

#endif
