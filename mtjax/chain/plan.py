"""A chain's steps in order: what waits for what, and how long it takes where that is known."""

import dataclasses
import fnmatch
import os
from collections.abc import Sequence

from rich.table import Table

from mtjax.chain.freshness import CHECK, DONE, State
from mtjax.chain.log import Log
from mtjax.chain.steps import Step
from mtjax.chain.trained import Train
from mtjax.data.origin import config_hash
from mtjax.lookup import ConfigError

WAITS = "waits"  # state of a step whose output is there, but may be stale once what it needs is made


@dataclasses.dataclass(frozen=True)
class Plan:
    """Steps, each after those that it needs.

    Attributes:
      needs: of each step the places in `steps` that it waits for.
      keys: of each step a hash of what it is and of what it is made from, names and seeds apart: equal keys take equally long.
    """

    steps: tuple[Step, ...]
    needs: tuple[frozenset[int], ...]
    keys: tuple[str, ...]

    @classmethod
    def of(cls, steps: Sequence[Step]) -> "Plan":
        """Steps that are equal are one.

        Raises:
          ConfigError: two steps make the same, steps need each other, or a config cannot be loaded.
        """
        steps = [step for i, step in enumerate(steps) if step.argv not in [other.argv for other in steps[:i]]]
        maker: dict[str, int] = {}
        for i, step in enumerate(steps):
            for path in map(os.path.abspath, step.makes):
                if path in maker:
                    raise ConfigError(f"{steps[maker[path]].name!r} and {step.name!r} both make {path}")
                maker[path] = i
        configs = {os.path.abspath(s.workdir): s.values for s in steps if isinstance(s, Train)}
        needs = []
        for i, step in enumerate(steps):
            named = {maker[p] for p in map(os.path.abspath, step.needs(configs)) if p in maker} - {i}
            needs.append(named | set(range(i)) if step.after_all else named)
        order = _in_order(steps, needs)
        place = {old: new for new, old in enumerate(order)}
        needs = [frozenset(place[j] for j in needs[i]) for i in order]
        keys: list[str] = []
        for i, of in zip(order, needs, strict=True):
            keys.append(
                config_hash({"alike": [str(part) for part in steps[i].alike], "of": sorted({keys[j] for j in of})})
            )
        return cls(tuple(steps[i] for i in order), tuple(needs), tuple(keys))

    def only(self, patterns: Sequence[str]) -> frozenset[int]:
        """Places of the steps whose name has one of some patterns in it, e.g. "train *-0"; all of them for none.

        Raises:
          ConfigError: a pattern that fits none.
        """
        fits = {p: {i for i, s in enumerate(self.steps) if fnmatch.fnmatch(s.name, f"*{p}*")} for p in patterns}
        if idle := [pattern for pattern, found in fits.items() if not found]:
            raise ConfigError(f"--only={idle[0]!r} fits no step; their names are as in --dry_run")
        return frozenset().union(*fits.values()) if patterns else frozenset(range(len(self.steps)))

    def states(self, log: Log, chosen: frozenset[int]) -> list[State]:
        """Of all steps as things stand; of those not chosen, and of those they need, nothing is asked."""
        found: list[State] = []
        for i, step in enumerate(self.steps):
            state = step.state(log.last(step.name))
            waits = any(j in chosen and found[j].name not in (DONE, CHECK) for j in self.needs[i])
            found.append(State(WAITS, "for what it needs") if state.name in (DONE, CHECK) and waits else state)
        return found

    def table(self, log: Log, chosen: frozenset[int]) -> tuple[Table, str]:
        """Steps with their state and time, and a line about the time of what is left."""
        table = Table("step", "state", "time")
        left, unknown = 0.0, 0
        for i, (step, state) in enumerate(zip(self.steps, self.states(log, chosen), strict=True)):
            if i not in chosen:
                continue
            took = log.took(step.name) if state.name == DONE else None
            likely = log.expected(self.keys[i]) if took is None and state.name != DONE else None
            if state.name not in (DONE, CHECK):
                left, unknown = left + (likely or 0), unknown + (likely is None)
            told = f"{state.name}: {state.reason}" if state.reason else state.name
            time = duration(took) if took is not None else f"about {duration(likely)}" if likely is not None else "-"
            table.add_row(step.name, told, time)
        known = [f"about {duration(left)}"] if left or not unknown else []
        more = [f"{unknown} step(s) whose time is not known yet"] if unknown else []
        return table, f"left, one after the other: {', and '.join(known + more)}"


def duration(seconds: float) -> str:
    """ "4 s", "12 min", "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def _in_order(steps: Sequence[Step], needs: Sequence[set[int]]) -> list[int]:
    """Places of the steps, as they stand but for those that need a later one.

    Raises:
      ConfigError: steps need each other.
    """
    order: list[int] = []
    left = list(range(len(steps)))
    while left:
        ready = next((i for i in left if needs[i] <= set(order)), None)
        if ready is None:
            raise ConfigError(f"steps need each other: {[steps[i].name for i in left][:4]}")
        order.append(ready)
        left.remove(ready)
    return order
