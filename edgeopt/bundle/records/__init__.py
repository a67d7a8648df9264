"""Records: the typed results of a variant that a manifest holds.

They stand here, below all that makes them, so that whoever reads a bundle has their types at hand.
"""

from edgeopt.bundle.records.accuracy import (
    Accuracy,
    AgreementOutcomes,
    ClassChange,
    ClassificationOutcomes,
    Comparison,
    CountedOutcomes,
    DetectionOutcomes,
    MatchedOutcomes,
    PackedArray,
)
from edgeopt.bundle.records.attribution import Attribution, ExplainedPicture, Frame, Judged, Method, Pointing
from edgeopt.bundle.records.candidates import CandidateChoice, CandidateOf
from edgeopt.bundle.records.diagnosis import Cause, Diagnosis, Effect, InputFigures, LayerDiagnosis, Saturation, Tried
from edgeopt.bundle.records.latency import (
    AccuracyBeside,
    Conditions,
    Distribution,
    Environment,
    Histogram,
    LatencyResult,
    Ratio,
    ScenarioName,
    Series,
)
from edgeopt.bundle.records.measured import Acceptance, BatchTime, Enrolled, Measured, now
from edgeopt.bundle.records.robustness import Beside, OnBadPictures, UnderAttack
from edgeopt.bundle.records.search import Point, SearchResult, Status
from edgeopt.bundle.records.stages import (
    NO_RECORDS,
    Arithmetic,
    Compression,
    Fit,
    FloatLayer,
    ImplicitCalibration,
    IntegerCoverage,
    LayerType,
    RepairTrial,
    StageRecords,
)

__all__ = [
    "NO_RECORDS",
    "Acceptance",
    "Accuracy",
    "AccuracyBeside",
    "AgreementOutcomes",
    "Arithmetic",
    "Attribution",
    "BatchTime",
    "Beside",
    "CandidateChoice",
    "CandidateOf",
    "Cause",
    "ClassChange",
    "ClassificationOutcomes",
    "Comparison",
    "Compression",
    "Conditions",
    "CountedOutcomes",
    "DetectionOutcomes",
    "Diagnosis",
    "Distribution",
    "Effect",
    "Enrolled",
    "Environment",
    "ExplainedPicture",
    "Fit",
    "FloatLayer",
    "Frame",
    "Histogram",
    "ImplicitCalibration",
    "InputFigures",
    "IntegerCoverage",
    "Judged",
    "LatencyResult",
    "LayerDiagnosis",
    "LayerType",
    "MatchedOutcomes",
    "Measured",
    "Method",
    "OnBadPictures",
    "PackedArray",
    "Point",
    "Pointing",
    "Ratio",
    "RepairTrial",
    "Saturation",
    "ScenarioName",
    "SearchResult",
    "Series",
    "StageRecords",
    "Status",
    "Tried",
    "UnderAttack",
    "now",
]
