"""The job store on Azure Cosmos DB."""

from perdure.stores.cosmos.store import CosmosJobStore

__all__ = ["CosmosJobStore"]
