"""Commands that measure on many boards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeopt.cli.options import append, as_json, bundle, gate_config, gate_limits, only_variant, summary, threads
from edgeopt.cli.output import echo, print_json, printable

if TYPE_CHECKING:
    from edgeopt.farm import Board
    from edgeopt.farm.run import Terms


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which boards there are, and how they are visited."""
    for option in reversed(
        (
            click.option(
                "--on",
                "references",
                multiple=True,
                required=True,
                metavar="ssh://USER@HOST[:PORT]|BOARD|PLACE|tag:NAME",
                help="A board by address, by its name or tag in farm.toml, or a place of labgrid's (tag:KEY=VALUE: any "
                "place with that tag, reserved). May be repeated.",
            ),
            click.option(
                "--farm",
                "farm_file",
                type=click.Path(dir_okay=False, path_type=Path),
                help="File of boards with address, tags, place and the command of edgeopt there. Default: farm.toml, "
                "if there is one.",
            ),
            click.option(
                "--data",
                help="Images as the boards know them: an absolute path there, or a name such as digits. Default: the "
                "recipe's test set where a board has it, else the bundle's golden inputs.",
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(1.0),
                default=7200.0,
                show_default=True,
                help="Longest time in seconds that one command may take on a board.",
            ),
            click.option(
                "--wait",
                type=click.FloatRange(1.0),
                default=600.0,
                show_default=True,
                help="Longest time in seconds to wait for a reservation of labgrid's.",
            ),
            click.option("--power-cycle", is_flag=True, help="Switch each board off and on before, through labgrid."),
        )
    ):
        command = option(command)
    return command


@click.group()
def farm() -> None:
    """Measure a bundle on many boards.

    Boards are reached by OpenSSH's own client, with the keys, ssh-agent and settings that you have; nothing is asked.
    Each needs this very edgeopt. A farm.toml names them:

    \b
    [boards.orin-1]
    address = "ssh://nvidia@10.0.0.5"
    tags = ["orin"]
    edgeopt = "~/venv/bin/edgeopt"
    [boards.rack-7]
    place = "rack-7"    # labgrid's; address from its NetworkService
    """  # noqa: D301 - click reads \\b as the character, which keeps the lines apart


