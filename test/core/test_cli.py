"""The command line: what it finds, what it says when things go wrong, and with which exit code."""

import configparser
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import get_type_hints

import pytest
from training_helpers import TINY, make_recording

from dyndepth_core import cli
from dyndepth_core.commands.train import command as train_command
from dyndepth_core.methods import method_names


@pytest.fixture
def commands(monkeypatch):
    """Replace the installed commands by functions of the test."""

    def use(**functions):
        points = []
        for name, function in functions.items():
            entry = metadata.EntryPoint(name, f"of_a_test:{name}", cli.GROUP)
            points.append(entry)
            loaded[name] = function
        monkeypatch.setattr(metadata, "entry_points", lambda group: points)

    loaded = {}

    def load(entry):
        if isinstance(loaded[entry.name], Exception):
            raise loaded[entry.name]
        return loaded[entry.name]

    monkeypatch.setattr(metadata.EntryPoint, "load", load)
    return use


def failing(error):
    def command() -> None:
        """Fails."""
        raise error

    return command


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ValueError("train.lr: -1 is bad, raise it"), 2, "error: train.lr: -1 is bad, raise it"),
        (OSError("no room"), 2, "error: no room"),
        (FileNotFoundError(2, "No such file", "x.jpg"), 2, "error: x.jpg: No such file"),
        (KeyboardInterrupt("go on with --resume"), 130, "stopped: go on with --resume"),
        (KeyboardInterrupt(), 130, "stopped: interrupted"),
        (ZeroDivisionError("oops"), 70, "error: internal error.*ZeroDivisionError: oops"),
        (ModuleNotFoundError("No module", name="lightning.x"), 2, r"lightning.*dyndepth\[train\]"),
        (
            ModuleNotFoundError("No module", name="rclpy"),
            2,
            r"source your ROS, or.*dyndepth\[ros\]",
        ),
        (ModuleNotFoundError("No module", name="strange"), 2, "pip install strange"),
        (SystemExit(3), 3, ""),
    ],
)
def test_every_failure_is_one_message_and_an_exit_code(commands, capsys, error, code, said):
    import re
    import signal

    handler = signal.getsignal(signal.SIGINT)
    commands(work=failing(error))
    try:
        assert cli.main(["work"]) == code
    finally:
        signal.signal(signal.SIGINT, handler)
    output = capsys.readouterr()
    assert re.search(said, output.err) and output.out == ""
    assert "Traceback" not in output.err and len(output.err.splitlines()) <= 1


