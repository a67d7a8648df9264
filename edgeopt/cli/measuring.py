"""Commands that measure a bundle: accuracy, latency, and what both say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeopt.cli.options import (
    LOCAL,
    Named,
    append,
    as_json,
    bundle,
    cluster,
    cluster_workers,
    data,
    gate_config,
    gate_limits,
    on_cluster,
    only_variant,
    overlap,
    pictures,
    summary,
    threads,
    tiles,
    tiles_of,
    variant,
)
from edgeopt.cli.output import echo, print_json, printable
from edgeopt.cli.pictures import images_of_user
from edgeopt.doors import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeopt.benchmark import ScenarioName
    from edgeopt.bundle import Bundle
    from edgeopt.bundle.records import Measured
    from edgeopt.config import EvaluateConfig
    from edgeopt.dataset import Dataset
    from edgeopt.evaluate import Accuracy, ImageResult
    from edgeopt.evaluate.shards import Shards
    from edgeopt.gate import Verdict
    from edgeopt.preprocess import Image

_BENCHMARK_IMAGES = 16
"""Different images that a measurement goes around."""
_TUNING_IMAGES = 128
"""Images for tuning: more, because they also have to tell whether bf16 changes answers."""
_SCENARIOS = click.Choice(["singlestream", "multistream", "offline", "server"])


@click.command()
@bundle
@data
@only_variant
@threads
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a table with a row per image: truth, answer, score, FP32's answer, and what quantization changed.",
)
@click.option(
    "--confusion",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write every variant's confusion matrix into this folder, as CSV and as a picture (SVG).",
)
@click.option(
    "--mistakes",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write into this folder the pictures that are wrong, drawn: each variant's surest mistakes, what INT8 "
    "broke and what it mended; and a table of false and missed answers by class.",
)
@click.option(
    "--metrics",
    multiple=True,
    type=Named(METRICS, "metric"),
    help="Another metric beside the main one; may be repeated. One of your own takes answers and truths.",
)
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Number of surest mistakes to list for each variant; with --mistakes, of pictures for each reason.",
)
@tiles
@overlap
@click.option(
    "--shards",
    type=click.IntRange(1),
    help="Evaluate in so many pieces, each kept as it is done: a run that was killed goes on, with the same figures. "
    "For many images: memory hardly grows with them. Nothing is told of single images, and the bundle keeps nothing.",
)
@click.option(
    "--shard", type=click.IntRange(0), help="Evaluate this piece only, from 0, for a run elsewhere that has the folder."
)
@click.option(
    "--shard-folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of what the pieces say. Default: NAME.shards beside the bundle.",
)
@on_cluster("Where --shards are evaluated: here, on a Ray cluster that is started here, or on one that runs.")
@cluster_workers
@as_json
def evaluate(
    bundle: Path,
    data: str | None,
    variant: str | None,
    threads: int,
    csv_file: Path | None,
    confusion: Path | None,
    mistakes: Path | None,
    metrics: tuple[str, ...],
    worst: int,
    tiles: int | None,
    overlap: float | None,
    shards: int | None,
    shard: int | None,
    shard_folder: Path | None,
    on: str,
    workers: int | None,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Measure a bundle's accuracy beside FP32.

    All variants are measured on the same images. A folder of images without labels shows how far they agree with FP32,
    and no accuracy. Also shows which classes changed and the surest mistakes. --json has
    everything, image by image. The bundle keeps what was found on the images that it was built with, for machines of
    this kind alone.
    """
    from edgeopt.bundle import Bundle
    from edgeopt.cli.console import StageDisplay
    from edgeopt.config import EvaluateConfig
    from edgeopt.evaluate import evaluate_bundle, found_here, images_csv, results_by_variant
    from edgeopt.evaluate.mistakes import write_mistakes
    from edgeopt.evaluate.shards import Shards
    from edgeopt.spec import replace

    opened = Bundle.open(bundle)
    recipe = opened.manifest.recipe
    config = EvaluateConfig() if recipe is None else recipe.evaluate
    cut = tiles_of(tiles, overlap) or config.tiles
    config = replace(config, metrics=tuple(dict.fromkeys((*config.metrics, *metrics))), tiles=cut)
    dataset = images_of_user(opened, data)
    if shards is not None:
        if csv_file is not None or mistakes is not None:
            raise click.UsageError("--csv and --mistakes tell of single images, which --shards keeps nothing of")
        pieces = Shards(
            shard_folder or bundle.with_name(f"{bundle.name.removesuffix('.edgeopt')}.shards"), shards, shard
        )
        results = _in_shards(opened, dataset, config, pieces, variant, threads, on, workers)
        if pieces.only is None:
            if confusion is not None:
                _write_confusions(confusion, results, dataset, opened.manifest.baseline)
            _print_accuracy(results, {}, opened, worst, as_json=as_json)
        else:
            echo(printable(f"shard {pieces.only} of {pieces.count} is in {pieces.folder}"))
        return
    if shard is not None or shard_folder is not None or on != LOCAL or workers is not None:
        raise click.UsageError("--shard, --shard-folder, --on and --workers go with --shards")
    with StageDisplay() as display:
        results = evaluate_bundle(opened, dataset, config, variant=variant, threads=threads, progress=display)
    manifest = opened.manifest
    images = results_by_variant(results, dataset, manifest.baseline)
    if csv_file is not None:
        _write(csv_file, images_csv(images))
    if confusion is not None:
        _write_confusions(confusion, results, dataset, opened.manifest.baseline)
    if mistakes is not None:
        count = write_mistakes(mistakes, results, images, dataset, opened.manifest.baseline, worst)
        echo(f"wrote {count} pictures that are wrong to {mistakes}", err=True)
    _print_accuracy(results, images, opened, worst, as_json=as_json)
    as_built = cut == (None if recipe is None else recipe.evaluate.tiles)
    if as_built and (found := found_here(results, manifest)):
        for name, each in found.items():
            if each.acceptance is not None and name != manifest.baseline:
                state, verdict = "accepted" if each.acceptance.accepted else "not accepted", each.acceptance.verdict
                echo(printable(f"{name}: {state} here{verdict and f', {verdict}'}"), err=True)
        _record(opened, found)
    else:
        other = "these are not the images" if as_built else "these are not the tiles"
        echo(f"nothing was recorded: {other} that the bundle was built with", err=True)


