"""LiteLLM, lm-evaluation-harness and inspect_ai against ``atts serve``: ``make test-clients``.

    python tests/contract/real_clients.py PYTHON

PYTHON is that of an environment with all three. ``atts serve`` runs here, on the bundled pair. Each
evaluation is a complete one, of local problems: what the draft alone writes must be graded problem
by problem as ``atts run`` grades it on the same problems and seeds, and ``atts``, whose decisions
depend on their order, must not differ from it by the exact test at ``LEVEL``. What ``atts export
--format inspect`` writes of these runs must be read by inspect_ai with the same verdicts.
"""
# ruff: noqa: T201

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from atts.analysis.graded_run import grade_run
from atts.config import load_config
from atts.files import to_jsonl
from atts.grading.grader import Grader
from atts.grading.paired import paired_difference
from atts.problems import load_problems
from atts.solving.question import question_id
from atts.store.run_directory import read_run

PROBLEMS = 100
LEVEL = 0.001  # so that one in hundreds of these jobs fails by chance
SEED = 1234  # what lm-evaluation-harness sends of itself

LITELLM = """
import json, sys
import litellm

litellm.suppress_debug_info = True
question = {"role": "user", "content": sys.argv[2]}
asked = dict(model="openai/atts", api_base=sys.argv[1], api_key="none", messages=[question], seed=1)
whole = litellm.completion(**asked)
pieces = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
assert whole.choices[0].message.content == text, text
assert len(pieces) > 3, pieces
used = [p.usage for p in pieces if getattr(p, "usage", None)]
assert used[-1].completion_tokens == whole.usage.completion_tokens > 0
vote = litellm.completion(**asked, extra_body={"atts": {"samples": 4, "vote": True}})
assert sum(each["chains"] for each in vote.atts["votes"]) <= 4, vote
try:
    litellm.completion(**asked, tools=[{"type": "function", "function": {"name": "f"}}])
except litellm.BadRequestError as error:
    assert "tools" in str(error)
else:
    raise SystemExit("tools were not refused")
"""

LM_EVAL = r"""
task: served_arithmetic
dataset_path: json
dataset_kwargs: {data_files: {test: PROBLEMS}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [], max_gen_toks: 1024, do_sample: true, temperature: 0.8}
filter_list:
  - name: boxed
    filter:
      - {function: regex, regex_pattern: '\\boxed\{([^{}]*)\}', group_select: -1}
      - {function: take_first}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""

INSPECT = r"""
from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate

@task
def served_arithmetic():
    fields = FieldSpec(input="question", target="answer", id="id")
    scorer = pattern(r"(?s).*\\boxed\{([^{}]*)\}")  # the last one, as atts takes
    return Task(dataset=json_dataset("PROBLEMS", fields), solver=generate(), scorer=scorer)
"""

READING = """
import json, sys
from inspect_ai.log import read_eval_log

