"""How much memory the devices have, and how much of it is taken, at this moment.

Whatever cannot be read is left out. A driver in trouble may hold a question for minutes: ask in a
thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.machine.hardware import opened_nvml

MACHINE = -1
"""The device of a model without GPUs: the machine's own memory."""

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of one GPU, or of the machine."""

    used: int
    total: int


def gpu_memory(gpus: Iterable[int] | None) -> dict[int, DeviceMemory]:
    """Of each of these GPUs, or of all, by its NVML index. GPUs on the CPU's memory do not say."""
    memory = {}
    with opened_nvml() as (nvml, _):
        if nvml is None:
            return {}
        for index in range(nvml.nvmlDeviceGetCount()) if gpus is None else gpus:
            with suppress(nvml.NVMLError):
                info = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index))
                memory[index] = DeviceMemory(int(info.used), int(info.total))
    return memory


def machine_memory(proc: Path = _PROC, cgroup: Path = _CGROUP) -> DeviceMemory | None:
    """The machine's own, or what the container may take of it; what can be dropped is not used."""
    try:
        sizes = _sizes(proc / "meminfo")
        total, used = sizes["MemTotal"], sizes["MemTotal"] - sizes["MemAvailable"]
    except (OSError, KeyError):
        return None
    # Both versions of cgroups; in the first a sum over the groups below has a name of its own.
    for folder, most, now, prefix in (
        (cgroup, "memory.max", "memory.current", ""),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        with suppress(OSError, KeyError, ValueError):  # ValueError: `max`, there is no limit
            limit = int((folder / most).read_text())
            if limit < total:
                files = _sizes(folder / "memory.stat")
                held = int((folder / now).read_text())
                held -= files[f"{prefix}inactive_file"] + files[f"{prefix}active_file"]
                return DeviceMemory(held, limit)
    return DeviceMemory(used, total)


def process_memory(pid: int, proc: Path = _PROC) -> int | None:
    """What a process and all below it take; of what several share each has its part. None where
    there is no such process, or another user's."""
    parents = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # The name, in parentheses, may itself hold spaces and parentheses.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    total = 0
    for each in parents:
        ancestor = each
        while ancestor != pid and ancestor in parents:
            ancestor = parents[ancestor]
        if ancestor == pid:
            with suppress(OSError, KeyError):
                total += _sizes(proc / str(each) / "smaps_rollup")["Pss"]
    return total or None


def _sizes(path: Path) -> dict[str, int]:
    """Bytes by name, from lines as `MemTotal:  24000 kB` or `active_file 4096`."""
    sizes = {}
    for line in path.read_text().splitlines():
        name, *words = line.split()
        if words and words[0].isdigit():
            sizes[name.rstrip(":")] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return sizes
