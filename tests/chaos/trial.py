"""One seed: its plan, its run, what was wrong with it. The undisturbed runs are made once per setting."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from chaos.checks import halves, problems, recoveries
from chaos.once import once
from chaos.plan import Plan, Setting, plan_of
from chaos.world import Report, run_plan


@dataclass(frozen=True)
class Trial:
    """What came of one seed, small enough to be sent to another process."""

    seed: int
    plan: Plan
    problems: tuple[str, ...]
    injected: Counter[str]
    missed: Counter[str]
    weather: Counter[str]
    outcomes: Counter[str]
    halves: int
    recovery_seconds: float  # the longest, of the peers of this run
    shortfall: float  # of the worst peer's accuracy against the worst one undisturbed
    digest: str = field(repr=False, default="")

    @property
    def replay(self) -> str:
        private = " --private" if self.plan.setting.private else ""
        return f"python -m tests.chaos --seed {self.seed} --rule {self.plan.setting.rule}{private} --verbose"


@once
def undisturbed(setting: Setting) -> tuple[float, ...]:
    """The accuracies of the peers of this setting, where nothing happens; everything else is checked here, too."""
    report = run_plan(Plan(0, setting))
    accuracies = tuple(life.accuracy for life in report.learners)
    wrong = problems(report, accuracies)
    if wrong:
        raise AssertionError(f"the undisturbed run of {setting} is not clean: {wrong}")
    return accuracies


def try_seed(seed: int, rule: str | None = None, private: bool = False) -> Trial:
    """Run this seed, and check everything."""
    return judge(run_plan(plan_of(seed, rule, private=private)))


def judge(report: Report) -> Trial:
    """What is to be said of this run."""
    without = undisturbed(report.plan.setting)
    return Trial(
        seed=report.plan.seed,
        plan=report.plan,
        problems=tuple(problems(report, without)),
        injected=report.injected,
        missed=report.missed,
        weather=report.weather.given,
        outcomes=Counter(e.outcome.value for life in report.lives for e in life.observer.entries),
        halves=halves(report),
        recovery_seconds=max((s for s in recoveries(report).values() if s is not None), default=0.0),
        shortfall=min(without) - min((life.accuracy for life in report.learners), default=1.0),
        digest=digest(report),
    )


def digest(report: Report) -> str:
    """The same for two runs that were the same, to the last bit."""
    said = hashlib.sha256()
    for life in report.lives:
        said.update(repr([life.owner, life.peer.step, life.ended_at, life.observer.entries]).encode())
        said.update(life.vector.snapshot(life.vector.empty()).numpy().tobytes())
    return said.hexdigest()[:16]
