/* CUDA C on a CPU, for checking what it computes: not how fast, and not what a real GPU would do with a data race.

   A block's threads are fibers of one operating-system thread. One runs until it waits: at a barrier of the block, or at an operation of its
   warp. In a right program the order of threads changes nothing, so a run in descending order must give the same bits: that finds missing
   barriers. A barrier that not all threads reach, and a shuffle whose mask names lanes that do not come, end the launch with a message.
   A shuffle that reads a lane outside of the mask gets bytes of 0xFF, which for a float is a NaN.

   Include this in front of the CUDA C (without its own includes), then `cuda_on_host_table.h` with the macro EFFC_KERNELS. */
#ifndef EFFC_CUDA_ON_HOST_H
#define EFFC_CUDA_ON_HOST_H

#include <algorithm>
#include <cmath>
#include <math.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <sys/mman.h>
#include <ucontext.h>

/* ---- words of the language ---------------------------------------------------------------------------------------------------- */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
/* `EFFC_SHARED(kernel)` is put in the place of `__shared__` of a kernel: its variables lie together. */
#define EFFC_SHARED(name) static __attribute__((section("effc_shared_" #name)))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define CUDART_INF ((double)INFINITY)
#define CUDART_NAN ((double)NAN)

/* ---- vectors ------------------------------------------------------------------------------------------------------------------ */

#define EFFC_VECTORS(type, name)                                                                                                       \
    struct alignas(sizeof(type)) name##1 { type x; };                                                                                  \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                                                           \
    struct name##3 { type x, y, z; };                                                                                                  \
    struct alignas(sizeof(type) < 4 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; };                                             \
    static inline name##1 make_##name##1(type x) { return {x}; }                                                                       \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                                            \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                                 \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EFFC_VECTORS(signed char, char)
EFFC_VECTORS(unsigned char, uchar)
EFFC_VECTORS(short, short)
EFFC_VECTORS(unsigned short, ushort)
EFFC_VECTORS(int, int)
EFFC_VECTORS(unsigned int, uint)
EFFC_VECTORS(long, long)
EFFC_VECTORS(unsigned long, ulong)
EFFC_VECTORS(long long, longlong)
EFFC_VECTORS(unsigned long long, ulonglong)
EFFC_VECTORS(float, float)
EFFC_VECTORS(double, double)
#undef EFFC_VECTORS

struct dim3 {
    unsigned x, y, z;
};

/* ---- half precision ------------------------------------------------------------------------------------------------------------ */

/* To the nearest, half to even; the host may have no type for it. */
static inline uint16_t effc_to_half(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7fffu);     /* NaN, as CUDA has it */
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);    /* 65520 and more round to infinity */
    if (magnitude < 0x38800000u) {                                      /* below 2^-14: steps of 2^-24 */
        float size;
        std::memcpy(&size, &magnitude, 4);
        return (uint16_t)(sign | (uint32_t)std::nearbyint(size * 16777216.0f));
    }
    const uint32_t odd = magnitude >> 13 & 1u;
    return (uint16_t)(sign | ((magnitude + 0xfffu + odd - 0x38000000u) >> 13));
}
static inline float effc_from_half(uint16_t bits) {
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    uint32_t wide;
    if (magnitude < 0x400u) {
        const float size = (float)magnitude / 16777216.0f;
        std::memcpy(&wide, &size, 4);
    } else {
        wide = magnitude >= 0x7c00u ? 0x7f800000u | (magnitude & 0x3ffu) << 13 : (magnitude << 13) + 0x38000000u;
    }
    wide |= sign;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
}

/* Sums and products of two halves in single precision, rounded once more, are the rounded exact ones. */
struct half {
    uint16_t bits;
    half() = default;
    template <typename T, typename = typename std::enable_if<std::is_arithmetic<T>::value>::type>
    half(T given) : bits(effc_to_half((float)given)) {}
    operator float() const { return effc_from_half(bits); }
};
typedef half __half;
struct alignas(4) half2 {
    half x, y;
};
typedef half2 __half2;
#define EFFC_HALF(op)                                                                                                                  \
    static inline half operator op(half a, half b) { return half((float)a op(float) b); }
