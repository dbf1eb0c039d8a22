"""
Compares trained models on the same held-out texts: likelihood, quality and diversity with intervals and tests, and
what may not be concluded. The report is a page, report.html, beside report.md and report.json.

    python examples/compare.py --smoke --output /tmp/smoke
    python examples/compare.py --models gpt2-reviews trace-model --dataset reviews --output comparison

Needs the `eval` extra: pip install 'modeling-trace[eval]'. One process measures, however many are launched.
"""

import os
from dataclasses import dataclass, field

from train import main as train_model
from train import parse

from modeling_trace.evaluation import EvaluationSettings, compare


@dataclass
class ScriptArguments:
    """Which models, on which texts, and how much of each."""

    models: list[str] = field(
        default_factory=list, metadata={"help": "Folders or Hub ids; the first is the baseline."}
    )
    names: list[str] | None = field(default=None, metadata={"help": "Of the models. Default: those of the folders."})
    dataset: str = field(default="reviews", metadata={"help": "reviews (built in), a Hub id, or files of texts."})
    text_column: str | None = field(default=None, metadata={"help": "Found by itself where it is called text, ..."})
    validation_split: float = field(default=0.1, metadata={"help": "As in training: the held-out texts are used."})
    num_texts: int = field(default=500, metadata={"help": "Real texts, and generated ones of each kind."})
    num_samples: int = field(default=20, metadata={"help": "Latents for each text, of the bound on its likelihood."})
    decoding: list[str] = field(default_factory=lambda: ["greedy", "top-k"], metadata={"help": "Strategies."})
    judge: str | None = field(default=None, metadata={"help": "Outside language model that reads the texts."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Default: as the longest real text."})
    output: str = field(default="comparison", metadata={"help": "Folder of the report."})
    device: str | None = field(default=None, metadata={"help": "cuda, mps or cpu. Default: the best that is here."})
    smoke: bool = field(default=False, metadata={"help": "Two small models, trained here in a few steps."})


def train_small(output: str) -> list[str]:
    """A plain language model and TRACE, each as good as random."""
    folders = [os.path.join(output, name) for name in ("gpt2", "trace")]
    for folder, system in zip(folders, ("gpt2", "trace"), strict=True):
        train_model(["--smoke", "--use_cpu", "--system", system, "--max_steps", "2", "--output_dir", folder])
    return folders


def main(argv: list[str] | None = None) -> dict | None:
    (script,) = parse((ScriptArguments,), argv)
    settings = {"num_samples": script.num_samples, "decoding": tuple(script.decoding), "judge": script.judge}
    settings |= {"max_new_tokens": script.max_new_tokens, "device": script.device}
    if script.smoke:
        script.models, script.num_texts, script.names = train_small(os.path.join(script.output, "models")), 6, None
        settings |= {"num_samples": 2, "decoding": ("greedy",), "max_new_tokens": 12, "device": "cpu"}
        settings |= {"num_curve_texts": 3, "curve_temperatures": ()}
    if os.environ.get("RANK", "0") != "0":
        return None
    report = compare(
        script.models,
        script.dataset,
        os.path.join(script.output, "report"),
        names=script.names,
        settings=EvaluationSettings(**settings),
        num_texts=script.num_texts,
        text_column=script.text_column,
        validation_split=script.validation_split,
    )
    print(*report["findings"], sep="\n")
    return report


if __name__ == "__main__":
    main()
