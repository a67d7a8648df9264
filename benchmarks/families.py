"""Which family's files are identified, decoded as by the family's own code, quantized, and cut: a row a family.

Files are small networks of each family's layout with seeded weights. Decoding is compared with what the families'
packages made of random outputs, which `tests/data/record_decoders.py` recorded. INT8 is compared with FP32 in OpenVINO
and in ONNX Runtime, and the file with its tail cut off, or one put on, with the file as it is, by the objects that are
found in pictures of soft spots.

python -m benchmarks.families [FAMILY...]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from benchmarks.family_graphs import Family, families
from benchmarks.family_judging import judge
from benchmarks.family_networks import seeded_network
from benchmarks.recorded_decoders import packages
from edgeopt.hardware import machine
from edgeopt.identify import Identification
from edgeopt.identify.identifying import identify
from edgeopt.identify.reading import facts_of

RESULT = Path(__file__).parent / "results" / "families.json"


@dataclass(frozen=True)
class Row:
    """One family's line.

    Attributes:
        family: its name, and that of its exporter.
        preset: the reading that is right, or the readings between which its file does not decide.
        identified: ``yes``, ``asks`` where several readings fit and all are named, or what was read instead.
        missing: keys of a recipe that inspection asks for.
        decodes: packages whose own code finds the same in recorded outputs; empty where none could be run, so that
            the preset follows a description alone.
        differs: packages whose own code finds something else.
    """

    family: str
    preset: str
    identified: str
    missing: tuple[str, ...]
    decodes: tuple[str, ...]
    differs: tuple[str, ...]


def row(family: Family) -> Row:
    """Identify a family's file, by a network of its layout."""
    found = _identified(family)
    names = sorted(candidate.name for candidate in found.candidates)
    right = names == sorted(family.preset.split(" or "))
    identified = ("yes" if len(names) == 1 else "asks") if right else f"no: {' or '.join(names) or 'nothing'}"
    compared = dict.fromkeys(each for name in family.preset.split(" or ") for each in packages(name))
    return Row(
        family.name,
        family.preset,
        identified,
        tuple(question.key for question in found.questions),
        tuple(package for package, agrees in compared if agrees),
        tuple(package for package, agrees in compared if not agrees),
    )


def _identified(family: Family) -> Identification:
    return identify(facts_of(ir.from_proto(seeded_network(family))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="*", help="part of names. Default: all")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if arguments.family and arguments.out.is_file():
        rows = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"]
    for family in families():
        if arguments.family and not any(part in family.name for part in arguments.family):
            continue
        made = {**vars(row(family)), **vars(judge(family, _identified(family))), "cpu": machine().cpu.model}
        rows = [each for each in rows if each["family"] != family.name] + [made]
        int8 = ", ".join(f"{engine} {share:.1%}" for engine, share in made["int8"].items())
        tails = ", ".join(f"{tail} {share:.1%}" for tail, share in made["tails"].items())
        print(f"{family.name:<46} {family.preset:<28} {made['identified']:<8} {int8}; {tails or 'no tail'}", flush=True)
    order = [family.name for family in families()]
    rows = sorted((each for each in rows if each["family"] in order), key=lambda each: order.index(each["family"]))
    arguments.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(each['identified'] in ('yes', 'asks') for each in rows)} of {len(rows)} as they should be")


if __name__ == "__main__":
    main()
