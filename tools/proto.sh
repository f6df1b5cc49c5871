#!/bin/sh
# Builds the Python code of perdure.v1, or with a folder as argument builds it there, for the test that compares the two.
set -eu
cd "$(dirname "$0")/.."
into=${1:-src}
PATH=$(pwd)/.venv/bin:$PATH .venv/bin/python -m grpc_tools.protoc --proto_path=src --python_out="$into" --grpc_python_out="$into" \
    --mypy_out=quiet:"$into" --mypy_grpc_out=quiet:"$into" perdure/grpc/v1/perdure.proto
