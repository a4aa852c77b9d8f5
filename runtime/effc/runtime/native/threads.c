/* TVM's runtime symbols for programs without TVM's runtime: a small pool of POSIX threads and aligned allocation.
 *
 * Code that TVM emits calls these through weak pointers (two underscores before the name), which this file defines as strong ones.
 * EFFC_THREADS sets the number of threads; without it there is one for each processor that the process may run on. The calling thread is
 * one of them and takes task 0. One thread at a time may launch. Build with -DEFFC_SERIAL where there are no threads.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
  void *sync_handle;
  int32_t num_task;
} ParallelGroup;

typedef int (*ParallelTask)(int task, ParallelGroup *group, void *data);

#ifdef EFFC_SERIAL

static int parallel_launch(ParallelTask task, void *data, int tasks) {
  ParallelGroup group = {NULL, 1}; /* the task divides the work by num_task, whatever was asked for */
  (void)tasks;
  return task(0, &group, data);
}

static int parallel_barrier(int task, ParallelGroup *group) {
  (void)task, (void)group;
  return 0;
}

#else

#include <pthread.h>
#include <sched.h>

#define MOST_THREADS 64

static struct {
  pthread_mutex_t lock;
  pthread_cond_t work, done, level;
  int threads; /* 0: not started yet */
  unsigned long round;
  int pending, failed;
  ParallelTask task;
  void *data;
  ParallelGroup group;
  int arrived; /* of the tasks that wait at a barrier */
  unsigned long crossing;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER,
          .level = PTHREAD_COND_INITIALIZER};

static int wanted_threads(void) {
  const char *text = getenv("EFFC_THREADS");
  cpu_set_t allowed;
  int count = text ? atoi(text) : 0;
  if (count < 1) count = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  return count > MOST_THREADS ? MOST_THREADS : count;
}

static void *worker(void *number) {
  int task = (int)(intptr_t)number;
  unsigned long seen = 0;
  pthread_mutex_lock(&pool.lock);
  for (;;) {
    while (pool.round == seen) pthread_cond_wait(&pool.work, &pool.lock);
    seen = pool.round;
    if (task >= pool.group.num_task) continue;
    pthread_mutex_unlock(&pool.lock);
    int failed = pool.task(task, &pool.group, pool.data) != 0;
    pthread_mutex_lock(&pool.lock);
    pool.failed |= failed;
    if (--pool.pending == 0) pthread_cond_signal(&pool.done);
  }
  return NULL;
}

static void start_pool(void) {
  int threads = wanted_threads();
  for (pool.threads = 1; pool.threads < threads; ++pool.threads) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, worker, (void *)(intptr_t)pool.threads) != 0) break; /* fewer threads do the same work */
    pthread_detach(thread);
  }
}

static int parallel_launch(ParallelTask task, void *data, int tasks) {
  pthread_mutex_lock(&pool.lock);
  if (pool.threads == 0) start_pool();
  pool.task = task, pool.data = data, pool.failed = 0;
  pool.group = (ParallelGroup){NULL, tasks < 1 || tasks > pool.threads ? pool.threads : tasks};
  pool.pending = pool.group.num_task - 1;
  ++pool.round;
  pthread_cond_broadcast(&pool.work);
  pthread_mutex_unlock(&pool.lock);
  int failed = task(0, &pool.group, data) != 0;
  pthread_mutex_lock(&pool.lock);
  while (pool.pending > 0) pthread_cond_wait(&pool.done, &pool.lock);
  failed |= pool.failed;
  pthread_mutex_unlock(&pool.lock);
  return failed ? -1 : 0;
}

static int parallel_barrier(int task, ParallelGroup *group) {
  (void)task;
  pthread_mutex_lock(&pool.lock);
  unsigned long crossing = pool.crossing;
  if (++pool.arrived == group->num_task) {
    pool.arrived = 0, ++pool.crossing;
    pthread_cond_broadcast(&pool.level);
  }
  while (pool.crossing == crossing) pthread_cond_wait(&pool.level, &pool.lock);
  pthread_mutex_unlock(&pool.lock);
  return 0;
}

#endif

static void *alloc_workspace(int device_type, int device, uint64_t bytes, int dtype_code, int dtype_bits) {
  (void)device_type, (void)device, (void)dtype_code, (void)dtype_bits;
  if (bytes > SIZE_MAX - 63) return NULL;
  return aligned_alloc(64, bytes ? ((size_t)bytes + 63) / 64 * 64 : 64);
}

static int free_workspace(int device_type, int device, void *place) {
  (void)device_type, (void)device;
  free(place);
  return 0;
}

static void raised(const char *kind, const char *message) { fprintf(stderr, "%s: %s\n", kind, message); }

static void raised_parts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i] ? parts[i] : "", stderr);
  fputc('\n', stderr);
}

int (*__TVMBackendParallelLaunch)(ParallelTask, void *, int) = parallel_launch;
int (*__TVMBackendParallelBarrier)(int, ParallelGroup *) = parallel_barrier;
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = alloc_workspace;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = free_workspace;
void (*__TVMFFIErrorSetRaisedFromCStr)(const char *, const char *) = raised;
void (*__TVMFFIErrorSetRaisedFromCStrParts)(const char *, const char **, int32_t) = raised_parts;
