// A picture as the network takes it: scaled to fit, the rest filled, channels in order and in planes or not.
// One thread a pixel of the network's input. letterbox.ptx is made of it by: python -m benchmarks.kernels
//
// Bilinear as OpenCV has it for 8 bits: pixel centers, weights of 11 bits, the sum in integers (resize.cpp).
#define BITS 11
#define ONE (1 << BITS)

__device__ static int clamped(int value, int most) { return value < 0 ? 0 : value > most ? most : value; }

extern "C" __global__ void letterbox(const unsigned char *image, int width, int height, unsigned char *out,
                                     int out_width, int out_height, int left, int top, int fitted_width,
                                     int fitted_height, unsigned int fill, int swap, int planar) {
  const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x), y = (int)(blockIdx.y * blockDim.y + threadIdx.y);
  if (x >= out_width || y >= out_height) return;
  const int u = x - left, v = y - top;
  const int inside = u >= 0 && v >= 0 && u < fitted_width && v < fitted_height;
  int x0 = 0, x1 = 0, y0 = 0, y1 = 0, weight_x = 0, weight_y = 0;
  if (inside) {
    const float at_x = ((float)u + 0.5f) * ((float)width / (float)fitted_width) - 0.5f;
    const float at_y = ((float)v + 0.5f) * ((float)height / (float)fitted_height) - 0.5f;
    const int whole_x = (int)floorf(at_x), whole_y = (int)floorf(at_y);
    weight_x = (int)((at_x - (float)whole_x) * ONE + 0.5f);
    weight_y = (int)((at_y - (float)whole_y) * ONE + 0.5f);
    x0 = clamped(whole_x, width - 1), x1 = clamped(whole_x + 1, width - 1);
    y0 = clamped(whole_y, height - 1), y1 = clamped(whole_y + 1, height - 1);
  }
  for (int channel = 0; channel < 3; channel++) {
    int value = (int)(fill >> (8 * channel)) & 255;  // of the picture's channel
    if (inside) {
      const int above = image[(y0 * width + x0) * 3 + channel] * (ONE - weight_x) +
                        image[(y0 * width + x1) * 3 + channel] * weight_x;
      const int below = image[(y1 * width + x0) * 3 + channel] * (ONE - weight_x) +
                        image[(y1 * width + x1) * 3 + channel] * weight_x;
      value = ((((ONE - weight_y) * (above >> 4)) >> 16) + ((weight_y * (below >> 4)) >> 16) + 2) >> 2;
    }
    const int place = swap ? 2 - channel : channel;
    out[planar ? (place * out_height + y) * out_width + x : (y * out_width + x) * 3 + place] = (unsigned char)value;
  }
}
