"""What a training writes for other tools: TensorBoard's event files, and MLflow's runs, also where its server fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from test_train import CONFIG, HALVES_SPEC, Brighter, halves, seeded

from edgeopt.config import TrainConfig
from edgeopt.errors import ConfigError, MissingExtraError
from edgeopt.spec import replace
from edgeopt.train import Trained, train
from edgeopt.train.logs import MLflow, Outcome, TensorBoard, TrainingLog, Writer, require_writers, writers_of


def trained(tmp_path: Path, *writers: Writer, seen: list[object] | None = None) -> Trained:
    with TrainingLog(writers, (seen if seen is not None else []).append) as log:
        result = train(seeded(Brighter), HALVES_SPEC, halves(40), halves(16, seed=1), CONFIG, tmp_path / "work", log)
        log.add_epochs(result.history, result.metric_name)
    return result


class Kept:
    """Writes into a list."""

    def __init__(self) -> None:
        self.figures: list[tuple[int, Mapping[str, float]]] = []
        self.outcome: Outcome | None = None

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self.figures.append((step, figures))

    def end(self, outcome: Outcome) -> None:
        self.outcome = outcome


def test_steps_and_epochs_are_written_and_passed_on(tmp_path: Path) -> None:
    kept, seen = Kept(), list[object]()
    result = trained(tmp_path, kept, seen=seen)
    steps = [step for step, figures in kept.figures if "loss" in figures]
    assert steps == list(range(1, len(steps) + 1))
    assert [(step, figures["epoch/loss"]) for step, figures in kept.figures if "epoch/loss" in figures] == [
        (each.epoch, each.loss) for each in result.history
    ]
    assert {"epoch/loss", "epoch/top-1"} <= {name for _, figures in kept.figures for name in figures}
    assert kept.outcome == "FINISHED"
    assert len(seen) > len(steps)


@pytest.mark.parametrize(("error", "outcome"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED")])
def test_a_training_that_ends_early_says_how(error: type[BaseException], outcome: Outcome) -> None:
    kept = Kept()
    with pytest.raises(error), TrainingLog([kept], print):
        raise error
    assert kept.outcome == outcome


def test_tensorboard_reads_what_was_trained(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: no event file was written")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = trained(tmp_path, TensorBoard(tmp_path / "runs"))
    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    assert {"loss", "learning_rate", "epoch/loss", "epoch/top-1"} <= set(events.Tags()["scalars"])
    assert [each.step for each in events.Scalars("epoch/loss")] == [one.epoch for one in result.history]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own use of SQLAlchemy
def test_mlflow_reads_what_was_trained_without_a_server(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: no run was written")
    config = replace(CONFIG, mlflow="logs/mlflow.db")
    result = trained(tmp_path, *writers_of(config, tmp_path, "halves", "train"))
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/logs/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("halves").experiment_id])
    assert (run.info.run_name, run.info.status) == ("train", "FINISHED")
    assert run.data.params["epochs"] == str(CONFIG.epochs)
    history = client.get_metric_history(run.info.run_id, "epoch/top-1")
    assert [(each.step, each.value) for each in history] == [(one.epoch, one.metric) for one in result.history]
    assert (
        len(client.get_metric_history(run.info.run_id, "loss")) == CONFIG.epochs * len(halves(40)) // CONFIG.batch_size
    )
    (again,) = writers_of(config, tmp_path, "halves", "compress")
    again.end("KILLED")
    assert len(client.search_runs([run.info.experiment_id])) == 2


# Without mlflow: what edgeopt asks of it, and what it does where that fails


class MlflowException(Exception):  # noqa: N818 - its name there
    """As MLflow's."""


class Server:
    """A server of MLflow that fails after some calls, and its client."""

    def __init__(self, answers: int) -> None:
        self.answers, self.figures, self.outcome, self.uri = answers, list[str](), "", ""

    def client(self, tracking_uri: str) -> Server:
        self.uri = tracking_uri
        return self

    def _answer(self) -> None:
        self.answers -= 1
        if self.answers < 0:
            raise MlflowException("API request failed: connection refused")

    def get_experiment_by_name(self, name: str) -> None:
        self._answer()

    def create_experiment(self, name: str) -> str:
        return "1"

    def create_run(self, number: str, run_name: str) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def log_batch(self, run: str, metrics: tuple[str, ...] = (), params: tuple[str, ...] = ()) -> None:
        self._answer()
        self.figures += metrics

    def set_terminated(self, run: str, status: str) -> None:
        self._answer()
        self.outcome = status


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Server:
    server, module = Server(request.param), ModuleType("mlflow")
    entities = SimpleNamespace(Metric=lambda name, *rest: name, Param=lambda name, value: name)
    vars(module).update(MlflowClient=server.client, MlflowException=MlflowException, entities=entities)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return server


@pytest.mark.parametrize("serving", [99], indirect=True)
def test_a_server_gets_figures_by_the_hundred(serving: Server, tmp_path: Path) -> None:
    (writer,) = writers_of(TrainConfig(mlflow="https://mlflow.example"), tmp_path, "n", "train")
    assert serving.uri == "https://mlflow.example"
    for step in range(150):
        writer.write({"loss": 0.5, "learning_rate": 0.1}, step)
    assert len(serving.figures) == 200
    writer.end("FINISHED")
    assert (len(serving.figures), serving.outcome) == (300, "FINISHED")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("serving", [3], indirect=True)
def test_a_server_that_fails_later_is_told_once_and_the_training_goes_on(
    serving: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = MLflow("https://mlflow.example", tmp_path, "n", "train", {})
    with caplog.at_level(logging.WARNING):
        for step in range(900):
            writer.write({"loss": 0.5}, step)
        writer.end("FINISHED")
    (told,) = caplog.messages
    assert told.startswith("MLflow at 'https://mlflow.example' takes no more figures, and the training goes on: API")
    assert len(serving.figures) == 200


@pytest.mark.parametrize("serving", [0], indirect=True)
def test_a_server_that_does_not_answer_is_told_before_anything_is_trained(serving: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mlflow = 'https://mlflow\.example' cannot be written.*refused.*server"):
        writers_of(TrainConfig(mlflow="https://mlflow.example"), tmp_path, "n", "train")


@pytest.mark.parametrize("serving", [9], indirect=True)
def test_a_file_that_cannot_be_made_is_told(serving: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ConfigError, match=r"mlflow = 'taken/mlflow\.db' cannot be written.*SQLite"):
        writers_of(TrainConfig(mlflow="taken/mlflow.db"), tmp_path, "n", "train")


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_missing_package_is_told_before_anything_is_trained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'edgeopt\[{name}\]'"):
        require_writers(replace(TrainConfig(), **{name: "runs"}))
    require_writers(TrainConfig())
