"""What this machine has: device, number type, threads. Decided at run time, never at install time."""

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional

from sidecar.logs import log
from sidecar.settings import ModelSettings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Names of mallopt(3)."""
_KEPT_BYTES = 2**30
_PERIOD_US = "100000"
"""The kernel's default period in microseconds, for a file that names none."""
_ROWS, _IN, _OUT = 256, 384, 1536
"""Shape of the matrix product that number types are compared by: the widest one of the bundled model."""
_ROUNDS = 7
_WORTH_IT = 1.1
"""How many times as fast as float32 bfloat16 must be to be preferred."""
_AVX512_BF16 = {"avx512_bf16", "avx512bw", "avx512dq", "avx512f", "avx512vl"}
_AMX = {"amx_bf16", "amx_tile"} | _AVX512_BF16
_WITHOUT_AVX512 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"}
_WITHOUT_BF16 = _WITHOUT_AVX512 | {"AVX512_CORE", "AVX512_CORE_VNNI"}
"""Values of oneDNN's variables, naming the most that they allow, that exclude these instructions."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HardwareError(Exception):
    """The settings ask for a device that is missing, or whose memory is too small."""


def pick_device(settings: ModelSettings) -> torch.device:
    """The device a model runs on; ``auto`` is CUDA if there is a CUDA device, else the CPU.

    Raises:
        HardwareError: CUDA is asked for by name and cannot be used.
    """
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(settings.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise HardwareError(f"device {settings.device!r} is not there: {found} CUDA devices found; set `auto` or `cpu`")
    return device


def pick_dtype(settings: ModelSettings, device: torch.device) -> torch.dtype:
    """The number type of the weights; ``auto`` is the fastest one that keeps the order on this device."""
    if settings.dtype != "auto":
        return _DTYPES[settings.dtype]
    if device.type == "cuda":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float16
    return torch.bfloat16 if gains_by_bfloat16() else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA device multiplies bfloat16 in hardware, as those of compute capability 8 and more do."""
    return torch.cuda.get_device_capability(device)[0] >= 8


def leaves_a_gpu_unused(settings: ModelSettings, driver: Path = Path("/proc/driver/nvidia/version")) -> bool:
    """Whether ``device: auto`` means the CPU though the kernel has NVIDIA's driver: a container without access to the
    card, a driver older than torch needs, or a torch without CUDA."""
    return settings.device == "auto" and driver.exists() and not torch.cuda.is_available()


@cache
def gains_by_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16 markedly faster than in float32: measured, once, in some 50 ms.

    Having instructions for it does not settle that. For 100 pairs of some 100 tokens, the bundled model, two cores, an
    AMD EPYC with AVX-512 BF16 takes 0.6 times as long in bfloat16 as in float32, an Intel Xeon whose AMX is hidden from
    its virtual machine, with the same AVX-512 BF16, 1.6 times (1.51 s, 0.93 s); both with torch's own attention.
    """
    if not has_bfloat16():
        return False
    with _one_thread(), torch.inference_mode():
        took_s = {dtype: float("inf") for dtype in (torch.float32, torch.bfloat16)}
        for _ in range(_ROUNDS):
            for dtype in took_s:
                took_s[dtype] = min(took_s[dtype], _product_s(dtype))
    return took_s[torch.float32] > _WORTH_IT * took_s[torch.bfloat16]


def _product_s(dtype: torch.dtype) -> float:
    rows, weight = torch.ones(_ROWS, _IN, dtype=dtype), torch.ones(_OUT, _IN, dtype=dtype)
    started = time.perf_counter()
    functional.linear(rows, weight)
    return time.perf_counter() - started


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch in one thread: with more threads than a container may use, measured times would mean nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 in hardware, by Intel AMX or AVX-512 BF16; else it is emulated."""
    return bool(_flags(cpuinfo) & {"amx_bf16", "avx512_bf16"})


