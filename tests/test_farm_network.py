"""Boards behind real links, with OpenSSH's own server and client: what is seen of one that is unplugged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import tiny

import edgeopt
from benchmarks import farm

FAKES = Path(__file__).with_name("data") / "farm"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(farm.missing()), reason=f"no boards in network namespaces: {farm.missing()}"),
]


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """Variables of a board where edgeopt is a stand-in, which answers at once."""
    results = {"ort-fp32": tiny.latency(2.0), "ort-int8": tiny.latency(1.0)}
    (tmp_path / "latency.json").write_bytes(msgspec.json.encode(results))
    (tmp_path / "version").write_text(edgeopt.__version__)
    return {"FAKE": str(tmp_path)}


def test_a_board_that_is_unplugged_has_no_result_and_the_others_do(tmp_path: Path, stand_in: dict[str, str]) -> None:
    folder = tmp_path / "farm"
    hang = folder / f"home-{farm.UNPLUGGED}" / "hang"
    hang.parent.mkdir(parents=True)
    hang.touch()
    found = farm.demonstrate(folder, farm.tiny(tmp_path), str(FAKES / "edgeopt"), stand_in, hang.unlink)
    unplugged, again = found["unplugged"], found["plugged_in"]
    assert unplugged["exit_code"] == 1
    assert unplugged["results"] == found["kept"] == ["board-0", "board-2"]
    assert "unplugged, switched off or hung" in unplugged["missing"]["board-1"]
    assert again["exit_code"] == 0
    assert again["results"] == ["board-0", "board-1", "board-2"]
    assert again["before"] == ["board-0", "board-2"], "what is there is not measured again"


@pytest.mark.parametrize(
    ("file", "message"),
    [("known_hosts", "its host key is not known here"), ("authorized_keys", "it takes none of your keys")],
)
def test_what_openssh_refuses_is_understood(tmp_path: Path, stand_in: dict[str, str], file: str, message: str) -> None:
    folder = tmp_path / "farm"
    folder.mkdir()
    command = [sys.executable, "-m", "edgeopt", "farm", "run", str(farm.tiny(tmp_path)), "--on", "board-0", "--farm"]
    with farm.farm(folder, str(FAKES / "edgeopt"), stand_in):
        (folder / file).write_text("")
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*command, str(folder / "farm.toml")],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert message in done.stderr