log = read_eval_log(sys.argv[1])
assert log.status == "success", log.status
written = [message for sample in log.samples for message in sample.messages]
assert any(message.role == "assistant" and message.metadata for message in written)
values = {str(each.id): each.scores["atts"].value for each in log.samples}
print(json.dumps({name: value in ("C", 1, 1.0, True) for name, value in values.items()}))
"""

Verdicts = Mapping[str, bool]
"""Whether each problem was solved, by its id."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The server, until it has drained; gives its address."""
    command = [sys.executable, "-m", "atts", "serve", "--port", "0", "--dir", str(folder / "kept")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        line = process.stderr.readline()
        if not (found := re.search(r" at (http://\S+)$", line)):
            raise SystemExit(line + process.stderr.read())
        yield found[1]
        process.send_signal(signal.SIGTERM)
        if process.wait(60):
            raise SystemExit(f"atts serve ended with {process.returncode}")
    finally:
        process.kill()
        process.communicate()


def call(folder: Path, python: str, *arguments: str, **environment: str) -> str:
    command = [python, *arguments]
    offline = {"HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | offline | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stdout}\n{done.stderr}")
    print(re.sub(r"(?m)^.*Requesting API.*\n|^\s+\n", "", done.stdout)[-1200:])
    return done.stdout


def by_atts_run(folder: Path, problems: Path, method: str) -> Verdicts:
    directory = folder / f"run-{method}"
    settings = [f"problems.source={problems}", "problems.count=null", f"method={method}"]
    settings += ["samples=1", f"seed={SEED}"]
    words = [word for setting in settings for word in ("--set", setting)]
    call(folder, sys.executable, "-m", "atts", "run", "--out", str(directory), *words)
    with Grader() as grader:
        graded = grade_run(read_run(directory), grader)
    return {name: grades[0].correct for name, grades in graded.graded.grades.items()}


def by_lm_eval(folder: Path, problems: Path, python: str, url: str, method: str) -> Verdicts:
    out = folder / f"lm-eval-{method}"
    (folder / "task.yaml").write_text(LM_EVAL.replace("PROBLEMS", str(problems)))
    chat = f"{url}/chat/completions"
    call(
        folder, python, "-m", "lm_eval", "--model", "local-chat-completions",
        "--model_args", f"base_url={chat},model={method},num_concurrent=16,max_retries=1",
        "--tasks", "served_arithmetic", "--include_path", str(folder), "--apply_chat_template",
        "--output_path", str(out), "--log_samples",
        HF_HOME=str(folder / "hf"),
    )  # fmt: skip
    (samples,) = out.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return {row["doc"]["id"]: row["exact_match"] == 1.0 for row in rows}


def by_inspect(folder: Path, problems: Path, python: str, url: str, method: str) -> Verdicts:
    logs = folder / f"inspect-{method}"
    (folder / "served_task.py").write_text(INSPECT.replace("PROBLEMS", str(problems)))
    call(
        folder, python, "-m", "inspect_ai", "eval", "served_task.py",
        "--model", f"openai-api/served/{method}", "--max-connections", "16",
        "--seed", str(SEED), "--temperature", "0.8",
        "--display", "none", "--log-dir", str(logs), "--log-format", "json",
        SERVED_BASE_URL=url, SERVED_API_KEY="none",
    )  # fmt: skip
    (log,) = logs.glob("*.json")
    tree = json.loads(log.read_text())
    assert tree["status"] == "success", tree["status"]
    return {each["id"]: each["scores"]["pattern"]["value"] == "C" for each in tree["samples"]}


def read_by_inspect(folder: Path, python: str, method: str) -> Verdicts:
    """What inspect_ai reads of a run that was exported for its viewer."""
    log = str(folder / f"exported-{method}.json")
    run = str(folder / f"run-{method}")
    call(folder, sys.executable, "-m", "atts", "export", run, log, "--format", "inspect")
    verdicts: Verdicts = json.loads(call(folder, python, "-c", READING, log))
    return verdicts


def main(python: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        problems = folder / "problems.jsonl"
        config = load_config(settings=[f"problems.count={PROBLEMS}"])
        # Named as the server names them, which decides about every random draw.
        named = [
            problem.model_copy(
                update={"id": question_id([{"role": "user", "content": problem.question}])}
            )
            for problem in load_problems(config.problems)
        ]
        problems.write_text(to_jsonl(named))
        runs = {method: by_atts_run(folder, problems, method) for method in ("draft-only", "atts")}
        for method, ours in runs.items():
            assert read_by_inspect(folder, python, method) == ours
        print("inspect_ai: reads exported runs")
        with served(folder) as url:
            call(folder, python, "-c", LITELLM, url, named[0].question)
            print("LiteLLM: as asked")
            for tool, judge in (("lm-eval", by_lm_eval), ("inspect_ai", by_inspect)):
                for method, ours in runs.items():
                    compare(f"{tool}, {method}", judge(folder, problems, python, url, method), ours)


def compare(name: str, theirs: Verdicts, ours: Verdicts) -> None:
    assert theirs.keys() == ours.keys(), f"{name}: not the same problems"
    differing = [key for key in ours if ours[key] != theirs[key]]
    difference = paired_difference(theirs, ours)
    print(
        f"{name}: accuracy {sum(theirs.values()) / len(theirs):.3f}, by atts run "
        f"{sum(ours.values()) / len(ours):.3f}; {len(differing)} of {len(ours)} problems differ; "
        f"difference {difference.estimate:.3f} ({difference.low:.3f} to {difference.high:.3f}), "
        f"p {difference.p_value:.3f}"
    )
    if "draft-only" in name:
        assert not differing, differing
    else:
        assert difference.p_value > LEVEL


if __name__ == "__main__":
    main(sys.argv[1])