def _in_shards(
    bundle: Bundle,
    dataset: Dataset,
    config: EvaluateConfig,
    shards: Shards,
    variant: str | None,
    threads: int,
    on: str,
    workers: int | None,
) -> dict[str, Accuracy]:
    """Evaluate piece by piece, here or on a cluster."""
    from contextlib import ExitStack

    from edgeopt.cli.console import StageDisplay
    from edgeopt.evaluate.shards import evaluate_in_shards
    from edgeopt.evaluate.spread import SpreadEvaluation

    with ExitStack() as stack:
        there = stack.enter_context(cluster(on, workers))
        elsewhere = None if there is None else SpreadEvaluation(there, bundle.path, config, variant, threads)
        display = stack.enter_context(StageDisplay())
        return evaluate_in_shards(
            bundle, dataset, config, shards, variant=variant, threads=threads, evaluate=elsewhere, progress=display
        )


def _print_accuracy(
    results: Mapping[str, Accuracy],
    images: Mapping[str, Sequence[ImageResult]],
    bundle: Bundle,
    worst: int,
    *,
    as_json: bool,
) -> None:
    """Print the figures, and what `images` say."""
    from edgeopt.cli.console import console
    from edgeopt.cli.views.answers import answers_view
    from edgeopt.cli.views.tables import accuracy_table
    from edgeopt.evaluate import results_json

    manifest = bundle.manifest
    if as_json:
        print_json(results_json(results, images, manifest.baseline, manifest.spec.labels))
    else:
        console().print(accuracy_table(results))
        console().print(answers_view(results, images, manifest, worst))


