"""What scripts rely on: one document on stdout, exit statuses, one line on stderr."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import cli, client
from engine.records import Settings, replace
from engine.store import Store
from tests.jobs.waiting import until
from tests.profile.traces.gpu_trace import write_steps
from tests.workbench import fixture_store

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def workbench(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line on canned verbs; exit status, stdout, stderr."""
    monkeypatch.setenv("WORKBENCH_WORK", "tests.commands.canned_verbs:WORK")

    def run(*arguments: str) -> tuple[int, str, str]:
        before = signal.getsignal(signal.SIGTERM)
        try:
            status = cli.main(arguments)
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capfd.readouterr()
        return status, out, err

    return run


def document(run: Cli, *arguments: str) -> dict[str, Any]:
    status, out, err = run(*arguments, "--json")
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    found: dict[str, Any] = json.loads(out)
    return found


def test_profile_gives_the_keys_that_are_fixed(workbench: Cli) -> None:
    found = document(workbench, "profile", "net")
    assert found["modules"][1].items() >= {
        "name": "fc", "parameters": 10, "flops": 2048, "time_ms": 1.5, "self_time_ms": 1.5,
    }.items()  # fmt: skip
    assert found["totals"].items() >= {"parameters": 10, "flops": 2048, "time_ms": 2.0}.items()
    assert found["not_counted"][0]["operator"] == "aten::odd"


def test_compare_tells_what_the_quality_proves_against_the_margin_that_was_set(
    workbench: Cli,
) -> None:
    asked = ("compare", "net", "--recipe", "inference_mode", "--quality-margin", "0.02")
    _, out, _ = workbench(*asked)
    # 2 % of a perplexity of 20; 80 samples in all are 30 more than there are.
    assert (
        "  v1: perplexity INCONCLUSIVE: +0.5 (95 % +0.1 to +0.9), margin 0.4;"
        " about 30 more samples would tell\n"
        "  v1: answers 9 to wrong, 3 to right (McNemar p = 0.15)"
    ) in out
    _, out, _ = workbench(*asked, "--json")
    found = json.loads(out)["variants"][1]["quality"]
    assert (found["verdict"], found["samples_needed"]) == ("INCONCLUSIVE", 80)


