"""The protocol `perdure.v1`, and the code that `make proto` builds of it. Stubs for clients are in `perdure_pb2_grpc`."""
