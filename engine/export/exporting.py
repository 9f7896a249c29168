"""From a variant to an artifact that has proved itself."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import ExportFailed, InputError, StorageFull, WorkbenchError
from engine.export.cases import record_cases
from engine.export.certifying import certify, code_hash, write_certificate
from engine.export.format import ExportJob, Format, format_named, storage_reasons
from engine.export.proving import time_variant
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant
from engine.optimize.recipe import recipe_text, recipe_yaml
from engine.records import Artifact, Study, to_plain

_CLEAN = Path(__file__).resolve().parent / "clean"
__all__ = ["code_hash", "export_variant"]


def export_variant(
    opened: OpenedModel,
    variant: Variant,
    *,
    study: Study,
    format: str,
    out: Path,
    cache: Path | None,
    progress: Callable[[float, str], None],
) -> Artifact:
    """Writes a variant in a format, proves it in a clean process, and puts it into `out`.

    The folder appears whole or not at all. An artifact whose proof fails goes to `out` with
    `.FAILED` behind its name, and its certificate says FAILED; what stood in `out` before stays.

    Raises:
        InputError: an unknown format, or a folder that holds something else.
        ExportFailed: the format cannot carry this variant, with the reason.
        StorageFull: the disk has no room.
    """
    owner = format_named(format)
    _refuse_foreign_folder(out)
    reasons = (*storage_reasons(variant, owner), *owner.check(opened, variant))
    if reasons:
        raise ExportFailed(f"{format}: {reasons[0]}", hint="Choose another format.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        return _export(owner, opened, variant, study, partial, out, cache, progress)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFull(
                f"The disk that holds {out.parent} is full.",
                hint="Free some space, then export again.",
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _export(
    owner: Format,
    opened: OpenedModel,
    variant: Variant,
    study: Study,
    partial: Path,
    out: Path,
    cache: Path | None,
    progress: Callable[[float, str], None],
) -> Artifact:
    progress(0.05, "Recording what the variant answers")
    cases = record_cases(
        variant.program,
        opened.inputs,
        opened.workload,
        opened.summary.max_length,
        partial / "reference.safetensors",
    )
    variant_ms = time_variant(variant.program, opened.inputs, opened.workload)
    job = ExportJob(opened, variant, partial, cache, progress)
    job.notes += variant.program.notes
    progress(0.2, f"Writing {owner.title}")
    try:
        owner.write(job)
    except (WorkbenchError, OSError):
        raise
    except Exception as error:
        raise ExportFailed(
            f"{owner.title} could not be written: {_one_line(error)}",
            hint="Choose another format, or leave out the step that it cannot carry.",
            detail=repr(error),
        ) from error
    _write_manifest(job, owner, study, cases)
    shutil.copyfile(_CLEAN / "load.py", partial / "load.py")
    (partial / "recipe.yaml").write_text(recipe_yaml(variant.recipe), encoding="utf-8")
    progress(0.7, "Proving it in a clean process")
    certificate = certify(partial, owner, study, job, variant_ms)
    write_certificate(partial, certificate)
    place = out if certificate.verdict == "PASSED" else out.with_name(f"{out.name}.FAILED")
    _replace_folder(partial, place)
    size = sum(each.stat().st_size for each in place.rglob("*") if each.is_file())
    return Artifact(
        path=str(place / owner.main_file) if owner.main_file else str(place),
        format=owner.name,
        verdict=certificate.verdict,
        max_relative_error=certificate.max_relative_error,
        size_bytes=size,
        certificate=certificate,
        study=study.id,
    )


def _write_manifest(
    job: ExportJob, owner: Format, study: Study, cases: list[dict[str, Any]]
) -> None:
    program = job.variant.program
    manifest = {
        "format": owner.name,
        "main_file": owner.main_file,
        "model": study.model.name,
        "recipe": recipe_text(job.variant.recipe),
        "threads": program.context.threads,
        "max_length": study.model.max_length,
        "workload": to_plain(study.workload),
        "tolerance": owner.tolerance(job.variant),
        "cases": cases,
        **job.manifest,
    }
    if "mode" not in manifest:
        calls = job.calls
        manifest |= {"mode": calls.mode, "inputs": list(calls.names), "outputs": calls.outputs}
    text = json.dumps(manifest, indent=2)
    (job.folder / "model.json").write_text(text + "\n", encoding="utf-8")


def _refuse_foreign_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} must be a folder, it is a file.")
    if out.exists() and any(out.iterdir()) and not (out / "certificate.json").exists():
        raise InputError(
            f"{out} holds files that are no export: nothing was written.",
            hint="Choose an empty or a new folder.",
        )


def _replace_folder(partial: Path, place: Path) -> None:
    partial.chmod(0o755)
    if place.exists():
        old = place.with_name(f".{place.name}.replaced")
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
        partial.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(place)


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
