"""A sweep whose workers share no folder with each other: its store brings them stages, and the sweep its bundles."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from tiny_recipe import RECIPE

from edgeopt.bundle import Bundle
from edgeopt.errors import StorageError
from edgeopt.pipeline.store import Store
from edgeopt.sweep import LocalWorkers, Plan, TrialResult, VariantResult, read_plan, sweep
from edgeopt.sweep.plan import Trial
from edgeopt.sweep.trial import brought, run_trial

pytest.importorskip("fsspec", reason="fsspec is not installed: no sweep with a store was tested")
SWEEP = """
recipe = "tiny.toml"
targets = ["ort"]
store = "STORE"
[settings]
"quantize.repairs" = {none = [], one = ["bias_correction"]}
"""


class Machines:
    """Workers, each trial on a machine with folders of its own."""

    capacity = 1

    def __init__(self, folder: Path) -> None:
        self._folder, self._waiting = folder, []

    def require(self, needs) -> None:
        LocalWorkers(self._folder, self._folder).require(needs)

    def start(self, trial: Trial) -> None:
        self._waiting.append(trial)

    def finished(self) -> list[TrialResult]:
        machine = self._folder / uuid.uuid4().hex
        return [run_trial(self._waiting.pop(), machine / "out", machine / "work")]


def planned(folder: Path, store: str) -> Plan:
    (folder / "tiny.toml").write_text(RECIPE)
    (folder / "sweep.toml").write_text(SWEEP.replace("STORE", store))
    return read_plan(folder / "sweep.toml")


@pytest.mark.slow
def test_machines_that_share_no_folder_share_what_they_made(tmp_path: Path) -> None:
    plan = planned(tmp_path, f"memory://{uuid.uuid4().hex}")
    swept = sweep(plan, tmp_path / "out", Machines(tmp_path / "machines"), lambda _: None)
    first, second = swept.results
    assert not first.error
    assert not second.error
    made = {each.stage for each in second.stages if each.made}
    assert "train" in {each.stage for each in first.stages if each.made}
    assert "train" not in made, "the other machine's training is found"
    assert "quantize" in made
    for result in swept.results:
        assert Bundle.open(tmp_path / "out" / result.bundle).manifest.build_key == result.build_key
    again = sweep(plan, tmp_path / "out", Machines(tmp_path / "machines"), lambda _: None)
    assert (again.found, again.results) == (2, swept.results)
    elsewhere = run_trial(plan.trial((0, 0, 1)), tmp_path / "new" / "out", tmp_path / "new" / "work")
    stages = {each.stage for each in elsewhere.stages if each.made}
    assert stages == {"check", "data", "bundle"}, "another machine that goes on finds every stage"


def test_a_bundle_that_left_the_store_is_a_row_with_an_error(tmp_path: Path) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}")
    bundle = tmp_path / "there" / "tiny.edgeopt"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    store.put("bundle-abc.zip", bundle)
    figures = VariantResult(name="ort-fp32", is_baseline=True, precision="fp32", engine="", size_bytes=1)
    result = TrialResult(
        key="k", model="m", target="", settings={}, variants=(figures,), bundle="trials/k/tiny.edgeopt", build_key="abc"
    )
    assert brought(result, tmp_path / "out", store) == result
    assert (tmp_path / "out" / result.bundle / "manifest.json").read_text() == "{}"
    empty = Store(f"memory://{uuid.uuid4().hex}")
    gone = brought(result, tmp_path / "other", empty)
    assert gone.error == f"its bundle is not in the store {empty.url} any more"
    assert (gone.bundle, gone.build_key, gone.variants) == ("", "", ())


def test_a_store_that_cannot_be_written_is_said_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(StorageError, match="cannot write the store"):
        sweep(planned(tmp_path, f"file://{tmp_path}/store"), tmp_path / "out", Machines(tmp_path), lambda _: None)


def test_a_store_does_not_change_what_a_trial_is(tmp_path: Path) -> None:
    one = planned(tmp_path, "memory://one").trial((0, 0, 0))
    assert one.key == planned(tmp_path, "memory://two").trial((0, 0, 0)).key
