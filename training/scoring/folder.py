"""The folder of the answers: it belongs to one job and one run at a time, and finished parts stay.

part-FFFFF-CCCCCC.parquet   chunk C of file F
_score.json                 the job that the parts belong to, and its outcome when it is finished
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from models.bundle import Bundle
from training.errors import DataError
from training.run.atomic_files import LOCK, alone, check_room, hash_of, write_whole
from training.scoring.job import Job
from training.scoring.parts import PARTIAL, is_part

NOTE = "_score.json"
FORMAT = "bertheads-score/1"
"""Version of the chunk bounds and of how rows are read; all parts of a job must have the same."""
OWN = (NOTE, NOTE + ".partial", LOCK)
MAX_SHOWN = 60
"""Characters of a value in a message."""


def fingerprint(job: Job, bundle: Bundle) -> dict[str, Any]:
    """Return everything that the answers of a job depend on; paths do not count, so folders may move."""
    return {
        "format": FORMAT,
        "files": {name: hash_of(file) for name, file in zip(job.names, job.files, strict=True)},
        "columns": dict(job.columns),
        "keep": list(job.keep),
        "bundle": f"{bundle.manifest.name} {bundle.manifest.version}, {bundle.digest[:16]}",
        "head": job.head,
        "route": job.route,
        "parameters": dict(job.parameters),
        "format of the answers": job.form,
        "precision": job.precision or "default",
        "provider": job.provider,
    }


@contextmanager
def claimed(job: Job, bundle: Bundle) -> Iterator[dict[str, Any]]:
    """Lock the folder of a job, and yield its note: the `job`, and `finished`, its outcome or None.

    Raise DataError for a folder with other content, and TrainingError if another run is working.
    """
    refuse_foreign(job)
    with alone(job.out):
        refuse_foreign(job)
        for left in job.out.glob(PARTIAL):
            left.unlink()
        known = read_note(job)
        now = fingerprint(job, bundle)
        if known:
            refuse_changed(job, known["job"], now)
        else:
            known = {"job": now, "finished": None}
            write_note(job, known)
        yield known


def refuse_foreign(job: Job) -> None:
    """Raise DataError for a folder with other files: they may be irreplaceable."""
    if not job.out.exists():
        check_room(job.out)
        return
    if not job.out.is_dir():
        raise DataError(f"{job.out} is a file, expected a folder for the answers; name another --out")
    check_room(job.out / NOTE)
    found = [file for file in job.out.iterdir() if not file.match(PARTIAL)]  # once: a running command adds parts
    parts = {file.name for file in found if is_part(file)}
    names = {file.name for file in found}
    foreign = sorted(names - parts - {*OWN}) or sorted(parts if NOTE not in names else ())
    if foreign:
        raise DataError(
            f"{job.out} holds {foreign[0]}, which this command did not write, expected a new folder or one of the "
            "same job; name another --out"
        )


def read_note(job: Job) -> dict[str, Any]:
    """Return the note of the job in a folder, {} for a new one."""
    try:
        known = json.loads((job.out / NOTE).read_text(encoding="utf8"))
        return {"job": dict(known["job"]), "finished": known["finished"]}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{job.out / NOTE} is damaged ({error!r}); name another --out, or remove {job.out}") from None


def write_note(job: Job, known: Mapping[str, Any]) -> None:
    write_whole(job.out / NOTE, json.dumps(known, indent=2, ensure_ascii=False) + "\n")


def refuse_changed(job: Job, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DataError that names the first difference between the folder's job and this one."""
    for key, value in now.items():
        if before.get(key) != value:
            raise DataError(
                f"{job.out} holds the answers of another job: {difference(key, before.get(key), value)}; name another "
                f"--out, or remove {job.out} to start again"
            )


def difference(key: str, before: Any, now: Any) -> str:
    """Say what changed in a job; of several files, which one."""
    if key != "files" or not isinstance(before, dict):
        shown = [json.dumps(value, ensure_ascii=False)[:MAX_SHOWN] for value in (before, now)]
        return f"{key} was {shown[0]} and is {shown[1]} now"
    for name, digest in now.items():
        if name not in before:
            return f"it has no file {name}"
        if before[name] != digest:
            return f"the file {name} has changed since"
    missing = [name for name in before if name not in now]
    return f"its file {missing[0]} is not among those named now" if missing else "its files had another order"
