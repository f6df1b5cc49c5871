"""The job store on Redis or Valkey. Needs ``pip install "perdure[redis]"``."""

from perdure.stores.redis.store import RedisJobStore

__all__ = ["RedisJobStore"]
