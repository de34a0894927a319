"""Thresholds by word that were chosen for a checkpoint, in a file beside it (best.pt has best.thresholds.json), with
the rest of the decision that they were chosen for: its smoothing and quiet.

The checkpoint itself is left alone, as training may be writing it; the file holds the weights' SHA-256, so that
thresholds are never taken for weights that have changed since.
"""

import hashlib
import json
from pathlib import Path

from kws.errors import KwsError
from kws.files import replacing


def beside(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".thresholds.json")


def write(checkpoint: Path, decision: dict, **about) -> Path:
    """Keeps arguments of `kws.decision.Decision`, and what they were chosen by. By a temporary file and a rename: a
    kill at any moment leaves what was there or the new file."""
    path = beside(checkpoint)
    content = {"decision": decision, **about, "sha256": _sha256(checkpoint)}
    with replacing(path, durable=True) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(checkpoint: Path) -> dict:
    """Arguments for `kws.decision.Decision`, {"threshold": {word: threshold}, "smoothing_ms": …}, or {} where none were
    chosen.

    Raises:
        KwsError: the file is damaged, or was written for other weights.
    """
    path = beside(checkpoint)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        decision, sha256 = content["decision"], content["sha256"]
        threshold = {str(word): float(limit) for word, limit in decision["threshold"].items()}
        decision = {name: float(value) for name, value in decision.items() if name != "threshold"}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise KwsError(f"{path}: cannot be read ({error!r}): choose thresholds again, or delete it") from None
    if sha256 != _sha256(checkpoint):
        raise KwsError(
            f"{path}: chosen for other weights than {checkpoint.name} holds now: choose again (kws.evaluate labels="
            " budget=), delete it, or say decision.threshold="
        )
    return {**decision, "threshold": threshold}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
