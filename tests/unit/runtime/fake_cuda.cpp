/* The functions of NVIDIA's driver that effc calls, on a machine without one: device memory is memory, a cubin is the path of a shared
   library that `cuda_on_host.h` made, and a launch runs its threads there. It is as strict as the driver: no context, no call; copies only
   inside of what was allocated; while launches are recorded, nothing runs. */
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <vector>

typedef int Result;
enum { INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

struct Function {
    int (*emulate)(int, const unsigned *, const unsigned *, unsigned, void **, int);
    int kernel;
    unsigned arguments;
    int shared;
};
struct Launch {
    Function *function;
    unsigned grid[3], block[3], shared;
    std::vector<void *> arguments;
};
typedef std::vector<Launch> Graph;

static int device_count = 1, major_version = 9, minor_version = 0, failing = 0;
static int launched = 0, instantiated = 0, replayed = 0, uploaded = 0, graphs = 0, recorded = 0;
static int declared = 0;           /* bytes of shared memory that every function declares itself */
static size_t room = 80u << 20;    /* bytes that are free */
static const int MOST_SHARED = 227 * 1024;
static std::map<uint64_t, size_t> blocks;
static thread_local void *current = nullptr;
static Graph *recording = nullptr;
static int context_itself, stream_itself;

static Result run(const Launch &launch) {
    ++launched;
    if (launch.shared + declared > 48 * 1024 && (int)launch.shared > launch.function->shared) return INVALID;
    if (failing == 1) return LAUNCH_FAILED;
    std::vector<void *> arguments(launch.arguments);
    return launch.function->emulate(launch.function->kernel, launch.grid, launch.block, launch.shared, arguments.data(), 0) ? LAUNCH_FAILED : 0;
}

static bool inside(uint64_t address, size_t size) {
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin()) return false;
    --after;
    return address + size <= after->first + after->second;
}

