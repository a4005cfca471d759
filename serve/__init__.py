"""Serving: vLLM with base and adapters side by side (``engine``), the endpoint (``gateway``)."""
