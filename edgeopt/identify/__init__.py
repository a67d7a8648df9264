"""Identify: tell what a model file is, what it takes and what its outputs mean, with the reason for each."""

from __future__ import annotations

from edgeopt.identify.facts import Facts, Tensor
from edgeopt.identify.identification import Candidate, Finding, Identification, Question, Role

__all__ = ["Candidate", "Facts", "Finding", "Identification", "Question", "Role", "Tensor"]
