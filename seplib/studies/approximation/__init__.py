"""Chapters on approximation (Theorem 1, Secs. 3 and A.3)."""
