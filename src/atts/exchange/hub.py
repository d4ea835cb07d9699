"""A run as a dataset of the Hugging Face hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from atts.analysis.graded_run import GradedRun
from atts.analysis.summary import Summary, summarise
from atts.config import Config
from atts.errors import ConfigError, StoreError
from atts.exchange.tables import rows
from atts.grading.intervals import Interval

CARD = "README.md"
ROWS = "chains.jsonl"


class Dataset(NamedTuple):
    """What is sent: the content of each file, by its path in the repository."""

    files: Mapping[str, bytes]
    chains: int


def dataset(graded_run: GradedRun, name: str) -> Dataset:
    """The files of a run's dataset: a row a chain, the configuration, the figures, a card.

    Nothing else goes out: no machine, no address, no path, no time of day, no key.

    Args:
        graded_run: what is written.
        name: what the card calls it.
    """
    summary = summarise(graded_run)
    table = list(rows(graded_run))
    files = {
        CARD: _card(name, summary),
        ROWS: "".join(json.dumps(row) + "\n" for row in table),
        "config.yaml": _config(graded_run.run.config),
        "summary.json": summary.model_dump_json(indent=1) + "\n",
    }
    return Dataset({path: text.encode() for path, text in files.items()}, len(table))


def send(files: Dataset, repository: str, private: bool) -> str:
    """Make the repository if need be, and send all files as one commit; its address.

    The token is the one that ``hf auth login`` or HF_TOKEN gives.

    Raises:
        ConfigError: nobody is logged in, the name is none, or the token may not write there.
        StoreError: the hub does not answer, or does not take it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors  # takes long

    api = HfApi(library_name="atts")
    try:
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        operations = [CommitOperationAdd(path, data) for path, data in files.files.items()]
        made = api.create_commit(
            repository, operations, repo_type="dataset", commit_message="A run of atts"
        )
    except errors.HFValidationError as error:
        raise ConfigError(f"{repository} is no name for a dataset: {error}") from error
    except errors.LocalTokenNotFoundError as error:
        raise ConfigError(
            "the hub asks who sends it: run `hf auth login`, or set HF_TOKEN"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ConfigError(
                f"the hub does not let you write to {repository} (HTTP {status}): run `hf auth "
                "login` with a token that may write, or choose a name of your own"
            ) from error
        raise StoreError(f"the hub did not take {repository} (HTTP {status}): {error}") from error
    except Exception as error:  # of its HTTP client, which changes from version to version
        raise StoreError(
            f"the hub cannot be reached: {error}; the same command tries again"
        ) from error
    return str(made.repo_url)


def _config(config: Config) -> str:
    tree = config.model_dump(mode="json")
    for author in ("draft", "target"):
        options = tree[author]
        options["model"] = Path(options["model"]).name if _is_path(options) else options["model"]
        for key in ("urls", "server", "api_key_env", "served_as", "gguf", "device"):
            del options[key]
    for key in ("problems", "take_over"):
        for name in ("folder", "calibration", "certificate"):
            tree[key].pop(name, None)
    return yaml.safe_dump(tree, sort_keys=False)


def _is_path(options: Mapping[str, str]) -> bool:
    return options["model"].startswith(("/", ".", "~"))


def _card(name: str, summary: Summary) -> str:
    head = {
        "tags": ["atts", "test-time-scaling"],
        "configs": [{"config_name": "default", "data_files": ROWS}],
    }
    figures = {
        "problems": f"{summary.problems}",
        "chains": f"{summary.chains} of {summary.expected_chains}",
        "accuracy a chain": _percent(summary.accuracy),
        "majority vote": _percent(summary.majority_vote),
        "tokens by the draft / the target": f"{summary.tokens.draft_written:,} / "
        f"{summary.tokens.target_written:,}",
    }
    table = "".join(f"| {label} | {value} |\n" for label, value in figures.items())
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {name}\n\n"
        f"Chains of `{summary.method}`, made by [atts](https://pypi.org/project/atts-lm/): a row a "
        f"chain in `{ROWS}`. Intervals are 95 %, clustered by problem.\n\n| | |\n|---|---|\n{table}"
    )


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return "not graded"
    low, estimate, high = (100 * each for each in (interval.low, interval.estimate, interval.high))
    return f"{estimate:.1f} % ({low:.1f} to {high:.1f})"
