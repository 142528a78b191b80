"""Decision rules as a page's tables and headings call them."""

from collections.abc import Mapping

from vitprobe_jax.types import Rule

RULE_WORDS: Mapping[Rule, str] = {
    "hyperplane": "hyperplane",
    "hyperplane_paper": "hyperplane (paper's SGD)",
    "cosine": "cosine",
    "cosine_centered": "cosine centered",
}


def solver_words(rule: Rule, config: Mapping) -> str:
    """How the hyperplanes of a run were fitted, in words; "" for other rules.

    Args:
        rule: decision rule of the results.
        config: every flag as resolved; what is not in it is left out.
    """
    own = config.get("hyperplane")
    numbers = own if isinstance(own, Mapping) else {}
    if rule == "hyperplane":
        return _with("at the minimum of the penalised loss, found by L-BFGS on standardised features", numbers, _LBFGS)
    if rule == "hyperplane_paper":
        return _with("where SGD stops", numbers, _PAPER)
    return ""


_LBFGS = {"penalty": "penalty {:g}"}
_PAPER = {"learning_rate": "learning rate {:g}", "epochs": "{} epochs", "batch_size": "batches of {} rows"}


def _with(words: str, numbers: Mapping, shown: Mapping[str, str]) -> str:
    return ", ".join([words, *(text.format(numbers[name]) for name, text in shown.items() if name in numbers)])
