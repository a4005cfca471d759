"""A stand-in for vLLM, for tests of what runs it."""
