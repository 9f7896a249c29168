"""The command line's grammar, from the verbs and the declarations of the techniques."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml

from engine import __version__, api
from engine.commands import numbers
from engine.commands.layer_arguments import add_layer_verbs
from engine.errors import InputError
from engine.jobs.limits import Limits
from engine.models.data_rows import ROLES
from engine.optimize.recipe import read_recipe, recipe_text
from engine.optimize.technique import technique
from engine.params import Param
from engine.records import Recipe, Settings, StudyRequest

_WORKLOAD = {
    "batch": "examples in one run",
    "sequence_length": "tokens of a forward or train_step run",
    "image_size": "pixels of an image's edge",
    "prompt_tokens": "tokens of the prompt of a generate run",
    "new_tokens": "tokens that a generate run makes",
    "threads": "threads inside an operator",
    "padding_percent": "share of a batch's tokens that is padding behind shorter rows",
}

_DATA = (
    "quality data: text, CSV, JSONL, Parquet, .npz, .safetensors, a dataset saved on disk or a"
    " folder of images"
)


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line that is raised, not printed."""

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print with its usage."""
        command = self.prog.removeprefix("workbench").strip()
        raise InputError(
            _sentence(message), hint=f"See `workbench {command} --help`.".replace("  ", " ")
        )


def parser() -> Parser:
    """The whole grammar."""
    made = Parser(
        prog="workbench",
        description="Profile a PyTorch model, see what would make it cheaper, prove it, export it.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"model-workbench {__version__}")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    _add_app(verbs)
    for name, help_ in (
        ("models", "the samples that come with this installation"),
        ("techniques", "every way to make a model cheaper, with its parameters"),
        ("doctor", "what this machine has, and what is missing for what"),
    ):
        _common(_verb(verbs, name, help_))
    calibrate = _common(_verb(verbs, "calibrate", "measure what this machine reaches (15 s)"))
    calibrate.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1 ...")
    _limits(calibrate)
    history = _common(_verb(verbs, "history", "every job, the newest first"))
    history.add_argument("job", nargs="?", help="one job, with its log")
    profile = _study(_verb(verbs, "profile", "where time and memory go"))
    profile.add_argument("--static", action="store_true", help="counts only: run nothing")
    _study(_verb(verbs, "code", "what each line of the model's own Python costs"))
    _study(_verb(verbs, "suggest", "what would make it cheaper, with predicted gains"))
    predict = _study(_verb(verbs, "predict", "what recipes would bring, tried on a few blocks"))
    _recipe(predict, repeatable=True)
    optimize = _study(_verb(verbs, "optimize", "build one recipe and measure each step"))
    _recipe(optimize, repeatable=False)
    _settings(optimize)
    compare = _study(_verb(verbs, "compare", "measure recipes against the model as it is"))
    _recipe(compare, repeatable=True)
    _settings(compare)
    check = _study(_verb(verbs, "check", "hold a recipe to budgets, for continuous integration"))
    _recipe(check, repeatable=False)
    names = "; ".join(f"{name}: {text}" for name, text in api.BUDGETS.items())
    check.add_argument(
        "--budget", required=True, dest="budgets", metavar="FILE",
        help=f"a YAML file, one limit a line. {names}",
    )  # fmt: skip
    check.add_argument("--junit", metavar="FILE", help="write the outcomes as JUnit XML")
    check.add_argument(
        "--strict", action="store_true", help="fail where the interval leaves a budget open, too"
    )
    _settings(check, budget="--seconds")
    report = _common(_verb(verbs, "report", "a comparison as a file for others to read"))
    report.add_argument(
        "comparison", nargs="?", help="its id, from the app's address or --json; the newest"
    )
    kinds = "; ".join(f"{name}: {text}" for name, text in api.REPORTS.items())
    report.add_argument("--format", default="html", choices=list(api.REPORTS), help=kinds)
    report.add_argument("--out", metavar="FILE", help="where to write it; stdout without")
    add_layer_verbs(
        lambda name, help_: _study(_verb(verbs, name, help_)),
        lambda verb: _recipe(verb, repeatable=False),
    )
    export = _study(_verb(verbs, "export", "write an optimized model, and prove it"))
    _recipe(export, repeatable=False)
    formats = "; ".join(f"{name}: {text}" for name, text in api.FORMATS.items())
    export.add_argument("--format", required=True, choices=list(api.FORMATS), help=formats)
    export.add_argument("--out", required=True, metavar="DIR", help="where to write it")
    verify = _common(_verb(verbs, "verify", "prove an exported model again"))
    verify.add_argument("folder", metavar="DIR", help="where it was exported to")
    verify.add_argument("--trust", action="store_true", help="run its code: I trust who made it")
    _limits(verify)
    trace = _common(_verb(verbs, "trace", "what a trace of torch.profiler tells, made anywhere"))
    trace.add_argument(
        "path",
        metavar="FILE_OR_FOLDER",
        help="a .json or .json.gz, or the traces of one job's ranks",
    )
    trace.add_argument("--name", default="", help="what to call it; default the file's name")
    _limits(trace)
    return made


def study_request(given: argparse.Namespace) -> StudyRequest:
    """The request that the flags of a verb on a model ask for.

    Raises:
        InputError: an --option that is not name=value, a --data-column that is not role=column.
    """
    workload = {name: getattr(given, name) for name in (*_WORKLOAD, "kind", "device", "seed")}
    return api.request(
        given.model,
        options=dict(_option(each) for each in given.option),
        weights=given.weights,
        data=given.data,
        metric=given.metric,
        data_columns=dict(_column(each) for each in given.data_column),
        trust=given.trust,
        **workload,
    )


def recipes(given: argparse.Namespace) -> list[Recipe]:
    """The recipes that were asked for, checked.

    Raises:
        InputError: none, more than the verb takes, or one that cannot be.
    """
    found = [read_recipe(each) for each in given.recipe]
    if given.steps:
        found.append(read_recipe(",".join(given.steps)))
    if not found:
        raise InputError(
            f"{given.verb} needs a recipe.",
            hint="For example --recipe inference_mode,kv_cache; see `workbench techniques`.",
        )
    if len(found) > 1 and not given.repeatable:
        raise InputError(
            f"{given.verb} takes one recipe, got {len(found)}.", hint="`compare` takes several."
        )
    if given.verb != "export" and not any(each.steps for each in found):
        raise InputError(
            f"{given.verb} needs a recipe with at least one step: the baseline is always measured."
        )
    return found


def settings(given: argparse.Namespace) -> Settings:
    """How much a comparison may take."""
    asked = {
        "rounds": given.rounds,
        "budget_seconds": given.budget,
        "quality_limit": given.quality_limit,
        "processes": given.processes,
        "quality_margin": given.quality_margin,
    }
    return Settings(**{name: each for name, each in asked.items() if each is not None})


def limits(given: argparse.Namespace) -> Limits:
    """What a job may take: the flags, else the environment."""
    known = Limits.from_environment()
    memory = Limits.of(given.memory_limit, None).memory_bytes if given.memory_limit else None
    return Limits(memory or known.memory_bytes, given.time_limit or known.seconds)


def written(declared: Param) -> str:
    """A tunable as one line of help: name, range or choices, default."""
    kind = "true or false" if declared.kind is bool else declared.kind.__name__
    if declared.choices:
        kind = " | ".join(str(each) for each in declared.choices)
    elif declared.low is not None and declared.high is not None:
        kind = f"{declared.low:g} to {declared.high:g}"
    elif declared.low is not None:
        kind = f"at least {declared.low:g}"
    unit = f" {declared.unit}" if declared.unit else ""
    default = str(declared.default).lower() if declared.kind is bool else declared.default
    return f"{declared.name}: {declared.help.rstrip('.')} ({kind}{unit}; default {default})"


def _verb(verbs: Any, name: str, help_: str) -> Parser:
    made: Parser = verbs.add_parser(
        name, help=help_, description=_sentence(help_), allow_abbrev=False
    )
    return made


def _add_app(verbs: Any) -> None:
    app = _verb(verbs, "app", "start the app and open it in the browser")
    app.add_argument("--port", type=int, help="default 8501, or the next free one")
    app.add_argument("--no-browser", action="store_true", help="only print the link")


def _common(verb: Parser) -> Parser:
    verb.add_argument(
        "--json", action="store_true", help="one JSON document on stdout, nothing else"
    )
    return verb


def _limits(verb: Parser) -> None:
    group = verb.add_argument_group("limits")
    group.add_argument("--memory-limit", metavar="SIZE", help="memory of the job, like 8GB")
    group.add_argument(
        "--time-limit", metavar="SECONDS", type=numbers.seconds, help="time of the job"
    )


def _study(verb: Parser) -> Parser:
    _common(verb)
    verb.add_argument(
        "model",
        metavar="MODEL",
        help="a sample's name, a folder, a hub id, file.py:build or package.module:build",
    )
    verb.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="argument of build()"
    )
    verb.add_argument("--weights", metavar="FILE", help="weights to load (.safetensors, .pt)")
    verb.add_argument("--trust", action="store_true", help="run the model's code: I trust it")
    verb.add_argument("--data", metavar="FILE", help=_DATA)
    verb.add_argument("--metric", help="what to measure on that data")
    verb.add_argument(
        "--data-column", action="append", default=[], metavar="ROLE=COLUMN",
        help=f"which column is what, like text=body; roles: {', '.join(ROLES)}",
    )  # fmt: skip
    group = verb.add_argument_group("workload (default: the model's own)")
    group.add_argument("--kind", choices=("forward", "generate", "train_step"), help="what is run")
    for name, help_ in _WORKLOAD.items():
        group.add_argument(
            f"--{name.replace('_', '-')}", type=numbers.count, metavar="N", help=help_
        )
    group.add_argument("--device", help="cpu, cuda, cuda:1, mps ...")
    group.add_argument("--seed", type=int, metavar="N", help="of inputs and random weights")
    _limits(verb)
    return verb


def _recipe(verb: argparse.ArgumentParser, *, repeatable: bool) -> None:
    several = "; give it again for another variant" if repeatable else ""
    verb.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="R",
        help="a YAML file, or steps like dynamic_int8,structured_prune:ratio=0.25" + several,
    )
    verb.set_defaults(repeatable=repeatable)
    group = verb.add_argument_group("steps, as an alternative to --recipe")
    for each in api.techniques():
        lines = [each.title, *(written(declared) for declared in each.params)]
        group.add_argument(
            f"--{each.name.replace('_', '-')}",
            dest="steps",
            action=_StepAction,
            nargs="?",
            const="",
            default=[],
            metavar="NAME=VALUE:...",
            help=". ".join(lines).replace("%", "%%"),
        )


def _settings(verb: Parser, *, budget: str = "--budget") -> None:
    group = verb.add_argument_group("measuring")
    defaults = Settings()
    group.add_argument(
        "--rounds", type=numbers.rounds, metavar="N", help=f"default {defaults.rounds}, at least 8"
    )
    group.add_argument(
        budget, dest="budget", type=numbers.seconds, metavar="SECONDS",
        help=f"for measuring; default {defaults.budget_seconds:g}",
    )  # fmt: skip
    group.add_argument(
        "--quality-limit", type=numbers.count, metavar="N", help="most quality examples"
    )
    group.add_argument(
        "--processes", type=numbers.count, metavar="N",
        help=f"that each variant is timed in; default {defaults.processes}",
    )  # fmt: skip
    group.add_argument(
        "--quality-margin", type=numbers.share, metavar="SHARE",
        help="of the baseline's value (of an accuracy: points), beyond which a difference in"
        f" quality counts; default {defaults.quality_margin:g}",
    )  # fmt: skip


class _StepAction(argparse.Action):
    """Adds a step that is written as a flag, in the order of the flags."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        name = (option_string or "").removeprefix("--").replace("-", "_")
        step = f"{name}:{values}" if values else name
        technique(name)
        recipe_text(read_recipe(step))
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), step])


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"An option is written name=value, got {text!r}.")
    try:
        typed = yaml.safe_load(value)
    except yaml.YAMLError:
        typed = value
    return name, typed if isinstance(typed, bool | int | float | str) else value


def _column(text: str) -> tuple[str, str]:
    role, equals, column = text.partition("=")
    if not equals or role not in ROLES or not column:
        raise InputError(
            f"A data column is written role=column, got {text!r}.",
            hint=f"Roles are {', '.join(ROLES)}: for example --data-column text=body.",
        )
    return role, column


def _sentence(text: str) -> str:
    plain = textwrap.shorten(text, 400)
    return plain[:1].upper() + plain[1:].rstrip(".") + "."
