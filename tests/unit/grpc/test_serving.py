"""Around the calls: stock clients, health, TLS, addresses, and code that is built."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import perdure
from perdure.app import App
from perdure.domain.errors import InvalidInput
from perdure.grpc import serving
from perdure.grpc.v1 import perdure_pb2 as v1
from perdure.grpc.v1.perdure_pb2_grpc import PerdureStub

from .conftest import SETTINGS

# Their stubs lack what is made at run time.
ASK: Any = reflection_pb2.ServerReflectionRequest
ReflectionStub: Any = reflection_pb2_grpc.ServerReflectionStub
HealthStub: Any = health_pb2_grpc.HealthStub

ROOT = Path(__file__).parents[3]


class StockClient:
    """Knows nothing of Perdure: it asks the server what calls there are, as grpcurl does."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._pool = DescriptorPool()
        self._ask = ReflectionStub(channel).ServerReflectionInfo

    async def services(self) -> list[str]:
        request = ASK(list_services="")
        async for answer in self._ask(iter([request])):
            return [one.name for one in answer.list_services_response.service]
        raise AssertionError("no answer")

    async def learn(self, **about: str) -> None:
        async for answer in self._ask(iter([ASK(**about)])):
            for data in answer.file_descriptor_response.file_descriptor_proto:
                proto = reflected(data)
                for needed in proto.dependency:
                    await self.learn(file_by_filename=needed)
                self._pool.Add(proto)

    async def call(self, service: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
        described = self._pool.FindServiceByName(service).FindMethodByName(method)
        made = ParseDict(request, GetMessageClass(described.input_type)())
        send: Any = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(described.output_type).FromString,
        )
        return MessageToDict(await send(made), preserving_proto_field_name=True)


def reflected(data: bytes) -> Any:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    return FileDescriptorProto.FromString(data)


async def test_a_stock_client_lists_and_calls_everything(app: App, channel: grpc.aio.Channel) -> None:
    client = StockClient(channel)
    assert set(await client.services()) >= {"perdure.v1.Perdure", "grpc.health.v1.Health"}
    await client.learn(file_containing_symbol="perdure.v1.Perdure")
    job = await client.call("perdure.v1.Perdure", "Vectorize", {"text": "a word", "document_id": "d"})
    assert job["status"] == "pending"
    shown = await client.call("perdure.v1.Perdure", "GetJob", {"id": job["id"]})
    assert shown["payload"]["text"] == "a word"
    page = await client.call("perdure.v1.Perdure", "ListJobs", {})
    assert [one["id"] for one in page["items"]] == [job["id"]]
    called_off = await client.call("perdure.v1.Perdure", "CancelJob", {"id": job["id"]})
    assert called_off["status"] == "cancelled"
    again = await client.call("perdure.v1.Perdure", "RetryJob", {"id": job["id"]})
    assert again["status"] == "pending"
    stats = await client.call("perdure.v1.Perdure", "GetStats", {})
    assert stats["by_status"]["pending"] == "1"
    assert await client.call("perdure.v1.Perdure", "Search", {"query": "a word"}) == {}


async def test_health_tells_whether_the_stores_answer(app: App, address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = HealthStub(channel)
        for name in ("", "perdure.v1.Perdure"):
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break
            watch.cancel()


async def test_who_watches_is_sent_away_and_comes_back_with_its_position(app: App) -> None:
    job = await app.submit("a")
    async with serving(app, "127.0.0.1:0") as address:
        channel = grpc.aio.insecure_channel(address)
        watching = PerdureStub(channel).WatchJob(v1.WatchJobRequest(id=job.id))
        first = await watching.read()
        assert isinstance(first, v1.JobEvent)
    with pytest.raises(grpc.aio.AioRpcError, match="watch again after") as caught:
        await watching.read()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    await channel.close()
    await app.jobs.cancel(job.id, tenant="default")
    async with serving(app, "127.0.0.1:0") as address, grpc.aio.insecure_channel(address) as channel:
        request = v1.WatchJobRequest(id=job.id, after=first.position)
        rest = [event.event async for event in PerdureStub(channel).WatchJob(request)]
    assert rest == ["cancelled"]


# --- TLS ------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate for 127.0.0.1 in `name`.pem, its key in `name`.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / f"{name}.pem"


async def test_calls_are_encrypted_and_clients_show_who_they_are(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "server"), certificate(tmp_path, "client")
    settings = msgspec.structs.replace(
        SETTINGS, grpc_cert=str(server), grpc_key=str(tmp_path / "server.key"), grpc_client_ca=str(client)
    )
    known = server.read_bytes()
    shown = grpc.ssl_channel_credentials(known, (tmp_path / "client.key").read_bytes(), client.read_bytes())
    async with perdure.open(settings=settings, worker=False) as app, serving(app, "127.0.0.1:0") as address:
        async with grpc.aio.secure_channel(address, shown) as channel:
            assert (await PerdureStub(channel).GetStats(v1.GetStatsRequest())).total == 0
        for nobody in (
            grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(known)),
            grpc.aio.insecure_channel(address),
        ):
            async with nobody as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await PerdureStub(channel).GetStats(v1.GetStatsRequest(), timeout=5)
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("address", "files", "said"),
    [
        ("8322", {}, "expected host:port"),
        ("127.0.0.1:99999", {}, "expected host:port"),
        ("192.0.2.1:8322", {"allow_remote": True}, "choose another with --grpc"),
        ("0.0.0.0:0", {}, "perdure keys create"),
        ("127.0.0.1:0", {"grpc_cert": "gone.pem"}, "TLS needs both"),
        ("127.0.0.1:0", {"grpc_cert": "gone.pem", "grpc_key": "gone.key"}, "cannot be read"),
    ],
)
async def test_an_address_that_cannot_be_served_is_refused(
    address: str, files: dict[str, Any], said: str
) -> None:
    settings = msgspec.structs.replace(SETTINGS, **files)
    async with perdure.open(settings=settings, worker=False) as app:
        with pytest.raises(InvalidInput, match=said):
            async with serving(app, address):
                pass


async def test_an_address_in_use_is_refused(app: App, address: str) -> None:
    with pytest.raises(InvalidInput, match="choose another"):
        async with serving(app, address):
            pass


# --- what is built --------------------------------------------------------------------------


def test_the_code_is_what_the_protocol_says(tmp_path: Path) -> None:
    subprocess.run(["sh", ROOT / "tools/proto.sh", tmp_path], check=True, capture_output=True)
    read: Callable[[Path], dict[str, bytes]] = lambda root: {  # noqa: E731
        path.name: path.read_bytes()
        for path in (root / "perdure/grpc/v1").glob("perdure_pb2*")
        if path.is_file()
    }
    assert read(tmp_path) == read(ROOT / "src"), "run: make proto"


@pytest.mark.usefixtures("worker")
async def test_the_page_shows_what_works(address: str) -> None:
    page = (ROOT / "docs/reference/grpc.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert await names["main"](address) == "leave"
