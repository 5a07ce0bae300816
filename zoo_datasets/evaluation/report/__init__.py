"""The report: one page on a population."""

from zoo_datasets.evaluation.report.page import page, write_report

__all__ = ["page", "write_report"]
