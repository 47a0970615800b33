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


def test_what_is_no_json_is_never_overwritten(tmp_path, capsys):
    """The commonest slip: the file that the command reads."""
    model = tmp_path / "m.safetensors"
    model.write_bytes(b"\x7b" + bytes(7) + b"{}weights")
    assert cli.main(["info", str(model), "--json", str(model)]) == 2
    assert "m.safetensors: is there already and no JSON" in capsys.readouterr().err
    assert model.read_bytes().endswith(b"weights")
    for name in ("calib.json", "film.calib.json"):
        with pytest.raises(ValueError, match="name of a calibration"):
            check_json(tmp_path / name)
    for content in ("", '{"a": 1}', "[1]"):  # figures of an earlier run are
        (tmp_path / "old.json").write_text(content)
        check_json(tmp_path / "old.json")
    check_json(Path("/dev/null"))


def test_figures_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, link = tmp_path / "old.json", tmp_path / "link.json"
    path.write_text("{}")
    link.symlink_to(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"old.json"):
        patch.setattr("os.fsync", full)
        write_json(path, {"a": 1})
    assert path.read_text() == "{}" and len(list(tmp_path.iterdir())) == 2
    write_json(link, {"a": 2})
    assert link.is_symlink() and json.loads(path.read_text()) == {"a": 2}


def test_what_json_does_not_know_is_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("nan"), (1.5, float("inf"))], "b": {"c": None}})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [None, [1.5, None]],
        "b": {"c": None},
    }


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
