"""The command that builds many variations of recipes."""

from __future__ import annotations

from pathlib import Path

import click

from edgeopt.cli.options import LOCAL, OUT, WORK, as_json, cluster_address, on_cluster
from edgeopt.cli.output import echo, print_json, printable


@click.command()
@click.argument("sweep", metavar="SWEEP.TOML", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder of the bundles, the page and the table. Default: {OUT}/NAME of the sweep's file. Workers on other "
    "machines have it under the same path, but for a sweep with a store.",
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder of stage results, which all workers share but for a sweep with a store. Default: {WORK} in --out.",
)
@on_cluster("Processes of this machine, a Ray cluster that is started on it, or one that runs.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Trials at a time on this machine. Default: 1; with ray, its cores. A cluster that runs has its own.",
)
@as_json
@click.pass_context
def sweep(
    context: click.Context,
    sweep: Path,
    out: Path | None,
    work: Path | None,
    on: str,
    workers: int | None,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Build models × settings × targets.

    Each trial is a build. Trials share what they have in common, and what is there is not made again: run it again to
    go on. After a change of images, weights or your own code give another --out: rows would stay as they are. A trial
    that fails is a row with its error; the exit code is 1 if all do. SWEEP.TOML:

    \b
    recipe = "edgeopt.toml"
    targets = ["ort", "trt@device:orin-nano"]  # label: a Ray node's resource
    trials = 40                                # of a larger grid Optuna chooses
    store = "s3://bucket/sweeps"               # where no folder is shared
    [models.small]                             # recipe = "…" for one of its own
    set = {"model.input_size" = [160, 160]}
    [settings]                                 # lists of values, or named ones
    "calibrate.method" = ["minmax", "mse"]
    "quantize.repairs" = {none = [], one = ["bias_correction"]}

    Latencies of trials that ran beside others on one machine are marked: for figures, use one worker a machine. A
    recipe is code: sweep only recipes that you trust.
    """  # noqa: D301 - click reads \\b as the character, which keeps the lines apart
    from edgeopt.cli.console import console
    from edgeopt.cli.views.sweeps import sweep_table
    from edgeopt.sweep import LocalWorkers, RayWorkers, Workers, read_plan
    from edgeopt.sweep import sweep as run

    plan = read_plan(sweep)
    folder = (out or Path(OUT) / plan.name).absolute()
    store = (work or folder / WORK).absolute()
    chosen: Workers
    if workers is not None and on not in (LOCAL, "ray"):
        raise click.UsageError(f"--workers goes with --on local or ray: '{on}' has the workers that its nodes give it")
    if on == LOCAL:
        chosen = LocalWorkers(folder, store, workers or 1)
    else:
        chosen = RayWorkers(folder, store, cluster_address(on), workers, plan.config.cpus)
    with chosen as entered:
        swept = run(plan, folder, entered, lambda line: echo(printable(line), err=True))
    bad = sum(bool(each.error) for each in swept.results)
    if as_json:
        print_json(swept.results)
    else:
        console().print(sweep_table(swept.results))
        echo(printable(f"{len(swept.results)} trials, {swept.found} there before, {bad} failed"))
        echo(f"page   {swept.page}\ntable  {swept.table}")
    context.exit(int(bad == len(swept.results)))


COMMANDS = (sweep,)
