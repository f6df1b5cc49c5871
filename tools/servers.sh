#!/bin/sh
# What `make test` needs beside the Python packages: Debian's redis-server, for the store must run on it too, prometheus for the
# alert rules, chromium for the pages, RabbitMQ and NATS for the feeds, and the Cosmos DB emulator of npm. (Valkey, PostgreSQL and the MongoDB server come as Python packages.)
set -u

fail() {
    echo "perdure: $*" >&2
    exit 1
}

need_system_package() { # need_system_package COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        fail "the tests need $2; run 'sudo apt-get install $2' (or your system's equivalent)"
    fi
    echo "perdure: installing the system package $2 (some ten seconds) ..."
    # RUNLEVEL=1: it is to be there, not to run.
    {
        apt-get -qq update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$2"
    } </dev/null >build/servers.log 2>&1 || fail "apt-get could not install $2: $(tail -n 1 build/servers.log)"
}

emulator=build/cosmos/node_modules/@vercel/cosmosdb-server
need_cosmos_emulator() {
    grep -q '"version": "1.0.1"' $emulator/package.json 2>/dev/null && return
    need_system_package node nodejs
    need_system_package npm npm
    mkdir -p build/cosmos
    echo '{"private": true}' >build/cosmos/package.json
    npm install --prefix build/cosmos --ignore-scripts --no-audit --no-fund @vercel/cosmosdb-server@1.0.1 \
        </dev/null >build/servers.log 2>&1 || fail "npm could not install the Cosmos DB emulator: $(tail -n 1 build/servers.log)"
}

mkdir -p build
need_system_package redis-server redis-server
need_system_package prometheus prometheus
need_system_package chromium chromium
need_system_package rabbitmq-server rabbitmq-server
need_system_package nats-server nats-server
[ -n "${PERDURE_TEST_COSMOS_URL:-}" ] || need_cosmos_emulator
