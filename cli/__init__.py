"""The ``segc`` command: thin, one module a verb, no logic of its own."""
