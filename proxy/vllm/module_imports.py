"""What a module imports as it is loaded, read from its source: nothing is imported.

To import a model of vLLM takes torch and fifteen seconds. Of its files, and those of Transformers
that it names, only imports that stand alone at the top are looked at: what a condition or a `try`
surrounds may be done without, and Transformers finds its lazy names by itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

# Whose modules are followed. All other code of vLLM's is imported with any model.
_FOLLOWED = ("vllm.model_executor.models.", "vllm.transformers_utils.", "transformers.models.")
# One of vLLM's models leads to some dozens of files.
_MOST_MODULES = 300


def missing_package(module: str) -> str | None:
    """The first package without which `module` cannot be imported; None where none is seen."""
    seen, waiting = {module}, [module]
    while waiting and len(seen) < _MOST_MODULES:
        for name in _imports(waiting.pop()):
            package = name.partition(".")[0]
            if not _is_installed(package):
                return package
            if name.startswith(_FOLLOWED) and name not in seen:
                seen.add(name)
                waiting.append(name)
    return None


def _imports(module: str) -> Iterator[str]:
    """Names of modules, and of what may be modules, that are imported without a condition."""
    name, *parts = module.split(".")
    path = (package_folder(name) or Path("/nowhere")).joinpath(*parts)
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    file = next((file for file in candidates if file.is_file()), None)
    try:
        tree = ast.parse(file.read_bytes() if file else b"")
    except (OSError, ValueError, SyntaxError):
        return
    package = module if file and file.name == "__init__.py" else module.rpartition(".")[0]
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            yield source
            # Of another's package such a name may be anything but a module.
            if source.startswith("vllm."):
                yield from (f"{source}.{alias.name}" for alias in node.names)


@cache
def package_folder(name: str) -> Path | None:
    """The folder of an installed package, without importing it."""
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


@cache
def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a name that stands for no file, such as __main__
        return True
