/* The linear layers of an encoder's layer in bfloat16, on a CPU with AMX, and what comes after each of them.
 *
 * A thread takes up to 256 rows through everything after attention before it takes the next ones, so that what is
 * between lies in its own cache; and all these rows through a part of a weight before it takes the next part. Sums,
 * activation, residual and norm are float32; rows are rounded to bfloat16 where they are factors of a product.
 */
#ifndef SIDECAR_LAYER_H
#define SIDECAR_LAYER_H

#include <stdint.h>

#include "blocks.h"
#include "native.h"

enum {
    MOST_ROWS = 256,        /* that a thread takes at a time */
    ROWS_BYTES = 1 << 20,   /* of what these rows need: about half of a core's own cache */
    PANELS_BYTES = 1 << 19, /* of the panels that are multiplied by all these rows before the next ones */
};

_Static_assert(MOST_ROWS % ROWS == 0, "a thread takes whole blocks of rows");

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Rows that a thread takes at a time, at most MOST_ROWS: shares of all `rows`, as equal as whole blocks of rows are, for
 * whose `row_bytes` each there is room. */
static int64_t rows_at_a_time(int64_t rows, int64_t row_bytes, int64_t threads) {
    const int64_t room = most(STRIP, least(MOST_ROWS, ROWS_BYTES / row_bytes));
    const int64_t shares = quotient_up(rows, room * threads) * threads;
    return least(MOST_ROWS, quotient_up(quotient_up(rows, shares), ROWS) * ROWS);
}

/* Panels of a weight that are multiplied by all rows of a thread before the next ones. */
static int64_t panels_at_a_time(const Weights *w) {
    return most(1, PANELS_BYTES / (w->in * WIDE * (int64_t)sizeof(bf16)));
}

static const int32_t *panel_of(const Weights *w, int64_t panel) { return w->panels + panel * (w->in / DEPTH) * STEP; }

/* The exact GELU, x times the normal distribution's integral: 1/2 + x times a polynomial in x^2, fitted by reweighted
 * least squares for |x| < 4, cut to [0, 1]. Off by at most 1.3e-4 at 4, 4e-5 up to 3; 0 or x itself from there on. */
ALWAYS_INLINE ON_AVX512 __m512 gelu_ps(__m512 x) {
    const __m512 square = _mm512_min_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(16.0f));
    __m512 p = _mm512_set1_ps(-1.30127975e-09f);
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(1.04195117e-07f));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(-3.65710912e-06f));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(7.48547318e-05f));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(-0.00100648811f));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(0.00950538926f));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(-0.0658878237f));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(0.398673385f));
    p = _mm512_fmadd_ps(p, x, _mm512_set1_ps(0.5f));
    return _mm512_mul_ps(_mm512_min_ps(_mm512_max_ps(p, _mm512_setzero_ps()), _mm512_set1_ps(1.0f)), x);
}

ALWAYS_INLINE ON_AVX512 __m512 widened(const bf16 *from) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

typedef struct { /* sums (count, WIDE) of a product that are still to be finished, and where to */
    const float *sums;
    const bf16 *bias;
    bf16 *out;
    int64_t count, stride;
    int gelu;
} Unfinished;

/* Add the bias, apply the activation and round: rows `from` to `to`. */
ALWAYS_INLINE ON_AVX512 void finish_rows(const Unfinished *u, int64_t from, int64_t to) {
    const __m512 bias_left = widened(u->bias), bias_right = widened(u->bias + LANES);
    for (int64_t r = from; r < to; r++) {
        __m512 left = _mm512_add_ps(_mm512_load_ps(u->sums + r * WIDE), bias_left);
        __m512 right = _mm512_add_ps(_mm512_load_ps(u->sums + r * WIDE + LANES), bias_right);
        if (u->gelu) left = gelu_ps(left), right = gelu_ps(right);
        _mm512_storeu_si512(u->out + r * u->stride, (__m512i)_mm512_cvtne2ps_pbh(right, left));
    }
}

/* A part of that after each step of the next product: vectors are finished while tiles are multiplied. */
ALWAYS_INLINE ON_AVX512 void finish_some(const void *unfinished, int64_t step, int64_t steps) {
    const Unfinished *u = unfinished;
    finish_rows(u, step * u->count / steps, (step + 1) * u->count / steps);
}

/* out (count, w->out) = rows (count, w->in) by the weights, plus bias, through GELU if asked. */
ON_AMX static void linear_rows(const bf16 *rows, int64_t stride, int64_t count, const Weights *w, int gelu, bf16 *out,
                               int64_t out_stride) {
    _Alignas(64) float sums[2][STRIP * WIDE]; /* by turns: one is multiplied, the other finished */
    const int64_t panels = w->out / WIDE, group = panels_at_a_time(w);
    const bf16 *bias = w->bias;
    Unfinished last = {sums[1], bias, out, 0, out_stride, gelu};
    int turn = 0;
    for (int64_t first = 0; first < panels; first += group)
        for (int64_t done = 0; done < count; done += STRIP) {
            const int64_t here = least(count - done, STRIP);
            for (int64_t panel = first; panel < least(panels, first + group); panel++, turn = !turn) {
                const int64_t at = panel * WIDE;
                multiply_tiles(rows + done * stride, stride, here, panel_of(w, panel), 1, w->in / DEPTH, 2, sums[turn],
                               WIDE, finish_some, &last);
                last = (Unfinished){sums[turn], bias + at, out + done * out_stride + at, here, out_stride, gelu};
            }
        }
    finish_rows(&last, 0, last.count);
}

