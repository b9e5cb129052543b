"""A model that the platform has put on this machine before the container started.

RunPod's serverless workers find the model of their endpoint ("cached models") in hub's layout:

    /runpod-volume/huggingface-cache/hub/models--org--name/snapshots/<commit>/

Its documentation speaks of no refs, and writes the name in lower case.
"""

from __future__ import annotations

from pathlib import Path

from proxy.models.hub_cache import missing_by_index

RUNPOD_CACHE = Path("/runpod-volume/huggingface-cache/hub")


def find_snapshot(cache: Path, repo: str, revision: str | None) -> Path | None:
    """The complete snapshot of `repo` below `cache`; the newest where no revision is asked for."""
    name = "--".join(["models", *repo.split("/")]).lower()
    try:
        folders = [each for each in cache.iterdir() if each.name.lower() == name]
        snapshots = [each for folder in folders for each in (folder / "snapshots").iterdir()]
        for snapshot in sorted(snapshots, key=lambda each: each.stat().st_mtime, reverse=True):
            if revision in (None, snapshot.name) and not missing_by_index(snapshot):
                return snapshot
    except OSError:  # none, or one that this user may not read: the hub has it
        pass
    return None
