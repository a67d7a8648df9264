"""A farm's boards are measured each by itself; what fails on one is said, and the others' results are kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny
from click.testing import CliRunner, Result

import edgeopt
from edgeopt.bundle.records import LatencyResult
from edgeopt.cli import main
from edgeopt.errors import BundleError, ConfigError
from edgeopt.farm import Board, boards_of, labgrid, read_farm
from edgeopt.farm.boards import Address
from edgeopt.farm.errors import Stopped
from edgeopt.farm.gating import together
from edgeopt.farm.processes import Finished, finish
from edgeopt.farm.ssh import Ssh
from edgeopt.gate import GateConfig, Verdict
from edgeopt.gate.verdict import LatencyFinding
from edgeopt.intervals import Interval
from edgeopt.measure.environment import environment

FAKES = Path(__file__).with_name("data") / "farm"
FARM = """
[boards.orin-1]
address = "ssh://one"
tags = ["orin", "jetpack6"]
[boards.orin-2]
address = "ssh://nvidia@two:2222"
tags = ["orin"]
edgeopt = "~/bin/my edgeopt" # a quoted word would be one
[boards.rack-7]
place = "orin-7"
"""


class Boards:
    """Boards behind a stand-in for ssh, each with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = tiny.write(folder / "tiny parts.edgeopt").path
        self.out = folder / "out"
        self.measured(tiny.latency(2.0), tiny.latency(1.0))
        (folder / "version").write_text(edgeopt.__version__)

    def home(self, host: str) -> Path:
        home = self.folder / host
        home.mkdir(exist_ok=True)
        return home

    def measured(self, *latencies: LatencyResult) -> None:
        results = dict(zip(("ort-fp32", "ort-int8"), latencies, strict=True))
        (self.folder / "latency.json").write_bytes(msgspec.json.encode(results))

    def commands(self, host: str) -> list[str]:
        file = self.home(host) / "commands"
        return [line.partition(" ")[0] for line in file.read_text().splitlines()] if file.exists() else []

    def run(self, *options: str, on: tuple[str, ...] = ("ssh://one", "ssh://two")) -> Result:
        where = [part for each in on for part in ("--on", each)]
        return CliRunner().invoke(main, ["farm", "run", str(self.bundle), "--out", str(self.out), *where, *options])

    def gate(self, *options: str, on: tuple[str, ...] = ("ssh://one", "ssh://two")) -> Result:
        where = [part for each in on for part in ("--on", each)]
        return CliRunner().invoke(
            main, ["farm", "gate", str(self.bundle), "--baseline", str(self.bundle), *where, *options]
        )

    def answers(self, host: str, verdict: Verdict) -> None:
        (self.home(host) / "verdict.json").write_bytes(msgspec.json.encode(verdict))
        (self.home(host) / "code").write_text(str(verdict.exit_code))


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boards:
    monkeypatch.setenv("PATH", f"{FAKES}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.delenv("EDGEOPT_FARM", raising=False)
    monkeypatch.chdir(tmp_path)
    return Boards(tmp_path)


def said(result: Result) -> str:
    return " ".join(result.output.split())


def never_ending(words: str) -> Callable[..., Finished]:
    """Return what runs programs as `finish` does, but takes those with these words for too long after they have run."""

    def run(command: Sequence[str], *rest: Any) -> Finished:
        done = finish(command, *rest)
        return Finished(None, b"", "") if words in " ".join(command) else done

    return run


# Measuring


def test_boards_are_measured_and_their_results_are_kept(boards: Boards) -> None:
    result = boards.run("--quick", "--evaluate", "--data", "/there/photos", "--variant", "ort-int8")
    assert result.exit_code == 0, result.output
    assert "2 of 2 boards have results" in result.output
    assert "top-1 89.00 %" in result.output
    for host in ("one", "two"):
        kept = json.loads((boards.out / f"{host}.json").read_text())
        assert list(kept["latency"]) == ["ort-fp32", "ort-int8"]
        assert kept["latency"]["ort-fp32"]["environment"]["machine"]["cpu"]["model"]
        assert kept["accuracy"]["ort-int8"]["value"] == 0.89
        asked = (boards.home(host) / "commands").read_text().splitlines()
        assert asked[1:] == [
            "verify tiny-parts.edgeopt --json",
            "benchmark tiny-parts.edgeopt --variant ort-int8 --data /there/photos --json --quick --allow-invalid",
            "evaluate tiny-parts.edgeopt --variant ort-int8 --data /there/photos --json",
        ]


def test_every_command_has_an_empty_folder_that_is_removed(boards: Boards) -> None:
    boards.run(on=("ssh://one",))
    folder, temporary = map(Path, (boards.home("one") / "where").read_text().split())
    assert temporary == folder / "tmp"
    assert not folder.exists()
    assert folder.parent == boards.home("one") / ".cache" / "edgeopt" / "farm"
    assert sorted(each.name for each in folder.parent.iterdir()) == ["bundles", "holder", "lock"]


def test_a_bundle_is_copied_once_whatever_machines_measured_of_it(boards: Boards) -> None:
    first = boards.run("--again")
    (boards.bundle / "measured.json").write_text('{"variants": {}, "schema_version": 1}')
    again = boards.run("--again")
    assert "[one] copied tiny-parts.edgeopt" in first.output
    assert "] copied" not in again.output
    bundles = list((boards.home("one") / ".cache" / "edgeopt" / "farm" / "bundles").iterdir())
    assert len(bundles) == 1
    assert not (bundles[0] / "measured.json").exists(), "a board's own measurements are its own"
    assert (bundles[0] / "manifest.json").read_bytes() == (boards.bundle / "manifest.json").read_bytes()


def test_a_board_that_is_done_is_not_measured_again_unless_asked(boards: Boards) -> None:
    boards.run(on=("ssh://one",))
    result = boards.run()
    assert "[one] measured before" in result.output
    assert boards.commands("one").count("benchmark") == boards.commands("two").count("benchmark") == 1
    boards.run("--again")
    boards.run("--quick")
    assert boards.commands("one").count("benchmark") == 3, "asked for again, and asked for something else"


def test_nothing_is_copied_where_all_is_done(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    boards.run(on=("ssh://one",))
    monkeypatch.delattr("edgeopt.farm.run.copied")
    assert boards.run(on=("ssh://one",)).exit_code == 0
    assert boards.run(on=("ssh://two",)).exit_code != 0, "one that is new needs the copy"


def test_a_disturbed_measurement_is_marked_and_measured_again(boards: Boards) -> None:
    boards.measured(tiny.latency(2.0, invalid=("other processes took 40% of the processors",)), tiny.latency(1.0))
    result = boards.run(on=("ssh://one",))
    assert result.exit_code == 3
    assert "ort-fp32*" in result.output
    assert "one*: other processes took 40%" in said(result)
    assert boards.run("--allow-invalid", on=("ssh://one",)).exit_code == 0
    assert boards.commands("one").count("benchmark") == 1, "it is a result where that is allowed"
    boards.run(on=("ssh://one",))
    assert boards.commands("one").count("benchmark") == 2


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("ssh: Could not resolve hostname two: Name or service not known", "no machine has this name"),
        ("ssh: connect to host two port 22: Connection refused", "nothing listens there"),
        ("ssh: connect to host two port 22: Connection timed out", "cannot be reached"),
        ("ssh: connect to host two port 22: No route to host", "cannot be reached"),
        (
            "Host key verification failed.",
            "its host key is not known here. Connect once by hand, and compare it: ssh two",
        ),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "ssh-keygen -R two"),
        ("two: Permission denied (publickey).", "it takes none of your keys"),
        ("Timeout, server two not responding.", "has not answered for 15 s"),
        ("Connection to two port 22 timed out", "has not answered for 15 s"),
        ("client_loop: send disconnect: Broken pipe", "the connection broke"),
    ],
)
def test_a_board_that_cannot_be_reached_says_why_and_the_other_is_kept(
    boards: Boards, broken: str, message: str
) -> None:
    (boards.home("two") / "broken").write_text(f"{broken}\n")
    result = boards.run()
    assert result.exit_code == 1
    assert message in said(result)
    assert "1 of 2 boards have results" in result.output
    assert (boards.out / "one.json").exists()
    assert not (boards.out / "two.json").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("version", "0.0.9", f"is version 0.0.9 there and {edgeopt.__version__} here"),
        ("refuse", "", "the bundle is refused there: 'tiny-parts.edgeopt' is not whole"),
        ("full", "", "its disk is full"),
    ],
)
def test_what_stands_against_measuring_there_is_said(boards: Boards, file: str, content: str, message: str) -> None:
    (boards.home("two") / file).write_text(content)
    result = boards.run()
    assert result.exit_code == 1
    assert message in said(result)
    assert (boards.out / "one.json").exists()