def test_the_traceback_is_there_for_those_who_ask(commands, capsys, monkeypatch):
    monkeypatch.setenv("DYNDEPTH_DEBUG", "1")
    commands(work=failing(ZeroDivisionError("oops")))
    assert cli.main(["work"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_command_that_cannot_be_imported_hides_no_other(commands, capsys):
    def good() -> None:
        """Does good."""

    commands(good=good, bad=ModuleNotFoundError("No module named 'rclpy'", name="rclpy"))
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "Does good" in text and "bad" in text
    assert cli.main(["good"]) == 0
    assert cli.main(["bad"]) == 2
    assert "bad cannot run here: the Python package rclpy" in capsys.readouterr().err


def test_unknown_commands_and_options_are_usage_errors(commands, capsys):
    def good(size: int = 3) -> None:
        """Does good."""

    commands(good=good)
    assert cli.main(["goood"]) == 2
    assert cli.main(["good", "--sise", "3"]) == 2
    assert cli.main(["good", "--size", "big"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main([]) in (0, 2)  # shows the help; the code differs between versions of click


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_how_to_install_it(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from dyndepth_core.cli import main; "
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(main(['train', '--help']))"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: the Python package {missing} is not installed: pip install 'dyndepth[train]'\n"
    )


def test_every_extra_is_one_that_something_here_imports():
    root, config = Path(__file__).parents[2], configparser.ConfigParser()
    config.read(root / "setup.cfg")
    assert set(config["options.extras_require"]) == {*cli.EXTRAS, "pretrained", "dev"}
    parts = (root / "dyndepth_core", root / "dyndepth_ros")
    source = "\n".join(p.read_text() for part in parts for p in part.rglob("*.py"))
    for package in set().union(*cli.EXTRAS.values()):
        assert re.search(rf"^\s*(from|import) (\w+\.)*{package}\b", source, re.M), package


def test_help_and_version_are_quick_because_they_import_nothing_heavy():
    code = (
        "import sys; from dyndepth_core.cli import main; assert main(['--version']) == 0; "
        "assert main(['train', '--help']) == 0; assert main(['info', '--help']) == 0; "
        "heavy = {'torch', 'lightning', 'cv2', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dyndepth ") and "--resume" in done.stdout


def test_the_commands_of_this_package_are_registered():
    names = {p.name for p in metadata.entry_points(group=cli.GROUP)}
    assert {
        "train",
        "info",
        "evaluate",
        "predict",
        "synth",
        "collect",
        "benchmark",
        "demo",
    } <= names


# -- train and info --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    root = make_recording(folder / "data", count=12)
    assert cli.main(train(root, folder / "run", "--json", str(folder / "m.json"))) == 0
    return folder


def train(root, out, *more):
    options = [text for item in (*TINY, "train.steps=3") for text in ("--set", item)]
    return ["train", "--data", str(root), "--out", str(out), *options, *more]


def test_train_leaves_a_run_and_its_numbers(trained):
    metrics = json.loads((trained / "m.json").read_text())
    assert metrics["state"] == "done" and metrics["step"] == 3
    assert (trained / "run" / "model.safetensors").exists()


def test_train_refuses_what_it_cannot_do(trained, capsys):
    root, run = trained / "data", trained / "run"
    for arguments, said in [
        (train(root, run), "exists already: add --resume"),
        (train(root, trained / "new", "--method", "motion_aware"), "METHOD or METHOD+PLUGIN"),
        (train(root, trained / "new", "--method", "nonsense"), "METHOD or METHOD+PLUGIN"),
        (train(root, trained / "new", "--intrinsics", "guess"), "data.intrinsics: 'guess'"),
        (train(trained / "nothing", trained / "new"), "no such file or folder"),
        (train(root, trained / "new", "--from", str(trained / "no.safetensors")), "no.safetensors"),
        (["train", "--data", str(root)], "--out: name the folder"),
        (["train", "--out", str(trained / "new")], "--data: name at least one"),
        (["train", "--out", str(trained / "new"), "--resume"], "no run to resume there"),
    ]:
        assert cli.main(arguments) == 2
        output = capsys.readouterr().err
        assert said in output and "Traceback" not in output
        assert not (trained / "new").exists()


def test_resume_needs_nothing_but_the_folder(trained, capsys):
    run = trained / "run"
    assert cli.main(["train", "--out", str(run), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "3 steps" in said
    assert f"next: dyndepth predict {trained / 'data'} --model {run} --out look" in said


def test_info_says_what_a_model_is_and_where_it_comes_from(trained, capsys):
    assert cli.main(["info", str(trained / "run"), "--json", str(trained / "i.json")]) == 0
    text = capsys.readouterr().out
    for word in ("monodepth", "64 x 96", "relative", "resnet18", "trained: steps", "not stated"):
        assert word in text
    content = json.loads((trained / "i.json").read_text())
    assert content["method"] == "monodepth" and content["input_size"] == [64, 96]
    assert content["provenance"]["config"]["train"]["steps"] == 3
    assert len(content["sha256"]) == 64 and content["parameters"] > 1000


def test_info_writes_json_to_stdout_alone(trained, capsys):
    assert cli.main(["info", str(trained / "run" / "model.safetensors"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "dyndepth-model"


def test_info_of_what_is_no_model(tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(b"nonsense, far too short or not")
    for name in ("x.safetensors", "absent.safetensors", ""):
        assert cli.main(["info", str(tmp_path / name)]) == 2
        assert "error: model" in capsys.readouterr().err


def test_train_shows_every_setting_of_a_method(capsys):
    assert (
        cli.main(["train", "--method", "sc_depth", "--show-config", "--set", "train.steps=7"]) == 0
    )
    shown = capsys.readouterr().out
    assert "rectify: false  # " in shown and "steps: 7  # " in shown
    assert cli.main(["train", "--method", "sc_depth"]) == 2 and "--out" in capsys.readouterr().err


def test_the_help_of_train_names_every_method():
    says = get_type_hints(train_command, include_extras=True)["method"].__metadata__[0].help
    assert all(name in says for name in method_names())
