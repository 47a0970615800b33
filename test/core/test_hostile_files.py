"""Damaged or hostile files and names: one message names the file, nothing is written elsewhere."""

import json
import shutil

import camera_bags as cb
import pytest
from small_model import save_small_model, small_graph, small_meta

pytest.importorskip("rosbags")
pytest.importorskip("typer")
from dyndepth_core import cli  # noqa: E402
from dyndepth_core.data.chain import read_manifest  # noqa: E402
from dyndepth_core.data.collect_options import CollectOptions  # noqa: E402
from dyndepth_core.data.collection import Collection  # noqa: E402
from dyndepth_core.data.live_manifest import LiveManifest  # noqa: E402
from dyndepth_core.inference.lineage import parent_record  # noqa: E402
from dyndepth_core.inference.model_file import save_model  # noqa: E402
from dyndepth_core.inference.model_meta import MAX_FOREBEARS  # noqa: E402

ESCAPE = "\x1b[31m"


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return cb.write(tmp_path_factory.mktemp("bags") / "drive", cb.camera("/cam", cb.drive(6), cb.K))


@pytest.fixture(scope="module")
def collected(bag, tmp_path_factory):
    out = tmp_path_factory.mktemp("collected") / "out"
    assert cli.main(["collect", str(bag), "--out", str(out)]) == 0
    return out


def resume(bag, out):
    return cli.main(["collect", str(bag), "--out", str(out), "--resume"])


@pytest.mark.parametrize(
    "text", ["{", "[1]", "null", "{}", "[" * 100_000, '{"tool": 1, "bags": 5}', "\x00"]
)
def test_a_damaged_manifest_is_named(bag, collected, tmp_path, capfd, text):
    out = shutil.copytree(collected, tmp_path / "out")
    (out / "manifest.json").write_text(text)
    assert resume(bag, out) == cli.BAD_INPUT
    assert f"{out / 'manifest.json'} is damaged" in capfd.readouterr().err


@pytest.mark.parametrize("bags", [5, [{}], [5], [{"order": 0}]])
def test_bags_of_a_manifest_that_are_none_are_named(bag, collected, tmp_path, capfd, bags):
    out = shutil.copytree(collected, tmp_path / "out")
    about = json.loads((out / "manifest.json").read_text()) | {"bags": bags}
    (out / "manifest.json").write_text(json.dumps(about))
    assert resume(bag, out) == cli.BAD_INPUT
    assert f"{out / 'manifest.json'} is damaged (bags" in capfd.readouterr().err


STATE = {"number": 3, "begun": True, "problems": [], "intake": {}, "report": {"sequences": []}}
OUTSIDE = STATE | {"report": {"sequences": [{"name": "../evil_000", "frames": 3}], "kept": 3}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("command.json", []), ("drive.json", []), ("drive.json", {}), ("drive.json", STATE),
        ("drive.json", OUTSIDE), ("drive.done.json", []), ("drive.done.json", {}),
    ],
)  # fmt: skip
def test_a_damaged_journal_is_named_and_nothing_is_written_elsewhere(
    bag, tmp_path, capfd, name, content
):
    begun = Collection(tmp_path / "out", [bag], CollectOptions(), version=cli.version())
    begun.begin()
    (begun.journal / name).write_text(json.dumps(content))
    assert resume(bag, begun.out) == cli.BAD_INPUT
    assert f"{begun.journal / name} is damaged" in capfd.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_count_of_shards_beyond_reason_is_refused_at_once(bag, tmp_path, capfd):
    words = ["collect", str(bag), "--out", str(tmp_path / "out"), "--shard", "1/99999999999"]
    assert cli.main(words) == cli.BAD_INPUT
    assert "n at most 10000" in capfd.readouterr().err


@pytest.mark.parametrize("topic", ["", "/"])
def test_an_image_topic_without_a_namespace_has_its_calibration(tmp_path, topic):
    """`/image_raw`, as many drivers call it alone."""
    messages = [
        (t.replace("/cam/", topic), m, ns) for t, m, ns in cb.camera("/cam", cb.drive(6), cb.K)
    ]
    path, out = cb.write(tmp_path / "bag", messages), tmp_path / "out"
    assert cli.main(["collect", str(path), "--out", str(out)]) == 0
    assert json.loads((out / "bag_000" / "calib.json").read_text())["fx"] == 60


def test_names_cannot_speak_to_the_terminal_or_to_its_markup(tmp_path, capfd):
    odd = f"/a[/red]{ESCAPE}"
    messages = [*cb.camera(odd, cb.drive(6)), *cb.camera("/../../up", cb.drive(6))]
    path, out = cb.write(tmp_path / "bag", messages), tmp_path / "out[red]"
    assert cli.main(["doctor", str(path)]) == 1
    assert cli.main(["collect", str(path), "--out", str(out), "--image-topic", "all"]) == 0
    assert resume(tmp_path / ESCAPE, out) == cli.BAD_INPUT
    said = capfd.readouterr()
    assert "\x1b" not in said.out + said.err and "a[/red]\\x1b[31m" in said.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag", "out[red]"]


