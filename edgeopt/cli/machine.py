"""Commands about machines and graphs: what can be done here, and what a target will not like."""

from __future__ import annotations

from pathlib import Path

import click

from edgeopt.cli.options import Named, as_json
from edgeopt.cli.output import print_json
from edgeopt.doors import TARGETS


@click.command()
@click.option("--device", help="Also show what this board's JetPacks offer, as in orin-nano-8gb.")
@as_json
def doctor(device: str | None, as_json: bool) -> None:  # noqa: FBT001 - a click flag
    """Show this machine and what each target can do on it."""
    from edgeopt.cli.console import console
    from edgeopt.cli.views.doctor import doctor_tables
    from edgeopt.doctor import doctor as examine

    report = examine(device)
    if as_json:
        print_json(report)
    else:
        console().print(doctor_tables(report))


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="MODEL|ENGINE|BUNDLE")
@click.option(
    "--target",
    type=Named(TARGETS, "target"),
    help="Target whose rules apply. Default: trt. Of a BUNDLE: only its variants of this target. Default: all.",
)
@click.option("--device", help="Board for estimates of cost, such as orin-nano-8gb.")
@click.option(
    "--rules",
    multiple=True,
    type=Named({}, "lint rule"),
    help="Your own rule on graphs: a function from lint.graph.Linted to Findings. May be repeated.",
)
@as_json
@click.pass_context
def lint(
    context: click.Context,
    path: Path,
    target: str | None,
    device: str | None,
    rules: tuple[str, ...],
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Find what a target rejects or runs badly.

    MODEL is an .onnx file. ENGINE is a .plan or .engine (on the GPU that runs it), or the .json that trtexec
    --exportLayerInfo --profilingVerbosity=detailed writes. For a BUNDLE, every variant's graph is read. The exit code
    is 1 if the target rejects something.
    """
    from edgeopt.cli.console import console
    from edgeopt.cli.views.lint import lint_view
    from edgeopt.lint import lint as run

    report = run(path, target, device, rules)
    if as_json:
        print_json(report)
    else:
        console().print(lint_view(report))
    context.exit(0 if report.ok else 1)


COMMANDS = (doctor, lint)
