/* A CUDA driver without a GPU: the functions that edgeopt calls, with cuda.h's names, types and error numbers.
 *
 * Memory is the processor's, streams run at once, a captured graph is a list of what to do. It keeps to what the driver
 * keeps to: a call needs a context that is current on its thread, copies stay within what was allocated, and a primary
 * context lives as long as it is retained. fake_* are the tests' own.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, ILLEGAL_ADDRESS = 700 };
enum { ACTIVE = 708, NOT_CAPTURING = 901 };
enum { DEVICE_MEMORY, HOST_MEMORY, STREAM, EVENT, GRAPH, EXECUTABLE, MANAGED, KINDS };
enum { MOST = 4096, DEPTH = 64 };

typedef struct { void *at; size_t size; int kind; const void *stream; } Block;
typedef struct { void (*work)(void *); void *to; const void *from; size_t size; } Step;
typedef struct { int count; Step steps[256]; } Graph;
typedef struct { Graph *capturing; } Stream;
typedef struct { struct timespec when; int recorded; } Event;
typedef struct { char name[64]; int code; } Failure;

static Block blocks[MOST];
static int live[KINDS];
static int retained, flags, context_is_there;
static Failure failures[16];
static __thread void *stack[DEPTH];
static __thread int depth;
static int context;
static int faulted; /* a kernel read where nothing is: every call from then on says so */

static int failing(const char *name) {
  for (int i = 0; i < 16; i++)
    if (failures[i].code && !strcmp(failures[i].name, name)) return failures[i].code;
  return OK;
}
#define CHECK_FAILURE() do { int code = failing(__func__); if (code) return code; } while (0)
#define CHECK() do { CHECK_FAILURE(); if (faulted) return ILLEGAL_ADDRESS; if (!depth || !context_is_there) return INVALID_CONTEXT; } while (0)

static void *keep(void *at, size_t size, int kind) {
  for (int i = 0; i < MOST; i++)
    if (!blocks[i].at) { blocks[i] = (Block){at, size, kind, NULL}; live[kind]++; return at; }
  abort();
}
static Block *find(const void *at, int kind) {
  for (int i = 0; i < MOST; i++)
    if (blocks[i].at == at && at && (kind < 0 || blocks[i].kind == kind)) return &blocks[i];
  return NULL;
}
static int give_back(void *at, int kind) {
  Block *block = find(at, kind);
  if (!block) return INVALID_VALUE;
  live[kind]--;
  block->at = NULL;
  free(at);
  return OK;
}
static int within(const void *at, size_t size, int kind) {
  for (int i = 0; i < MOST; i++)
    if (blocks[i].at && blocks[i].kind == kind && (const char *)at >= (char *)blocks[i].at &&
        (const char *)at + size <= (char *)blocks[i].at + blocks[i].size) return 1;
  return 0;
}

void fake_fail(const char *name, int code) {
  for (int i = 0; i < 16; i++)
    if (!failures[i].code || !strcmp(failures[i].name, name)) {
      strncpy(failures[i].name, name, 63);
      failures[i].code = code;
      return;
    }
}
void fake_heal(void) { memset(failures, 0, sizeof failures); }
int fake_live(int kind) { return live[kind]; }
int fake_depth(void) { return depth; }
int fake_retained(void) { return retained; }
int fake_flags(void) { return flags; }
/* What a library that TensorRT stands for puts on a stream: runs, or is recorded. */
int fake_submit(Stream *stream, void (*work)(void *), void *argument) {
  if (!find(stream, STREAM)) return INVALID_VALUE;
  if (!stream->capturing) { work(argument); return OK; }
  stream->capturing->steps[stream->capturing->count++] = (Step){work, argument, NULL, 0};
  return OK;
}

