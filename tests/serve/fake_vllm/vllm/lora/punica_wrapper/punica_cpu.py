"""The one class that `serve/vllm_cpu.py` changes."""


class PunicaWrapperCPU:
    pass
