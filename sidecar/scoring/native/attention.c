/* Attention of packed pairs on a CPU, in bfloat16 and float32: how work is shared among threads, and who computes it.
 *
 * An item of work is one head of one pair. No memory is allocated and no thread created here: Python provides the
 * scratch memory, the OpenMP that torch uses the threads.
 */
#define _GNU_SOURCE

#if defined(__x86_64__) && defined(__linux__)

#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attention.h"
#include "bfloat16.h"

#define WIDTH 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define OF(name) name##_avx512
#include "float32.h"
#undef WIDTH
#undef TARGET
#undef OF

#define WIDTH 8
#define TARGET __attribute__((target("avx2,fma")))
#define OF(name) name##_avx2
#include "float32.h"
#undef WIDTH
#undef TARGET
#undef OF

enum {
    ARCH_REQ_XCOMP_PERM = 0x1023, /* of arch_prctl(2) */
    XFEATURE_XTILEDATA = 18,
};

int64_t sidecar_attention_version(void) { return VERSION; }
int64_t sidecar_attention_task_bytes(void) { return sizeof(Attention); }

static int is_bfloat16(int64_t way) { return way == BY_TILES || way == BY_VECTORS; }

/* Bytes of a thread's scratch for pairs of up to `longest` tokens: a multiple of 64. */
int64_t sidecar_attention_scratch_bytes(int64_t way, int64_t longest, int64_t head_size) {
    if (is_bfloat16(way)) return bfloat16_scratch_bytes(longest, head_size);
    return (longest + head_size) * 16 * (int64_t)sizeof(float); /* 16 floats: the wider vector */
}

/* The next item of work, -1 if none is left: the last pairs first, which are the longest if pairs are sorted. */
static int64_t next_item(Attention *a) {
    const int64_t item = a->pairs * a->heads - 1 - atomic_fetch_add(&a->next_item, 1);
    return item < 0 ? -1 : item;
}

static void work_in_bfloat16(Attention *a, char *memory) {
    const Scratch s = scratch_at(memory, a->longest, a->head_size);
    if (a->way == BY_TILES) begin_tiles();
    for (int64_t item; (item = next_item(a)) >= 0;) attend_in_bfloat16(a, &s, item / a->heads, item % a->heads);
    if (a->way == BY_TILES) end_tiles();
}

static void work_in_float32(Attention *a, char *memory) {
    void (*attend)(const Attention *, float *, int64_t, int64_t) = a->way == FLOAT32_AVX2 ? attend_avx2 : attend_avx512;
    for (int64_t item; (item = next_item(a)) >= 0;) attend(a, (float *)memory, item / a->heads, item % a->heads);
}

/* What each thread does. */
static void work(void *task) {
    Attention *a = task;
    const int64_t bytes = sidecar_attention_scratch_bytes(a->way, a->longest, a->head_size);
    char *memory = a->scratch + bytes * atomic_fetch_add(&a->next_thread, 1);
    if (is_bfloat16(a->way))
        work_in_bfloat16(a, memory);
    else
        work_in_float32(a, memory);
}

typedef void Parallel(void (*)(void *), void *, unsigned threads, unsigned flags); /* GOMP_parallel */

void sidecar_attend(Attention *task, Parallel *parallel, unsigned threads) { parallel(work, task, threads, 0); }

/* Ask the operating system for AMX tiles, for all threads of this process; returns 0, or -1 and sets errno. */
int sidecar_request_tiles(void) { return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA); }

#else
/* For other machines, so that the file compiles everywhere; native_attention.py does not look for it there. */
int sidecar_request_tiles(void) { return -1; }
#endif
