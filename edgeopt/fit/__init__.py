"""Fit: a classifier on the features of a frozen network, by scikit-learn, as part of the network's graph.

The design in one page:

* **The graph is cut** at the features (`cut`): what the last linear layer reads, whatever made the file (torch, timm,
  ONNX). The features of the pictures are computed once, in float, and kept under the graph's and the data's keys.
* **scikit-learn fits, and cross-validation chooses** (`classifiers`): a linear SVM, one of Gaussian kernels, a hidden
  layer, or nearest prototypes. Decision values become logits by a temperature that is found on pictures left out, so
  that scores are probabilities in every bundle.
* **The classifier is plain operators** (`heads`): Gemm, Relu, Exp and a division by the length. skl2onnx would write
  ai.onnx.ml's SVMClassifier and TopK over distances, which neither TensorRT nor OpenVINO runs and no quantizer knows.
  Scalers are folded into the products. Kernels are taken of features of length 1, where the squared distance is
  2 - 2 cosine: a Gaussian kernel is then one product with bounded numbers and an Exp, which quantizes well.
* **Prototypes are data**, in the decoding of the ModelSpec (`spec.NeighborsDecoding`): the graph ends in an embedding
  of length 1. A device adds a class without torch and without onnx, on TensorRT too, whose engine has its weights
  inside: it writes rows of int8 into the manifest (`runtime.enroll`). Golden outputs are embeddings, and stay true.
* **Three stages with keys of their own** (`pipeline.fitting`): ``backbone`` (model, its files), ``features`` (its key,
  the data), ``fit`` (its key, ``[fit]``, the labels). Another classifier costs a second. What follows is the pipeline
  of every network: optimize, calibrate, quantize, repair, compile, measure.
"""

from __future__ import annotations

from edgeopt.fit.classifiers import fit_classifier, require_learnable
from edgeopt.fit.cut import cut_at_features
from edgeopt.fit.heads import Fitted, Head, appended, head_alone

__all__ = [
    "Fitted",
    "Head",
    "appended",
    "cut_at_features",
    "fit_classifier",
    "head_alone",
    "require_learnable",
]