@farm.command("run")
@bundle
@_shared
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the results, BOARD.json each. Default: NAME.farm beside the bundle.",
)
@only_variant
@threads
@click.option("--quick", is_flag=True, help="Run a few seconds per variant instead of MLPerf's 600 s.")
@click.option("--duration", type=click.FloatRange(0.1), help="Duration of a quick run in seconds. Default: 3.")
@click.option("--evaluate", is_flag=True, help="Measure accuracy, too.")
@click.option("--again", is_flag=True, help="Measure also where there are results.")
@click.option("--allow-invalid", is_flag=True, help="Take the figures of a disturbed measurement for results.")
@as_json
@click.pass_context
def run(
    context: click.Context,
    bundle: Path,
    references: tuple[str, ...],
    farm_file: Path | None,
    data: str | None,
    timeout: float,
    wait: float,
    power_cycle: bool,  # noqa: FBT001 - a click flag
    out: Path | None,
    variant: str | None,
    threads: int,
    quick: bool,  # noqa: FBT001 - a click flag
    duration: float | None,
    evaluate: bool,  # noqa: FBT001 - a click flag
    again: bool,  # noqa: FBT001 - a click flag
    allow_invalid: bool,  # noqa: FBT001 - a click flag
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Measure a bundle's latency on boards.

    All boards work at the same time, each for itself: the bundle is copied unless it is there, verified and measured in
    a folder of its own, and the figures come back with the machine, its power mode and clocks. A board whose results
    are there is not measured again. The board is released whatever happens, also after Ctrl-C.

    Exit code 1: a board has no result; 3: a measurement was disturbed.
    """
    from edgeopt.cli.console import console
    from edgeopt.cli.views.farms import farm_table
    from edgeopt.errors import MeasurementError
    from edgeopt.farm import Asked, Measured, Missing, run_farm

    boards, terms = _boards(references, farm_file), _terms(data, timeout, wait, power_cycle=power_cycle)

    def asked(digest: str) -> Asked:
        return Asked(
            bundle=digest,
            variant=variant,
            threads=threads,
            quick=quick,
            duration_s=duration,
            data=data,
            evaluate=evaluate,
        )

    folder = out or bundle.with_name(f"{bundle.name.removesuffix('.edgeopt')}.farm")
    rows = run_farm(bundle, boards, folder, asked, terms, again=again, allow_invalid=allow_invalid)
    measured = [each for each in rows if isinstance(each, Measured)]
    missing = [each for each in rows if isinstance(each, Missing)]
    if as_json:
        print_json(
            {
                "boards": {each.board: each.result for each in measured},
                "missing": {each.board: each.reason for each in missing},
            }
        )
    else:
        console().print(farm_table(rows))
        echo(printable(f"{len(measured)} of {len(rows)} boards have results, in {folder}"))
    invalid = any(each.result.invalid for each in measured) and not allow_invalid
    context.exit(1 if missing else MeasurementError.exit_code if invalid else 0)


@farm.command("gate")
@click.argument("candidate")
@click.option("--baseline", required=True, help="Bundle that ships today, or BUNDLE@VARIANT.")
@_shared
@threads
@gate_limits
@click.option(
    "--maximum-s",
    type=click.FloatRange(1.0),
    help="Time limit of each board in seconds, after which its gate decides. Default: 120.",
)
@summary
@as_json
@click.pass_context
def gate(
    context: click.Context,
    candidate: str,
    baseline: str,
    references: tuple[str, ...],
    farm_file: Path | None,
    data: str | None,
    timeout: float,
    wait: float,
    power_cycle: bool,  # noqa: FBT001 - a click flag
    threads: int,
    tolerance: float | None,
    accuracy_drop: float | None,
    f1_drop: float | None,
    max_class_drop: float | None,
    maximum_s: float | None,
    markdown: Path | None,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Gate a candidate on all boards at once.

    CANDIDATE is a bundle, or BUNDLE@VARIANT. It fails if it is slower or less accurate on one board, and passes if it
    passes on all. Each board's failure has to be the surer the more boards there are, so that all together fail an
    equal candidate as rarely as one does. What is the same on every board (shift of maps, bad pictures) is for `edgeopt
    gate`. Exit code 0: pass, 1: fail, 3: a board was too disturbed to tell, or gave no answer.
    """
    from edgeopt.farm import gate_farm, verdict_to_markdown
    from edgeopt.gate import Side

    boards, terms = _boards(references, farm_file), _terms(data, timeout, wait, power_cycle=power_cycle)
    config = gate_config(
        tolerance=tolerance,
        accuracy_drop=accuracy_drop,
        f1_drop=f1_drop,
        class_drop=max_class_drop,
        maximum_s=maximum_s,
    )
    verdict = gate_farm(Side.parse(baseline), Side.parse(candidate), boards, config, terms, threads=threads, data=data)
    text = verdict_to_markdown(verdict)
    if as_json:
        print_json(verdict)
    else:
        echo(text)
    append(text, markdown)
    context.exit(verdict.exit_code)


def _boards(references: tuple[str, ...], farm_file: Path | None) -> tuple[Board, ...]:
    from edgeopt.farm import boards_of, read_farm

    return boards_of(references, read_farm(farm_file))


def _terms(data: str | None, timeout: float, wait: float, *, power_cycle: bool) -> Terms:
    from edgeopt.farm.run import Terms

    if data is not None and "/" in data and not data.startswith("/"):
        raise click.UsageError(
            f"--data is '{data}', which starts from no folder of a board's; give an absolute path there"
        )
    return Terms(
        timeout_s=timeout, wait_s=wait, power_cycle=power_cycle, tell=lambda text: echo(printable(text), err=True)
    )


COMMANDS = (farm,)
