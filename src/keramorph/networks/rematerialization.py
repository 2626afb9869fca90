"""Networks that keep few of their values for the backward pass, and compute the others anew."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from keramorph._keras import keras
from keramorph.errors import OptionError

_TYPICAL = 128
"""In the place of a size that is not known: what counts is how much larger one value is than another."""
_EXACT = 0.01
"""How exactly the least memory is found, as a share of it."""


class Rematerialized:
    """A functional network that is run in segments; the backward pass has their inputs, and computes the rest anew.

    Models within the network are taken apart. Where the segments end is chosen by the sizes of all values, so that
    what is kept between the segments and the largest segment together are small. The last segment is run as it is,
    since the backward pass begins with it; so are layers with a state, which a second run would change, as a dropout.
    The numbers are those of the network.

    Args:
        network: Model made of `keras.Model(inputs, outputs)`.

    Attributes:
        segments: Names of the operations of each segment.

    Raises:
        OptionError: If the network is not of this kind: nothing tells its parts.

    References:
        Chen, Xu, Zhang and Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016,
        doi:10.48550/arXiv.1604.06174.
    """

    def __init__(self, network: Any) -> None:
        if not _is_functional(network):
            raise OptionError(
                "Only a network made of `keras.Model(inputs, outputs)` can be rematerialized. Received: "
                f"{network!r}. Build it so, or do without."
            )
        self._inputs = [_specify(tensor) for tensor in network.inputs]
        self._names = [tensor.name for tensor in network.inputs]
        steps: list[_Step] = []
        self._outputs = _trace(network, self._inputs, steps)
        needed = {id(tensor) for tensor in keras.tree.flatten(self._outputs)}
        ends = [0, *_choose_ends(steps, needed)]
        self._segments = [_Segment(steps[a:b], steps[b:], needed) for a, b in itertools.pairwise(ends)]
        self.segments = [segment.names for segment in self._segments]

    def __call__(self, inputs: Any, training: bool | None = None) -> Any:
        """Return what the network does.

        Args:
            inputs: As the network takes them: a list, or a dictionary by the names of its inputs.
            training: As the network's layers take it.
        """
        given = [inputs[name] for name in self._names] if isinstance(inputs, dict) else keras.tree.flatten(inputs)
        values = {
            id(spec): keras.ops.convert_to_tensor(value, dtype=spec.dtype)
            for spec, value in zip(self._inputs, given, strict=True)
        }
        for segment in self._segments:
            values |= segment.run(values, training)
        return keras.tree.map_structure(lambda tensor: values[id(tensor)], self._outputs)


class _Step(NamedTuple):
    """An operation, the symbols that it takes and those that it gives."""

    operation: Callable[..., Any]
    name: str
    args: Any
    kwargs: dict[str, Any]
    outputs: list[Any]
    is_told: bool = False
    """Whether it is told if the network is being trained."""

    @property
    def size(self) -> int:
        """Bytes of what it gives."""
        return sum(math.prod(n or 1 for n in spec.shape) * _count_bytes(spec.dtype) for spec in self.outputs)

    @property
    def takes(self) -> list[int]:
        """Keys of what it takes."""
        return [id(x) for x in keras.tree.flatten((self.args, self.kwargs)) if _is_symbol(x)]

    @property
    def is_stateful(self) -> bool:
        """Whether running it twice is not running it once."""
        return bool(getattr(self.operation, "non_trainable_variables", ()))

    def run(self, values: dict[int, Any], training: bool | None) -> None:
        """Add what it gives to the values."""
        args, kwargs = keras.tree.map_structure(
            lambda x: values[id(x)] if _is_symbol(x) else x, (self.args, self.kwargs)
        )
        if self.is_told and training is not None:
            kwargs = {**kwargs, "training": training}
        found = keras.tree.flatten(self.operation(*args, **kwargs))
        values |= {id(spec): value for spec, value in zip(self.outputs, found, strict=True)}


class _Segment:
    """Steps that are run together, and of whose values those are kept that a later one takes, or the caller."""

    def __init__(self, steps: list[_Step], later: list[_Step], needed: set[int]) -> None:
        self._steps = steps
        self._is_plain = not later or any(step.is_stateful for step in steps)
        self.names = tuple(step.name for step in steps)
        made = {id(spec) for step in steps for spec in step.outputs}
        self._takes = list(dict.fromkeys(key for step in steps for key in step.takes if key not in made))
        taken = needed.union(*(step.takes for step in later))
        self._gives = [id(spec) for step in steps for spec in step.outputs if id(spec) in taken]
        last = {key: number for number, step in enumerate(steps) for key in (*map(id, step.outputs), *step.takes)}
        inner = made - set(self._gives)
        self._done = [[key for key in inner if last[key] == number] for number in range(len(steps))]

    def run(self, values: dict[int, Any], training: bool | None) -> dict[int, Any]:
        """What is kept, from what was kept before."""

        def run(*given: Any) -> list[Any]:
            inner = dict(zip(self._takes, given, strict=True))
            for step, done in zip(self._steps, self._done, strict=True):
                step.run(inner, training)
                for key in done:
                    del inner[key]
            return [inner[key] for key in self._gives]

        found = (run if self._is_plain else _rematerialize(run))(*(values[key] for key in self._takes))
        return dict(zip(self._gives, found, strict=True))


def _rematerialize(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose values the backward pass computes anew; the backends' own do, but hold on to more."""
    return {"tensorflow": _on_tensorflow, "torch": _on_torch}.get(keras.backend.backend(), keras.remat)(run)


