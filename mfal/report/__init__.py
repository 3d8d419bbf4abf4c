"""The report of a campaign: one HTML page that needs no network."""

from mfal.report.page import render

__all__ = ["render"]
