"""An artifact held against its certificate, again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from engine.errors import InputError, UntrustedCode
from engine.export.certifying import (
    checks_of,
    code_hash,
    file_hashes,
    read_certificate,
    worst_error,
)
from engine.export.proving import prove
from engine.records import Artifact, CertificateCheck, replace


def verify_folder(folder: Path, *, is_trusted: Callable[[str], bool]) -> Artifact:
    """Loads an artifact in a clean process and checks hashes, outputs and time again.

    Nothing in the folder is changed. An artifact carries code (load.py, model.py, .pt2), so it runs
    only if that code was written by an export here or the person trusts it.

    Raises:
        InputError: the folder holds no artifact.
        UntrustedCode: its code is not trusted; the hash to trust is in `detail`.
    """
    for name in ("certificate.json", "model.json", "load.py", "reference.safetensors"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} holds no exported model: {name} is missing.",
                hint="Give the folder that an export was written to.",
            )
    written = read_certificate(folder)
    manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    code = code_hash(folder)
    if not is_trusted(code):
        raise UntrustedCode(
            f"{folder.name} carries code that was not exported here, or was changed since.",
            hint="If you trust it, verify with --trust.",
            detail=code,
        )
    changed = _changed(written.hashes, file_hashes(folder))
    unchanged = CertificateCheck(
        "files are as certified", not changed, ", ".join(changed) or "every hash agrees"
    )
    found = prove(folder)
    checks = (unchanged, *checks_of(found, float(manifest["tolerance"])))
    artifact_ms = {"artifact": found["latency_ms"]} if "latency_ms" in found else {}
    certificate = replace(
        written,
        verdict="PASSED" if all(each.passed for each in checks) else "FAILED",
        checks=checks,
        max_relative_error=worst_error(found),
        latency_ms={**written.latency_ms, **artifact_ms},
        created=time.time(),
    )
    main = folder / manifest.get("main_file", "")
    return Artifact(
        path=str(main),
        format=written.format,
        verdict=certificate.verdict,
        max_relative_error=certificate.max_relative_error,
        size_bytes=sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()),
        certificate=certificate,
    )


def _changed(written: dict[str, str], found: dict[str, str]) -> list[str]:
    altered = [
        f"{name} was changed" for name, value in written.items() if found.get(name, value) != value
    ]
    missing = [f"{name} is missing" for name in written if name not in found]
    added = [f"{name} was added" for name in found if name not in written]
    return [*missing, *altered, *added]
