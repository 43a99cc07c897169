"""nbval compares text, letter by letter; pictures, tables and glued numbers differ in the last digit between processors.

Tables and glued numbers are compared one by one, within tolerances: tests/test_smoke.py.
"""

SKIPPED = (
    "image/svg+xml",
    "image/jpeg",
    "image/png",
    "text/html",
    "application/papermill.record/image/svg+xml",
    "application/papermill.record/image/png",
    "application/papermill.record/text/plain",
)


def pytest_collectstart(collector):
    """Leave these kinds of output out of nbval's comparison."""
    if collector.__class__.__name__ == "IPyNbFile":
        collector.skip_compare += SKIPPED
