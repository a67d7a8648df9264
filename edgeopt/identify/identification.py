"""Identification: what was found out about a model, each with its reason, and what is still open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from edgeopt.presets import expand
from edgeopt.spec import GivenDecoding, Preprocessing, Size, Task
from edgeopt.typed import convert

_T = TypeVar("_T")


@dataclass(frozen=True)
class Finding(Generic[_T]):
    """A value, and what tells it, as the end of a sentence."""

    value: _T
    why: str


@dataclass(frozen=True)
class Role:
    """Purpose of an input or output.

    Attributes:
        tensor: its name, type and shape.
        role: ``image``, ``original size``, ``boxes``, ``scores``…
        why: what tells so.
    """

    tensor: str
    role: str
    why: str


@dataclass(frozen=True)
class Candidate:
    """One reading of a model.

    Attributes:
        family: whose model it is, for people.
        decoding: keys of ``[model.decoding]``.
        preprocessing: how images become the input; None where the family does not settle it.
        why: what speaks for this reading.
        classes: how many the outputs hold; None where they do not show it.
        roles: meaning of the outputs, by name.
        note: what else to know of it.
        names: class names that the family always has.
    """

    family: str
    decoding: Mapping[str, Any]
    preprocessing: Finding[Preprocessing] | None
    why: str
    classes: int | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The preset of the head, or ``classification``."""
        return str(self.decoding.get("preset") or self.decoding["type"])

    @property
    def decoder(self) -> GivenDecoding:
        """`decoding` as a table that is whole."""
        decoding: GivenDecoding = convert(expand(dict(self.decoding)), GivenDecoding)  # type: ignore[arg-type]
        return decoding


@dataclass(frozen=True)
class Question:
    """A key that a recipe has to give because the model does not tell it.

    Attributes:
        key: the recipe's key.
        what: why it is needed, as a sentence without a full stop.
        example: the option that gives it.
    """

    key: str
    what: str
    example: str


@dataclass(frozen=True)
class Identification:
    """Everything that is known of a model.

    Attributes:
        inputs: each with its role.
        outputs: each with its role; by the first candidate where there are several.
        task: classification or detection; None if no reading fits.
        candidates: readings that fit. One: it is settled. Several: nothing in the file decides between them.
        input_size: (height, width).
        labels: class names.
        questions: what else a recipe has to say.
        notes: what is worth knowing, such as metadata that contradict the graph.
        quantized: the graph holds quantizers already, in pairs of Q/DQ or before integer operators.
        names_itself: `labels` are written in the file.
        possible: usual preprocessings by name, where nothing settles it and images with labels have to decide.
    """

    inputs: tuple[Role, ...]
    outputs: tuple[Role, ...]
    task: Finding[Task] | None
    candidates: tuple[Candidate, ...]
    input_size: Finding[Size] | None
    labels: Finding[tuple[str, ...]] | None
    questions: tuple[Question, ...] = ()
    notes: tuple[str, ...] = ()
    quantized: bool = False
    names_itself: bool = False
    possible: Mapping[str, Preprocessing] = field(default_factory=dict)

    @property
    def settled(self) -> Candidate | None:
        """The only reading; None where there are several or none."""
        return self.candidates[0] if len(self.candidates) == 1 else None
