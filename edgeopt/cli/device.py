"""Commands of the device side: everything that is done with a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeopt.cli.options import as_json, bundle, data, threads, variant

if TYPE_CHECKING:
    from edgeopt.benchmark import ScenarioName
    from edgeopt.bundle import Bundle
    from edgeopt.dataset import Dataset

_BENCHMARK_IMAGES = 16
"""Different images that a measurement goes around."""
_SCENARIOS = click.Choice(["singlestream", "multistream", "offline", "server"])
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@click.command()
@bundle
@data
@variant
@threads
@as_json
def evaluate(bundle: Path, data: str | None, variant: str | None, threads: int, as_json: bool) -> None:  # noqa: FBT001
    """Measure a bundle's accuracy, each variant beside the FP32 baseline on the same images."""
    from edgeopt.bundle import Bundle
    from edgeopt.cli.console import StageDisplay, console
    from edgeopt.cli.tables import accuracy_table
    from edgeopt.evaluate import evaluate_bundle

    opened = Bundle.open(bundle)
    dataset = _dataset(opened, data)
    with StageDisplay() as display:
        results = evaluate_bundle(opened, dataset, variant=variant, threads=threads, progress=display)
    if as_json:
        _print_json(results)
    else:
        console().print(accuracy_table(results))


@click.command()
@bundle
@data
@variant
@threads
@click.option("--scenario", type=_SCENARIOS, default="singlestream", show_default=True, help="As MLPerf defines it.")
@click.option("--quick", is_flag=True, help="A few seconds a variant instead of MLPerf's 600 s; the results say so.")
@click.option("--duration", type=click.FloatRange(0.1), help="Of a quick run, in seconds. Default: the recipe's 3.")
@click.option("--allow-invalid", is_flag=True, help="Give the figures of a run that was not valid, marked as such.")
@as_json
def benchmark(
    bundle: Path,
    data: str | None,
    variant: str | None,
    threads: int,
    scenario: ScenarioName,
    quick: bool,  # noqa: FBT001 - a click flag
    duration: float | None,
    allow_invalid: bool,  # noqa: FBT001 - a click flag
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Measure latency: every variant that runs here, in alternation with FP32."""
    from edgeopt.benchmark import benchmark_bundle, require_valid
    from edgeopt.bundle import Bundle
    from edgeopt.cli.console import StageDisplay, console
    from edgeopt.cli.tables import latency_table
    from edgeopt.config import BenchmarkConfig

    opened = Bundle.open(bundle)
    dataset = _dataset(opened, data)
    images = [dataset.image(index) for index in range(min(_BENCHMARK_IMAGES, len(dataset)))]
    config = BenchmarkConfig(threads=threads, duration_s=duration or BenchmarkConfig().duration_s)
    with StageDisplay() as display:
        display.begin("benchmark")
        results = benchmark_bundle(
            opened, images, config, variant=variant, scenario=scenario, quick=quick, progress=display.share
        )
    if not allow_invalid:
        require_valid(results)
    if as_json:
        _print_json(results)
    else:
        console().print(latency_table(results))


@click.command()
@bundle
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--draw", type=click.Path(file_okay=False, path_type=Path), help="Write pictures with results drawn in.")
@variant
@threads
@as_json
def run(
    bundle: Path,
    images: tuple[Path, ...],
    draw: Path | None,
    variant: str | None,
    threads: int,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Classify or detect in images: files, or folders of files. With --json, one line of JSON an image."""
    import msgspec

    from edgeopt.cli.tables import result_line
    from edgeopt.draw import draw as draw_result
    from edgeopt.draw import write_image
    from edgeopt.preprocess import read_image
    from edgeopt.runtime import load

    with load(bundle, variant=variant, threads=threads) as predictor:
        for path in _image_files(images):
            image = read_image(path)
            result = predictor.predict(image)
            if draw is not None:
                write_image(draw / path.name, draw_result(image, result))
            if as_json:
                click.echo(msgspec.json.encode({"image": str(path), **result.to_dict()}).decode())
            else:
                click.echo(f"{path}: {result_line(result)}")


@click.command()
@bundle
@as_json
def inspect(bundle: Path, as_json: bool) -> None:  # noqa: FBT001
    """Show what a bundle holds and which variant this machine would run."""
    from edgeopt.bundle import Bundle
    from edgeopt.cli.console import console
    from edgeopt.cli.tables import bundle_tables
    from edgeopt.runtime import availability
    from edgeopt.runtime.choice import choose

    opened = Bundle.open(bundle)
    if as_json:
        _print_json(opened.manifest)
        return
    chosen, rejected = choose(opened.manifest, availability)
    for table in bundle_tables(opened.manifest, chosen, rejected):
        console().print(table)


@click.command()
@bundle
@threads
@as_json
def verify(bundle: Path, threads: int, as_json: bool) -> None:  # noqa: FBT001
    """Check a bundle's hashes and schema, and replay its golden inputs on this machine."""
    from edgeopt.runtime.verify import verify as check

    verification = check(bundle, threads=threads)
    if as_json:
        _print_json(verification)
    else:
        for name, replayed in verification.replayed.items():
            state = "ok" if replayed.ok else "DIFFERS"
            click.echo(f"{name}: {state} (differs by {replayed.difference:.2e}, allowed {replayed.tolerance:.0e})")
        for name, reason in verification.skipped.items():
            click.echo(f"{name}: not run: {reason}")
    verification.require()


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@data
@click.option("--markdown", is_flag=True, help="Print Markdown instead of a terminal table.")
@as_json
def report(bundles: tuple[Path, ...], data: str | None, markdown: bool, as_json: bool) -> None:  # noqa: FBT001
    """Show a bundle's accuracy, latency and size beside FP32, and write its HTML page.

    The page shows pictures where the answers differ when the images that the bundle was evaluated on can be found.
    """
    from edgeopt.bundle import Bundle
    from edgeopt.cli.console import console
    from edgeopt.report import content as read_report
    from edgeopt.report import to_json, to_markdown, to_terminal, write_page

    for path in bundles:
        opened = Bundle.open(path)
        found = read_report(opened.manifest)
        if as_json:
            click.echo(to_json(found).decode())
        elif markdown:
            click.echo(to_markdown(found))
        else:
            console().print(to_terminal(found))
            page = write_page(opened, path.with_suffix(".html"), _pictures(opened, data))
            click.echo(f"bundle  {path}\nreport  {page}\n")


def _dataset(bundle: Bundle, reference: str | None) -> Dataset:
    """The images that the user names, or else those of the bundle's recipe."""
    import msgspec

    from edgeopt.config import Config, data_source
    from edgeopt.dataset import load
    from edgeopt.errors import ConfigError

    if reference is not None:
        source = data_source(reference)
    else:
        test = msgspec.convert(bundle.manifest.recipe, Config).data.test if bundle.manifest.recipe else None
        if test is None:
            raise ConfigError(f"the recipe of {bundle.path} names no test set: say which images with --data")
        source = test
    return load(source, Path.cwd(), labels=bundle.manifest.spec.labels)


def _pictures(bundle: Bundle, reference: str | None) -> Dataset | None:
    """The images that the user names; else those of the recipe where they are still to be had."""
    from edgeopt.errors import EdgeoptError

    try:
        return _dataset(bundle, reference)
    except EdgeoptError as error:
        if reference is not None:
            raise
        click.echo(f"the page has no pictures: {error}", err=True)
        return None


def _image_files(paths: tuple[Path, ...]) -> list[Path]:
    """Files as they are; of folders, their image files by name."""
    from edgeopt.errors import DataError

    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not inside:
            raise DataError(f"the folder {path} holds no images ({', '.join(sorted(_SUFFIXES))})")
        found += inside
    return found


def _print_json(value: Any) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


COMMANDS = (evaluate, benchmark, run, inspect, verify, report)
