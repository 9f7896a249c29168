"""A comparison as a short script, so that anybody makes the same again; no torch."""

from __future__ import annotations

from engine.records import Comparison, Settings, Study, WorkloadRequest


def script(comparison: Comparison, *, settings: Settings | None = None) -> str:
    """Python that opens the model, measures the same recipes and tells the verdicts."""
    recipes = [each.recipe for each in comparison.variants[1:] if not each.control_of]
    listed = "".join(f"    {recipe!r},\n" for recipe in recipes)
    how = settings or Settings(rounds=max(8, comparison.rounds))
    return (
        f'"""Measures {_words(comparison.study.model.name)} before and after, as it was measured'
        ' before."""\n\n'
        "from engine import api\n"
        "from engine.records import Settings\n\n"
        f"RECIPES = [\n{listed}]\n\n"
        'if __name__ == "__main__":\n'
        f"    request = api.request({request_arguments(comparison.study)})\n"
        "    found = api.compare(\n"
        f"        request, RECIPES, settings=Settings(rounds={how.rounds},"
        f" processes={how.processes})\n"
        "    )\n"
        "    for each in found.variants:\n"
        "        print(each.name, each.verdict, each.speedup, each.quality)\n"
    )


def request_arguments(study: Study) -> str:
    """The arguments of `api.request` that open a study's model again, as they are written."""
    reference, quality, workload = study.reference, study.quality, study.workload
    given: dict[str, object] = {
        "options": dict(reference.options) or None, "weights": reference.weights,
        "data": quality.path, "metric": quality.metric, "data_columns": quality.columns or None,
        **{name: getattr(workload, name) for name in WorkloadRequest.__dataclass_fields__},
    }  # fmt: skip
    if workload.seed == 0:
        del given["seed"]
    written = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    return ", ".join([repr(reference.location), *written])


def command(study: Study, verb: str, *flags: str) -> str:
    """A command line that opens a study's model again."""
    import shlex

    workload, reference, quality = study.workload, study.reference, study.quality
    parts = ["workbench", verb, shlex.quote(reference.location)]
    for name, value in reference.options.items():
        parts += ["--option", shlex.quote(f"{name}={value}")]
    for name, path in (("weights", reference.weights), ("data", quality.path)):
        parts += [f"--{name}", shlex.quote(path)] if path else []
    parts += ["--metric", shlex.quote(quality.metric)] if quality.metric else []
    for role, column in quality.columns.items():
        parts += ["--data-column", shlex.quote(f"{role}={column}")]
    for name in WorkloadRequest.__dataclass_fields__:
        value = getattr(workload, name)
        if value is not None and not (name == "seed" and value == 0):
            parts += [f"--{name.replace('_', '-')}", str(value)]
    return " ".join([*parts, *flags])


def _words(text: str) -> str:
    return text.replace("\\", " ").replace('"', "'")