def _record(bundle: Bundle, found: Mapping[str, Measured]) -> None:
    """Keep this machine's results in the bundle. A bundle that cannot be written is only a warning."""
    from edgeopt.errors import BundleError, StorageError

    try:
        bundle.record_measured(found)
    except (BundleError, StorageError) as error:
        echo(f"nothing was recorded: {error}", err=True)
        return
    machines = "; ".join(sorted({each.machine.title for each in found.values()}))
    echo(f"recorded in {bundle.path} for {machines}", err=True)


def _write(path: Path, text: str) -> None:
    from edgeopt.errors import storage_errors

    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _write_confusions(folder: Path, results: dict[str, Accuracy], dataset: Dataset, baseline: str) -> None:
    from edgeopt.evaluate import confusion, confusion_csv
    from edgeopt.report import confusion_picture

    for name, accuracy in results.items():
        matrix, labels = confusion(accuracy, dataset, results.get(baseline))
        _write(folder / f"confusion-{name}.csv", confusion_csv(matrix, labels))
        if picture := confusion_picture(matrix, labels):
            _write(folder / f"confusion-{name}.svg", picture)
        else:
            echo(f"{name}: no picture of {len(labels)} classes: its cells would be too small to see", err=True)


def _print_schema(context: click.Context, _: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click calls it
    if asked:
        from edgeopt.benchmark import json_schema

        print_json(json_schema())
        context.exit()


@click.command()
@bundle
@pictures
@only_variant
@threads
@click.option(
    "--scenario", type=_SCENARIOS, default="singlestream", show_default=True, help="Scenario as MLPerf defines it."
)
@click.option(
    "--quick", is_flag=True, help="Run a few seconds per variant instead of MLPerf's 600 s. The results are marked."
)
@click.option(
    "--duration", type=click.FloatRange(0.1), help="Duration of a quick run in seconds. Default: the recipe's 3."
)
@click.option(
    "--batches",
    metavar="N,…",
    help="Measure instead how long the network takes for so many pictures at once, as 1,2,4,8. The bundle keeps it, "
    "for `edgeopt serve` and `edgeopt package`.",
)
@click.option("--allow-invalid", is_flag=True, help="Give and keep the figures of an invalid run too, marked.")
@click.option(
    "--accuracy-class",
    type=click.FloatRange(0.0, 100.0, min_open=True),
    help="Fail unless the measured variants keep this percentage of FP32's accuracy: MLPerf's 99 or 99.9.",
)
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON schema of --json.",
)
@as_json
@click.pass_context
def benchmark(
    context: click.Context,
    bundle: Path,
    data: str | None,
    variant: str | None,
    threads: int,
    scenario: ScenarioName,
    quick: bool,  # noqa: FBT001 - a click flag
    duration: float | None,
    batches: str | None,
    allow_invalid: bool,  # noqa: FBT001 - a click flag
    accuracy_class: float | None,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Measure a bundle's latency beside FP32.

    All variants that run here are measured in alternation.
    The bundle keeps what was found, for machines of this kind alone, and `edgeopt run` and `load` choose by it there.

    Ctrl-C gives what was measured so far, marked partial, and exits with 130.
    """
    from edgeopt.benchmark import benchmark_bundle, found_here, require_accuracy, require_valid
    from edgeopt.bundle import Bundle
    from edgeopt.cli.boundary import INTERRUPTED
    from edgeopt.cli.console import StageDisplay, console
    from edgeopt.cli.views.tables import latency_table
    from edgeopt.config import BenchmarkConfig

    opened = Bundle.open(bundle)
    images = _images(opened, data)
    if batches is not None:
        _benchmark_batches(opened, images, batches, variant, threads, duration, as_json=as_json)
        return
    config = BenchmarkConfig(threads=threads, duration_s=duration or BenchmarkConfig().duration_s)
    with StageDisplay() as display:
        display.begin("benchmark")
        results = benchmark_bundle(
            opened, images, config, variant=variant, scenario=scenario, quick=quick, progress=display.update
        )
    partial = any(result.partial for result in results.values())
    if not (allow_invalid or partial):
        require_valid(results)
    if as_json:
        print_json(results)
    else:
        console().print(latency_table(results))
    if found := found_here(results, opened.manifest):
        _record(opened, found)
    elif scenario == "singlestream":
        echo("nothing was recorded: the run was not whole, with threads of its own, or worse than one before", err=True)
    if partial:
        context.exit(INTERRUPTED)
    if accuracy_class is not None:
        require_accuracy(results, accuracy_class)


def _benchmark_batches(
    bundle: Bundle,
    images: list[Image],
    batches: str,
    variant: str | None,
    threads: int,
    duration: float | None,
    *,
    as_json: bool,
) -> None:
    from edgeopt.benchmark.batches import found_here, measure_batches
    from edgeopt.config import BenchmarkConfig

    sizes = [int(each) for each in batches.split(",") if each.strip().isdecimal()]
    if len(sizes) != len(batches.split(",")) or not all(sizes):
        raise click.UsageError(f"--batches is '{batches}'; give numbers of pictures between commas, as 1,2,4,8")
    seconds = duration or BenchmarkConfig().duration_s
    results = measure_batches(bundle, images, sizes, seconds, variant=variant, threads=threads)
    if as_json:
        print_json(results)
    for name, times in () if as_json else results.items():
        for each in times:
            echo(f"{name}: {each.pictures} at once in {each.p50_ms:.3g} ms, {each.per_s:.4g} pictures a second")
    if threads == 0:
        _record(bundle, found_here(results, bundle.manifest))
    else:
        echo("nothing was recorded: the engine had another number of threads than its own", err=True)


@click.command()
@bundle
@pictures
@variant
@click.option(
    "--scenario",
    type=click.Choice(["singlestream", "offline"]),
    default="singlestream",
    show_default=True,
    help="What to optimize: one image at a time, or many at once.",
)
@click.option("--duration", type=click.FloatRange(0.1), help="Duration of each setting in seconds. Default: 3.")
@as_json
def tune(
    bundle: Path,
    data: str | None,
    variant: str | None,
    scenario: str,
    duration: float | None,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Choose among candidates and settings by measurement.

    INT8 candidates ([compile] candidates = true) are measured beside their default first, whatever variant runs so far,
    then the chosen variant's threads, streams, hint and bf16, and the kernels of its layers. What is chosen is kept in
    the bundle for machines of this kind.

    The default stays unless another is faster by more than 2 % with the whole interval. bf16 is tried where the
    processor has it and answers stay the same. On a processor with AMX, OpenVINO's INT8 layers are timed one by one,
    and those that VNNI computes faster are given to it, with the same answers.
    """
    from edgeopt.benchmark import candidates_of, tune_candidates, with_candidates
    from edgeopt.benchmark import tune as choose_settings
    from edgeopt.bundle import Bundle
    from edgeopt.cli.console import StageDisplay, console
    from edgeopt.cli.views.tables import candidates_table, tuning_table
    from edgeopt.config import BenchmarkConfig
    from edgeopt.runtime import load
    from edgeopt.runtime.session import find_target

    opened = Bundle.open(bundle)
    if variant is None:
        with load(bundle) as predictor:
            name = predictor.variant.name
        name = with_candidates(opened.manifest, name)
    else:
        name = opened.variant(variant).name
    config = BenchmarkConfig(duration_s=duration or BenchmarkConfig().duration_s)
    images = _images(opened, data, _TUNING_IMAGES)
    found: dict[str, Any] = {}
    with StageDisplay() as display:
        if candidates_of(opened.manifest, name):
            display.begin("candidates")
            opened, found["candidates"] = tune_candidates(opened, images, config, variant=name, progress=display.update)
            name = found["candidates"].choice.chosen
        if not found or find_target(opened.variant(name).target).tunable:
            display.begin("tune")
            _, found["settings"] = choose_settings(
                opened,
                images,
                config,
                variant=name,
                mode="throughput" if scenario == "offline" else "latency",
                progress=display.update,
            )
    if as_json:
        print_json(found if "candidates" in found else found["settings"])
        return
    for key, table in (("candidates", candidates_table), ("settings", tuning_table)):
        if key in found:
            console().print(table(found[key]))


@click.command()
@click.argument("baseline")
@click.argument("candidate", required=False)
@click.option(
    "--baseline-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare with results that `edgeopt benchmark --json` stored on this very machine, in place of BASELINE.",
)
@pictures
@threads
@gate_limits
@click.option(
    "--max-attribution-shift",
    type=click.FloatRange(0.0, 1.0),
    help="Largest shift of the candidate's maps from its FP32's, 1 minus their rank correlation, as `edgeopt explain` "
    "kept it in the bundle. Default: not checked.",
)
@click.option(
    "--max-robustness-drop",
    type=click.FloatRange(0.0, 1.0),
    help="Largest drop from its FP32 on bad pictures and under attack, as `edgeopt robustness` and `edgeopt attack` "
    "kept it in the bundle. Default: not checked.",
)
@click.option(
    "--maximum-s", type=click.FloatRange(1.0), help="Time limit in seconds, after which the gate decides. Default: 120."
)
@click.option(
    "--boards",
    type=click.IntRange(1),
    help="Number of boards whose gates make one verdict, as in `edgeopt farm gate`: a failure has to be surer by that. "
    "Default: 1.",
)
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Also write JUnit XML.")
@summary
@as_json
@click.pass_context
def gate(
    context: click.Context,
    baseline: str,
    candidate: str | None,
    baseline_file: Path | None,
    data: str | None,
    threads: int,
    tolerance: float | None,
    accuracy_drop: float | None,
    f1_drop: float | None,
    max_class_drop: float | None,
    max_attribution_shift: float | None,
    max_robustness_drop: float | None,
    maximum_s: float | None,
    boards: int | None,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Fail if a candidate is slower or less accurate, for CI.

    BASELINE and CANDIDATE are each a bundle, or BUNDLE@VARIANT. With --baseline-file only the candidate is given. Exit
    code 0: pass, 1: fail, 3: the run was too disturbed to tell.
    """
    from edgeopt.bundle import Bundle
    from edgeopt.cli.console import StageDisplay
    from edgeopt.gate import Side, gate_bundles, gate_file, read_stored, to_json, to_markdown

    if (candidate is None) == (baseline_file is None):
        raise click.UsageError("give BASELINE and CANDIDATE, or --baseline-file and one bundle")
    if boards is not None and baseline_file is not None:
        raise click.UsageError("--boards goes with two bundles, not with --baseline-file")
    config = gate_config(
        tolerance=tolerance,
        accuracy_drop=accuracy_drop,
        f1_drop=f1_drop,
        class_drop=max_class_drop,
        attribution_shift=max_attribution_shift,
        robustness_drop=max_robustness_drop,
        maximum_s=maximum_s,
        boards=boards,
    )
    side = Side.parse(candidate or baseline)
    images = _images(Bundle.open(side.path), data)
    with StageDisplay() as display:
        display.begin("gate")
        if baseline_file is not None:
            stored = read_stored(baseline_file, side.variant)
            verdict = gate_file(stored, side, images, config, threads=threads, progress=display.update)
        else:
            first = Side.parse(baseline)
            verdict = gate_bundles(first, side, images, config, threads=threads, progress=display.update)
    echo(to_json(verdict).decode() if as_json else to_markdown(verdict))
    _write_summaries(verdict, junit, markdown)
    context.exit(verdict.exit_code)


def _write_summaries(verdict: Verdict, junit: Path | None, markdown: Path | None) -> None:
    from edgeopt.errors import storage_errors
    from edgeopt.gate import to_junit, to_markdown

    if junit is not None:
        with storage_errors(junit):
            junit.write_bytes(to_junit(verdict))
    append(to_markdown(verdict), markdown)


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@data
@click.option("--markdown", is_flag=True, help="Print Markdown instead of a terminal table.")
@click.option("--force", is_flag=True, help="Write the page even if the pictures of the present one would be lost.")
@as_json
def report(
    bundles: tuple[Path, ...],
    data: str | None,
    markdown: bool,  # noqa: FBT001 - a click flag
    force: bool,  # noqa: FBT001 - a click flag
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Show a bundle's results, and write its HTML page.

    Accuracy, latency and size of each variant stand beside FP32's. A .json of deploy/verify_on_jetson.sh is shown too:
    what a board measured, beside trtexec.

    The page shows pictures with wrong and differing answers when the images that the bundle was evaluated on can be
    found. Where they cannot, it keeps the pictures that it has.
    """
    from edgeopt.bundle import Bundle
    from edgeopt.cli.console import console
    from edgeopt.cli.views.tables import calibration_table, summary_table
    from edgeopt.report import content as read_report
    from edgeopt.report import summary, to_json, to_markdown, to_terminal, write_page

    for path in bundles:
        if path.suffix == ".json":
            _show_board(path, markdown=markdown, as_json=as_json)
            continue
        opened = Bundle.open(path)
        found = read_report(opened.manifest)
        if as_json:
            echo(to_json(found).decode())
        elif markdown:
            echo(to_markdown(found))
        else:
            console().print(to_terminal(found))
            if opened.manifest.calibration is not None:
                console().print(calibration_table(opened.manifest.calibration))
            dataset, missing = _pictures(opened, data)
            page = write_page(found, path.with_suffix(".html"), dataset, missing=missing, force=force)
            echo(f"bundle  {path}\nreport  {page}")
            console().print(summary_table(summary(found, path)), "")


def _show_board(path: Path, *, markdown: bool, as_json: bool) -> None:
    from edgeopt.cli.console import console
    from edgeopt.report.board import board_rows, board_to_markdown, board_to_terminal, read_board

    board = read_board(path)
    if as_json:
        print_json(board_rows(board))
    elif markdown:
        echo(board_to_markdown(board))
    else:
        console().print(board_to_terminal(board))


def _images(bundle: Bundle, reference: str | None, count: int = _BENCHMARK_IMAGES) -> list[Image]:
    """Pictures to measure with; nobody has to label them."""
    from edgeopt.benchmark import golden_pictures
    from edgeopt.config import DataSource
    from edgeopt.dataset import load
    from edgeopt.errors import EdgeoptError

    try:
        if reference is not None and (folder := Path(reference).resolve()).is_dir():
            dataset = load(DataSource(format="images", path=str(folder), limit=count), Path.cwd())
        else:
            dataset = images_of_user(bundle, reference)
    except EdgeoptError as error:
        if reference is not None:
            raise
        pictures = golden_pictures(bundle)
        echo(
            f"measured with the {len(pictures)} golden inputs of the bundle, because {error}\nThey have the network's "
            "own size: larger photographs take longer to preprocess. Give any folder of them with --data",
            err=True,
        )
        return pictures
    return [dataset.image(index) for index in range(min(count, len(dataset)))]


def _pictures(bundle: Bundle, reference: str | None) -> tuple[Dataset | None, str]:
    """Return the images that the user names; else those of the recipe, or why they are not to be had."""
    from edgeopt.errors import EdgeoptError

    try:
        return images_of_user(bundle, reference), ""
    except EdgeoptError as error:
        if reference is not None:
            raise
        return None, str(error)


COMMANDS = (evaluate, benchmark, tune, gate, report)
