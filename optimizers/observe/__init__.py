"""Watches a run: live view, trackers, report, tables, export. Nothing that a run needs is here."""