def test_a_bundle_that_is_refused_is_copied_again(boards: Boards) -> None:
    (boards.home("two") / "refuse").touch()
    boards.run(on=("ssh://two",))
    (boards.home("two") / "refuse").unlink()
    result = boards.run(on=("ssh://two",))
    assert result.exit_code == 0
    assert "] copied" in result.output


def test_a_bundle_with_a_path_too_long_for_an_archive_is_refused(boards: Boards) -> None:
    boards.bundle = tiny.write_long(boards.folder / "long.edgeopt").path
    for result in (boards.run(), boards.gate()):
        assert result.exit_code == BundleError.exit_code, result.output
        assert "long.edgeopt cannot be packed" in said(result)


def test_a_board_without_edgeopt_says_what_to_install(boards: Boards) -> None:
    (boards.folder / "farm.toml").write_text('[boards.bare]\naddress = "ssh://bare"\nedgeopt = "~/none/edgeopt"\n')
    result = boards.run(on=("bare",))
    assert result.exit_code == 1
    assert "there is no working '~/none/edgeopt'. Install this edgeopt's wheel there" in said(result)


def test_what_takes_too_long_is_ended_there(boards: Boards) -> None:
    (boards.home("two") / "hang").touch()
    result = boards.run("--timeout", "1")
    assert "'benchmark' did not end within 1 s" in said(result)
    assert (boards.out / "one.json").exists()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("probe", "'probe' did not end within 60 s. Check the board and its network, and run again"),
        ("step", "'verify' did not end within 67 s. Give more with --timeout"),
    ],
)
def test_a_board_that_never_ends_a_command_says_what_helps(
    boards: Boards, monkeypatch: pytest.MonkeyPatch, action: str, message: str
) -> None:
    monkeypatch.setattr("edgeopt.farm.ssh.finish", never_ending(f"edgeopt-farm {action}"))
    assert message in said(boards.run("--timeout", "7", on=("ssh://one",)))


