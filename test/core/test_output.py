"""What `--json` does: refused before the work when it could not be written after it."""

import json
from pathlib import Path

import pytest

from dyndepth_core import cli
from dyndepth_core.commands.output import check_json, write_json


def test_figures_go_to_a_file_stdout_or_nowhere(tmp_path, capsys):
    path = tmp_path / "new" / "figures.json"
    check_json(path)
    write_json(path, {"a": [1.5]})
    assert json.loads(path.read_text()) == {"a": [1.5]}
    check_json(Path("-"))
    write_json(Path("-"), {"b": 2})
    assert json.loads(capsys.readouterr().out) == {"b": 2}
    check_json(None)
    write_json(None, {})


def test_a_full_disk_is_named():
    with pytest.raises(OSError) as error:
        write_json(Path("/dev/full"), {"a": 1})
    assert error.value.filename == "/dev/full"


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--data", "{data}"),
        ("predict", "{data}", "--out", "{data}/out"),
        ("train", "--method", "monodepth", "--data", "{data}", "--out", "{data}/out"),
        ("collect", "{data}/a.mcap", "--out", "{data}/out"),
        ("benchmark",), ("info",),
        ("reproduce", "--methods", "monodepth", "--out", "{data}/out"),
    ],
)  # fmt: skip
def test_a_folder_is_refused_before_any_work(tmp_path, words, capsys):
    """Nothing else is complained about: it is the first thing that is looked at."""
    words = [w.format(data=tmp_path / "no") for w in words]
    assert cli.main([*words, "--json", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err and not list(tmp_path.iterdir())
