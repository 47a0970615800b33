"""Several devices: the weights are those of one device, for each takes a part of the same batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_helpers import make_recording, source

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import torch
from training_helpers import ToyObjective, settings, source
from dyndepth_core.training.fit import fit

class Plain(ToyObjective):  # batch norm sees its own part only, and noise is that of the process
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.Identity()

    def losses(self, sample, predictions, progress=1.0):
        terms = super().losses(sample, predictions, progress)
        error = (predictions.disps[0] - sample.tgt.mean(1, keepdim=True)).square().mean()
        return type(terms)(error, {{"photometric": error}}, terms.maps)

devices, root, out = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
config = settings(batch_size=4, devices=devices, device="cpu", steps=8, clip_norm=1.0)
result = fit(Plain(), config, source(root, 4), source(root, 4, train=False), out)
assert result.state == "done" and result.step == 8
"""


@pytest.mark.soak
def test_two_processes_train_what_one_does(tmp_path):
    root = make_recording(tmp_path / "data")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent)))
    states = []
    for devices in (1, 2):
        out = tmp_path / f"run{devices}"
        arguments = [sys.executable, str(script), str(devices), str(root), str(out)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        states.append(torch.load(out / "last.ckpt", weights_only=True))
    one, two = states
    assert one["step"] == two["step"] == 8
    for name, value in one["model"].items():
        assert torch.allclose(value, two["model"][name], atol=1e-5), name
    scores = [[v["score"] for v in s["validations"]] for s in states]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    begin = source(root, 4).batch(0)
    parts = [source(root, 4).batch(0, rank, 2) for rank in (0, 1)]
    assert torch.equal(begin.tgt[1::2], parts[1].tgt)
