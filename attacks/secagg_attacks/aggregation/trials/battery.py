"""All trials, in the order of a report."""

from collections.abc import Callable
from dataclasses import dataclass

from secagg.randomness import Randomness
from secagg_attacks.aggregation.trials.cohort import all_but_one, second_sets, two_clients
from secagg_attacks.aggregation.trials.lying import other_models, planted_weights
from secagg_attacks.aggregation.trials.overlapping import disaggregation, set_differences
from secagg_attacks.aggregation.trials.trial import Trial

TRIALS: tuple[Callable[[int, Randomness], Trial], ...] = (
    set_differences,
    disaggregation,
    all_but_one,
    two_clients,
    second_sets,
    other_models,
    planted_weights,
)


@dataclass(frozen=True, slots=True)
class Tried:
    """What all of them came to."""

    trials: tuple[Trial, ...]

    @property
    def sound(self) -> bool:
        """Whether every attack works with its defence off, and every defence held."""
        return all(trial.sound for trial in self.trials)

    @property
    def reading(self) -> str:
        """What a reader must take away."""
        if not self.sound:
            return "; ".join(f"{trial.name}: {trial.verdict}" for trial in self.trials if not trial.sound)
        return (
            f"all {len(self.trials)} attacks work with their defence off; with it on, every attempt of {self.attempts} "
            f"was refused; {self.not_stopped}"
        )

    @property
    def attempts(self) -> int:
        """How often it was tried with a defence on."""
        return sum(len(trial.attempts) for trial in self.trials)

    @property
    def not_stopped(self) -> str:
        """Which attacks nothing stops, and which are stopped within limits alone."""
        never = [trial.name for trial in self.trials if not trial.attempts]
        within = [trial.name for trial in self.trials if trial.attempts and trial.openings]
        return f"NOT stopped: {', '.join(never)}. Stopped only within stated limits: {', '.join(within)}"


def try_all(now: int, random: Randomness, progress: Callable[[Trial], None] = lambda _trial: None) -> Tried:
    """Run every trial; `progress` is told of each when it is done. Raises what a session that should open raises."""
    found = list[Trial]()
    for run in TRIALS:
        found.append(run(now, random))
        progress(found[-1])
    return Tried(tuple(found))
