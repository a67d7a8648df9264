"""Tables of accuracy on corrupted pictures and under attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from edgeopt.cli.views.tables import METRIC_TITLES, new_table
from edgeopt.report.figures import points, share

if TYPE_CHECKING:
    from edgeopt.attack import Attacked
    from edgeopt.evaluate.robustness import Robustness


def robustness_table(found: Robustness) -> RenderableType:
    """Return a row for each kind of corruption: the baseline's metric, and each variant's change from it."""
    others = [name for name in found.clean if name != found.baseline]
    table = new_table("pictures", found.baseline, *others)
    clean = found.clean.get(found.baseline)
    table.add_row("clean", share(clean, 2), *(_change(found.clean[name], clean) for name in others))
    for kind in found.corrupted[found.baseline]:
        value = found.of_kind(found.baseline, kind)
        table.add_row(
            kind.replace("_", " "), share(value, 2), *(_change(found.of_kind(name, kind), value) for name in others)
        )
    mean = found.mean(found.baseline)
    table.add_row("mean of kinds", share(mean, 2), *(_change(found.mean(name), mean) for name in others))
    metric = METRIC_TITLES.get(found.metric, found.metric)
    notes = [f"{found.images} images, {metric}; variants: change from {found.baseline} on the same pictures"]
    for name in others:
        kind, lost = next(iter(found.drops(name).items()))
        if lost <= 0.0:
            notes.append(f"{name} loses nothing on any kind")
            continue
        more = lost - ((clean or 0.0) - found.clean[name])
        notes.append(f"{name} loses most on {kind.replace('_', ' ')}: {points(-lost)}, {points(-more)} beyond clean")
    return Group(table, Text("\n".join(notes), style="dim"))


def _change(value: float, baseline: float | None) -> str:
    return share(value, 2) if baseline is None else points(value - baseline)


def attack_table(found: Attacked) -> RenderableType:
    """Return a row for each variant and radius: accuracy under each attack, and the worst of them."""
    table = new_table("variant", "radius", "clean", *found.attacks, "worst")
    table.padding = 0  # nine columns take 80 characters; a longer variant's name is broken
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for name, clean in found.clean.items():
        for radius in found.radii:
            cells = [attack.get(name, {}).get(radius) for attack in found.attacks.values()]
            table.add_row(
                name,
                f"{radius}/255",
                share(clean, 1),
                *(share(cell, 1) for cell in cells),
                share(found.worst(name, radius), 1),
            )
    if (patch := found.patch) is not None:
        table.add_section()
        nothing = [""] * (1 + len(found.attacks))
        for name in found.clean:
            table.add_row(name, f"grey {patch.share:.0%}", *nothing, share(patch.grey[name], 1))
            table.add_row(name, f"patch {patch.share:.0%}", *nothing, share(found.behind_patch(name), 1))
    told = "fgsm, pgd and apgd were made on the float network: on INT8 they show what transfers. Believe the worst"
    if found.metric == "ap":
        told = "pgd was made on the float network: on INT8 it shows what transfers. Believe the worst"
    notes = [f"{found.images} images, {METRIC_TITLES.get(found.metric, found.metric)}", told]
    notes += [f"{name}: {reason}" for name, reason in found.skipped.items()]
    return Group(table, Text("\n".join(notes), style="dim"))
