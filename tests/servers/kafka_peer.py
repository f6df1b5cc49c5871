"""The mock cluster of librdkafka: brokers in memory that speak Kafka's wire format, to any client. Prints their address, and serves until
its input ends.
"""

from __future__ import annotations

import sys

from confluent_kafka import Producer

producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
brokers = producer.list_topics(timeout=30).brokers.values()
print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)
sys.stdin.read()
