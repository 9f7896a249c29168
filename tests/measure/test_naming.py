"""Names, threads and the import of the room."""

import subprocess
import sys

from engine.measure.environment import threads_of
from engine.measure.machine_state import warnings_about
from engine.measure.naming import unique_names
from engine.records import Recipe, Step, Workload
from tests.measure.test_comparing import study


def test_names_are_short_and_take_parameters_only_where_they_must() -> None:
    small = Recipe((Step("prune", {"ratio": 0.25}), Step("int8")))
    large = Recipe((Step("prune", {"ratio": 0.5}), Step("int8")))
    named = Recipe((Step("int8"),), "mine")
    assert unique_names([small, named]) == ["prune+int8", "mine"]
    assert unique_names([small, large]) == ["prune:ratio=0.25+int8", "prune:ratio=0.5+int8"]
    assert unique_names([small, small])[1] == "prune:ratio=0.25+int8 #2"
    assert unique_names([Recipe(named.steps, "baseline")], taken=("baseline",)) == ["baseline #2"]


def test_threads_are_those_of_the_workload_where_no_step_asks() -> None:
    assert threads_of(Recipe((Step("kv_cache"),)), Workload(threads=3)) == 3
    assert threads_of(Recipe(), Workload()) is None


def test_more_threads_than_cores_are_warned_about() -> None:
    assert any("4096 threads" in each for each in warnings_about(study(), [1, 4096]))
    assert not any("threads" in each for each in warnings_about(study(), [1, None]))


def test_statistics_and_the_conductor_import_no_torch() -> None:
    script = (
        "import sys, engine.measure.statistics, engine.measure.pareto, engine.measure.comparing;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
