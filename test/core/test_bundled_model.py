"""The model that ships with the package: small, traceable, better than guesses on new streets."""

import hashlib
import re

import pytest
import torch
from safetensors import safe_open

from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.synthetic.dataset import render_dataset
from dyndepth_core.evaluation.baselines import fit_baselines
from dyndepth_core.evaluation.protocols import get_protocol
from dyndepth_core.evaluation.runner import BaselineArm, ModelArm, evaluate
from dyndepth_core.inference.model_file import BUNDLED, load_model, read_meta
from dyndepth_core.inference.predictor import Predictor
from dyndepth_core.methods.base import SPEED_THRESHOLD

CARD = BUNDLED["depth"].with_name("README.md")
BOTH = pytest.mark.parametrize("name", ["depth", "motion"])


def kinds(path):
    with safe_open(path, "pt") as file:
        return {file.get_slice(k).get_dtype() for k in file.keys() if k.endswith("weight")}  # noqa: SIM118


def test_the_depth_model_is_small_and_predicts_depth_alone():
    path = BUNDLED["depth"]
    assert path.stat().st_size <= 12_000_000 and "F16" in kinds(path)
    graph, meta = load_model(path)
    assert graph.motion_net is None and meta.method == "mined_supervision"
    assert all(p.dtype == torch.float32 for p in graph.parameters())


def test_the_motion_model_is_small_and_knows_what_counts_as_moving():
    path = BUNDLED["motion"]
    assert path.stat().st_size <= 16_000_000 and {"F16", "I8"} <= kinds(path)
    graph, meta = load_model(path)
    assert graph.motion_net is not None and meta.method == "mined_supervision"
    assert 0.3 < meta.thresholds[SPEED_THRESHOLD] < 5
    assert all(p.dtype == torch.float32 for p in graph.parameters())


@BOTH
def test_it_says_where_it_comes_from(name):
    meta = read_meta(BUNDLED[name])
    provenance = meta.provenance
    assert meta.license == "Apache-2.0" and meta.scale.state == "relative"
    assert provenance.config["train"]["seed"] == provenance.seed
    # worlds to tune on; those that figures are reported on were never trained on
    assert provenance.world_seeds and set(provenance.world_seeds) <= set(range(20))
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", provenance.git_revision)
    assert len(provenance.dataset_manifest.split()) == len(provenance.data)


@BOTH
def test_the_card_belongs_to_the_file(name):
    card, meta = CARD.read_text(), read_meta(BUNDLED[name])
    assert hashlib.sha256(BUNDLED[name].read_bytes()).hexdigest() in card
    assert f"{meta.provenance.steps}" in card.replace(",", "")
    assert "no real street" in card and "Apache-2.0" in card
    for seed in meta.provenance.world_seeds:
        assert f"--seed {seed} " in card


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """A street of a world nobody trained or tuned on, every second row fitted to it: flattered."""
    root = tmp_path_factory.mktemp("world") / "unseen"
    render_dataset(root, 1001, {"test": 3}, 6, (128, 416), workers=1)
    streets = open_recordings(root, "test")
    arms = {name: ModelArm(Predictor(path, device="cpu")) for name, path in BUNDLED.items()}
    arms |= {name: BaselineArm(prior) for name, prior in fit_baselines(streets).items()}
    return evaluate(streets, arms, get_protocol("native")).table()


@BOTH
@pytest.mark.parametrize("stratum", ["all", "static", "raised"])
def test_it_sees_more_than_guesses_fitted_to_the_very_street(scores, stratum, name):
    own = scores[name][stratum]["abs_rel"]
    for guess in ("row_prior", "plane"):
        assert own < 0.8 * scores[guess][stratum]["abs_rel"]


def test_what_it_says_moves_is_better_than_any_guess_of_as_many_pixels(scores):
    """Pixels drawn by chance are right as often as things move at all."""
    motion = scores["motion"]["motion"]
    moving = motion["precision"] * motion["false_share"] / (1 - motion["precision"])
    share = moving / motion["recall"]  # moving pixels over standing ones
    assert motion["recall"] > 0.1 and motion["precision"] > 2 * share / (1 + share)
    assert motion["false_share"] < 0.1 and scores["depth"].get("motion") is None
