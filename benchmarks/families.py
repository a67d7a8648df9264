"""Which family's files are identified, and decoded as by the family's own code: a row a family.

Files are small networks of each family's layout; decoding is compared with what the families' packages made of random
outputs, which `tests/data/record_decoders.py` recorded.

python -m benchmarks.families
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from benchmarks.family_graphs import Family, families, network
from benchmarks.recorded_decoders import packages
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
    found = identify(facts_of(ir.from_proto(network(family))))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT)
    rows: list[dict[str, Any]] = [vars(row(family)) for family in families()]
    out = parser.parse_args().out
    out.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    for each in rows:
        decodes = ", ".join(each["decodes"]) or "nobody yet"
        print(f"{each['family']:<46} {each['preset']:<28} {each['identified']:<8} {decodes}")
    print(f"{sum(each['identified'] in ('yes', 'asks') for each in rows)} of {len(rows)} as they should be")


if __name__ == "__main__":
    main()