def test_an_older_result_stays_until_there_is_another(boards: Boards) -> None:
    boards.run(on=("ssh://one",))
    broken, file = boards.home("one") / "broken", boards.out / "one.json"
    broken.write_text("ssh: connect to host one port 22: No route to host\n")
    older = file.read_bytes()
    assert boards.run(on=("ssh://one",)).exit_code == 0, "it is there"
    result = boards.run("--quick", on=("ssh://one",))
    assert result.exit_code == 1, "it answers another question"
    assert "0 of 1 boards have results" in result.output
    assert file.read_bytes() == older
    broken.unlink()
    assert boards.run("--quick", on=("ssh://one",)).exit_code == 0
    assert json.loads(file.read_text())["asked"]["quick"], "and it is replaced"


def test_a_name_with_another_address_is_another_board(boards: Boards) -> None:
    for host in ("one", "two"):
        (boards.folder / "farm.toml").write_text(f'[boards.orin]\naddress = "ssh://{host}"\n')
        result = boards.run(on=("orin",))
        assert "measured before" not in result.output
        assert json.loads((boards.out / "orin.json").read_text())["address"] == f"ssh://{host}"


def test_a_file_that_is_no_result_is_left_alone(boards: Boards) -> None:
    boards.out.mkdir()
    foreign = boards.out / "two.json"
    foreign.write_text('{"mine": true}')
    result = boards.run("--again")
    assert result.exit_code == ConfigError.exit_code
    assert "two.json, where the results of the board 'two' belong, holds something else" in said(result)
    assert foreign.read_text() == '{"mine": true}'
    assert boards.commands("one") == [], "it is said before anything is measured"


def test_two_do_not_measure_on_one_board(boards: Boards) -> None:
    with Ssh(Address(host="one"), threading.Event()).hold("alice@desk since noon"):
        result = boards.run()
        assert "alice@desk since noon is measuring on it" in said(result)
        assert (boards.out / "two.json").exists()
    assert boards.run().exit_code == 0, "and it is free again"


