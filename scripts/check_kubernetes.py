"""Checks the manifests below deploy/k8s against Kubernetes' own JSON schemas.

    .venv/bin/python scripts/check_kubernetes.py [FOLDER]

The schemas are those that the `kubernetes-validate` package carries (made from the OpenAPI
definitions of Kubernetes), in their strict form: a field that Kubernetes does not know is an error.
The oldest version that the manifests are for and the newest one are asked. What is the
Prometheus Operator's is held to the files in `schemas/`. Each kustomization must name files that
exist, and each file must be named by one; where kubectl is installed, it builds them, and what it
builds is checked too.
Nothing is fetched, and no cluster is asked.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import ValidationError
from jsonschema.validators import validator_for

try:
    import kubernetes_validate
except ModuleNotFoundError:
    sys.exit("check_kubernetes: no schemas here; pip install 'kubernetes-validate>=1.35'")

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "k8s"
OLDEST = "1.29"  # the first with init containers that stay
KUSTOMIZATION = "kustomization.yaml"
SCHEMAS = FOLDER / "schemas"
OWN_SCHEMAS = {
    "PodMonitor": SCHEMAS / "podmonitor-v1.json",
    "PrometheusRule": SCHEMAS / "prometheusrule-v1.json",
}

Manifest = dict[str, Any]


def problems(manifest: Manifest) -> Iterator[str]:
    """What the schemas have against one manifest."""
    kind = manifest.get("kind", "")
    name = f"{kind} {manifest.get('metadata', {}).get('name')}"
    if kind in OWN_SCHEMAS:
        schema = json.loads(OWN_SCHEMAS[kind].read_text())
        for error in validator_for(schema)(schema).iter_errors(manifest):
            yield f"{name}: {said(error)}"
        return
    for version in (OLDEST, kubernetes_validate.latest_version()):
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except ValidationError as error:
            yield f"{name}: {said(error)} (Kubernetes {version})"
        except Exception as error:
            yield f"{name}: {getattr(error, 'message', error)}"


def said(error: ValidationError) -> str:
    return f"{'.'.join(map(str, error.absolute_path)) or '(top)'}: {error.message}"


def file_problems(folder: Path) -> Iterator[str]:
    """Names that lead nowhere, and files that no kustomization names."""
    named = set()
    for kustomization in sorted(folder.rglob(KUSTOMIZATION)):
        content = yaml.safe_load(kustomization.read_text())
        generators = content.get("configMapGenerator", ())
        settings = [name for generator in generators for name in generator["envs"]]
        for name in [*content["resources"], *settings]:
            target = (kustomization.parent / name).resolve()
            named.add(target)
            if not (target.is_file() or (target / KUSTOMIZATION).is_file()):
                yield f"{kustomization}: {name} does not exist"
    for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.env")]):
        if path.name != KUSTOMIZATION and path.resolve() not in named:
            yield f"{path}: no kustomization names it"


def manifests(folder: Path) -> Iterator[tuple[str, Manifest]]:
    """Every manifest, and the file that it is in."""
    for path in sorted(folder.rglob("*.yaml")):
        if path.name != KUSTOMIZATION:
            yield from ((str(path), each) for each in yaml.safe_load_all(path.read_text()))


def built(folder: Path, kubectl: str) -> Iterator[tuple[str, Manifest]]:
    """What kubectl makes of each kustomization."""
    for kustomization in sorted(folder.rglob(KUSTOMIZATION)):
        where = str(kustomization.parent)
        command = [kubectl, "kustomize", where]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{where}: {done.stderr.strip()}")
        yield from ((f"{where} (built)", each) for each in yaml.safe_load_all(done.stdout))


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else FOLDER
    found = list(file_problems(folder))
    all_of_them = list(manifests(folder))
    kubectl = shutil.which("kubectl")
    if kubectl and not found:
        all_of_them += built(folder, kubectl)
    found += [f"{where}: {problem}" for where, each in all_of_them for problem in problems(each)]
    if not all_of_them:
        found.append(f"{folder}: no manifests")
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        how = "built by kubectl too" if kubectl else "not built: there is no kubectl here"
        print(f"{folder}: {len(all_of_them)} manifests are valid; {how}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
