/* Products of bfloat16 matrices in blocks, on a CPU with AVX-512 BF16: by AMX tiles, or by dot products of vectors.
 *
 * A block has 16 rows of 64 bytes. The right factor of a product is in VNNI layout: lane n of row k holds elements
 * (2k, n) and (2k + 1, n), as TDPBF16PS and VDPBF16PS require (Intel, "Intel Architecture Instruction Set Extensions
 * and Future Features", chapter 3). Two blocks side by side, 32 rows by 32 columns, and all such below them are a
 * panel: what a step of a product takes lies together, and the next step's follows. Sums are float32.
 */
#ifndef SIDECAR_BLOCKS_H
#define SIDECAR_BLOCKS_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* hardware.has_avx512_bf16 and hardware.has_amx check for the same features. */
#define ON_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define ON_AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))
#define ALWAYS_INLINE __attribute__((always_inline)) static inline

enum {
    ROWS = 16,  /* of a block */
    HALF = 8,   /* of these rows */
    LANES = 16, /* floats, or pairs of bfloat16, in a row of a block or a vector */
    DEPTH = 32, /* bfloat16 in a row of a block */
    BLOCK = ROWS * LANES,
    STRIP = 2 * ROWS,  /* rows of the left factor that are multiplied together */
    WIDE = 2 * LANES,  /* columns of a panel */
    STEP = 2 * BLOCK,  /* int32 of a panel from step to step */
};

typedef uint16_t bf16;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* out (count, 16 * columns) = left (count, 32 * steps) times `panel`, of which the first `columns`, 1 or 2, blocks of
 * each step count. `count` is at most STRIP; the rows up to the next multiple of ROWS are read and written too. */
typedef void Multiply(const bf16 *left, int64_t stride, int64_t count, const int32_t *panel, int64_t steps, int columns,
                      float *out, int64_t out_stride);

/* What is done after each step of a product, of `steps`: see multiply_tiles. */
typedef void Between(const void *context, int64_t step, int64_t steps);

/* Load a block of the right factor. One that is not needed again soon, `passing`, is loaded so that it displaces little
 * of what a core's first cache holds: a strip of the left factor, which all panels are multiplied by. */
#define LOAD_BLOCK(tile, from, passing) \
    do { \
        if (passing) \
            _tile_stream_loadd(tile, from, LANES * sizeof(int32_t)); \
        else \
            _tile_loadd(tile, from, LANES * sizeof(int32_t)); \
    } while (0)

/* Tiles 0 to 3 hold the sums, 4 and 5 the left factor, 6 and 7 the right one: each is loaded once for two products, and
 * one sum goes on while the others wait for their last product. Tiles have units of their own: what `between` does with
 * vectors goes on beside them. */
ALWAYS_INLINE ON_AMX void multiply_tiles(const bf16 *left, int64_t stride, int64_t count, const int32_t *panel,
                                         int passing, int64_t steps, int columns, float *out, int64_t out_stride,
                                         Between *between, const void *context) {
    const int64_t left_bytes = stride * (int64_t)sizeof(bf16), out_bytes = out_stride * (int64_t)sizeof(float);
    const int low = count > ROWS, second = columns > 1;
    const bf16 *lower = left + ROWS * stride;
    float *out_lower = out + ROWS * out_stride;
    __asm__ volatile("" ::: "memory"); /* gcc does not know that a tile is loaded from memory */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t step = 0; step < steps; step++, panel += STEP) {
        _tile_loadd(4, left + DEPTH * step, left_bytes);
        LOAD_BLOCK(6, panel, passing);
        _tile_dpbf16ps(0, 4, 6);
        if (second) {
            LOAD_BLOCK(7, panel + BLOCK, passing);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (low) {
            _tile_loadd(5, lower + DEPTH * step, left_bytes);
            _tile_dpbf16ps(2, 5, 6);
            if (second) _tile_dpbf16ps(3, 5, 7);
        }
        between(context, step, steps);
    }
    _tile_stored(0, out, out_bytes);
    if (second) _tile_stored(1, out + LANES, out_bytes);
    if (low) _tile_stored(2, out_lower, out_bytes);
    if (low && second) _tile_stored(3, out_lower + LANES, out_bytes);
    __asm__ volatile("" ::: "memory");
}

ALWAYS_INLINE void nothing(const void *context, int64_t step, int64_t steps) { (void)context, (void)step, (void)steps; }

ON_AMX static void multiply_by_tiles(const bf16 *left, int64_t stride, int64_t count, const int32_t *panel,
                                     int64_t steps, int columns, float *out, int64_t out_stride) {
    multiply_tiles(left, stride, count, panel, 0, steps, columns, out, out_stride, nothing, NULL);
}

/* The product of 8 rows and `columns` columns of blocks: a constant, so that the sums stay in registers. */
ALWAYS_INLINE ON_AVX512 void multiply_half(const bf16 *left, int64_t stride, const int32_t *panel, int64_t steps,
                                           int columns, float *out, int64_t out_stride) {
    __m512 sums[HALF][2];
#pragma GCC unroll 8
    for (int r = 0; r < HALF; r++)
        for (int c = 0; c < columns; c++) sums[r][c] = _mm512_setzero_ps();
    for (int64_t step = 0; step < steps; step++, panel += STEP)
        for (int k = 0; k < ROWS; k++) {
            __m512bh factor[2];
            for (int c = 0; c < columns; c++) factor[c] = (__m512bh)_mm512_load_si512(panel + BLOCK * c + LANES * k);
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
        for (int c = 0; c < columns; c++) _mm512_storeu_ps(out + r * out_stride + c * LANES, sums[r][c]);
}

/* Half of a block's rows at a time: an element of the left factor is loaded once for both columns. */
ON_AVX512 static void multiply_by_vectors(const bf16 *left, int64_t stride, int64_t count, const int32_t *panel,
                                          int64_t steps, int columns, float *out, int64_t out_stride) {
    for (int64_t row = 0; row < count; row += HALF) {
        if (columns > 1)
            multiply_half(left + row * stride, stride, panel, steps, 2, out + row * out_stride, out_stride);
        else
            multiply_half(left + row * stride, stride, panel, steps, 1, out + row * out_stride, out_stride);
    }
}

/* Eight tiles of 16 rows with 64 bytes each, as LDTILECFG reads it. */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, ROWS}};

ON_AMX static void begin_tiles(void) { _tile_loadconfig(&TILES); }
ON_AMX static void end_tiles(void) { _tile_release(); }

#endif
