"""Verification: a repository is what its manifest says, and its figures come out again."""

from zoo_datasets.evaluation.verify.findings import Check, Difference, Findings, Verification
from zoo_datasets.evaluation.verify.verify import verify_repository

__all__ = ["Check", "Difference", "Findings", "Verification", "verify_repository"]
