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

CARD = BUNDLED.with_name("README.md")


def test_it_is_small_and_predicts_depth_alone():
    assert BUNDLED.stat().st_size <= 12_000_000
    with safe_open(BUNDLED, "pt") as file:
        kinds = {file.get_slice(k).get_dtype() for k in file.keys() if k.endswith("weight")}  # noqa: SIM118
    assert "F16" in kinds
    graph, meta = load_model(BUNDLED)
    assert graph.pose_net is None and meta.method == "monodepth"
    assert all(p.dtype == torch.float32 for p in graph.parameters())


def test_it_says_where_it_comes_from():
    meta = read_meta(BUNDLED)
    provenance = meta.provenance
    assert meta.license == "Apache-2.0" and meta.scale.state == "relative"
    assert provenance.config["train"]["seed"] == provenance.seed
    # worlds to tune on; those that figures are reported on were never trained on
    assert provenance.world_seeds and set(provenance.world_seeds) <= set(range(20))
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", provenance.git_revision)
    assert len(provenance.dataset_manifest.split()) == len(provenance.data)


def test_the_card_belongs_to_the_file():
    card, meta = CARD.read_text(), read_meta(BUNDLED)
    assert hashlib.sha256(BUNDLED.read_bytes()).hexdigest() in card
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
    arms = {"model": ModelArm(Predictor(BUNDLED, device="cpu"))}
    arms |= {name: BaselineArm(prior) for name, prior in fit_baselines(streets).items()}
    return evaluate(streets, arms, get_protocol("native")).table()


@pytest.mark.parametrize("stratum", ["all", "static", "raised"])
def test_it_sees_more_than_guesses_fitted_to_the_very_street(scores, stratum):
    own = scores["model"][stratum]["abs_rel"]
    for guess in ("row_prior", "plane"):
        assert own < 0.8 * scores[guess][stratum]["abs_rel"]