def _on_tensorflow(run: Callable[..., Any]) -> Callable[..., Any]:
    """Without the copies of all inputs that `tf.recompute_grad` makes, so that XLA too keeps the order."""
    import tensorflow as tf

    @tf.custom_gradient
    def call(*given: Any) -> Any:
        def differentiate(*upstream: Any, variables: Sequence[Any] | None = None) -> Any:
            with tf.control_dependencies(upstream):
                again = [tf.identity(tensor) for tensor in given]
            with tf.GradientTape() as tape:
                tape.watch(again)
                found = run(*again)
            weights = list(variables or ())
            gradients = tape.gradient(found, [*again, *weights], output_gradients=list(upstream))
            of_given, of_weights = gradients[: len(again)], gradients[len(again) :]
            return (of_given, of_weights) if weights else of_given

        return run(*given), differentiate

    return call


def _on_torch(run: Callable[..., Any]) -> Callable[..., Any]:
    """To the end: PyTorch stops by an exception, of which Keras makes a report that holds on to tensors."""
    from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

    def call(*given: Any) -> Any:
        with set_checkpoint_early_stop(False):
            return checkpoint(run, *given, use_reentrant=False)

    return call


def _is_functional(model: Any) -> bool:
    """Whether a model is a graph of operations and nothing more: not one with a `call` of its own."""
    return getattr(type(model), "call", len).__qualname__ == "Functional.call"


def _is_symbol(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _specify(tensor: Any) -> Any:
    """Symbol of an input with all its sizes."""
    return keras.KerasTensor((1, *(n or _TYPICAL for n in tensor.shape[1:])), dtype=tensor.dtype)


def _count_bytes(dtype: str) -> int:
    return {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "bool": 1, "uint8": 1}.get(dtype, 4)


def _trace(network: Any, inputs: Any, steps: list[_Step]) -> Any:
    """Add the steps of a network to a list, models within it taken apart; returns the symbols of what it gives."""

    def choose(operation: Any) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            outputs = operation.compute_output_spec(*args, **kwargs)
            is_told = "training" in inspect.signature(operation.call).parameters
            steps.append(_Step(operation, operation.name, args, kwargs, keras.tree.flatten(outputs), is_told))
            return outputs

        return (lambda given, **_: _trace(operation, given, steps)) if _is_functional(operation) else record

    def convert(spec: Any, dtype: str) -> Any:
        if spec.dtype == dtype:
            return spec
        converted = keras.KerasTensor(spec.shape, dtype=dtype)
        steps.append(_Step(partial(keras.ops.cast, dtype=dtype), "cast", (spec,), {}, [converted]))
        return converted

    given = zip(keras.tree.flatten(inputs), network.inputs, strict=True)
    # The one door to a graph that adds nothing to it: to call its layers on symbols would.
    return network._run_through_graph([convert(spec, tensor.dtype) for spec, tensor in given], choose)


def _choose_ends(steps: Sequence[_Step], needed: set[int]) -> list[int]:
    """Numbers of steps after which segments end, the last of which is all: those that hold the least memory at once.

    While the backward pass is in a segment it holds what is kept of those before it, all values of the segment, and the
    gradients on either side of one operation.
    """
    count = len(steps)
    sizes = np.array([step.size for step in steps], float)
    before = np.cumsum([0, *sizes])
    stateful = np.cumsum([0, *(step.is_stateful for step in steps)])
    last = _find_last_uses(steps, needed)
    # Of a segment from step `a` up to step `b`: what it holds, and what is kept of it.
    held, kept = np.full((count, count + 1), np.inf), np.zeros((count + 1, count + 1))
    for a in reversed(range(count)):
        b = np.arange(a + 1, count + 1)
        values = before[b] - before[a] + 2 * np.maximum.accumulate(sizes[a:])
        held[a, b] = np.where((stateful[b] == stateful[a]) | (b == a + 1), values, np.inf)
        kept[a, b] = kept[a + 1, b] + np.where(last[a] >= b, sizes[a], 0)

    def split(most: float) -> list[int] | None:
        """Ends of the segments that never hold more, and keep the least; None where there are none."""
        least, begins = np.zeros(count + 1), np.zeros(count + 1, int)
        for b in range(1, count + 1):
            found = np.where(least[:b] + held[:b, b] <= most, least[:b] + kept[:b, b], np.inf)
            begins[b] = found.argmin()
            least[b] = found[begins[b]]
        if not np.isfinite(least[count]):
            return None
        ends = [count]
        while begins[ends[-1]]:
            ends.append(int(begins[ends[-1]]))
        return ends[::-1]

    low, high = 0.0, 3.0 * sum(sizes)
    ends = split(high) or [count]
    while high - low > _EXACT * high:
        middle = (low + high) / 2
        found = split(middle)
        low, high, ends = (middle, high, ends) if found is None else (low, middle, found)
    return ends


def _find_last_uses(steps: Sequence[_Step], needed: set[int]) -> list[int]:
    """Of each step the number of the last one that takes what it gives; that of none where the caller takes it."""
    takers = {key: number for number, step in enumerate(steps) for key in step.takes}
    takers |= dict.fromkeys(needed, len(steps))
    return [max(takers.get(id(spec), number) for spec in step.outputs) for number, step in enumerate(steps)]
