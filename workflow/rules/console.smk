# What a run prints: a line now and then that says how far it is, each failure with its log, and at
# the end where the results lie. Snakemake's own messages are quiet by profiles/default; its log file
# under .snakemake/log has them all.

import logging
import sys
import time
from datetime import timedelta
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent


class Console(logging.Handler):
    """Prints progress at most every few seconds, and failed jobs at once."""

    # Seconds between lines: short at first, since a first look is; a night's run prints few.
    EVERY = (15, 60)

    def __init__(self):
        super().__init__()
        self.begun = self.shown = time.monotonic()
        self.done = 0

    def emit(self, record):
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_FINISHED:
            self.progress()
        elif event == LogEvent.JOB_ERROR:
            self.failure(record)
        # Then it ends without a word, and without `onsuccess`. A dry run says it itself.
        elif event is None and record.getMessage().startswith("Nothing to be done"):
            if not DRY_RUN:
                say("nothing to do: all that was asked for is there")
                closing_words(True)
        # The exception of a failed job repeats its whole command: its log says more.
        elif record.levelno >= logging.WARNING and event in (None, LogEvent.ERROR):
            text = record.getMessage().strip()
            if text and not text.startswith("RuleException"):
                say(text)

    def progress(self):
        self.done += 1
        now, total = time.monotonic(), self.n_jobs()
        elapsed = now - self.begun
        if self.done < total and now - self.shown < self.EVERY[elapsed > 600]:
            return
        self.shown = now
        left = timedelta(seconds=round(elapsed / self.done * (total - self.done)))
        say(f"{self.done} of {total} jobs done, about {left} left")

    def n_jobs(self):
        """How many jobs this run has, known once it is planned."""
        return len(list(workflow.dag.needrun_jobs(exclude_finished=False)))

    def failure(self, record):
        say(f"failed: {record.rule_name}, which makes {', '.join(record.output)}")
        for file in record.log or ():
            say(f"  from {file}:")
            try:
                lines = Path(file).read_text(errors="replace").splitlines()
            except OSError as error:
                lines = [error.strerror]
            # The log opens with the job's command, which may be long; the file has it.
            for line in [line for line in lines if not line.startswith("$ ")][-40:]:
                say(f"    {line}")


def say(text):
    """Print a line where progress belongs, whatever else is printed."""
    print(text, file=sys.stderr, flush=True)


def closing_words(succeeded):
    """Where the results are, or how to go on."""
    page = Path(RUN, "report.html")
    if not succeeded:
        say(
            "not finished: mend what failed and run the same command again; what is done is kept"
        )
        return
    if page.exists():
        from arfl import closing

        say("\n".join([f"the report: {page}", *closing.lines(page.parent)]))


# As a module the workflow leaves the screen to the one that uses it.
if workflow.is_main_process and workflow.modifier.namespace is None:
    logging.getLogger("snakemake.logging").addHandler(Console())


onsuccess:
    closing_words(True)


onerror:
    closing_words(False)