/* out = the layer norm of sums + some + others: rows of `size`; `sums` is overwritten. */
ON_AVX512 static void norm_row(float *sums, const bf16 *some, const bf16 *others, int64_t size, const Norm *norm,
                               bf16 *out) {
    const bf16 *weight = norm->weight, *shift = norm->bias;
    __m512 total = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t at = 0; at < size; at += LANES) {
        const __m512 added = _mm512_add_ps(widened(some + at), widened(others + at));
        const __m512 sum = _mm512_add_ps(_mm512_load_ps(sums + at), added);
        _mm512_store_ps(sums + at, sum);
        total = _mm512_add_ps(total, sum);
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / (float)size);
    for (int64_t at = 0; at < size; at += LANES) {
        const __m512 off = _mm512_sub_ps(_mm512_load_ps(sums + at), mean);
        squares = _mm512_fmadd_ps(off, off, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / (float)size + norm->epsilon;
    const __m512 by = _mm512_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(variance))));
    for (int64_t at = 0; at < size; at += WIDE) {
        __m512 both[2];
        for (int i = 0; i < 2; i++) {
            const int64_t here = at + i * LANES;
            const __m512 normed = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(sums + here), mean), by);
            both[i] = _mm512_fmadd_ps(normed, widened(weight + here), widened(shift + here));
        }
        _mm512_storeu_si512(out + at, (__m512i)_mm512_cvtne2ps_pbh(both[1], both[0]));
    }
}

typedef struct { /* sums (count, size) of products that are still to be normed, and what is added to them before */
    float *sums;
    const bf16 *bias, *other;
    bf16 *out;
    int64_t count, size, other_stride, out_stride;
    const Norm *norm;
    int64_t product, products; /* the one beside which a part is done, of those beside which all is */
} Unnormed;

ALWAYS_INLINE ON_AVX512 void norm_rows(const Unnormed *u, int64_t from, int64_t to) {
    for (int64_t r = from; r < to; r++)
        norm_row(u->sums + r * u->size, u->bias, u->other + r * u->other_stride, u->size, u->norm,
                 u->out + r * u->out_stride);
}

/* A part of that after each step of the next strip's last products. */
ALWAYS_INLINE ON_AVX512 void norm_some(const void *unnormed, int64_t step, int64_t steps) {
    const Unnormed *u = unnormed;
    const int64_t at = u->product * steps + step, all = u->products * steps;
    norm_rows(u, at * u->count / all, (at + 1) * u->count / all);
}

/* out = the layer norm of rows (count, w->in) by the weights, plus bias and `other`; all but rows are (count, w->out).
 * `sums` is scratch of (count, w->out). */
ON_AMX static void normed_rows(const bf16 *rows, int64_t stride, int64_t count, const Weights *w, const bf16 *other,
                               int64_t other_stride, const Norm *norm, float *sums, bf16 *out, int64_t out_stride) {
    const int64_t size = w->out, panels = size / WIDE, group = panels_at_a_time(w);
    Unnormed last = {sums, w->bias, other, out, 0, size, other_stride, out_stride, norm, 0, 1};
    for (int64_t first = 0; first < panels; first += group) {
        last.products = least(panels - first, group);
        for (int64_t done = 0; done < count; done += STRIP) {
            const int64_t here = least(count - done, STRIP);
            for (last.product = 0; last.product < last.products; last.product++)
                multiply_tiles(rows + done * stride, stride, here, panel_of(w, first + last.product), 1, w->in / DEPTH,
                               2, sums + done * size + (first + last.product) * WIDE, size, norm_some, &last);
            if (first + group < panels) continue; /* sums are not complete before the last group */
            last.sums = sums + done * size, last.other = other + done * other_stride;
            last.out = out + done * out_stride, last.count = here;
        }
    }
    norm_rows(&last, 0, last.count);
}

static int64_t rest_row_bytes(int64_t hidden, int64_t inner) {
    return hidden * (int64_t)(sizeof(float) + sizeof(bf16)) + inner * (int64_t)sizeof(bf16);
}

/* Bytes of a thread's scratch for everything after attention: a multiple of 64, as both sizes are of WIDE. */
static int64_t rest_scratch_bytes(int64_t hidden, int64_t inner) { return MOST_ROWS * rest_row_bytes(hidden, inner); }

/* Everything after attention for `count` rows from `first` on. */
ON_AMX static void rest_of_rows(const Rest *t, char *memory, int64_t first, int64_t count) {
    const int64_t hidden = t->output.out, inner = t->inner.out;
    float *sums = (float *)memory;                        /* (MOST_ROWS, hidden) */
    bf16 *attended = (bf16 *)(sums + MOST_ROWS * hidden); /* (MOST_ROWS, hidden) */
    bf16 *wide = attended + MOST_ROWS * hidden;           /* (MOST_ROWS, inner) */
    const bf16 *rows = (const bf16 *)t->rows + first * t->rows_stride;
    const bf16 *other = (const bf16 *)t->other + first * t->other_stride;
    normed_rows(rows, t->rows_stride, count, &t->output, other, t->other_stride, &t->output_norm, sums,
                attended, hidden);
    linear_rows(attended, hidden, count, &t->inner, 1, wide, inner);
    normed_rows(wide, inner, count, &t->outer, attended, hidden, &t->outer_norm, sums,
                (bf16 *)t->out + first * t->out_stride, t->out_stride);
}

#endif
