"""Whom the student of motion_aware imitates, in a whole step of the training."""

from dataclasses import replace

import torch
from test_motion_aware import make, samples, scored, with_true_motions
from test_motion_aware import root as root  # the fixture

from dyndepth_core.methods.motion_aware import objective as objective_module


def test_distillation_judges_depths_not_motions_and_nothing_that_is_not_seen(root, monkeypatch):
    """With one depth for both, teacher and student are as good, whatever the pose network says."""
    judged, real = [], objective_module.best_of
    monkeypatch.setattr(
        objective_module, "best_of", lambda *errors: judged.append(errors) or real(*errors)
    )
    hinted, config = make(
        "dynamic_depth+motion_aware", "objective.motion_aware.temporal=false",
        "objective.agreement=100", "network.least_seen=0.01", "objective.plain_share=0",
        "objective.static_share=0", "objective.empty_share=0",
    )  # fmt: skip
    sample = samples(root, config)
    with_true_motions(hinted)(sample, 0.5)  # the student begins, as a copy of the teacher
    predictions = hinted.predict(sample, 0.5)
    own = predictions.student = replace(
        predictions.student, T_src_tgt=predictions.student.T_src_tgt + 0, disps=predictions.disps
    )
    own.T_src_tgt[..., 0, 3] += 0.3
    hinted.losses(sample, predictions, 0.5)
    teacher, student, ensemble = judged.pop()
    assert torch.equal(teacher, student) and torch.allclose(ensemble, student, atol=1e-4)
    own.disps = {0: 0.5 * predictions.disps[0]}
    own.T_src_tgt = torch.eye(4).expand_as(own.T_src_tgt)  # any depth is as good: the teacher's
    predictions.seen.clear()
    assert hinted.losses(sample, predictions, 0.5).terms["distillation"] > 0
    own.sources.valid.fill_(False)
    predictions.seen.clear()
    assert hinted.losses(sample, predictions, 0.5).terms["distillation"] == 0


def test_the_end_of_the_teacher_is_no_progress_of_the_student(root, monkeypatch):
    hinted, config = make("many_depth+motion_aware", "objective.freeze_teacher=0.75")
    sample, taken = samples(root, config), []
    scored(hinted, sample)
    step = hinted.balance.step
    monkeypatch.setattr(
        hinted.balance, "step", lambda first, *rest: taken.append(first) or step(first, *rest)
    )
    for progress in (0.5, 0.9):
        torch.manual_seed(7)
        found = hinted(sample, progress)
        teacher = sum(v for k, v in found.terms.items() if k.startswith("teacher_"))
        assert (teacher > 0) == (progress < 0.75)
        own = found.total - teacher - found.terms["distillation"]
        assert torch.isclose(taken[-1], own, rtol=1e-5)


def test_processes_weigh_the_distillation_alike_whoever_has_instances(root, monkeypatch):
    """Another process that has none: its zeros count, and it steps as this one does."""
    hinted, config = make("many_depth+motion_aware")
    sample, said, taken = samples(root, config), [], []
    monkeypatch.setattr(objective_module, "process_count", lambda: 2)
    monkeypatch.setattr(
        hinted.balance, "step", lambda *losses: taken.append(losses) or torch.tensor(3.0)
    )
    other = torch.tensor((4.0, 0.0, 0.0))
    monkeypatch.setattr(
        objective_module, "step_sum", lambda x: said.append(x.detach()) or x + other
    )
    found, _ = scored(hinted, sample)
    assert torch.allclose(torch.stack(taken[-1][:2]), (said[-1] + other)[:2] / 2)
    assert torch.isclose(found.terms["distillation"], 3 * said[-1][1])
    other = torch.tensor((4.0, 2.0, 1.0))
    scored(hinted, replace(sample, instances=torch.zeros_like(sample.instances)))
    assert said[-1][1:].tolist() == [0, 0] and len(taken) == 2
    assert torch.allclose(torch.stack(taken[-1][:2]), (said[-1] + other)[:2] / 2)
