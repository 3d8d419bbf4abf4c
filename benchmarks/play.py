"""One rule played with one seed: a pool of finished labels, a budget a round, and the error after every round."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.rules import RULES, State, force_deviation
from mfal.acquire.experience import Experience, learn
from mfal.committee.evaluate import errors
from mfal.committee.members import train_committee
from mfal.committee.predict import predict
from mfal.config import Acquire, Committee, Training
from mfal.dft.engines import Table
from mfal.dft.table import Labels, frames, look_up
from mfal.frames import FIDELITIES, Document, Fidelity, Label, Score
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.section import Section
from mfal.training.examples import examples

#: Of the frames, never trained on.
TEST_SHARE = 0.25
#: Seeds of the trainings of one play.
SEEDS = 1000
#: From atoms to a frame, as the loop has it.
REDUCE = Acquire.model_fields["reduce"].default


class Settings(Section):
    rounds: int
    #: Frames that every rule starts from.
    start: int
    #: That every rule may spend in a round.
    core_hours: float
    committee: Committee
    training: Training


class Point(Document):
    """After a training."""

    core_hours: dict[Fidelity, float]  # so far
    labels: dict[Fidelity, int]
    force_error: float  # meV/Å, magnetic MAE on the test set
    #: Of the frames in the pool, where the rule says so.
    decisions: dict[str, int]

    @property
    def total(self) -> float:
        return sum(self.core_hours.values())


class Play(Document):
    """A line of the results file."""

    #: Of the data and the settings.
    fingerprint: str
    rule: str
    seed: int
    points: list[Point]
    seconds: float


@dataclass
class Ledger:
    """What is labelled and paid; no more than the limit is ever spent."""

    table: Labels
    limit: float
    bought: list[Label] = field(default_factory=list)

    def core_hours(self) -> dict[Fidelity, float]:
        spent: dict[Fidelity, float] = defaultdict(float)
        for label in self.bought:
            spent[label.fidelity] += label.core_hours
        return {fidelity: spent[fidelity] for fidelity in FIDELITIES}

    def left(self) -> float:
        return self.limit - sum(self.core_hours().values())

    def labels(self) -> dict[Fidelity, int]:
        counts = Counter(label.fidelity for label in self.bought)
        return {fidelity: counts[fidelity] for fidelity in FIDELITIES}

    def buy(self, frame_id: str, fidelities: Sequence[Fidelity]) -> list[Label] | None:
        """The labels, or None, and nothing is paid, where they do not fit.

        Raises:
            ValueError: there is such a label already.
        """
        if any(label.frame_id == frame_id and label.fidelity in fidelities for label in self.bought):
            raise ValueError(f"{frame_id} has its {' and '.join(fidelities)} label already")
        wanted = [self.table[frame_id, fidelity] for fidelity in fidelities]
        if sum(label.core_hours for label in wanted) > self.left():
            return None
        self.bought += wanted
        return wanted


def split(names: Sequence[str], start: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Test set, start set and pool: a function of the seed alone, so the same for all rules."""
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(names))]
    test = round(TEST_SHARE * len(order))
    return order[:test], order[test : test + start], order[test + start :]


def play(rule: str, seed: int, data: Table, settings: Settings, fingerprint: str) -> Play:
    """A rule from the start set to the last round.

    After each round all rules may have spent the same: what the start set costs at both fidelities, and the rounds'
    budgets. What a rule leaves in one round, or has not paid for the start set, it may spend in the next.
    """
    begin = time.perf_counter()
    by_id = {frame.frame_id: frame for frame in frames(data)}
    table = {(name, fidelity): look_up(data, name, fidelity) for name in by_id for fidelity in FIDELITIES}
    test, start, pool = split(list(by_id), settings.start, seed)
    judged = examples(by_id.values(), [table[name, "magnetic"] for name in test])
    ledger = Ledger(table, limit=sum(table[name, fidelity].core_hours for name in start for fidelity in FIDELITIES))
    for name in start:
        ledger.buy(name, RULES[rule].fidelities)
    scores = [
        Score(campaign="benchmark", round=0, frame_id=name, arm="control", decision="both", reason="") for name in start
    ]
    unseeing = [MultiFidelityCHGNet.from_pretrained(settings.committee.pretrained, parts=settings.committee.parts)]
    models: list[MultiFidelityCHGNet] = []
    cheap = True  # whether all that is bought is trained on
    experience = Experience()
    deviations: list[float] = []
    points: list[Point] = []
    for round in range(settings.rounds + 1):
        before = len(ledger.bought) if round else 0
        scores = scores if not round else []
        if round and pool:
            ledger.limit += settings.core_hours
            predictions = predict(models, [by_id[name] for name in pool])
            deviations = deviations or [force_deviation(prediction) for prediction in predictions]
            labelled = sorted({label.frame_id for label in ledger.bought})
            known = predict(models, [by_id[name] for name in labelled])
            state = State(
                seed=seed,
                round=round,
                pool=[by_id[name] for name in pool],
                predictions=predictions,
                labelled=np.stack([prediction.features for prediction in known]),
                first_deviations=deviations,
                core_hours=ledger.left(),
                experience=experience,
            )
            scores = RULES[rule].select(state, ledger.buy)
        new = ledger.bought[before:]
        pool = [name for name in pool if name not in {label.frame_id for label in new}]
        if new:  # otherwise there is nothing to learn from
            if not round:  # the pretrained model's verdict, before anything is trained
                experience = learn(None, by_id, new, scores, old=unseeing, new=[], hold_out=[], reduce=REDUCE)
            learned = [label for label in ledger.bought if RULES[rule].trains_on(label, experience)]
            anew = cheap and len(learned) < len(ledger.bought)
            cheap = cheap and not anew
            trained = train_committee(
                None if anew else models or None,
                examples(by_id.values(), learned),
                settings.committee,
                settings.training,
                seed=SEEDS * seed + round,
            )
            old, models = models or unseeing, [member.model for member in trained]
            experience = learn(
                experience if round else None, by_id, new, scores, old=old, new=models, hold_out=[], reduce=REDUCE
            )
        error = errors(models, judged)["magnetic"].forces
        if error is None:
            raise ValueError("the test set has no magnetic forces")
        points.append(
            Point(
                core_hours=ledger.core_hours(),
                labels=ledger.labels(),
                force_error=error,
                decisions=dict(Counter(score.arm or score.decision for score in scores)),
            )
        )
    return Play(fingerprint=fingerprint, rule=rule, seed=seed, points=points, seconds=time.perf_counter() - begin)
