"""The certificate: what was proved of an artifact, as JSON and as one readable page."""

from __future__ import annotations

import hashlib
import html
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.export.format import ExportJob, Format
from engine.export.proving import prove
from engine.optimize.recipe import recipe_text
from engine.records import Certificate, CertificateCheck, Study, from_json, to_json

_NOT_HASHED = frozenset({"certificate.json", "certificate.html"})
_CODE = (".py", ".pt2", ".so")
# A greedy choice may flip where two logits are closer than the rounding; a whole text may not.
_MIN_TOKEN_AGREEMENT = 0.9


def certify(
    folder: Path, owner: Format, study: Study, job: ExportJob, variant_ms: float
) -> Certificate:
    """Proves the artifact in `folder` and says what held."""
    found = prove(folder)
    tolerance = owner.tolerance(job.variant)
    checks = tuple(checks_of(found, tolerance))
    return Certificate(
        format=owner.name,
        verdict="PASSED" if all(each.passed for each in checks) else "FAILED",
        max_relative_error=worst_error(found),
        checks=checks,
        recipe=recipe_text(job.variant.recipe),
        model=study.model.name,
        workload=study.workload,
        versions=study.machine.versions,
        hashes=file_hashes(folder),
        latency_ms=_latencies(found, variant_ms),
        notes=tuple(job.notes),
        machine=study.machine.name,
        created=time.time(),
    )


def checks_of(found: dict[str, Any], tolerance: float) -> Iterable[CertificateCheck]:
    """The checks that a clean process's report answers."""
    if "error" in found:
        yield CertificateCheck("loads in a clean process", False, found["error"])
        return
    seconds = found["load_seconds"]
    yield CertificateCheck("loads in a clean process", True, f"in {seconds:.2f} s")
    yield CertificateCheck(
        "needs nothing of the project",
        not found["project_importable"],
        "the project could not be imported there",
    )
    for case in found["cases"]:
        error = case["max_relative_error"]
        yield CertificateCheck(
            f"same outputs ({case['name']})",
            error <= tolerance,
            f"relative error {error:.2g}, at most {tolerance:g} allowed",
        )
        if "tokens_agree" in case:
            agree = case["tokens_agree"]
            yield CertificateCheck(
                f"same tokens ({case['name']})",
                agree >= _MIN_TOKEN_AGREEMENT,
                f"{agree:.1%} of the greedy choices on the same prefix",
            )


def worst_error(found: dict[str, Any]) -> float:
    """The largest relative error of all cases; 1e308 where nothing ran (JSON knows no infinity)."""
    errors = [case["max_relative_error"] for case in found.get("cases", [])]
    return min(max(errors), 1e308) if errors else 1e308


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an artifact by its relative path, the certificate's own apart."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in _NOT_HASHED and "__pycache__" not in name:
            with path.open("rb") as stream:
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def code_hash(folder: Path) -> str:
    """One hash over the files of an artifact that can run code; what trust is given to."""
    code = {name: hash_ for name, hash_ in file_hashes(folder).items() if name.endswith(_CODE)}
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()


def read_certificate(folder: Path) -> Certificate:
    """The certificate in a folder.

    Raises:
        InputError: it is absent in form or content.
    """
    return from_json((folder / "certificate.json").read_bytes(), Certificate)


def write_certificate(folder: Path, certificate: Certificate) -> None:
    """Writes certificate.json and certificate.html."""
    text = json.dumps(json.loads(to_json(certificate)), indent=2)
    (folder / "certificate.json").write_text(text + "\n", encoding="utf-8")
    (folder / "certificate.html").write_text(page(certificate), encoding="utf-8")


def page(certificate: Certificate) -> str:
    """The certificate as one HTML page that needs nothing else."""
    rows = "".join(
        f"<tr><td>{'✓' if each.passed else '✗'}</td><td>{_text(each.name)}</td>"
        f"<td>{_text(each.detail)}</td></tr>"
        for each in certificate.checks
    )
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(certificate.created))
    facts = {
        "Model": certificate.model,
        "Recipe": certificate.recipe,
        "Format": certificate.format,
        "Workload": _workload_text(certificate),
        "Machine": certificate.machine,
        "Made": made,
        **{f"Latency, {name}": f"{ms:.2f} ms" for name, ms in certificate.latency_ms.items()},
    }
    listed = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in facts.items())
    notes = "".join(f"<li>{_text(each)}</li>" for each in certificate.notes)
    versions = ", ".join(f"{name} {v}" for name, v in sorted(certificate.versions.items()))
    hashes = "".join(
        f"<tr><td>{_text(name)}</td><td><code>{_text(value[:16])}…</code></td></tr>"
        for name, value in certificate.hashes.items()
    )
    return _PAGE.format(
        verdict=certificate.verdict,
        kind=certificate.verdict.lower(),
        model=_text(certificate.model),
        facts=listed,
        rows=rows,
        notes=f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
        versions=_text(versions),
        hashes=hashes,
    )


def _latencies(found: dict[str, Any], variant_ms: float) -> dict[str, float]:
    artifact = {"artifact": found["latency_ms"]} if "latency_ms" in found else {}
    return {"variant": variant_ms, **artifact}


def _workload_text(certificate: Certificate) -> str:
    sizes = {
        "batch": certificate.workload.batch,
        "prompt tokens": certificate.workload.prompt_tokens,
        "new tokens": certificate.workload.new_tokens,
        "sequence length": certificate.workload.sequence_length,
        "image size": certificate.workload.image_size,
    }
    given = ", ".join(f"{name} {value}" for name, value in sizes.items() if value is not None)
    return f"{certificate.workload.kind} ({given})"


def _text(value: object) -> str:
    return html.escape(str(value))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Certificate: {model}</title><style>
:root {{ color-scheme: light dark; --line: #8884; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto;
  padding: 0 1rem }}
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
.passed {{ color: #059669 }} .failed {{ color: #dc2626 }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem }}
dt {{ opacity: .7 }} dd {{ margin: 0 }}
table {{ border-collapse: collapse; width: 100% }}
td {{ border-top: 1px solid var(--line); padding: .35rem .5rem; vertical-align: top }}
</style></head><body>
<h1>{model}: <span class="{kind}">{verdict}</span></h1>
<dl>{facts}</dl>
<h2>What was checked</h2><table>{rows}</table>
{notes}
<h2>Files</h2><table>{hashes}</table>
<h2>Versions</h2><p>{versions}</p>
</body></html>
"""