extern "C" {
/* For tests: what the machine has, and what was done. */
void fake_machine(int count, int major, int minor) { device_count = count, major_version = major, minor_version = minor; }
void fake_failing(int code) { failing = code; } /* 1: launches, 2: making graphs ready */
void fake_declared(int bytes) { declared = bytes; }
void fake_room(size_t bytes) { room = bytes; }
int fake_count(int which) { return which == 0 ? launched : which == 1 ? instantiated : which == 2 ? replayed : which == 3 ? uploaded : which == 4 ? (int)blocks.size() : which == 5 ? graphs : recorded; }

Result cuInit(unsigned) { return device_count ? 0 : NO_DEVICE; }
Result cuDeviceGetCount(int *count) { return *count = device_count, 0; }
Result cuDeviceGet(int *device, int index) { return *device = index, index < device_count ? 0 : INVALID; }
Result cuDeviceGetName(char *name, int size, int) { return strncpy(name, "Fake GPU", size), 0; }
Result cuDeviceGetAttribute(int *value, int which, int) { return *value = which == 75 ? major_version : which == 76 ? minor_version : MOST_SHARED, 0; }
Result cuDevicePrimaryCtxRetain(void **context, int) { return *context = &context_itself, 0; }
Result cuCtxSetCurrent(void *context) { return current = context, 0; }
Result cuGetErrorString(int code, const char **text) { return *text = code == LAUNCH_FAILED ? "unspecified launch failure" : "an error", 0; }
#define IN_CONTEXT if (current != &context_itself) return INVALID_CONTEXT
#define NOT_RECORDING if (recording) return 900
Result cuStreamCreate(void **stream, unsigned) { IN_CONTEXT; return *stream = &stream_itself, 0; }
Result cuStreamDestroy_v2(void *stream) { IN_CONTEXT; return stream == &stream_itself ? 0 : INVALID; }
Result cuStreamSynchronize(void *stream) { IN_CONTEXT; NOT_RECORDING; return stream == &stream_itself ? 0 : INVALID; }
Result cuModuleLoadData(void **module, const void *image) { IN_CONTEXT; return *module = dlopen((const char *)image, RTLD_NOW | RTLD_LOCAL), *module ? 0 : 200; }
Result cuModuleUnload(void *) { return 0; }
Result cuModuleGetFunction(Function **function, void *module, const char *name) {
    IN_CONTEXT;
    NOT_RECORDING; /* a driver that loads functions lazily may end a recording there */
    const int kernel = ((int (*)(const char *))dlsym(module, "effc_find"))(name);
    if (kernel < 0) return NOT_FOUND;
    *function = new Function{(int (*)(int, const unsigned *, const unsigned *, unsigned, void **, int))dlsym(module, "effc_emulate"), kernel,
                             ((unsigned (*)(int))dlsym(module, "effc_arguments_of"))(kernel), 0};
    return 0;
}
Result cuFuncSetAttribute(Function *function, int which, int value) {
    NOT_RECORDING;
    return which == 8 && value >= 0 && declared + value <= MOST_SHARED ? (function->shared = value, 0) : INVALID;
}
Result cuFuncGetAttribute(int *value, int which, Function *) { return which == 1 ? (*value = declared, 0) : INVALID; }
Result cuFuncGetParamInfo(Function *function, size_t index, size_t *offset, size_t *size) {
    return index < function->arguments ? (*offset = 8 * index, *size = 8, 0) : INVALID;
}
Result cuMemGetInfo_v2(size_t *free, size_t *total) { IN_CONTEXT; return *free = room, *total = 80u << 20, 0; }
Result cuMemAlloc_v2(uint64_t *address, size_t size) {
    IN_CONTEXT;
    NOT_RECORDING;
    if (!size) return INVALID;
    if (size > room) return OUT_OF_MEMORY;
    void *block = aligned_alloc(256, (size + 255) / 256 * 256);
    memset(block, 0xff, size);
    return *address = (uint64_t)block, blocks[*address] = size, 0;
}
Result cuMemFree_v2(uint64_t address) {
    IN_CONTEXT;
    NOT_RECORDING;
    if (!blocks.erase(address)) return INVALID;
    return free((void *)address), 0;
}
Result cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *) {
    IN_CONTEXT;
    NOT_RECORDING;
    ++uploaded;
    return inside(to, size) ? memcpy((void *)to, from, size), 0 : INVALID;
}
Result cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *) {
    IN_CONTEXT;
    NOT_RECORDING;
    return inside(from, size) ? memcpy(to, (void *)from, size), 0 : INVALID;
}
Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void *) {
    IN_CONTEXT;
    NOT_RECORDING;
    return inside(to, size) && inside(from, size) ? memcpy((void *)to, (void *)from, size), 0 : INVALID;
}
Result cuMemsetD8Async(uint64_t to, unsigned char value, size_t size, void *) {
    IN_CONTEXT;
    return inside(to, size) ? memset((void *)to, value, size), 0 : INVALID;
}
Result cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream,
                      void **arguments, void **extra) {
    IN_CONTEXT;
    if (stream != &stream_itself || extra) return INVALID;
    if (!gx || gx > 0x7fffffffu || !gy || gy > 65535 || !gz || gz > 65535 || !bx || !by || !bz || bz > 64 || (uint64_t)bx * by * bz > 1024) return INVALID;
    Launch launch{function, {gx, gy, gz}, {bx, by, bz}, shared, {}};
    for (unsigned i = 0; i < function->arguments; ++i) { /* as the driver: it copies the arguments now */
        uint64_t address;
        memcpy(&address, arguments[i], 8);
        if (!inside(address, 1)) return INVALID;
        launch.arguments.push_back((void *)address);
    }
    if (recording) return recording->push_back(launch), 0;
    return run(launch);
}
Result cuStreamBeginCapture_v2(void *, int mode) { IN_CONTEXT; NOT_RECORDING; return mode == 2 ? (++recorded, recording = new Graph, 0) : INVALID; }
Result cuStreamEndCapture(void *, Graph **graph) { return *graph = recording, recording = nullptr, 0; }
Result cuGraphInstantiateWithFlags(Graph **ready, Graph *graph, uint64_t) { if (failing == 2) return OUT_OF_MEMORY; return ++instantiated, ++graphs, *ready = new Graph(*graph), 0; }
Result cuGraphDestroy(Graph *graph) { return --recorded, delete graph, 0; }
Result cuGraphExecDestroy(Graph *graph) { return --graphs, delete graph, 0; }
Result cuGraphLaunch(Graph *graph, void *stream) {
    IN_CONTEXT;
    NOT_RECORDING;
    if (stream != &stream_itself) return INVALID;
    ++replayed;
    for (const Launch &launch : *graph)
        if (Result code = run(launch)) return code;
    return 0;
}
}