EFFC_HALF(+) EFFC_HALF(-) EFFC_HALF(*) EFFC_HALF(/)
#undef EFFC_HALF
static inline half operator-(half a) { return half(-(float)a); }
#define EFFC_COMPARED(op) static inline bool operator op(half a, half b) { return (float)a op(float) b; }
EFFC_COMPARED(<) EFFC_COMPARED(>) EFFC_COMPARED(<=) EFFC_COMPARED(>=) EFFC_COMPARED(==) EFFC_COMPARED(!=)
#undef EFFC_COMPARED
static inline bool __hgt(half a, half b) { return a > b; }
static inline bool __hlt(half a, half b) { return a < b; }
static inline half __float2half(float x) { return half(x); }
static inline half __float2half_rn(float x) { return half(x); }
static inline float __half2float(half x) { return (float)x; }
static inline half2 make_half2(half x, half y) { return {x, y}; }
static inline half __ushort_as_half(unsigned short bits) { half x; std::memcpy(&x, &bits, 2); return x; }
static inline unsigned short __half_as_ushort(half x) { unsigned short bits; std::memcpy(&bits, &x, 2); return bits; }
static inline half hfloor(half x) { return half(std::floor((float)x)); }
static inline half hceil(half x) { return half(std::ceil((float)x)); }
static inline half hexp(half x) { return half(std::exp((float)x)); }
static inline half hsqrt(half x) { return half(std::sqrt((float)x)); }
static inline half __habs(half x) { return half(std::fabs((float)x)); }
static inline half hfabs(half x) { return half(std::fabs((float)x)); }

/* ---- functions: of single precision as CUDA has them, where they differ from C ---------------------------------------------------- */

/* CUDA's max and min give the operand that is a number. */
static inline float max(float a, float b) { return std::fmax(a, b); }
static inline float min(float a, float b) { return std::fmin(a, b); }
static inline double max(double a, double b) { return std::fmax(a, b); }
static inline double min(double a, double b) { return std::fmin(a, b); }
#define EFFC_EXTREMES(type)                                                                                                            \
    static inline type max(type a, type b) { return a > b ? a : b; }                                                                   \
    static inline type min(type a, type b) { return a < b ? a : b; }
EFFC_EXTREMES(int) EFFC_EXTREMES(unsigned) EFFC_EXTREMES(long) EFFC_EXTREMES(unsigned long) EFFC_EXTREMES(long long)
EFFC_EXTREMES(unsigned long long)
#undef EFFC_EXTREMES

