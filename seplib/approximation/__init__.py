"""Theorem 1 as a program: from a function and an accuracy to a separable network and its certificate (Sec. 3, Sec. A.3)."""

from seplib.approximation.construct import ROUNDING, Certificate, approximate, certify, factor_errors

__all__ = ["ROUNDING", "Certificate", "approximate", "certify", "factor_errors"]
