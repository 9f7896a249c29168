"""The page Optimize: the recipe as toggles, built and measured by a button."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from engine import api
from engine.api import TechniqueInfo
from engine.errors import WorkbenchError
from engine.optimize.recipe import ordered, recipe_text, recipe_yaml
from engine.records import Profile, Range, Recipe, Settings, Step, Tried, content_id
from workbench import forms, jobs, layout, session
from workbench.quantities import range_text
from workbench.views import building, compare_form, tried, verdicts, waterfall

_STAGES = {
    "reduce": ("Reduce", "fewer parameters or channels"),
    "rewrite": ("Rewrite", "the same answer by other operators"),
    "precision": ("Precision", "other number formats"),
    "storage": ("Storage", "how an export writes the weights"),
    "context": ("Context", "how it is run"),
    "runtime": ("Runtime", "what executes it, at most one"),
}
# Above the first a further step is worth its place, below the second it costs time.
_PAYS, _SLOWER = 1.05, 0.98


def steps(profile: Profile) -> None:
    """A toggle for each technique, grouped by stage, with its parameters where it is on.

    What cannot run on this study, whatever else is chosen, is folded away with its reason.
    """
    study = profile.study.id
    techniques = api.techniques()
    draft = session.recipe()
    _seed(study, techniques, draft)
    chosen = {step.technique: step for step in draft.steps}
    never = _reasons(profile, Recipe())
    reasons = _reasons(profile, draft) if draft.steps else never
    shown = _Shown(study, chosen, reasons, _gains(profile, draft), session.tried(profile.study))
    for stage, (title, words) in _STAGES.items():
        members = [each for each in techniques if each.stage == stage]
        if not members:
            continue
        folded = [each for each in members if never.get(each.name) and each.name not in chosen]
        with st.container(border=True, key=f"stage_{stage}"):
            st.markdown(f"##### {title} :gray[· {words}]")
            for each in members:
                if each not in folded:
                    _technique(each, shown)
            if folded:
                names = ", ".join(each.name for each in folded)
                with st.expander(f"Not on this study: {names}", icon=":material/block:"):
                    for each in folded:
                        _technique(each, shown)


@dataclass(frozen=True)
class _Shown:
    """What stands beside the toggles of one study."""

    study: str
    chosen: Mapping[str, Step]
    reasons: Mapping[str, tuple[str, ...]]
    gains: Mapping[str, Range]
    tried: tuple[Tried, ...]


def _technique(each: TechniqueInfo, shown: _Shown) -> None:
    study, chosen = shown.study, shown.chosen
    is_on = each.name in chosen
    against = shown.reasons.get(each.name, ()) or _conflicts(each, chosen)
    before = tried.of_technique(each.name, shown.tried)
    reason = " ".join(against)
    with st.container(gap="xsmall"):
        st.toggle(
            f"**{each.title}** :gray[`{each.name}`]{_gain(shown.gains.get(each.name))}",
            key=f"on_{study}_{each.name}",
            disabled=bool(against) and not is_on,
            help=reason or each.help or None,
            on_change=_toggled,
            args=(study, each.name),
        )
        if against:
            sign = ":material/warning:" if is_on else ":material/block:"
            st.caption(f"{sign} {reason}")
        if before is not None:
            tried.line(before, names_recipe=before.recipe != each.name)
        if is_on and each.params:
            with st.container(border=True, key=f"params_{each.name}"):
                values = forms.params_form(
                    each.params, chosen[each.name].params, key=f"param_{study}_{each.name}"
                )
                _changed(each, chosen[each.name], values)


def _gain(found: Range | None) -> str:
    """What a further step would bring, as a badge behind its name."""
    if found is None:
        return ""
    colour = "green" if found.low >= _PAYS else "orange" if found.high < _SLOWER else "gray"
    return f" :{colour}-badge[{range_text(found)}]"


def written(profile: Profile) -> None:
    """The recipe as text and as a file."""
    draft = session.recipe()
    with layout.card("Recipe"):
        st.code(recipe_text(draft), language=None, wrap_lines=True)
        with st.container(horizontal=True):
            st.download_button(
                "YAML", recipe_yaml(draft), file_name="recipe.yaml", mime="application/yaml",
                icon=":material/download:", disabled=not draft.steps, on_click="ignore",
                help=None if draft.steps else "The recipe is empty.",
            )  # fmt: skip
            st.button(
                "Clear", icon=":material/backspace:", key="recipe_clear", disabled=not draft.steps,
                on_click=_clear, args=(profile.study.id,),
                help=None if draft.steps else "The recipe is empty.",
            )  # fmt: skip
        with st.expander("The same on the command line and in Python", icon=":material/terminal:"):
            st.code(_command(profile, draft), language="bash", wrap_lines=True)
            st.code(_script(profile, draft), language="python", wrap_lines=True)


def build(profile: Profile) -> None:
    """The button that builds and measures, with how much that may take."""
    draft = session.recipe()
    study = profile.study
    busy = [each for each in jobs.active() if each.verb in ("compare", "optimize")]
    with layout.card("Build and measure"):
        with st.popover("Settings", icon=":material/settings:"):
            rounds = st.slider("Rounds", 8, 100, 30, help="Interleaved, in random order.")
            budget = st.number_input(
                "Time budget (s)", 10, 3600, 120, help="Never below 8 rounds, and said."
            )
            processes = st.slider(
                "Processes a variant", 1, 6, Settings().processes, help=compare_form.PROCESSES
            )
            margin = st.number_input(
                "Quality margin (%)", 0.1, 50.0, 100 * Settings().quality_margin, 0.1,
                help=compare_form.MARGIN,
            )  # fmt: skip
            waterfall = st.toggle("What each step bought", True)
        st.caption(
            "Each variant runs in processes of its own, turn by turn with the baseline, so that a"
            " noisy minute hits both."
        )
        too_large = building.needs(profile, draft)
        reason = too_large
        if not draft.steps:
            reason = "The recipe is empty: switch a step on."
        elif busy and not too_large:
            reason = "A measurement is under way: measurements queue one behind the other."
        if st.button(
            "Build and measure", type="primary", icon=":material/play_arrow:", width="stretch",
            disabled=not draft.steps or too_large is not None, help=reason,
            key="build_and_measure",
        ):  # fmt: skip
            settings = Settings(
                rounds=rounds, budget_seconds=float(budget), waterfall=waterfall,
                processes=processes, quality_margin=margin / 100,
            )  # fmt: skip
            started = jobs.start(
                "optimize", f"Measure {study.model.name}: {recipe_text(draft)}",
                request=api.request_of(study), recipe=recipe_text(draft), settings=settings,
            )  # fmt: skip
            if started:
                st.rerun()
        if reason:
            st.caption(f":material/info: {reason}")


def measured(profile: Profile) -> None:
    """How the recipe's last measurement went: badges of its steps and the waterfall."""
    wanted = recipe_text(session.recipe())
    for comparison in session.comparisons(profile.study.id):
        for variant in comparison.variants:
            if variant.recipe == wanted and variant.steps:
                with layout.card("Measured"):
                    verdicts.verdict_line(variant)
                    verdicts.control_line(variant)
                    verdicts.outcomes(variant)
                    building.took(variant)
                    if wanted in waterfall.recipes(comparison):
                        waterfall.show(comparison, wanted)
                    layout.button("Open the comparison", "compare")
                return