template <typename Integer> static inline Integer effc_nearest(double x) {
    if (x != x) return 0;
    const double nearest = std::nearbyint(x), least = (double)(Integer)(1ull << (8 * sizeof(Integer) - 1));
    return nearest <= least ? (Integer)least : nearest >= -least ? (Integer) ~(Integer)least : (Integer)nearest;
}
static inline int __float2int_rn(float x) { return effc_nearest<int>(x); }
static inline int __double2int_rn(double x) { return effc_nearest<int>(x); }
static inline long long __float2ll_rn(float x) { return effc_nearest<long long>(x); }
static inline int __float_as_int(float x) { int bits; std::memcpy(&bits, &x, 4); return bits; }
static inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
static inline float __int_as_float(int bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static inline float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float effc_expf(float x) { return std::exp(x); }
static inline float effc_exp10f(float x) { return std::pow(10.0f, x); }
static inline float effc_logf(float x) { return std::log(x); }
static inline float effc_log2f(float x) { return std::log2(x); }
static inline float effc_log10f(float x) { return std::log10(x); }
static inline float effc_cosf(float x) { return std::cos(x); }
static inline float effc_sinf(float x) { return std::sin(x); }
static inline float effc_tanf(float x) { return std::tan(x); }
static inline float effc_powf(float x, float y) { return std::pow(x, y); }
/* The C library has functions of these names of its own. */
#define __expf effc_expf
#define __exp10f effc_exp10f
#define __logf effc_logf
#define __log2f effc_log2f
#define __log10f effc_log10f
#define __cosf effc_cosf
#define __sinf effc_sinf
#define __tanf effc_tanf
#define __powf effc_powf
static inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __dp4a(int a, int b, int sum) {
    signed char x[4], y[4];
    std::memcpy(x, &a, 4), std::memcpy(y, &b, 4);
    for (int i = 0; i < 4; ++i) sum += x[i] * y[i];
    return sum;
}
template <typename T> static inline T __ldg(const T *from) { return *from; }

#define EFFC_ATOMIC(name, update)                                                                                                      \
    template <typename T> static inline T name(T *place, typename std::common_type<T>::type value) {                                   \
        T old = *place;                                                                                                                \
        *place = update;                                                                                                               \
        return old;                                                                                                                    \
    }
EFFC_ATOMIC(atomicAdd, (T)(old + value))
EFFC_ATOMIC(atomicMax, old > value ? old : value)
EFFC_ATOMIC(atomicMin, old < value ? old : value)
EFFC_ATOMIC(atomicExch, value)
EFFC_ATOMIC(atomicOr, old | value)
EFFC_ATOMIC(atomicAnd, old & value)
#undef EFFC_ATOMIC
static inline void __threadfence() {}
static inline void __threadfence_block() {}

/* ---- threads -------------------------------------------------------------------------------------------------------------------- */

enum effc_state { EFFC_NEW, EFFC_READY, EFFC_AT_BARRIER, EFFC_AT_WARP, EFFC_DONE };

struct effc_fiber {
    ucontext_t context;
    void *stack;
};

struct effc_thread {
    dim3 index;
    unsigned number;
    effc_state state;
    effc_fiber *fiber;
    int operation;          /* of the warp, that it waits at */
    unsigned mask, arrived; /* lanes that it names, and that came */
};

static dim3 effc_block_index, effc_block_size, effc_grid_size;
static effc_thread *effc_now;
static std::vector<effc_thread> effc_threads;
static std::vector<unsigned> effc_order;
static size_t effc_next;
static unsigned effc_alive, effc_waiting;
static std::vector<effc_fiber *> effc_free;
static ucontext_t effc_scheduler;
static void (*effc_body)(void **);
static void **effc_arguments;
static std::string effc_fault;
static unsigned char effc_slots[32][32][16]; /* by warp and lane: what a shuffle hands over */
static std::vector<unsigned char> effc_dynamic;
static char *effc_shared_from, *effc_shared_to; /* what the kernel declares as shared memory */

#define threadIdx (effc_now->index)
#define blockIdx effc_block_index
#define blockDim effc_block_size
#define gridDim effc_grid_size
static const int warpSize = 32;

static const size_t EFFC_STACK = 1 << 18;

static void effc_fiber_main() {
    for (;;) {
        if (effc_next == effc_order.size()) break;
        effc_fiber *self = effc_now->fiber;
        effc_now = &effc_threads[effc_order[effc_next++]];
        effc_now->fiber = self;
        effc_now->state = EFFC_READY;
        effc_body(effc_arguments);
        effc_now->state = EFFC_DONE;
        --effc_alive;
        if (effc_waiting) break; /* others may go on now */
    }
    effc_free.push_back(effc_now->fiber);
    setcontext(&effc_scheduler);
}

static void effc_wait(effc_state where) {
    effc_now->state = where;
    swapcontext(&effc_now->fiber->context, &effc_scheduler);
}

static inline void __syncthreads() {
    ++effc_waiting;
    effc_wait(EFFC_AT_BARRIER);
}

static inline unsigned effc_warp(int operation, unsigned mask) {
    if (!(mask >> effc_now->number % 32 & 1)) effc_fault = "a lane comes to a warp's operation whose mask does not name it";
    effc_now->operation = operation;
    effc_now->mask = mask;
    ++effc_waiting;
    effc_wait(EFFC_AT_WARP);
    return effc_now->arrived;
}

static inline void __syncwarp(unsigned mask = 0xffffffffu) { effc_warp(0, mask); }
/* Which lanes it finds together, CUDA leaves open: here, the one alone. */
static inline unsigned __activemask() { return 1u << effc_now->number % 32; }

template <typename T> static inline T effc_shuffled(unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= 16, "a shuffle of more than 16 bytes");
    const unsigned warp = effc_now->number / 32, lane = effc_now->number % 32;
    std::memcpy(effc_slots[warp][lane], &value, sizeof(T));
    const unsigned came = effc_warp(2, mask);
    T result;
    if (came >> source & 1)
        std::memcpy(&result, effc_slots[warp][source], sizeof(T));
    else
        std::memset((void *)&result, 0xff, sizeof(T));
    effc_warp(3, mask); /* nobody writes the next value before all have read this one */
    return result;
}

