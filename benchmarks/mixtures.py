"""What a certificate is worth where the setting is chosen problem by problem: simulated.

    python benchmarks/mixtures.py

Two settings lose a twentieth of the problems each, one only hard ones and the other only easy ones:
the worst that two settings certified together can be. Printed is the share that is lost where the
choice between them goes by the speed of the problems before, by the place in the run, by a coin, or
by the problem itself; and where the choice is between the first of them and the target alone.
"""

import random
from collections.abc import Callable

PROBLEMS, RUNS, LOST = 400, 400, 0.1

Rule = Callable[[int, bool, float, random.Random], bool]
"""Whether a problem goes by the first setting, from its place, whether it is hard, how hard those
before it were of late (as their speed shows), and chance."""
RULES: dict[str, Rule] = {
    "the speed of those before": lambda _i, _hard, before, _chance: before > 0.5,
    "the place in the run": lambda i, _hard, _before, _chance: i >= PROBLEMS / 2,
    "a coin": lambda _i, _hard, _before, chance: chance.random() < 0.5,
    "the problem itself": lambda _i, hard, _before, _chance: hard,
}


def lost(rule: Rule, in_order: bool, other_loses: bool) -> float:
    """Share of problems lost; ``other_loses``: the other choice is no target alone."""
    chance, count = random.Random(0), 0
    for _ in range(RUNS):
        hard = [chance.random() < 0.5 for _ in range(PROBLEMS)]
        before = 0.0
        for i, this in enumerate(sorted(hard) if in_order else hard):
            first = rule(i, this, before, chance)
            loses = this if first else other_loses and not this
            count += loses and chance.random() < LOST
            before = 0.5 * before + 0.5 * this
    return count / (PROBLEMS * RUNS)


def main() -> None:
    print("| the choice goes by | two settings, shuffled | easy first | one and the target alone |")
    print("|---|---|---|---|")
    for name, rule in RULES.items():
        found = (lost(rule, False, True), lost(rule, True, True), lost(rule, True, False))
        print(f"| {name} | " + " | ".join(f"{each:.3f}" for each in found) + " |")


if __name__ == "__main__":
    main()
