"""What operators see: numbers for Prometheus, traces for OpenTelemetry, logs for machines."""

from perdure.telemetry.metrics import Metrics
from perdure.telemetry.recent import Recent

__all__ = ["Metrics", "Recent"]
