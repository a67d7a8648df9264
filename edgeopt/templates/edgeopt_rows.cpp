// Reads the rows of a detector for DeepStream's nvinfer: x1, y1, x2, y2 in pixels of the network's input, score, class.
// Compiled by build.sh beside it; the types are those of nvdsinfer_custom_impl.h.
#include <algorithm>
#include <cmath>
#include <vector>

#include "nvdsinfer_custom_impl.h"

extern "C" bool NvDsInferParseEdgeoptRows(std::vector<NvDsInferLayerInfo> const& layers,
                                          NvDsInferNetworkInfo const& network,
                                          NvDsInferParseDetectionParams const& parameters,
                                          std::vector<NvDsInferParseObjectInfo>& objects) {
  if (layers.size() != 1 || layers[0].dataType != FLOAT || layers[0].buffer == nullptr) return false;
  NvDsInferDims const& dims = layers[0].inferDims;  // rows, 6
  if (dims.numDims != 2 || dims.d[1] != 6) return false;
  float const* row = static_cast<float const*>(layers[0].buffer);
  float const width = static_cast<float>(network.width), height = static_cast<float>(network.height);
  for (unsigned int index = 0; index < dims.d[0]; ++index, row += 6) {
    if (!std::isfinite(row[4]) || row[5] < 0 || row[5] >= static_cast<float>(parameters.numClassesConfigured)) continue;
    unsigned int const number = static_cast<unsigned int>(row[5]);
    if (row[4] < parameters.perClassPreclusterThreshold[number]) continue;
    float const left = std::clamp(row[0], 0.0f, width), top = std::clamp(row[1], 0.0f, height);
    NvDsInferParseObjectInfo object{};
    object.classId = number;
    object.detectionConfidence = row[4];
    object.left = left;
    object.top = top;
    object.width = std::clamp(row[2], 0.0f, width) - left;
    object.height = std::clamp(row[3], 0.0f, height) - top;
    if (object.width >= 1.0f && object.height >= 1.0f) objects.push_back(object);
  }
  return true;
}

CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseEdgeoptRows);
