"""The YAML files of the original Speculative Thinking project, as configurations of ours.

https://github.com/uservan/speculative_thinking, folder speculative/config.
"""

from typing import Any

from atts.errors import ConfigError

_OPTIONS = {
    "TRIGGER_TOKENS": ("triggers",),
    "help_think_word": ("think_words",),
    "help_recap_words": ("recap_words",),
    "choose_large": ("choose_target",),
    "not_reasoning": ("always_ask",),
    "max_target_tokens": ("target_tokens",),
    "begin": ("begin",),
    "begin_token_num": ("begin_tokens",),
    "original_recap_token_num": ("recap_tokens", "verify_tokens"),
    "add_each_recap": ("recap_tokens_step",),
    "max_recap_token_num": ("recap_tokens_most",),
    "recap_after_negative_num": ("recap_after",),
    "add_each_neg": ("recap_after_step",),
    "max_negative_num": ("recap_after_most",),
    "time_out": ("time_out_seconds",),
}
_WORDS = {"verify": "verify", "negative": "reflect", "positive": "affirm"}
_MODELS = {"target": "target", "speculative": "draft"}
_ENGINES = {"vllm": "vllm", "hf": "inprocess"}
_KNOWN = {
    *_OPTIONS,
    "TARGET_VALIDATION_KEYWORDS",
    "mode",
    *(f"{model}_model_{key}" for model in _MODELS for key in ("name", "gpu")),
}


def is_original(tree: dict[str, Any]) -> bool:
    """Whether this is a file of that project."""
    return "target_model_name" in tree or "TRIGGER_TOKENS" in tree


def from_original(tree: dict[str, Any], source: str) -> dict[str, Any]:
    """Such a file as a tree of our keys; without a speculative model it is ``target-only``.

    >>> from_original({"target_model_name": "T", "TRIGGER_TOKENS": [";"], "time_out": -1}, "a file")
    {'method': 'speculative-thinking', 'target': {'model': 'T'}, \
'speculative_thinking': {'triggers': [';'], 'time_out_seconds': None}}

    Raises:
        ConfigError: it has keys that neither that project nor its files know, or words of a kind
            that is not known.
    """
    if unknown := sorted(map(str, tree.keys() - _KNOWN)):
        raise ConfigError(
            f"{source} looks like a file of Speculative Thinking, but has unknown keys: "
            f"{', '.join(unknown)}"
        )
    translated: dict[str, Any] = {"method": "speculative-thinking"}
    if "speculative_model_name" in tree and tree["speculative_model_name"] is None:
        translated["method"] = "target-only"
    for theirs, ours in _MODELS.items():
        model: dict[str, Any] = {}
        if name := tree.get(f"{theirs}_model_name"):
            model["model"] = name
        if gpus := tree.get(f"{theirs}_model_gpu"):
            model["server"] = {"tensor_parallel": gpus}
        if "mode" in tree:
            model["engine"] = _ENGINES.get(tree["mode"], tree["mode"])
        if model:
            translated[ours] = model
    options: dict[str, Any] = {
        name: tree[key] for key, names in _OPTIONS.items() if key in tree for name in names
    }
    if "think_words" in options:
        options["think_words"] = options["think_words"] or ""
    if "time_out_seconds" in options and (options["time_out_seconds"] or 0) <= 0:
        options["time_out_seconds"] = None  # theirs is off at 0 and below
    words = tree.get("TARGET_VALIDATION_KEYWORDS", {})
    if not isinstance(words, dict) or words.keys() - _WORDS.keys():
        raise ConfigError(
            f"{source}: TARGET_VALIDATION_KEYWORDS holds lists of words under {', '.join(_WORDS)}"
        )
    options |= {_WORDS[kind]: listed for kind, listed in words.items()}
    if options:
        translated["speculative_thinking"] = options
    return translated
