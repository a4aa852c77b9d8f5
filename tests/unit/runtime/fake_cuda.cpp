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
enum { INVALID = 1, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

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
static int launched = 0, instantiated = 0, replayed = 0, uploaded = 0, graphs = 0;
static std::map<uint64_t, size_t> blocks;
static thread_local void *current = nullptr;
static Graph *recording = nullptr;
static int context_itself, stream_itself;

static Result run(const Launch &launch) {
    ++launched;
    if (launch.shared > 48 * 1024 && (int)launch.shared > launch.function->shared) return INVALID;
    if (failing) return LAUNCH_FAILED;
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
void fake_failing(int code) { failing = code; }
int fake_count(int which) { return which == 0 ? launched : which == 1 ? instantiated : which == 2 ? replayed : which == 3 ? uploaded : which == 4 ? (int)blocks.size() : graphs; }

Result cuInit(unsigned) { return device_count ? 0 : NO_DEVICE; }
Result cuDeviceGetCount(int *count) { return *count = device_count, 0; }
Result cuDeviceGet(int *device, int index) { return *device = index, index < device_count ? 0 : INVALID; }
Result cuDeviceGetName(char *name, int size, int) { return strncpy(name, "Fake GPU", size), 0; }
Result cuDeviceGetAttribute(int *value, int which, int) { return *value = which == 75 ? major_version : which == 76 ? minor_version : 227 * 1024, 0; }
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
    const int kernel = ((int (*)(const char *))dlsym(module, "effc_find"))(name);
    if (kernel < 0) return NOT_FOUND;
    *function = new Function{(int (*)(int, const unsigned *, const unsigned *, unsigned, void **, int))dlsym(module, "effc_emulate"), kernel,
                             ((unsigned (*)(int))dlsym(module, "effc_arguments_of"))(kernel), 0};
    return 0;
}
Result cuFuncSetAttribute(Function *function, int which, int value) { return which == 8 ? (function->shared = value, 0) : INVALID; }
Result cuMemAlloc_v2(uint64_t *address, size_t size) {
    IN_CONTEXT;
    NOT_RECORDING;
    if (!size) return INVALID;
    void *block = aligned_alloc(256, (size + 255) / 256 * 256);
    memset(block, 0xff, size);
    return *address = (uint64_t)block, blocks[*address] = size, 0;
}
Result cuMemFree_v2(uint64_t address) {
    IN_CONTEXT;
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
Result cuStreamBeginCapture_v2(void *, int) { IN_CONTEXT; NOT_RECORDING; return recording = new Graph, 0; }
Result cuStreamEndCapture(void *, Graph **graph) { return *graph = recording, recording = nullptr, 0; }
Result cuGraphInstantiateWithFlags(Graph **ready, Graph *graph, uint64_t) { return ++instantiated, ++graphs, *ready = new Graph(*graph), 0; }
Result cuGraphDestroy(Graph *graph) { return delete graph, 0; }
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
