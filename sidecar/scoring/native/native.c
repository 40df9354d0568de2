/* What Python calls: how work is shared among threads, and who computes it.
 *
 * No memory is allocated and no thread created here: Python provides the scratch memory, the OpenMP that torch uses the
 * threads. Each thread takes the next item of work until none is left.
 */
#define _GNU_SOURCE

#if defined(__x86_64__) && defined(__linux__)

#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attention_bfloat16.h"
#include "layer.h"
#include "native.h"

#define WIDTH 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define OF(name) name##_avx512
#include "attention_float32.h"
#undef WIDTH
#undef TARGET
#undef OF

#define WIDTH 8
#define TARGET __attribute__((target("avx2,fma")))
#define OF(name) name##_avx2
#include "attention_float32.h"
#undef WIDTH
#undef TARGET
#undef OF

enum {
    ARCH_REQ_XCOMP_PERM = 0x1023, /* of arch_prctl(2) */
    XFEATURE_XTILEDATA = 18,
};

typedef void Parallel(void (*)(void *), void *, unsigned threads, unsigned flags); /* GOMP_parallel */

static int is_bfloat16(int64_t way) { return way == BY_TILES || way == BY_VECTORS; }

static char *scratch_of_thread(Work *w, int64_t bytes) {
    return w->scratch + bytes * atomic_fetch_add(&w->next_thread, 1);
}

int64_t sidecar_version(void) { return VERSION; }
int64_t sidecar_attention_bytes(void) { return sizeof(Attention); }
int64_t sidecar_linear_bytes(void) { return sizeof(Linear); }
int64_t sidecar_rest_bytes(void) { return sizeof(Rest); }

/* Bytes of a thread's scratch for pairs of up to `longest` tokens: a multiple of 64. */
int64_t sidecar_attention_scratch_bytes(int64_t way, int64_t longest, int64_t head_size) {
    if (is_bfloat16(way)) return bfloat16_scratch_bytes(longest, head_size);
    return (longest + head_size) * 16 * (int64_t)sizeof(float); /* 16 floats: the wider vector */
}

/* The next item, one head of one pair, -1 if none is left: the last pairs first, the longest if pairs are sorted. */
static int64_t next_head(Attention *a) {
    const int64_t item = a->pairs * a->heads - 1 - atomic_fetch_add(&a->work.next_item, 1);
    return item < 0 ? -1 : item;
}

static void attend_by_thread(void *task) {
    Attention *a = task;
    const int64_t way = a->work.way;
    char *memory = scratch_of_thread(&a->work, sidecar_attention_scratch_bytes(way, a->longest, a->head_size));
    if (is_bfloat16(way)) {
        const Scratch s = scratch_at(memory, a->longest, a->head_size);
        if (way == BY_TILES) begin_tiles();
        for (int64_t item; (item = next_head(a)) >= 0;) attend_in_bfloat16(a, &s, item / a->heads, item % a->heads);
        if (way == BY_TILES) end_tiles();
    } else {
        void (*attend)(const Attention *, float *, int64_t, int64_t);
        attend = way == FLOAT32_AVX2 ? attend_avx2 : attend_avx512;
        for (int64_t item; (item = next_head(a)) >= 0;) attend(a, (float *)memory, item / a->heads, item % a->heads);
    }
}

void sidecar_attention(Attention *task, Parallel *parallel) {
    parallel(attend_by_thread, task, (unsigned)task->work.threads, 0);
}

/* The next rows that a thread takes, from `first` on; returns how many, 0 if none are left. */
static int64_t next_rows(Work *w, int64_t count, int64_t row_bytes, int64_t *first) {
    if (count == 0) return 0;
    const int64_t each = rows_at_a_time(count, row_bytes, w->threads);
    *first = each * atomic_fetch_add(&w->next_item, 1);
    return *first >= count ? 0 : least(count - *first, each);
}

static void linear_by_thread(void *task) {
    Linear *t = task;
    const int64_t row_bytes = t->layer.in * (int64_t)sizeof(bf16);
    begin_tiles();
    for (int64_t first, count; (count = next_rows(&t->work, t->count, row_bytes, &first));)
        linear_rows((const bf16 *)t->rows + first * t->rows_stride, t->rows_stride, count, &t->layer, 0,
                    (bf16 *)t->out + first * t->out_stride, t->out_stride);
    end_tiles();
}

void sidecar_linear(Linear *task, Parallel *parallel) {
    parallel(linear_by_thread, task, (unsigned)task->work.threads, 0);
}

/* Bytes of a thread's scratch for sidecar_rest. */
int64_t sidecar_rest_scratch_bytes(int64_t hidden, int64_t inner) { return rest_scratch_bytes(hidden, inner); }

static void rest_by_thread(void *task) {
    Rest *t = task;
    const int64_t hidden = t->output.out, inner = t->inner.out;
    char *memory = scratch_of_thread(&t->work, rest_scratch_bytes(hidden, inner));
    begin_tiles();
    for (int64_t first, count; (count = next_rows(&t->work, t->count, rest_row_bytes(hidden, inner), &first));)
        rest_of_rows(t, memory, first, count);
    end_tiles();
}

void sidecar_rest(Rest *task, Parallel *parallel) { parallel(rest_by_thread, task, (unsigned)task->work.threads, 0); }

/* Ask the operating system for AMX tiles, for all threads of this process; returns 0, or -1 and sets errno. */
int sidecar_request_tiles(void) { return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA); }

#else
/* For other machines, so that the file compiles everywhere; native.py does not look for it there. */
int sidecar_request_tiles(void) { return -1; }
#endif