def test_an_image_wider_than_any_camera_is_the_topics_fault(tmp_path, capfd):
    wide = cb.np.full((1, 17000, 3), 9, cb.np.uint8)
    messages = [
        ("/cam/image_raw/compressed", cb.compressed(wide, "png", cb.START + i), cb.START + i)
        for i in range(3)
    ]
    path = cb.write(tmp_path / "bag", messages)
    assert cli.main(["collect", str(path), "--out", str(tmp_path / "out")]) == cli.BAD_INPUT
    said = capfd.readouterr().err
    assert str(path) in said and "17000x1 pixels; at most 16384" in said


def test_what_is_not_of_collect_node_is_never_deleted(tmp_path):
    """A recording of PNG images without a manifest, where `out` names its root by mistake."""
    for name, file in (("mine", "000000.png"), ("20200101-101010-request_000", "000000.png")):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "images" / file).write_bytes(b"x")
        (tmp_path / name / "frames.csv").write_text("index\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "frames.csv").write_text("index\n")
    killed = tmp_path / "20200101-101010-request_001"
    (killed / "images").mkdir(parents=True)
    (killed / "frames.csv").write_text("index\n")
    manifest = LiveManifest(tmp_path, CollectOptions())
    assert manifest.clips == 0 and not killed.exists()
    assert len(list(tmp_path.rglob("*.png"))) == 2 and (tmp_path / "empty").is_dir()


@pytest.mark.parametrize(
    "about", [{"clips": 5}, {"clips": [5]}, {"files": [1]}, {"files": {"a": 1}}]
)
def test_a_damaged_manifest_of_clips_is_named(tmp_path, about):
    whole = {"tool": "dyndepth collect_node", "clips": [], "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(whole | about))
    with pytest.raises(ValueError, match=r"manifest.json: not one of .*give another folder"):
        LiveManifest(tmp_path, CollectOptions())


@pytest.mark.parametrize(
    "about", [{"bags": 5}, {"bags": [5]}, {"bags": [{"bag_files": [1]}]}, {"files": 3}]
)
def test_a_manifest_with_odd_parts_is_named(tmp_path, about):
    (tmp_path / "manifest.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="manifest.json is damaged .*delete it"):
        read_manifest(tmp_path)


def link(depth):
    found = {"sha256": "a" * 64}
    for _ in range(depth):
        found = {"sha256": "a" * 64, "name": "x", "parent": found}
    return found


RECORDING = {"name": "r", "sha256": "b", "trained": [["x", None]], "held_out": []}


@pytest.mark.parametrize(
    "extra",
    [
        {"sources": "x"}, {"sources": [1]}, {"sources": [{}]}, {"parent": "x"},
        {"parent": {"a": 1}},
        {"parent": {"sha256": "a", "sources": 7}}, {"from": 5}, {"exported_from": {}}, {"data": 5},
        {"sources": [{"name": "n", "sha256": "a", "recordings": [RECORDING]}]},
        {"parent": link(MAX_FOREBEARS)},
    ],
)  # fmt: skip
def test_provenance_that_is_none_is_refused(extra):
    with pytest.raises(ValueError):
        small_meta(provenance=extra)


def test_a_chain_of_very_many_trainings_still_fits_into_a_file(tmp_path, capfd):
    meta = small_meta(provenance={"parent": link(MAX_FOREBEARS - 1)})
    record = parent_record("x/model.safetensors", "c" * 64, meta)
    grown = small_meta(provenance={"parent": record, "from": "c" * 64})
    path = tmp_path / "model.safetensors"
    save_model(path, small_graph(), grown)
    assert cli.main(["info", str(path)]) == 0
    assert capfd.readouterr().out.count("fine-tuned from") == MAX_FOREBEARS


def test_info_shows_no_escapes_and_shortens_what_is_long(tmp_path, capfd):
    odd = {"date": ESCAPE + "d" * 100_000, "config": {ESCAPE: ESCAPE}}
    path = save_small_model(tmp_path / "m.safetensors", license=ESCAPE, provenance=odd)
    assert cli.main(["info", str(path)]) == 0
    said = capfd.readouterr().out
    assert "\x1b" not in said and "\\x1b[31m" in said and len(said) < 20_000


def test_info_tells_a_file_whose_content_was_changed(tmp_path, capfd):
    path = save_small_model(tmp_path / "m.safetensors")
    data = bytearray(path.read_bytes())
    data[-100] ^= 64
    path.write_bytes(data)
    assert cli.main(["info", str(path)]) == cli.BAD_INPUT
    assert f"{path} is damaged" in capfd.readouterr().err
