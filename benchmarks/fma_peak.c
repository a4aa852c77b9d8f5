/* The most float32 multiply-adds that this processor does: independent chains in the widest vectors, from registers only.
 *
 * 14 accumulators: enough to hide the latency of two FMA units (2 x 4 cycles), and with two operands they fit 16 registers.
 * Every thread works in short runs and keeps the time of its best: what interrupts a thread does not count against the peak.
 */
#include <pthread.h>
#include <time.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define CHAINS 14
#define MOST_THREADS 1024

typedef float lanes __attribute__((vector_size(4 * LANES)));

struct part {
    long runs, rounds;
    double best;  /* nanoseconds of a run */
    float result; /* is read by nobody, but written: the work cannot be left out */
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1e9 * (double)time.tv_sec + (double)time.tv_nsec;
}

static float run(long rounds) {
    volatile float opaque[2] = {0.999f, 0.001f}; /* sums stay near 1: no denormals, no infinities */
    lanes factor, addend, chain[CHAINS];
    for (int lane = 0; lane < LANES; lane++) {
        factor[lane] = opaque[0];
        addend[lane] = opaque[1];
    }
    for (int i = 0; i < CHAINS; i++) {
        chain[i] = addend * (float)(i + 1);
    }
    for (long round = 0; round < rounds; round++) {
#pragma GCC unroll 14
        for (int i = 0; i < CHAINS; i++) {
            chain[i] = chain[i] * factor + addend;
        }
    }
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) {
        for (int lane = 0; lane < LANES; lane++) {
            sum += chain[i][lane];
        }
    }
    return sum;
}

static void *work(void *argument) {
    struct part *part = argument;
    part->best = 1e30;
    for (long i = 0; i < part->runs; i++) {
        double start = now();
        part->result += run(part->rounds);
        double taken = now() - start;
        part->best = taken < part->best ? taken : part->best;
    }
    return 0;
}

/* float32 operations of one round of one thread */
int peak_operations(void) { return 2 * CHAINS * LANES; }

/* lanes of one vector */
int peak_lanes(void) { return LANES; }

/* 1 where a multiply-add is one instruction */
int peak_fused(void) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return 1;
#else
    return 0;
#endif
}

/* All threads do `runs` runs of `rounds` rounds at the same time. Returns the nanoseconds that all of it takes at the best rate of every
 * thread; negative where threads cannot be made. */
double peak_run(int threads, long runs, long rounds) {
    pthread_t ids[MOST_THREADS];
    struct part parts[MOST_THREADS];
    double rate = 0; /* runs a nanosecond, of all threads */
    int started = 1, status = threads > MOST_THREADS ? -1 : 0;
    for (int i = 0; i < threads && status == 0; i++) {
        parts[i] = (struct part){.runs = runs, .rounds = rounds};
        if (i > 0) { /* the calling thread is the first */
            status = pthread_create(&ids[i], 0, work, &parts[i]);
            started += status == 0;
        }
    }
    if (status == 0) {
        work(&parts[0]);
    }
    for (int i = 1; i < started; i++) {
        pthread_join(ids[i], 0);
    }
    for (int i = 0; i < threads && status == 0; i++) {
        rate += 1 / parts[i].best;
    }
    return status == 0 ? (double)(threads * runs) / rate : -1;
}