def test_compare_gives_the_baseline_first_and_the_keys_that_are_fixed(workbench: Cli) -> None:
    found = document(
        workbench, "compare", "net", "--recipe", "inference_mode", "--recipe",
        "inference_mode,torch_compile",
    )  # fmt: skip
    base, first, second = found["variants"]
    assert base["recipe"] == "baseline"
    assert base["speedup"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert (first["recipe"], second["recipe"]) == ("inference_mode", "inference_mode,torch_compile")
    assert {"median", "p95"} <= first["latency_ms"].keys()
    assert {"median", "low", "high"} <= first["speedup"].keys()
    assert {"metric", "value", "samples"} <= first["quality"].keys()
    assert first.keys() >= {
        "name", "verdict", "flops", "peak_tensor_bytes", "peak_process_bytes", "size_bytes",
    }  # fmt: skip


def test_compare_tells_the_further_metrics_of_the_same_examples(workbench: Cli) -> None:
    status, out, _ = workbench("compare", "net", "--recipe", "inference_mode")
    assert status == 0
    assert "  baseline: also bits_per_byte 1.25" in out


def test_a_trace_is_told_as_text_and_as_a_document(workbench: Cli, tmp_path: Path) -> None:
    path = write_steps(tmp_path / "node0.pt.trace.json", is_old=False)
    found = document(workbench, "trace", str(path), "--name", "mine")
    assert found["name"] == "mine"
    assert found["ranks"][0]["span_ms"] == pytest.approx(2.0)
    status, out, _ = workbench("trace", str(path))
    assert status == 0
    assert "node0.pt.trace.json: read in" in out
    assert "1. GPU 0 waits for data: In 32 % of the time" in out
    assert re.search(r"data loading +0\.2\d* ms +20\.0 %", out)
    assert "GPU 0 Tesla V100: busy 30.0 %" in out
    assert "not recorded: Call stacks: record with with_stack=True." in out


def test_ranks_are_told_by_how_late_they_are(workbench: Cli, tmp_path: Path) -> None:
    for rank in (0, 1):
        write_steps(tmp_path / f"{rank}.json", is_old=False, rank=rank, slower=1.0 + rank)
    status, out, _ = workbench("trace", str(tmp_path))
    assert status == 0
    assert "against the median" in out
    assert "1.30x" in out  # 0.420 ms over 0.3225


def test_a_file_that_is_no_trace_is_one_line_and_exit_status_2(
    workbench: Cli, tmp_path: Path
) -> None:
    (tmp_path / "x.json").write_text("{}")
    status, out, err = workbench("trace", str(tmp_path / "x.json"))
    assert (status, out) == (2, "")
    assert err.strip() == "workbench: x.json is no trace of torch.profiler: it has no traceEvents."


def test_export_and_verify_give_the_keys_that_are_fixed(workbench: Cli, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    exported = document(
        workbench, "export", "net", "--recipe", "baseline", "--format", "onnx", "--out", out
    )
    verified = document(workbench, "verify", out)
    for found in (exported, verified):
        assert found["path"] == out
        assert (found["format"], found["verdict"]) == ("onnx", "PASSED")
        assert found["max_relative_error"] == 1e-6


def test_an_artifact_that_fails_is_exit_status_1(workbench: Cli) -> None:
    status, out, _ = workbench("verify", "bad", "--json")
    assert status == 1
    assert json.loads(out)["verdict"] == "FAILED"


def test_a_model_that_cannot_be_opened_is_exit_status_2_and_one_line(workbench: Cli) -> None:
    status, out, err = workbench("profile", "missing")
    assert (status, out) == (2, "")
    assert err == "workbench: There is no file missing. Look at the path.\n"


def test_an_error_is_a_document_too(workbench: Cli) -> None:
    status, out, err = workbench("compare", "refused", "--recipe", "inference_mode", "--json")
    assert status == 2
    assert json.loads(out) == {
        "error": {
            "kind": "StepRefused",
            "message": "kv_cache: the model does not generate.",
            "hint": "Remove the step.",
        }
    }
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "frobnicate"),
        ([], "VERB"),
        (["profile"], "MODEL"),
        (["profile", "net", "--batch", "0"], "from 1 on, got '0'"),
        (["profile", "net", "--bat", "1"], "--bat"),
        (["profile", "net", "--option", "width"], "name=value"),
        (["profile", "net", "--memory-limit", "lots"], "8GB"),
        (["compare", "net"], "needs a recipe"),
        (["compare", "net", "--recipe", "baseline"], "at least one step"),
        (["compare", "net", "--recipe", "nope"], "No technique is called 'nope'"),
        (["compare", "net", "--recipe", "absent.yaml"], "absent.yaml cannot be read"),
        (["compare", "net", "--inference-mode", "x=1"], "no parameter 'x'"),
        (["compare", "net", "--recipe", "kv_cache", "--rounds", "3"], "from 8 on"),
        (["compare", "net", "--recipe", "kv_cache", "--quality-margin", "1"], "below 1"),
        (["optimize", "net", "--recipe", "kv_cache", "--recipe", "kv_cache"], "takes one recipe"),
        (["export", "net", "--recipe", "kv_cache", "--format", "zip", "--out", "x"], "zip"),
        (["history", "../../etc"], "No job is called"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_bad_input_is_exit_status_2_with_one_line(
    workbench: Cli, arguments: list[str], said: str, flags: list[str]
) -> None:
    status, out, err = workbench(*arguments, *flags)
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    if flags:
        assert said in json.loads(out)["error"]["message"] + json.loads(out)["error"]["hint"]
    else:
        assert out == ""


def test_every_workload_flag_reaches_the_request(workbench: Cli) -> None:
    found = document(
        workbench, "profile", "net", "--kind", "generate", "--batch", "3", "--threads", "2"
    )
    workload = found["study"]["workload"]
    assert (workload["kind"], workload["batch"], workload["threads"]) == ("generate", 3, 2)


def test_measuring_flags_reach_the_job(workbench: Cli) -> None:
    found = document(workbench, "optimize", "net", "--recipe", "inference_mode", "--rounds", "9")
    assert found["rounds"] == 9
    default = document(workbench, "optimize", "net", "--recipe", "inference_mode")
    assert default["rounds"] == Settings().rounds


def test_a_technique_is_a_flag_too(workbench: Cli) -> None:
    found = document(workbench, "optimize", "net", "--torch-compile", "--inference-mode")
    assert found["variants"][1]["recipe"] == "inference_mode,torch_compile"


def test_suggest_answers_with_a_list(workbench: Cli) -> None:
    found = document(workbench, "suggest", "net")
    assert isinstance(found["suggestions"], list)


@pytest.mark.parametrize("verb", ["models", "techniques", "doctor", "history"])
def test_each_listing_is_one_document(workbench: Cli, verb: str) -> None:
    assert isinstance(document(workbench, verb), dict)


def test_people_get_aligned_tables_with_units(workbench: Cli) -> None:
    status, out, _ = workbench("profile", "net")
    assert status == 0
    assert "2.05 kFLOP" in out
    assert "not counted, no formula: aten::odd (3x)" in out
    status, out, _ = workbench("compare", "net", "--recipe", "inference_mode")
    assert "2.00x (1.90 to 2.10)" in out
    assert "inference_mode REAL, gradients off" in out


def test_history_names_jobs_and_their_ends(workbench: Cli) -> None:
    workbench("profile", "missing")
    workbench("profile", "net")
    jobs = document(workbench, "history")["jobs"]
    assert [(each["title"], each["state"]) for each in jobs] == [
        ("Profile net", "done"),
        ("Profile missing", "failed"),
    ]
    one = document(workbench, "history", jobs[0]["id"])
    assert "noise on stdout" in one["log"]
    assert (one["study"], one["result"]) == ("s1", "s1")


def test_the_second_time_the_expected_time_is_known(workbench: Cli) -> None:
    for _ in range(2):
        workbench("profile", "net")
    store = Store()
    first, second = client.statuses(store)
    assert first.expected_seconds is None
    assert second.expected_seconds == pytest.approx(first.ended - first.started)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_cancels_the_job(tmp_path: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "WORKBENCH_WORK": "tests.commands.canned_verbs:WORK"}
    command = [sys.executable, "-m", "engine.cli", "profile", "net", "--option", "seconds=600"]
    running = subprocess.Popen(
        [*command, "--json"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    store = Store()
    until(lambda: any(each.stage == "Tracing" for each in client.statuses(store)))
    running.send_signal(number)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 1
    assert json.loads(out)["error"]["kind"] == "Cancelled"
    assert err == b"workbench: Cancelled.\n"
    assert [each.state for each in client.statuses(store)] == ["cancelled"]


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m engine.cli techniques | head -c 1"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True)
    assert ended.stderr == b""


@pytest.fixture
def budget(tmp_path: Path) -> Callable[[str], str]:
    """Writes a budget file and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "budget.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_check_fails_with_a_line_for_each_broken_budget(
    workbench: Cli, budget: Callable[[str], str], tmp_path: Path
) -> None:
    asked = ("check", "net", "--recipe", "inference_mode", "--budget")
    status, out, _ = workbench(*asked, budget("speedup: 1000\nsize: 1 GB\n"))
    assert status == 1
    lines = out.splitlines()
    assert lines[0].startswith("BROKEN  speedup: ")
    assert lines[1].startswith("KEPT    size: ")
    assert lines[2] == "1 of 2 budgets of inference_mode are kept."
    junit = tmp_path / "out.xml"
    status, _, _ = workbench(*asked, budget("size: 1 GB\n"), "--junit", str(junit))
    assert status == 0
    assert 'tests="1"' in junit.read_text()
    found = document(workbench, *asked, budget("size: 1 GB\n"))
    assert found["outcomes"][0]["word"] == "KEPT"


def test_strict_fails_where_nothing_can_be_claimed(
    workbench: Cli, budget: Callable[[str], str]
) -> None:
    recipe = ("check", "net", "--recipe", "inference_mode")
    speedup = document(workbench, "compare", *recipe[1:])["variants"][1]["speedup"]
    asked = (*recipe, "--budget", budget(f"speedup: {speedup['median']}\n"))
    assert workbench(*asked)[0] == 0
    assert workbench(*asked, "--strict")[0] == 1


def test_check_refuses_bad_budgets_and_places_before_it_measures(
    workbench: Cli, budget: Callable[[str], str], tmp_path: Path
) -> None:
    asked = ("check", "net", "--recipe", "inference_mode", "--budget")
    before = len(client.statuses(Store()))
    status, out, err = workbench(*asked, budget("speed: 2"))
    assert (status, out) == (2, "")
    assert "No budget is called 'speed'" in err
    nowhere = str(tmp_path / "none" / "out.xml")
    status, _, err = workbench(*asked, budget("speedup: 2"), "--junit", nowhere)
    assert status == 2
    assert "is no folder" in err
    assert len(client.statuses(Store())) == before


def test_report_writes_the_newest_comparison_or_the_one_that_is_named(
    workbench: Cli, tmp_path: Path
) -> None:
    assert workbench("report")[0] == 2  # nothing has been compared yet
    store = Store()
    older = fixture_store.comparison()
    newer = replace(older, id="newer", created=older.created + 60)
    for each in (older, newer):
        store.put("comparison", each.id, each, study=each.study.id)
    path = tmp_path / "report.html"
    status, out, _ = workbench("report", "--out", str(path))
    assert (status, out) == (0, f"{path} (html of newer)\n")
    assert path.read_text().startswith("<!doctype html>")
    status, out, _ = workbench("report", older.id, "--format", "markdown")
    assert status == 0
    assert out.startswith("### tiny")
    status, _, err = workbench("report", "nothing")
    assert status == 2
    assert "No comparison has the id 'nothing'" in err