int cuInit(unsigned unused) { (void)unused; CHECK_FAILURE(); return OK; }
int cuGetErrorString(int code, const char **text) {
  switch (code) {
    case INVALID_VALUE: *text = "invalid argument"; break;
    case OUT_OF_MEMORY: *text = "out of memory"; break;
    case 35: *text = "CUDA driver version is insufficient for CUDA runtime version"; break;
    case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
    case NO_DEVICE: *text = "no CUDA-capable device is detected"; break;
    case INVALID_CONTEXT: *text = "invalid device context"; break;
    case NOT_CAPTURING: *text = "operation failed due to a previous error during capture"; break;
    default: *text = NULL; return INVALID_VALUE;
  }
  return OK;
}
int cuDriverGetVersion(int *version) { *version = 12060; return OK; }
int cuDeviceGetCount(int *count) { *count = 1; return OK; }
int cuDeviceGetName(char *name, int size, int device) { (void)device; strncpy(name, "Fake", size); return OK; }
int cuDeviceTotalMem_v2(size_t *total, int device) { (void)device; *total = (size_t)8 << 30; return OK; }
int cuDeviceGetAttribute(int *value, int number, int device) {
  (void)device;
  *value = number == 75 ? 8 : number == 89 ? 0 : 7; /* of an Orin: 8.7, managed memory for one at a time */
  return OK;
}
int cuDeviceGet(int *device, int index) { CHECK_FAILURE(); *device = index; return index ? 101 : OK; }
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned value) {
  (void)device;
  CHECK_FAILURE();
  if (retained) return ACTIVE;
  flags = (int)value;
  return OK;
}
int cuDevicePrimaryCtxRetain(void **made, int device) {
  (void)device;
  CHECK_FAILURE();
  retained++;
  context_is_there = 1;
  *made = &context;
  return OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  (void)device;
  if (--retained == 0) context_is_there = 0;
  return OK;
}
int cuCtxPushCurrent_v2(void *pushed) {
  CHECK_FAILURE();
  if (pushed != &context || !context_is_there || depth == DEPTH) return INVALID_CONTEXT;
  stack[depth++] = pushed;
  return OK;
}
int cuCtxPopCurrent_v2(void **popped) { if (!depth) return INVALID_CONTEXT; *popped = stack[--depth]; return OK; }
int cuCtxGetCurrent(void **found) { *found = depth ? stack[depth - 1] : NULL; return OK; }
int cuCtxGetDevice(int *device) { CHECK(); *device = 0; return OK; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  CHECK();
  *free_bytes = (size_t)1 << 30;
  *total = (size_t)2 << 30;
  return OK;
}
int cuMemAlloc_v2(uint64_t *pointer, size_t size) {
  CHECK();
  if (size > (size_t)1 << 30) return OUT_OF_MEMORY;
  *pointer = (uint64_t)(uintptr_t)keep(malloc(size), size, DEVICE_MEMORY);
  return OK;
}
int cuMemFree_v2(uint64_t pointer) {
  CHECK();
  void *at = (void *)(uintptr_t)pointer;
  return give_back(at, find(at, MANAGED) ? MANAGED : DEVICE_MEMORY);
}
int cuMemAllocManaged(uint64_t *pointer, size_t size, unsigned attached) {
  CHECK();
  if (!size || attached != 2) return INVALID_VALUE; /* to the host, until a stream gets it */
  *pointer = (uint64_t)(uintptr_t)keep(malloc(size), size, MANAGED);
  return OK;
}
int cuMemHostAlloc(void **at, size_t size, unsigned unused) {
  (void)unused;
  CHECK();
  *at = keep(malloc(size), size, HOST_MEMORY);
  return OK;
}
int cuMemHostGetDevicePointer_v2(uint64_t *pointer, void *at, unsigned unused) {
  (void)unused;
  CHECK();
  *pointer = (uint64_t)(uintptr_t)at;
  return find(at, HOST_MEMORY) ? OK : INVALID_VALUE;
}
int cuMemFreeHost(void *at) { CHECK(); return give_back(at, HOST_MEMORY); }
static int copy(void *to, const void *from, size_t size, Stream *stream, int on_device) {
  const void *device = on_device ? to : from;
  if (!within(device, size, DEVICE_MEMORY)) return INVALID_VALUE;
  if (stream && stream->capturing)
    stream->capturing->steps[stream->capturing->count++] = (Step){NULL, to, from, size};
  else
    memcpy(to, from, size);
  return OK;
}
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) {
  CHECK();
  return copy((void *)(uintptr_t)to, from, size, NULL, 1);
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, Stream *stream) {
  CHECK();
  return find(stream, STREAM) ? copy((void *)(uintptr_t)to, from, size, stream, 1) : INVALID_VALUE;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, Stream *stream) {
  CHECK();
  return find(stream, STREAM) ? copy(to, (const void *)(uintptr_t)from, size, stream, 0) : INVALID_VALUE;
}
int cuStreamAttachMemAsync(Stream *stream, uint64_t pointer, size_t length, unsigned attached) {
  CHECK();
  Block *block = find((void *)(uintptr_t)pointer, MANAGED);
  if (!block || !find(stream, STREAM) || stream->capturing || attached != 4 || (length && length != block->size))
    return INVALID_VALUE;
  block->stream = stream;
  return OK;
}
int cuStreamCreate(void **made, unsigned value) {
  CHECK();
  if (value != 1) return INVALID_VALUE; /* a blocking one would wait for the default stream */
  *made = keep(calloc(1, sizeof(Stream)), 0, STREAM);
  return OK;
}
int cuStreamDestroy_v2(void *stream) { CHECK(); return give_back(stream, STREAM); }
int cuStreamSynchronize(Stream *stream) {
  CHECK();
  return find(stream, STREAM) ? (stream->capturing ? NOT_CAPTURING : OK) : INVALID_VALUE;
}
int cuEventCreate(void **made, unsigned unused) {
  (void)unused;
  CHECK();
  *made = keep(calloc(1, sizeof(Event)), 0, EVENT);
  return OK;
}
int cuEventDestroy_v2(void *event) { CHECK(); return give_back(event, EVENT); }
int cuEventRecord(Event *event, Stream *stream) {
  CHECK();
  if (!find(event, EVENT) || !find(stream, STREAM)) return INVALID_VALUE;
  event->recorded = 1;
  clock_gettime(CLOCK_MONOTONIC, &event->when);
  return OK;
}
int cuEventSynchronize(Event *event) { CHECK(); return find(event, EVENT) ? OK : INVALID_VALUE; }
int cuEventElapsedTime(float *milliseconds, Event *start, Event *end) {
  CHECK();
  if (!find(start, EVENT) || !find(end, EVENT) || !start->recorded || !end->recorded) return INVALID_VALUE;
  *milliseconds = (float)((double)(end->when.tv_sec - start->when.tv_sec) * 1e3 +
                          (double)(end->when.tv_nsec - start->when.tv_nsec) / 1e6);
  return OK;
}
int cuStreamBeginCapture_v2(Stream *stream, int mode) {
  CHECK();
  if (!find(stream, STREAM) || mode != 1 || stream->capturing) return INVALID_VALUE;
  stream->capturing = keep(calloc(1, sizeof(Graph)), 0, GRAPH);
  return OK;
}
int cuStreamEndCapture(Stream *stream, void **graph) {
  if (!find(stream, STREAM) || !stream->capturing) return NOT_CAPTURING;
  *graph = stream->capturing;
  stream->capturing = NULL;
  CHECK();
  return OK;
}
int cuGraphInstantiateWithFlags(void **made, Graph *graph, unsigned long long unused) {
  (void)unused;
  CHECK();
  if (!find(graph, GRAPH)) return INVALID_VALUE;
  Graph *copied = malloc(sizeof(Graph));
  *copied = *graph;
  *made = keep(copied, 0, EXECUTABLE);
  return OK;
}
int cuGraphDestroy(void *graph) { return give_back(graph, GRAPH); }
int cuGraphLaunch(Graph *graph, Stream *stream) {
  CHECK();
  if (!find(graph, EXECUTABLE) || !find(stream, STREAM)) return INVALID_VALUE;
  for (int i = 0; i < graph->count; i++) {
    Step step = graph->steps[i];
    if (step.work) step.work(step.to);
    else memcpy(step.to, step.from, step.size);
  }
  return OK;
}
int cuGraphExecDestroy(void *graph) { CHECK(); return give_back(graph, EXECUTABLE); }

