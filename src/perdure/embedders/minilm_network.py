"""MiniLM's network as ONNX Runtime runs it fastest, with the weights of the package.

The package's own file has the weights in eight bits, but makes 32 of them before it multiplies, and spells attention and
GELU out in small steps. Here each of them is one operator. With `int8`, the 36 large products are of eight bits, too: what
comes in is scaled to 0…255 for each text, and the weights lose their last bit, so that the sums of two products fit
into the 16 bits that processors without VNNI have for them. All processors make the same of them then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

OWN: Final = "com.microsoft"
"""The operators that ONNX Runtime adds to those of ONNX."""
TAKES: Final = "pieces"
GIVES: Final = "mean"
WIDTH: Final = 384
_LAYERS: Final = 6
_HEADS: Final = 12
_EPSILON: Final = 1e-12


class _Builder:
    """The network so far."""

    def __init__(self, source: bytes, *, int8: bool) -> None:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper

        try:
            graph = onnx.load_model_from_string(source).graph
        except DecodeError as error:
            raise ValueError(f"no ONNX file: {error}") from None
        self._int8 = int8
        self._theirs = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        # The weights have names of no meaning, but each is multiplied right before the bias of its layer is added.
        products = {step.output[0]: step.input[1] for step in graph.node if step.op_type == "MatMul"}
        self._weights = {
            step.input[1].removeprefix("inner."): products[step.input[0]]
            for step in graph.node
            if step.op_type == "Add" and step.input[0] in products
        }
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, npt.NDArray[np.generic]] = {}

    def theirs(self, name: str) -> Any:
        """Find a tensor of the package's file."""
        return self._theirs["inner." + name]

    def keep(self, name: str, array: npt.NDArray[np.generic] | None = None) -> str:
        """Take a tensor into the network, theirs where none is given."""
        self.tensors[name] = self.theirs(name) if array is None else array
        return name

    def step(self, operator: str, *takes: str, domain: str = "", **options: float) -> str:
        """Add a step; gives the name of what it makes."""
        made = f"{operator} {len(self.nodes)}"
        self._add(operator, takes, made, domain, options)
        return made

    def model(self, hidden: str) -> bytes:
        """The whole network, that ends with the mean over the pieces of `hidden`."""
        import numpy as np
        from onnx import TensorProto, helper, numpy_helper

        self._add("ReduceMean", (hidden, self.keep("one", np.array([1]))), GIVES, "", {"keepdims": 0})
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(TAKES, TensorProto.INT64, ["texts", "pieces"])],
            [helper.make_tensor_value_info(GIVES, TensorProto.FLOAT, ["texts", WIDTH])],
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )
        operators = [helper.make_opsetid("", 18), helper.make_opsetid(OWN, 1)]
        return helper.make_model(graph, opset_imports=operators, ir_version=10).SerializeToString()

    def _add(
        self, operator: str, takes: Sequence[str], made: str, domain: str, options: Mapping[str, Any]
    ) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, takes, [made], domain=domain, **options))

    def dense(self, taken: str, layer: str, *, bias: bool = False) -> str:
        """Multiply by a layer's weights, and add its bias."""
        import numpy as np

        weight = self._weights[layer + ".bias"]
        whole, scale = self._theirs[weight + "_q"], self._theirs[weight + "_scale"]
        biases = [self.keep(layer + ".bias")] if bias else []
        if not self._int8:
            made = self.step("MatMul", taken, self.keep(layer, np.multiply(whole, scale, dtype=np.float32)))
            return self.step("Add", made, *biases) if bias else made
        halves = np.clip(np.round(np.multiply(whole, 0.5, dtype=np.float32)), -64, 63)
        held = self.keep(layer, halves.astype(np.int8))
        scales = self.keep(layer + ".scale", np.multiply(scale, 2, dtype=np.float32).ravel())
        return self.step("DynamicQuantizeMatMul", taken, held, scales, "", *biases, domain=OWN)

    def norm(self, made: str, before: str, layer: str) -> str:
        """Add the layer's bias and what was there before, and normalize the sum."""
        norm = layer.rpartition(".")[0] + ".LayerNorm"
        scales = [self.keep(f"{norm}.weight"), self.keep(f"{norm}.bias"), self.keep(layer + ".bias")]
        return self.step("SkipLayerNormalization", made, before, *scales, domain=OWN, epsilon=_EPSILON)


def network(source: bytes, *, int8: bool) -> bytes:
    """Build the network for whole texts, without padding.

    Args:
        source: the package's file.
        int8: multiply in eight bits.

    Returns:
        An ONNX file: from word pieces, int64 of shape (texts, pieces), to the means of what they become, float32 of shape
        (texts, 384).

    Raises:
        KeyError, ValueError: that is another network.
    """
    builder = _Builder(source, int8=int8)
    hidden = _embeddings(builder)
    for number in range(_LAYERS):
        hidden = _layer(builder, hidden, f"encoder.layer.{number}")
    return builder.model(hidden)


def _embeddings(builder: _Builder) -> str:
    """A vector for each word piece, plus one for its place, normalized."""
    import numpy as np

    words, places = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
    rows = builder.step("Gather", builder.keep(words + "_q"), TAKES)
    scales = builder.step("Gather", builder.keep(words + "_scale"), TAKES)
    word = builder.step("Mul", builder.step("Cast", rows, to=1), scales)
    scaled = np.multiply(builder.theirs(places + "_q"), builder.theirs(places + "_scale"), dtype=np.float32)
    builder.keep(places, scaled + builder.theirs("embeddings.token_type_embeddings.weight")[0])
    length = builder.step("Shape", TAKES, start=1, end=2)
    place = builder.step("Slice", places, builder.keep("zero", np.array([0])), length)
    norm = "embeddings.LayerNorm"
    return builder.step(
        "LayerNormalization",
        builder.step("Add", word, place),
        builder.keep(norm + ".weight"),
        builder.keep(norm + ".bias"),
        epsilon=_EPSILON,
    )


def _layer(builder: _Builder, hidden: str, layer: str) -> str:
    """Attention, then a network of two dense layers; what came in is added to the result of each."""
    heads = [
        builder.dense(hidden, f"{layer}.attention.self.{part}", bias=True)
        for part in ("query", "key", "value")
    ]
    attended = builder.step("MultiHeadAttention", *heads, domain=OWN, num_heads=_HEADS)
    output = f"{layer}.attention.output.dense"
    hidden = builder.norm(builder.dense(attended, output), hidden, output)
    wide = builder.dense(hidden, f"{layer}.intermediate.dense", bias=True)
    output = f"{layer}.output.dense"
    return builder.norm(builder.dense(builder.step("Gelu", wide, domain=OWN), output), hidden, output)
