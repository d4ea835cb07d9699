"""The generated arithmetic problems: splits, repeatability, and right answers."""

import operator
import re
from collections.abc import Callable
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.problems.arithmetic import LIMIT, Op, Split, Story, generate, stories

SPLITS: tuple[Split, ...] = ("train", "calibration", "test")
OPERATIONS: dict[Op, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}


def check(story: Story) -> None:
    """Re-derive every step from the numbers before it."""
    assert 3 <= len(story.steps) <= 6
    for index, step in enumerate(story.steps):
        for number, source in ((step.left, step.left_from), (step.right, step.right_from)):
            if source is not None:
                assert source < index
                assert number == story.steps[source].result
        assert step.result == OPERATIONS[step.op](step.left, step.right)
        if step.op == "/":
            assert step.left % step.right == 0
        if step.op == "*":
            assert min(step.left, step.right) < 10
        assert all(0 < number < LIMIT for number in (step.left, step.right, step.result))
    assert story.answer == story.steps[-1].result


def test_splits_share_no_question() -> None:
    questions = [{p.question for p in generate(split, 300)} for split in SPLITS]
    assert all(len(some) == 300 for some in questions)
    assert len(set.union(*questions)) == 900


@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_same_problems(split: Split) -> None:
    assert generate(split, 20, seed=3) == generate(split, 20, seed=3)
    assert generate(split, 20, seed=3) != generate(split, 20, seed=4)


def test_a_shorter_list_is_a_prefix_of_a_longer_one() -> None:
    assert generate("test", 50) == generate("test", 100)[:50]


def test_ids_name_split_and_seed() -> None:
    assert generate("test", 8)[7].id == "arithmetic-test-0007"
    assert generate("train", 1, seed=5)[0].id == "arithmetic-train-seed5-0000"


def test_the_problems_never_change() -> None:
    """Recorded runs refer to problems by id, so an id must keep its question."""
    first = generate("test", 1)[0]
    assert first.question == (
        "Ruth has 70 dollars. She buys 3 tickets for 22 dollars each. Luck turns it into 3 "
        "times as much. She splits it into 6 equal parts and keeps one part. She earns 30 "
        "dollars. Paul pays Ruth 44 dollars. How many dollars does Ruth have now?"
    )
    assert first.answer == "76"


def test_answer_of_the_problem_is_that_of_the_story() -> None:
    pairs = zip(generate("test", 30), islice(stories("test"), 30), strict=True)
    for problem, story in pairs:
        assert problem.question == story.question
        assert problem.answer == str(story.answer)


def test_every_operation_and_scene_occurs() -> None:
    some = list(islice(stories("train"), 300))
    assert {step.op for story in some for step in story.steps} == set(OPERATIONS)
    assert len({story.unit for story in some}) > 10


def test_questions_are_short_plain_sentences() -> None:
    for story in islice(stories("train"), 300):
        assert 10 <= len(story.question.split()) <= 70
        assert story.question.isascii()
        assert story.question.endswith("?")
        assert not re.search(r"[{}]|  |[.?] [a-z]", story.question)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), split=st.sampled_from(SPLITS))
def test_steps_lead_to_the_answer(seed: int, split: Split) -> None:
    for story in islice(stories(split, seed), 3):
        check(story)
