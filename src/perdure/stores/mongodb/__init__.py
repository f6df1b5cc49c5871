"""The job store on MongoDB."""

from perdure.stores.mongodb.store import MongoJobStore

__all__ = ["MongoJobStore"]
