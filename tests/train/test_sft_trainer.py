"""The schedule and the plan: all steps where they fit, fewer where time is short, never a cut."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from train import trainer
from train.trainer import Progress, Schedule


def test_the_rate_rises_then_falls_to_zero_at_the_last_step():
    factors = [Schedule(0.1, 100)(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == factors[10] == 1.0
    assert all(a < b for a, b in zip(factors[:9], factors[1:10], strict=True))
    assert all(a > b for a, b in zip(factors[10:], factors[11:], strict=False))
    assert factors[100] == 0.0 and factors[99] == pytest.approx(1 / 90)
    assert [Schedule(0.0, 1)(step) for step in range(2)] == [1.0, 0.0]


class Run:
    """Drives Progress as the trainer does, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, **options) -> None:
        self.now = 1000.0
        monkeypatch.setattr(trainer.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(trainer.checkpoints, "mark_complete", self._marked)
        options = {"before": 0.0, "save_seconds": 60.0, "max_seconds": None, **options}
        self.progress = Progress("ours", started=self.now, **options)
        self.state = TrainerState(max_steps=100)
        self.schedule = Schedule(0.05, 100)
        self.scheduler = SimpleNamespace(lr_lambdas=[self.schedule])
        self.args = SimpleNamespace(output_dir=str(folder))
        self.saved: list[int] = []
        self.now += 20  # start-up
        self.progress.on_train_begin(
            self.args, self.state, TrainerControl(), lr_scheduler=self.scheduler
        )

    def _marked(self, folder: Path, fingerprint: str, seconds: float) -> None:
        self.saved.append(int(folder.name.split("-")[1]))

    def go(self, seconds_a_step) -> int:
        """Steps until the end; their number."""
        while True:
            self.now += seconds_a_step(self.state.global_step)
            self.state.global_step += 1
            self.state.num_input_tokens_seen += 500
            control = TrainerControl()
            self.progress.on_step_end(self.args, self.state, control, lr_scheduler=self.scheduler)
            if control.should_save:
                self.progress.on_save(self.args, self.state, control)
            if control.should_training_stop:
                assert control.should_log
                return self.state.global_step


def test_all_steps_without_a_limit(monkeypatch, tmp_path, capsys):
    run = Run(monkeypatch, tmp_path)
    assert run.go(lambda step: 7.0) == 100
    assert "estimate: 644 s of training left" in capsys.readouterr().out
    assert run.saved[:3] == [9, 18, 27] and run.saved[-1] == 100


def test_a_plan_that_does_not_fit_ends_earlier_with_its_schedule(monkeypatch, tmp_path, capsys):
    run = Run(monkeypatch, tmp_path, max_seconds=300.0)
    steps = run.go(lambda step: 30.0 if step == 0 else 5.0)
    # 20 s of start-up, a slow first step, 5 s each, and some seconds kept for saving.
    assert steps == 1 + (300 - 20 - 30 - trainer.SAVING_SECONDS) // 5
    assert run.now - 1000 <= 300
    assert run.schedule.total == steps and run.schedule(steps) == 0.0
    assert f"plan: {steps} of 100 steps fit max_minutes 5" in capsys.readouterr().out


def test_the_plan_grows_again_when_the_machine_gets_quicker(monkeypatch, tmp_path):
    run = Run(monkeypatch, tmp_path, max_seconds=300.0)
    steps = run.go(lambda step: 6.0 if step < 20 else 1.0)
    assert steps == 100 and run.schedule.total == 100
    assert run.now - 1000 <= 300


def test_a_slow_start_is_soon_forgotten(monkeypatch, tmp_path):
    run = Run(monkeypatch, tmp_path, max_seconds=300.0)
    planned: list[int] = []

    def seconds_a_step(step: int) -> float:
        planned.append(run.schedule.total)
        return 10.0 if step < 10 else 2.0

    assert run.go(seconds_a_step) == 98
    assert planned[10 + trainer.RECENT_STEPS + 1] >= 96  # not the mean over all steps: 60


def test_time_spent_before_a_kill_counts(monkeypatch, tmp_path):
    run = Run(monkeypatch, tmp_path, max_seconds=300.0, before=200.0)
    assert run.go(lambda step: 5.0) == (100 - 20 - trainer.SAVING_SECONDS) // 5
    assert run.progress.seconds <= 300
