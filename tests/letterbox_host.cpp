// letterbox.cu as C++: its arithmetic, thread by thread, on the processor.
#include <cmath>
using std::floor;
struct Index { unsigned x, y, z; };
static Index blockIdx, blockDim, threadIdx;
#define __global__
#define __device__
static float floorf_(float value) { return std::floor(value); }
#define floorf floorf_
#include "../edgeopt/runtime/trt/letterbox.cu"

template <class T> static T &as(void *argument) { return *static_cast<T *>(argument); }

// As cuLaunchKernel takes them.
extern "C" void run(unsigned blocks_x, unsigned blocks_y, unsigned threads_x, unsigned threads_y, void **arguments) {
  void **a = arguments;
  blockDim = {threads_x, threads_y, 1};
  for (blockIdx.y = 0; blockIdx.y < blocks_y; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < blocks_x; blockIdx.x++)
      for (threadIdx.y = 0; threadIdx.y < threads_y; threadIdx.y++)
        for (threadIdx.x = 0; threadIdx.x < threads_x; threadIdx.x++)
          letterbox(as<const unsigned char *>(a[0]), as<int>(a[1]), as<int>(a[2]), as<unsigned char *>(a[3]),
                    as<int>(a[4]), as<int>(a[5]), as<int>(a[6]), as<int>(a[7]), as<int>(a[8]), as<int>(a[9]),
                    as<unsigned>(a[10]), as<int>(a[11]), as<int>(a[12]));
}