template <typename T> static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int lane = effc_now->number % 32;
    return effc_shuffled(mask, value, lane / width * width + (source & (width - 1)));
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const int lane = effc_now->number % 32, to = lane % width + (int)by;
    return effc_shuffled(mask, value, to < width ? lane + (int)by : lane);
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const int lane = effc_now->number % 32, to = lane % width - (int)by;
    return effc_shuffled(mask, value, to >= 0 ? lane - (int)by : lane);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32) {
    const int lane = effc_now->number % 32, to = lane ^ by;
    return effc_shuffled(mask, value, to / width == lane / width ? to : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned votes = 0;
    const unsigned warp = effc_now->number / 32, lane = effc_now->number % 32;
    std::memcpy(effc_slots[warp][lane], &predicate, sizeof predicate);
    const unsigned came = effc_warp(4, mask);
    for (unsigned other = 0; other < 32; ++other) {
        int vote;
        std::memcpy(&vote, effc_slots[warp][other], sizeof vote);
        if ((came >> other & 1) && vote) votes |= 1u << other;
    }
    effc_warp(5, mask);
    return votes;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == __ballot_sync(mask, 1); }

template <typename T = unsigned char> static inline T *effc_dynamic_shared() { return (T *)(((uintptr_t)effc_dynamic.data() + 127) & ~(uintptr_t)127); }

/* ---- launches ------------------------------------------------------------------------------------------------------------------- */

static void effc_resume(effc_thread *thread) {
    effc_now = thread;
    if (thread->state != EFFC_NEW) {
        thread->state = EFFC_READY;
        swapcontext(&effc_scheduler, &thread->fiber->context);
        return;
    }
    if (effc_free.empty()) {
        effc_fiber *made = new effc_fiber;
        made->stack = mmap(nullptr, EFFC_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        effc_free.push_back(made);
    }
    effc_fiber *fiber = effc_free.back();
    effc_free.pop_back();
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = EFFC_STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, effc_fiber_main, 0);
    effc_now->fiber = fiber;
    swapcontext(&effc_scheduler, &fiber->context);
}

/* Lets the lanes of a warp go on that wait at the same operation as the first of them. False where none waits. */
static bool effc_release_warp(size_t warp) {
    const size_t from = 32 * warp, to = std::min(from + 32, effc_threads.size());
    effc_thread *first = nullptr;
    unsigned came = 0;
    for (size_t i = from; i < to; ++i) {
        effc_thread &one = effc_threads[i];
        if (one.state != EFFC_AT_WARP) continue;
        if (!first) first = &one;
        if (one.operation == first->operation && one.mask == first->mask) came |= 1u << (i - from);
    }
    if (!first) return false;
    unsigned alive = 0;
    for (size_t i = from; i < to; ++i)
        if (effc_threads[i].state != EFFC_DONE) alive |= 1u << (i - from);
    if (first->mask & alive & ~came) {
        effc_fault = "lanes that the mask of a warp's operation names do not come to it";
        return false;
    }
    for (size_t i = from; i < to; ++i)
        if (came >> (i - from) & 1) {
            effc_threads[i].arrived = came;
            effc_threads[i].state = EFFC_READY;
            --effc_waiting;
        }
    return true;
}

static bool effc_run_block() {
    std::fill(effc_dynamic.begin(), effc_dynamic.end(), (unsigned char)0xff); /* what a block finds in shared memory is anything */
    if (effc_shared_from) std::memset(effc_shared_from, 0xff, effc_shared_to - effc_shared_from);
    effc_next = 0;
    effc_alive = (unsigned)effc_threads.size();
    effc_waiting = 0;
    for (effc_thread &one : effc_threads) one.state = EFFC_NEW, one.fiber = nullptr;
    while (effc_next < effc_order.size()) effc_resume(&effc_threads[effc_order[effc_next]]);
    while (effc_alive) {
        bool any = false;
        for (unsigned number : effc_order)
            if (effc_threads[number].state == EFFC_READY) any = true, effc_resume(&effc_threads[number]);
        if (any) continue;
        bool released = false;
        for (size_t warp = 0; 32 * warp < effc_threads.size(); ++warp) released |= effc_release_warp(warp);
        if (!effc_fault.empty()) return false;
        if (released) continue;
        if (effc_waiting != effc_alive) { /* cannot be: every thread waits, is ready or done */
            effc_fault = "threads are lost";
            return false;
        }
        for (effc_thread &one : effc_threads)
            if (one.state == EFFC_AT_BARRIER) one.state = EFFC_READY;
        effc_waiting = 0;
    }
    return true;
}

/* 0, or 1 with `effc_fault` set. */
static int effc_launch(void (*body)(void **), const unsigned *grid, const unsigned *block, unsigned shared, void **arguments, int descending) {
    const unsigned count = block[0] * block[1] * block[2];
    effc_fault.clear();
    if (!count || count > 1024 || block[2] > 64) {
        effc_fault = "a block must have 1 to 1024 threads, at most 64 in z";
        return 1;
    }
    if (!grid[0] || grid[0] > 0x7fffffffu || !grid[1] || grid[1] > 65535 || !grid[2] || grid[2] > 65535) {
        effc_fault = "a grid must have 1 to 2147483647 blocks in x and 1 to 65535 in y and z";
        return 1;
    }
    effc_body = body;
    effc_arguments = arguments;
    effc_grid_size = {grid[0], grid[1], grid[2]};
    effc_block_size = {block[0], block[1], block[2]};
    effc_threads.assign(count, effc_thread());
    effc_order.resize(count);
    effc_dynamic.resize(shared + 128);
    for (unsigned i = 0; i < count; ++i) {
        effc_threads[i].index = {i % block[0], i / block[0] % block[1], i / block[0] / block[1]};
        effc_threads[i].number = i;
        effc_order[i] = descending ? count - 1 - i : i;
    }
    const uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    for (uint64_t at = 0; at < blocks; ++at) {
        const uint64_t one = descending ? blocks - 1 - at : at;
        effc_block_index = {(unsigned)(one % grid[0]), (unsigned)(one / grid[0] % grid[1]), (unsigned)(one / grid[0] / grid[1])};
        if (!effc_run_block() || !effc_fault.empty()) return 1;
    }
    return 0;
}

template <typename... Arguments, size_t... Places>
static inline void effc_spread(void (*kernel)(Arguments...), void **given, std::index_sequence<Places...>) {
    kernel((Arguments)given[Places]...);
}
template <typename... Arguments> static inline void effc_called(void (*kernel)(Arguments...), void **given) {
    effc_spread(kernel, given, std::index_sequence_for<Arguments...>());
}
template <typename... Arguments> static constexpr unsigned effc_count(void (*)(Arguments...)) { return sizeof...(Arguments); }

/* After the CUDA C: the functions by name, `EFFC_KERNEL(name)` each, and the door. */
#define EFFC_KERNEL(name) {#name, effc_count(name), [](void **given) { effc_called(name, given); }, __start_effc_shared_##name, __stop_effc_shared_##name},
#define EFFC_ROOM(name) extern "C" char __start_effc_shared_##name[] __attribute__((weak)), __stop_effc_shared_##name[] __attribute__((weak));
#define EFFC_DOOR(...)                                                                                                                 \
    static const struct { const char *name; unsigned arguments; void (*body)(void **); char *from, *to; } effc_kernels[] = {__VA_ARGS__ {nullptr, 0, nullptr, nullptr, nullptr}}; \
    extern "C" int effc_find(const char *name) {                                                                                       \
        for (int i = 0; effc_kernels[i].name; ++i)                                                                                     \
            if (!std::strcmp(effc_kernels[i].name, name)) return i;                                                                    \
        return -1;                                                                                                                     \
    }                                                                                                                                  \
    extern "C" unsigned effc_arguments_of(int kernel) { return effc_kernels[kernel].arguments; }                                       \
    extern "C" int effc_emulate(int kernel, const unsigned *grid, const unsigned *block, unsigned shared, void **given, int descending) { \
        effc_shared_from = effc_kernels[kernel].from, effc_shared_to = effc_kernels[kernel].to;                                        \
        return effc_launch(effc_kernels[kernel].body, grid, block, shared, given, descending);                                         \
    }                                                                                                                                  \
    extern "C" const char *effc_why() { return effc_fault.c_str(); }

/* Of a declaration with `__shared__` in front, g++ takes an attribute but not the word of C++. */
#define alignas(n) __attribute__((aligned(n)))

#endif
