"""Write the report page of a run: ``python -m gppf_d2.tools.report RUN``.

``RUN/report.html`` is one self-contained file; ``RUN/routes.png`` is drawn beside it. A
half-finished or crashed run gets a page too, which says what is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gppf_d2.analysis.report import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and print its path; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.report", description="Write RUN/report.html."
    )
    parser.add_argument("run", metavar="RUN", help="output folder of a run, finished or not")
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.run))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