def _reasons(profile: Profile, draft: Recipe) -> dict[str, tuple[str, ...]]:
    try:
        return api.reasons_against(profile, draft, machine=profile.study.machine)
    except WorkbenchError as error:
        st.error(f"{error.message} {error.hint}".strip(), icon=":material/error:")
        return {}


def _gains(profile: Profile, draft: Recipe) -> dict[str, Range]:
    try:
        median = profile.latency_ms.median if profile.latency_ms else None
        key = content_id(profile.study.id, recipe_text(draft), median, profile.facts)
        return _kept_gains(key, recipe_text(draft), profile)
    except WorkbenchError:
        return {}  # the prediction's card tells what is wrong with the recipe


# Half a second for a decoder of two thousand rows; a trial that ended meanwhile shows soon enough.
@st.cache_data(ttl=30, max_entries=64, show_spinner=False)
def _kept_gains(key: str, recipe: str, _profile: Profile) -> dict[str, Range]:
    return api.gains(_profile, recipe, machine=_profile.study.machine, store=session.store())


def _conflicts(each: TechniqueInfo, chosen: Mapping[str, Step]) -> tuple[str, ...]:
    if each.name in chosen:
        return ()
    for other in api.techniques():
        if other.name not in chosen:
            continue
        if other.name in each.conflicts or each.name in other.conflicts:
            return (f"It cannot be in one recipe with {other.name}: switch that off first.",)
        if each.stage == "runtime" and other.stage == "runtime":
            return (f"A recipe has at most one runtime: switch {other.name} off first.",)
    return ()


def _seed(study: str, techniques: tuple[TechniqueInfo, ...], draft: Recipe) -> None:
    names = {step.technique for step in draft.steps}
    for each in techniques:
        key = f"on_{study}_{each.name}"
        if st.session_state.get(key) is not (each.name in names):
            st.session_state[key] = each.name in names


def _toggled(study: str, name: str) -> None:
    kept = [step for step in session.recipe().steps if step.technique != name]
    if st.session_state[f"on_{study}_{name}"]:
        kept.append(Step(name))
    _keep(tuple(kept))


def _changed(each: TechniqueInfo, step: Step, values: dict[str, Any]) -> None:
    defaults = {declared.name: declared.default for declared in each.params}
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    if changed != step.params:
        draft = session.recipe()
        _keep(
            tuple(
                Step(each.name, changed) if other.technique == each.name else other
                for other in draft.steps
            )
        )
        st.rerun()


def _keep(steps_: tuple[Step, ...]) -> None:
    recipe = Recipe(steps_, session.recipe().name)
    try:
        session.keep_recipe(ordered(recipe))
    except WorkbenchError:
        session.keep_recipe(recipe)  # the prediction's card tells what is wrong with it


def _clear(study: str) -> None:
    session.keep_recipe(Recipe())
    for key in list(st.session_state):
        if str(key).startswith(f"param_{study}_"):
            del st.session_state[key]


def _command(profile: Profile, draft: Recipe) -> str:
    return api.command(profile.study, "optimize", "--recipe", shlex.quote(recipe_text(draft)))


def _script(profile: Profile, draft: Recipe) -> str:
    return (
        "from engine import api\n\n"
        f"request = api.request({api.request_arguments(profile.study)})\n"
        f'comparison = api.optimize(request, "{recipe_text(draft)}")\n'
        "print(comparison.variants[1].verdict, comparison.variants[1].speedup)\n"
    )
