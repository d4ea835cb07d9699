"""Starts, watches and stops the servers of SGLang and vLLM that a configuration names."""
