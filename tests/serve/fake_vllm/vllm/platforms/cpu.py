"""The one class that `serve/vllm_cpu.py` tells of its own wrapper."""


class CpuPlatform:
    pass
