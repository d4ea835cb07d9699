"""Problems whose answers are programs: our own form, HumanEval's and LiveCodeBench's.

A line is told by its keys, so files of all three are read like any other problem file.
"""

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from atts.errors import ProblemError
from atts.types import Case, Problem, ProgramTests

MOST_BYTES = 256 << 20
"""Tests of one problem that unpack to more are refused."""

_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_AROUND_A_STRING = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}

# What submissions to the sites that LiveCodeBench collects from may use without importing it.
_USUAL_IMPORTS = """\
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
"""


def read_program_problem(values: Mapping[str, Any], where: str) -> Problem | None:
    """A problem whose answer is a program; None if the line is none.

    Raises:
        ProblemError: it lacks something, or holds tests that cannot be read.
    """
    try:
        if "tests" in values:
            return _own(values, where)
        if {"prompt", "entry_point", "test"} <= values.keys():
            return _human_eval(values, where)
        if {"question_content", "public_test_cases"} <= values.keys():
            return _live_code_bench(values, where)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise ProblemError(f"{where}: {place or 'tests'}: {fault['msg']}") from None
    return None


def _own(values: Mapping[str, Any], where: str) -> Problem:
    tests = values["tests"]
    entry_point = values.get("entry_point")
    if isinstance(tests, str):
        wanted = ProgramTests(check=tests, entry_point=entry_point)
    elif isinstance(tests, list):
        wanted = ProgramTests(cases=_cases(tests, where), entry_point=entry_point)
    else:
        raise ProblemError(
            f"{where}: 'tests' must be a list of inputs with their outputs, or a text of Python "
            f"that defines check(candidate), got {_kind(tests)}"
        )
    return Problem(
        id=_text(values, "id", where),
        question=_text(values, "question", where),
        answer=values.get("answer"),
        tests=wanted,
    )


def _human_eval(values: Mapping[str, Any], where: str) -> Problem:
    prompt = _text(values, "prompt", where)
    solution = values.get("canonical_solution")
    return Problem(
        id=_text(values, "task_id", where),
        question=f"Complete this function.\n\n```python\n{prompt.strip()}\n```",
        answer=prompt + solution if isinstance(solution, str) else None,
        tests=ProgramTests(
            check=_text(values, "test", where),
            entry_point=_text(values, "entry_point", where),
            before=prompt,
        ),
    )


def _live_code_bench(values: Mapping[str, Any], where: str) -> Problem:
    metadata = values.get("metadata") or {}
    if isinstance(metadata, str):
        metadata = _json(metadata, f"{where}: 'metadata'")
    entry_point = metadata.get("func_name") if isinstance(metadata, dict) else None
    cases: list[Case] = []
    kinds = set()
    for key in ("public_test_cases", "private_test_cases"):
        for case in _encoded_cases(values.get(key), f"{where}: {key!r}"):
            cases += _cases([case], where)
            kinds.add(case.get("testtype", "stdin"))
    if not cases:
        raise ProblemError(f"{where}: there are no tests; a program cannot be graded without one")
    if kinds == {"functional"} and entry_point:
        how = "Write a class Solution with this method."
    elif kinds == {"stdin"}:
        entry_point, how = None, "The program reads standard input and prints to standard output."
    else:
        raise ProblemError(
            f"{where}: tests of the kind {', '.join(sorted(map(repr, kinds)))} with the function "
            f"{entry_point!r}; known are 'stdin', and 'functional' with metadata.func_name"
        )
    parts = [_text(values, "question_content", where).strip(), how]
    starter = values.get("starter_code")
    if isinstance(starter, str) and starter.strip():
        parts.append(f"```python\n{starter.strip()}\n```")
    return Problem(
        id=_text(values, "question_id", where),
        question="\n\n".join(parts),
        tests=ProgramTests(
            cases=tuple(cases),
            entry_point=entry_point,
            before=_USUAL_IMPORTS if entry_point else "",
        ),
    )


def _encoded_cases(value: object, where: str) -> list[dict[str, Any]]:
    """The tests of one key: a list, as JSON, or that packed by zlib in base 64."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        text = value.strip()
        value = _json(text if text.startswith("[") else _unpacked(text, where), where)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ProblemError(f"{where} must be a list of tests, got {_kind(value)}")
    return value


def _unpacked(text: str, where: str) -> str:
    """What was packed by zlib, in base 64: JSON, or a pickle of nothing but one text.

    Pickles are never loaded, for that runs whatever their makers like. The files that are passed
    around hold JSON in a pickle, so that the one text of it is looked up without loading it.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(packed, MOST_BYTES)
    except (binascii.Error, zlib.error):
        raise ProblemError(f"{where} is neither JSON nor packed by zlib in base 64") from None
    if unpacking.unconsumed_tail or not unpacking.eof:
        raise ProblemError(
            f"{where} unpacks to more than {MOST_BYTES >> 20} MiB, or is not whole; leave it out"
        )
    if not data.startswith(b"\x80"):
        return data.decode("utf-8", "replace")
    strings = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _STRINGS:
                strings.append(argument)
            elif opcode.name not in _AROUND_A_STRING:
                raise ProblemError(
                    f"{where} is a Python pickle of more than one text ({opcode.name}); pickles "
                    "are not loaded, as that may run anything: write the tests as JSON"
                )
    except ValueError as error:
        raise ProblemError(f"{where} is a broken pickle: {error}") from None
    if len(strings) != 1 or not isinstance(strings[0], str):
        raise ProblemError(f"{where} is a pickle of {len(strings)} texts; write the tests as JSON")
    return strings[0]


def _cases(tests: list[Any], where: str) -> tuple[Case, ...]:
    cases = []
    for number, test in enumerate(tests, 1):
        if not isinstance(test, dict) or not {"input", "output"} <= test.keys():
            raise ProblemError(
                f"{where}: test {number} must have an 'input' and an 'output', got {_kind(test)}"
            )
        cases.append(Case(input=test["input"], output=test["output"]))
    return tuple(cases)


def _json(text: str, where: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{where} is not JSON ({error})") from None


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    value = values.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ProblemError(f"{where}: {key!r} must be a text, got {_kind(value)}")
    return value


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(sorted(map(str, value))[:8]) or '(none)'}"
    return f"{value!r:.60}"
