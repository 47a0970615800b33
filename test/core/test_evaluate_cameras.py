"""`dyndepth evaluate` where only some recordings have intrinsics."""

import json

from test_evaluate import models as models  # the fixture
from test_evaluate import run, write

from dyndepth_core.data.calibration import Calibration


def test_a_recording_without_intrinsics_costs_the_plane_alone(tmp_path, models):
    write(tmp_path / "data" / "known", frames=3)
    blind = write(tmp_path / "data" / "blind", frames=3)
    Calibration(96, 64, source="unknown").save(blind.path / "calib.json")
    out = tmp_path / "scores.json"
    result = run("--model", models[0], "--data", tmp_path / "data", "--json", out)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "no plane: blind has no intrinsics" in result.output
    assert list(json.loads(out.read_text())["methods"]) == ["model", "row_prior"]
