"""One module a backend; each imports its package when it is imported itself."""
