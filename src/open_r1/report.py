"""Writes one HTML page about one or several runs: curves, evaluations, rollouts, settings. It needs no network.

    python -m open_r1.report output/run
    python -m open_r1.report output/run_a output/run_b --output comparison.html
    python -m open_r1.report output/run --watch            serves the page on loopback while training goes on

See docs/report.md.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from open_r1.viz.report_page import ScoredSet

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="Output folders of runs.")
    parser.add_argument("--output", type=Path, help="HTML file to write. Default: report.html in the first run.")
    parser.add_argument(
        "--evaluations", type=Path, nargs="*", default=[], metavar="JSON", help="Of open_r1.evaluate, to be drawn too."
    )
    parser.add_argument(
        "--max_groups", type=int, default=20_000, help="Groups that a run's part of the page holds, evenly drawn."
    )
    parser.add_argument("--max_thumbnails", type=int, default=500, help="Pictures that are embedded; 0 for none.")
    parser.add_argument("--watch", action="store_true", help="Serve the page on this machine and keep it up to date.")
    parser.add_argument("--port", type=int, default=8800, help="With --watch; 0 takes a free one.")
    return parser


def build_report(args: argparse.Namespace) -> str:
    from open_r1.utils.extras import require
    from open_r1.viz.report_data import load_run, name_runs
    from open_r1.viz.report_page import build_page

    require("plotly", "report")
    names = name_runs(args.runs)
    runs = [load_run(folder, name, args.max_groups) for folder, name in zip(args.runs, names, strict=True)]
    scored, breakdowns = load_scored(args.evaluations)
    return build_page(runs, scored, args.max_thumbnails, is_watched=args.watch, breakdowns=breakdowns)


def load_scored(paths: Sequence[Path]) -> "tuple[list[ScoredSet], dict[str, dict]]":
    """The scores of evaluations, and their breakdowns by title, where they have any."""
    from open_r1.utils.evaluation import load_evaluation

    scored, breakdowns = [], {}
    for path in paths:
        report, matches = load_evaluation(path)
        if report.get("breakdown"):
            breakdowns[path.stem] = report["breakdown"]
        if matches is None:
            raise ValueError(f"{path}: the file with its matched rows is missing (…pairs.csv)")
        scored.append((path.stem, matches.pred_score, matches.mos))
    return scored, breakdowns


def compute_version(runs: Sequence[Path]) -> str:
    """Changes whenever a run has written something."""
    files = [path for run in runs for path in (run / "metrics.jsonl", *sorted(run.glob("rollouts/*.jsonl")))]
    states = [path.stat() for path in files if path.is_file()]
    return f"{sum(state.st_size for state in states)}-{max((state.st_mtime_ns for state in states), default=0)}"


class ReportHandler(BaseHTTPRequestHandler):
    """Serves the page and its version."""

    def __init__(self, settings: argparse.Namespace, *args: object):
        self.settings = settings
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path == "/":
            self._answer(build_report(self.settings), "text/html; charset=utf-8")
        elif self.path == "/version":
            self._answer(compute_version(self.settings.runs), "text/plain")
        else:
            self.send_error(404)

    def _answer(self, text: str, content_type: str) -> None:
        body = text.encode("utf-8")
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)


def write(args: argparse.Namespace) -> None:
    """Writes the page."""
    output = args.output or args.runs[0] / "report.html"
    page = build_report(args)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    print(f"wrote {output} ({len(page) / 1e6:.1f} MB)")


def serve(args: argparse.Namespace) -> None:
    """Serves the page on loopback until it is interrupted."""
    build_report(args)  # what is wrong shows before the address does
    with ThreadingHTTPServer(("127.0.0.1", args.port), partial(ReportHandler, args)) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if args.watch:
        serve(args)
    else:
        write(args)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