def test_ctrl_c_ends_what_runs_there_and_gives_the_board_back(boards: Boards) -> None:
    (boards.home("one") / "hang").touch()
    command = [sys.executable, "-m", "edgeopt", "farm", "run", str(boards.bundle), "--out", str(boards.out)]
    running = subprocess.Popen([*command, "--on", "ssh://one", "--on", "ssh://two"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not ((boards.home("one") / "hangs").exists() and (boards.out / "two.json").exists()):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "results of boards that were done are kept; run it again for the others" in errors
    assert (boards.out / "two.json").exists(), "what is done is kept"
    (boards.home("one") / "hang").unlink()
    assert boards.run().exit_code == 0, "the board is free"
    farm = boards.home("one") / ".cache" / "edgeopt" / "farm"
    deadline = time.monotonic() + 30
    while list(farm.glob("run.*")):
        assert time.monotonic() < deadline, "its folder is removed"
        time.sleep(0.1)


def test_a_command_has_a_control_group_of_its_own_where_systemd_gives_one(
    boards: Boards, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = boards.folder / "bin"
    units.mkdir()
    (units / "systemd-run").write_text(
        '#!/bin/sh\necho "$*" >>"$FAKE/units"\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'
    )
    (units / "systemd-run").chmod(0o755)
    monkeypatch.setenv("PATH", f"{units}{os.pathsep}{os.environ['PATH']}")
    assert boards.run(on=("ssh://one",)).exit_code == 0
    asked = (boards.folder / "units").read_text().splitlines()
    assert asked[0] == "--user --scope --quiet true"
    assert asked[1].startswith("--user --scope --quiet --collect edgeopt verify tiny-parts.edgeopt")


def test_the_real_commands_measure_on_what_runs_here(boards: Boards) -> None:
    bundle = tiny.write_golden(boards.folder / "real.edgeopt").path
    (boards.folder / "farm.toml").write_text(
        f'[boards.here]\naddress = "ssh://here"\nedgeopt = "{sys.executable} -m edgeopt"\n'
    )
    options = ["--on", "here", "--quick", "--duration", "0.2", "--variant", "ort-int8", "--allow-invalid", "--json"]
    result = CliRunner().invoke(main, ["farm", "run", str(bundle), *options])
    assert result.exit_code == 0, result.output
    kept = json.loads(result.stdout)["boards"]["here"]
    assert set(kept["latency"]) == {"ort-fp32", "ort-int8"}
    assert kept["verification"]["replayed"]
    assert kept["latency"]["ort-int8"]["environment"]["machine"]["cpu"]["model"]
    assert (boards.folder / "real.farm" / "here.json").exists()


@pytest.mark.slow
def test_the_real_gate_answers(boards: Boards) -> None:
    bundle = tiny.write_golden(boards.folder / "real.edgeopt").path
    (boards.folder / "farm.toml").write_text(
        f'[boards.here]\naddress = "ssh://here"\nedgeopt = "{sys.executable} -m edgeopt"\n'
    )
    sides = [f"{bundle}@ort-int8", "--baseline", f"{bundle}@ort-fp32", "--on", "here", "--maximum-s", "2", "--json"]
    result = CliRunner().invoke(main, ["farm", "gate", *sides])
    found = json.loads(result.stdout)
    assert found["missing"] == {}, result.output
    assert found["boards"]["here"]["baseline"] == "baseline ort-fp32"
    assert found["boards"]["here"]["outcome"] == found["outcome"]
    assert result.exit_code == {"pass": 0, "fail": 1, "invalid": 3}[found["outcome"]]


# Naming boards


def test_boards_are_found_by_address_name_and_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(FAKES))
    Path("farm.toml").write_text(FARM)
    farm = read_farm(None)
    one, two = boards_of(["tag:orin"], farm)
    assert (one.name, str(one.address), one.edgeopt) == ("orin-1", "ssh://one", ("edgeopt",))
    assert (str(two.address), two.edgeopt) == ("ssh://nvidia@two:2222", ("~/bin/my", "edgeopt"))
    assert boards_of(["orin-1", "ssh://one", "tag:jetpack6"], farm) == (one,), "each once"
    assert boards_of(["ssh://me@Box.local:23"], farm) == (
        Board(name="me@Box.local-23", address=Address(host="Box.local", user="me", port=23)),
    )
    for address in ("ssh://[::1]", "ssh://me@[fe80::7]:23"):
        assert str(boards_of([address], farm)[0].address) == address
    assert boards_of(["rack-7"], farm)[0].place == "orin-7"
    assert boards_of(["shelf"], farm)[0].place == "shelf", "a place of labgrid's"
    assert boards_of(["tag:board=orin"], farm)[0].reserved


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("tag:orion", "no board has the tag 'orion'. Did you mean 'orin'?"),
        ("orin-3", "there is no board 'orin-3'. Did you mean 'orin-"),
        ("ssh://-oProxyCommand=x", "the address of a board is"),
        ("ssh://host/path", "the address of a board is"),
        ("ssh://user:secret@host", "the address of a board is"),
        ("ssh://host:99999", "the address of a board is"),
        ("ssh://user@[::1", "the address of a board is"),
        ("ssh://[x]/", "the address of a board is"),
        ("tag:board=orin", "labgrid-client is not installed"),
    ],
)
def test_a_board_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    Path("farm.toml").write_text(FARM)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        boards_of([reference], read_farm(None))


