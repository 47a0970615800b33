"""What plug-ins and methods with other images hang on many_depth."""

import pytest
import torch
from many import INFO, draw, make
from scenes import camera, drive, write_recording
from tiny import FOCAL

from dyndepth_core.data.recording import Recording
from dyndepth_core.methods.many_depth.predictions import Sources


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, drive(6, sway=0.0), camera(FOCAL))
    return Recording(path)


class Nothing(INFO.objective_class):
    """A plug-in without anything to say."""

    def candidates(self, role, seen, view, predictions):
        return None

    def extra_losses(self, predictions, mask, view):
        return {}


class Hints(INFO.objective_class):
    """Knows the image already."""

    teacher_always_seen = True

    def candidates(self, role, seen, view, predictions):
        assert seen.errors.shape == (2, 2, 64, 96) and seen.warped.shape == (2, 2, 3, 64, 96)
        assert predictions.sample is not None and view.level == 0
        return torch.zeros(2, 1, 64, 96) if role == "student" else None

    def extra_losses(self, predictions, mask, view):
        assert set(predictions.seen) == {"teacher", "student"} and mask.shape == (2, 1, 64, 96)
        teacher, student = (predictions.seen[r].depth for r in ("teacher", "student"))
        return {"hint": self.depth_difference(student, teacher.detach()).mean()}


def test_a_plugin_adds_candidates_and_terms_and_nothing_where_it_is_silent(recording):
    sample, found = draw(recording), {}
    for kind in (INFO.objective_class, Nothing, Hints):
        for progress in (0.5, 0.9):
            objective = make(kind, student_from=0.0)
            torch.manual_seed(1)
            found[kind, progress] = objective(sample, progress).terms
    for progress in (0.5, 0.9):
        plain, none, hints = (found[k, progress] for k in (INFO.objective_class, Nothing, Hints))
        assert plain.keys() == none.keys() and all(torch.equal(plain[k], none[k]) for k in plain)
        assert set(hints) == {*plain, "hint"} and hints["photometric"] == 0
        assert plain["photometric"] > 0 and hints["consistency"] == plain["consistency"]


class Edited(INFO.objective_class):
    """Its sources are black and believed in the left half of the image before alone."""

    def sources(self, sample, depth, T_src_tgt, K):
        assert depth.shape == (2, 1, 64, 96) and T_src_tgt.shape == (2, 2, 4, 4)
        valid = torch.zeros(2, 2, 1, 64, 96, dtype=torch.bool)
        valid[:, 0, ..., :48] = True
        return Sources(torch.zeros_like(sample.src), sample.src_net, valid)


def test_other_sources_reach_volume_and_student_with_their_validity(recording):
    sample = draw(recording)
    plain, edited = (make(k, student_from=0.0) for k in (INFO.objective_class, Edited))
    for objective in (plain, edited):
        objective.augmentation = lambda index: (index < 0, index < 0)
    a, b = (o.predict(sample, 0.5) for o in (plain, edited))
    seen = b.student.volume.seen
    assert (seen <= a.student.volume.seen).all() and seen.any() and not seen[..., 16:].any()
    plain.eval(), edited.eval()  # no noise
    one, two = plain.losses(sample, a, 0.5), edited.losses(sample, b, 0.5)
    assert one.terms["teacher_photometric"] == two.terms["teacher_photometric"]
    shown = b.seen["student"].seen
    assert shown[:, 0].any() and not shown[:, 1].any() and a.seen["student"].seen is None
    assert not two.maps["automask"][~shown[:, :1]].any()
    assert b.seen["student"].warped.abs().max() == 0
