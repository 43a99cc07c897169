"""Chapters on the tangent kernel (Lemmas 1 and 3, Theorems 2 and 3, Corollary 1)."""