def test_a_farm_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    for text, message in [
        ("[boards.a]\n", "neither `address` nor `place`"),
        ('[boards.a]\nadress = "ssh://x"\n', "Did you mean 'address'"),
        ('[boards."../a"]\naddress = "ssh://x"\n', "farm.toml"),
        ('[boards.a]\naddress = "ssh://x"\nedgeopt = "\'x"\n', "Close the quotation mark"),
    ]:
        (tmp_path / "farm.toml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_farm(tmp_path / "farm.toml")
    with pytest.raises(ConfigError, match="there is no"):
        read_farm(tmp_path / "absent.toml")


# labgrid


@pytest.fixture
def places(boards: Boards) -> Boards:
    (boards.folder / "places").mkdir()
    (boards.folder / "places" / "orin-7").touch()
    return boards


def asked_of_labgrid(boards: Boards) -> list[str]:
    return (boards.folder / "labgrid.log").read_text().splitlines()


def test_a_place_is_acquired_and_released(places: Boards) -> None:
    result = places.run(on=("orin-7",))
    assert result.exit_code == 0, result.output
    assert asked_of_labgrid(places) == ["-p orin-7 acquire", "-p orin-7 show", "-p orin-7 release"]
    assert "-l root -- orin-7" in (places.folder / "ssh.log").read_text()


def test_any_place_with_a_tag_is_reserved_switched_on_and_given_back(places: Boards) -> None:
    result = places.run("--power-cycle", on=("tag:board=orin",))
    assert result.exit_code == 0, result.output
    assert asked_of_labgrid(places) == [
        "reserve --shell board=orin",
        "wait T0K3N",
        "-p +T0K3N acquire",
        "-p orin-7 show",
        "-p orin-7 power cycle",
        "-p orin-7 release",
        "cancel-reservation T0K3N",
    ]


def test_a_place_may_have_an_address_of_ipv6(places: Boards) -> None:
    (places.folder / "address").write_text("fe80::7")
    result = places.run(on=("orin-7",))
    assert result.exit_code == 0, result.output
    assert "-l root -- fe80::7" in (places.folder / "ssh.log").read_text()


def test_an_address_of_labgrids_that_is_none_stops_no_other_board(places: Boards) -> None:
    (places.folder / "address").write_text("-oProxyCommand=x")
    result = places.run(on=("orin-7", "ssh://one"))
    assert result.exit_code == 1
    assert "the address of a board is 'ssh://root@-oProxyCommand=x'" in said(result)
    assert (places.out / "one.json").exists()
    assert asked_of_labgrid(places)[-1] == "-p orin-7 release"


def test_a_place_is_released_when_the_board_fails(places: Boards) -> None:
    (places.home("orin-7") / "broken").write_text("ssh: connect to host orin-7 port 22: No route to host\n")
    assert places.run(on=("orin-7",)).exit_code == 1
    assert asked_of_labgrid(places)[-1] == "-p orin-7 release"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("places/orin-7", "rack/bob", "Place orin-7 is already acquired by rack/bob"),
        ("no-service", "", "labgrid's place 'orin-7' has no NetworkService"),
        ("no-switch", "", "target has no compatible resource available"),
    ],
)
def test_what_labgrid_refuses_is_said(places: Boards, file: str, content: str, message: str) -> None:
    (places.folder / file).write_text(content)
    result = places.run(
        "--power-cycle", on=("orin-7", "ssh://one") if not file.startswith("no-switch") else ("orin-7",)
    )
    assert result.exit_code == 1
    assert message in said(result)