def has_avx512_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has what ``native/attention_bfloat16.h`` is compiled for, and the environment allows it.

    oneDNN's own variables are obeyed, so that one of them restricts both torch and the kernel.
    """
    return _flags(cpuinfo) >= _AVX512_BF16 and _most_allowed() not in _WITHOUT_BF16


def has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has Intel AMX as well as AVX-512 BF16, and the environment allows AMX."""
    most = _most_allowed()
    return _flags(cpuinfo) >= _AMX and ("AMX" in most or most in ("DEFAULT", "ALL"))


def _most_allowed() -> str:
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT").upper()


def _flags(cpuinfo: Path) -> set[str]:
    return set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()


def emulates(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether ``device`` is a CPU that cannot multiply ``dtype`` and so takes many times longer than in float32.

    On two cores with only AVX2, loading the bundled model in bfloat16 had not ended after ten minutes.
    """
    return device.type == "cpu" and dtype == torch.bfloat16 and not has_bfloat16()


def has_avx512() -> bool:
    """Whether torch and oneDNN compute with AVX-512 here; the environment may forbid it to each, by a variable."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _most_allowed() not in _WITHOUT_AVX512


def has_avx2() -> bool:
    """Whether torch computes with AVX2 here, or with more; the environment may forbid it (``ATEN_CPU_CAPABILITY``)."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX")


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next forward pass; whether it can (glibc does).

    Otherwise it returns tensors of many megabytes after each operation, and the kernel fills new pages with zeros for
    the next. Measured on two AMX cores with the bundled model packed in bfloat16, 100 pairs of 250 tokens, 50 a pass:
    0.75 s and 970,000 page faults without, 0.58 s and 22,000 with. Peak memory was the same. All threads share one
    heap, since per-thread heaps hold only tens of megabytes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {_M_MMAP_THRESHOLD: _KEPT_BYTES, _M_TRIM_THRESHOLD: _KEPT_BYTES, _M_ARENA_MAX: 1}
    kept = [mallopt(name, value) == 1 for name, value in wanted.items()]
    return all(kept)


def keep_from_cudnn_attention() -> None:
    """Keep torch from cuDNN's attention on CUDA, in the whole process.

    cuDNN builds a plan for each number of pairs and longest pair, and no two batches of a service need be alike. torch
    2.15 prefers it all the same on compute capability 9 and 10. Others measured 42 ms a plan (pytorch/pytorch#191576),
    0.44 s on a B200 (modelscope/FunASR#3704), and an encoder on a GH200 at 60,000 tokens/s in place of 280,000
    (pytorch/pytorch#187770).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def use_threads(wanted: int) -> None:
    """Have torch compute with ``wanted`` threads, or with as many as OpenMP's variables in the environment allow.

    oneDNN relies on the number that it is given: if OpenMP starts fewer, its products in bfloat16 are wrong. With
    torch 2.15, two threads and ``OMP_THREAD_LIMIT=1`` they were NaN or off by 48 where rounding leaves 0.1.
    """
    openmp, allowed = ctypes.CDLL(None), wanted
    if hasattr(openmp, "omp_set_dynamic"):
        openmp.omp_set_dynamic(0)  # else it gives fewer while the machine is busy
        allowed = openmp.omp_get_thread_limit() if openmp.omp_get_max_active_levels() else 1
    if allowed < wanted:
        log.warning("threads_limited", wanted=wanted, allowed=allowed, hint="by OpenMP's variables in the environment")
    torch.set_num_threads(min(wanted, allowed))


def usable_cpus(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use: its affinity, or the container's quota (cgroup v2 or v1) if that is less.

    A quota of 2.5 CPUs gives 2: with a third thread, all would be stopped together when the quota is used up.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def _quota(cgroups: Path) -> float | None:
    """CPUs that the container may use, possibly a fraction; None if there is no limit or it cannot be read."""
    try:
        v2 = cgroups / "cpu.max"
        if v2.is_file():
            quota, period = [*v2.read_text().split(), _PERIOD_US][:2]
        else:
            quota = (cgroups / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroups / "cpu" / "cpu.cfs_period_us").read_text()
        cpus = float(quota) / float(period)  # v2 says `max` where there is no limit, v1 says -1
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return cpus if cpus > 0 else None
