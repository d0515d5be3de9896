"""Gives every test the marker of the tier (folder) it lies in: unit, e2e, golden or gpu."""

from pathlib import Path


TIERS = ("unit", "e2e", "golden", "gpu")


def pytest_collection_modifyitems(items):
    tests = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(tests).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