def test_a_reservation_that_nobody_gives_ends(places: Boards) -> None:
    (places.folder / "never").touch()
    result = places.run("--wait", "1", on=("tag:board=orin",))
    assert "did not end within 1 s. Wait longer with --wait" in said(result)
    assert asked_of_labgrid(places)[-1] == "cancel-reservation T0K3N"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("acquire", "acquire did not end within 60 s. Check labgrid's coordinator, and run again"),
        ("show", "show did not end within 60 s. Check labgrid's coordinator, and run again"),
        ("power cycle", "power cycle did not end within 60 s. Check its power switch, and run again"),
    ],
)
def test_a_place_whose_coordinator_hangs_says_what_helps_and_is_released(
    places: Boards, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    monkeypatch.setattr("edgeopt.farm.labgrid.finish", never_ending(command))
    assert message in said(places.run("--power-cycle", on=("orin-7",)))
    assert asked_of_labgrid(places)[-1] == "-p orin-7 release"


def test_a_place_that_was_granted_during_ctrl_c_is_released(places: Boards) -> None:
    (places.folder / "slow").touch()
    stop, granted = threading.Event(), places.folder / "granted"

    def ctrl_c() -> None:
        while not granted.exists():
            time.sleep(0.01)
        stop.set()

    user = threading.Thread(target=ctrl_c)
    user.start()
    with suppress(Stopped), labgrid.held("orin-7", reserved=False, wait_s=1.0, stop=stop):
        pass
    user.join()
    assert (places.folder / "places" / "orin-7").read_text() == ""


def test_a_place_that_the_user_holds_already_is_not_taken_from_them(places: Boards) -> None:
    (places.folder / "places" / "orin-7").write_text("ours")
    assert places.run(on=("orin-7",)).exit_code == 1
    assert asked_of_labgrid(places) == ["-p orin-7 acquire"], "labgrid releases for the same user from everywhere"


# Gating


def verdict(outcome: str, ratio: float = 1.0) -> Verdict:
    return Verdict(
        outcome=outcome,
        reasons=(f"ratio {ratio}",),
        baseline="baseline",
        candidate="candidate",
        latency=LatencyFinding(
            baseline_ms=1.0,
            candidate_ms=ratio,
            ratio=Interval(ratio, ratio - 0.01, ratio + 0.01),
            noise=None,
            relative_floor=0.01,
            absolute_floor_ms=0.02,
            launches=5,
            rounds=30,
            disturbed_rounds=0,
        ),
        accuracy=None,
        conditions=None,
        environment=environment(),
        config=GateConfig(),
    )


@pytest.mark.parametrize(
    ("outcomes", "outcome", "code"),
    [
        (("pass", "pass"), "pass", 0),
        (("pass", "fail"), "fail", 1),
        (("invalid", "fail"), "fail", 1),
        (("pass", "invalid"), "invalid", 3),
    ],
)
def test_one_board_that_fails_is_enough_and_a_pass_needs_all(
    boards: Boards, outcomes: tuple[str, str], outcome: str, code: int
) -> None:
    for host, each in zip(("one", "two"), outcomes, strict=True):
        boards.answers(host, verdict(each))
    result = boards.gate("--markdown", str(boards.folder / "summary.md"), "--max-class-drop", "0.1")
    assert result.exit_code == code, result.output
    summary = (boards.folder / "summary.md").read_text()
    assert (
        f"Gate on 2 boards: {'✅ pass' if outcome == 'pass' else '❌ fail' if outcome == 'fail' else '⚠️ invalid'}"
        in summary
    )
    assert "| one |" in summary
    told = (boards.home("one") / "commands").read_text().splitlines()[-1]
    assert told.startswith("gate baseline.edgeopt candidate.edgeopt ")
    assert "--boards 2" in told, "each board's failure has to be surer"
    assert "--max-class-drop 0.1" in told


def test_a_board_without_an_answer_leaves_the_verdict_open(boards: Boards) -> None:
    boards.answers("one", verdict("pass"))
    (boards.home("two") / "broken").write_text("ssh: connect to host two port 22: No route to host\n")
    result = boards.gate("--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert found["outcome"] == "invalid"
    assert list(found["boards"]) == ["one"]
    assert "cannot be reached" in found["missing"]["two"]
    failing = {"one": verdict("fail", 1.3)}
    assert together(failing, found["missing"])[0] == "fail", "one that fails is enough"
    assert together({}, {})[0] == "invalid"


@pytest.mark.parametrize("code", [1, 3])
def test_a_gate_that_fails_on_a_board_gives_its_own_words(boards: Boards, code: int) -> None:
    home = boards.home("one")
    (home / "verdict.json").touch()
    (home / "code").write_text(str(code))
    (home / "words").write_text("error: no variant runs here. Install onnxruntime\n")
    result = boards.gate(on=("ssh://one",))
    assert result.exit_code == 3
    assert "one: no result: 'gate' failed there: no variant runs here. Install onnxruntime" in said(result)
