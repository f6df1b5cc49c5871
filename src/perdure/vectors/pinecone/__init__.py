"""The vector store port on Pinecone."""

from perdure.vectors.pinecone.store import PineconeVectorStore

__all__ = ["PineconeVectorStore"]
