"""Chapters on preconditioned descent: equivalence, spectra, cost, kernel ridge regression, scattered points (Secs. 4 and A.2)."""