/* It runs two kernels, whatever the module says: tests/gpu/mean.cu, and letterbox.cu by the C++ that it is given. */
typedef struct { unsigned grid[2], block[2]; uint64_t values[13]; int letterbox; const void *stream; } Work;
static void (*letterbox)(unsigned, unsigned, unsigned, unsigned, void **);
static char mean_kernel, letterbox_kernel, module_of_all;
static const size_t SIZES[13] = {8, 4, 4, 8, 4, 4, 4, 4, 4, 4, 4, 4, 4}; /* of letterbox's arguments */
static int modules;

void fake_letterbox(void (*given)(unsigned, unsigned, unsigned, unsigned, void **)) { letterbox = given; }
int fake_modules(void) { return modules; }
static int readable(const void *at, size_t size, const void *stream) {
  for (int i = 0; i < MOST; i++)
    if (blocks[i].at == at && at && blocks[i].kind == MANAGED) return blocks[i].stream == stream && size <= blocks[i].size;
  return within(at, size, DEVICE_MEMORY) || within(at, size, HOST_MEMORY);
}
static void run(void *given) {
  Work *work = given;
  void *arguments[13];
  for (int i = 0; i < 13; i++) arguments[i] = &work->values[i];
  if (work->letterbox) {
    size_t picture = (size_t)*(int *)arguments[1] * *(int *)arguments[2] * 3;
    size_t result = (size_t)*(int *)arguments[4] * *(int *)arguments[5] * 3;
    if (!readable(*(void **)arguments[0], picture, work->stream) || !readable(*(void **)arguments[3], result, work->stream)) {
      faulted = 1;
      return;
    }
    letterbox(work->grid[0], work->grid[1], work->block[0], work->block[1], arguments);
    return;
  }
  const unsigned char *image = *(unsigned char **)arguments[0];
  float *scores = *(float **)arguments[1];
  int pixels = *(int *)arguments[2];
  if (!readable(image, (size_t)work->grid[0] * pixels, work->stream)) { faulted = 1; return; }
  for (unsigned block = 0; block < work->grid[0]; block++) {
    unsigned sum = 0;
    for (int i = 0; i < pixels; i++) sum += image[block * pixels + i];
    scores[block] = (float)sum / (float)pixels / 255.0f * 8.0f;
  }
}
int cuModuleLoadData(void **module, const void *image) {
  CHECK();
  if (!image) return INVALID_VALUE;
  modules++;
  *module = &module_of_all;
  return OK;
}
int cuModuleUnload(void *module) { CHECK(); modules--; return module == &module_of_all ? OK : INVALID_VALUE; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
  CHECK();
  if (module != &module_of_all) return INVALID_VALUE;
  if (!letterbox && getenv("FAKE_LETTERBOX")) {
    void *library = dlopen(getenv("FAKE_LETTERBOX"), RTLD_NOW);
    if (library) *(void **)&letterbox = dlsym(library, "run");
  }
  *function = strcmp(name, "mean") ? &letterbox_kernel : &mean_kernel;
  return strcmp(name, "mean") && strcmp(name, "letterbox") ? 500 : OK;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, Stream *stream, void **arguments, void **extra) {
  CHECK();
  if (!find(stream, STREAM) || x * y * z * bx * by * bz == 0 || bx * by * bz > 1024 || shared || extra)
    return INVALID_VALUE;
  if (function != &mean_kernel && (function != &letterbox_kernel || !letterbox)) return INVALID_VALUE;
  Work *work = calloc(1, sizeof(Work)); /* never freed: a graph may hold it */
  *work = (Work){{x, y}, {bx, by}, {0}, function == &letterbox_kernel, stream};
  if (work->letterbox)
    for (int i = 0; i < 13; i++) memcpy(&work->values[i], arguments[i], SIZES[i]);
  else
    for (int i = 0; i < 3; i++) memcpy(&work->values[i], arguments[i], i < 2 ? 8 : 4);
  return fake_submit(stream, run, work);
}
