"""Logs that machines read: a JSON object a line, with the job and the tenant that it is about."""

from __future__ import annotations

import logging

from perdure.core.context import under_way
from perdure.domain.packages import needed


def json_formatter() -> logging.Formatter:
    """What makes a JSON object of each record: `event`, `level`, `logger`, `timestamp`, `job`, `tenant`, `exception`, and what was
    given as ``extra=``.

    Raises:
        InvalidInput: structlog is not installed.
    """
    with needed("PERDURE_LOG=json needs", "telemetry"):
        import structlog
    from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name

    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    return ProcessorFormatter(
        foreign_pre_chain=[add_log_level, add_logger_name, stamp, ExtraAdder()],
        processors=[
            ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )


def name_job(record: logging.LogRecord) -> bool:
    """A filter that lets all pass, and notes of which job they are, where one runs."""
    if (job := under_way.get()) is not None and not hasattr(record, "job"):
        record.job, record.tenant = job.id, job.tenant
    return True
