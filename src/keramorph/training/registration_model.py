"""The Keras model that trains a network to register."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from keramorph import ops as deformation
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import InputError, OptionError, ShapeError
from keramorph.losses.images import promote
from keramorph.metrics.folding import FoldingShare
from keramorph.metrics.overlap import Dice
from keramorph.networks.rematerialization import Rematerialized
from keramorph.preparation import PairOptions
from keramorph.training import terms
from keramorph.training.registration_options import RegistrationOptions

ops = keras.ops

_OTHER_WAY = {
    f"{a}{kind}": f"{b}{kind}"
    for a, b in (("fixed", "moving"), ("moving", "fixed"))
    for kind in ("", "_labels", "_landmarks")
}
_DATA_TERMS = ("similarity", "labels", "landmarks")
_PARTS = ("network", "similarity", "regularity", "options", "preparation")

# Here, where Keras is at hand: what prepares images needs no framework.
keras.saving.register_keras_serializable(package="keramorph")(PairOptions)


@keras.saving.register_keras_serializable(package="keramorph")
class _FoldsPercent(FoldingShare):
    """The share of folded voxels, in percent."""

    def result(self) -> Array:
        """Percentage over the samples so far."""
        return 100.0 * super().result()


class _Average(keras.losses.Loss):
    """The mean of `y_pred`, by Keras' own reduction: under `tf.distribute` it knows how many devices add up."""

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """The values as they are."""
        return y_pred


@keras.saving.register_keras_serializable(package="keramorph")
class RegistrationModel(keras.Model):
    """Model that trains a network which takes two images and returns the displacement between them.

    `compile` takes an optimizer and no loss: the model has its own. `fit` and `evaluate` take batches that are one
    dictionary, without targets: `fixed` and `moving` `(batch, *spatial, channels)`; where an option asks for them, or
    to be scored, `fixed_labels` and `moving_labels` `(batch, *spatial, labels)`, one-hot, or maps of integers with
    `num_labels`, and `fixed_landmarks` and `moving_landmarks` `(batch, points, ndim)` in voxels, NaN where one is
    missing. Other entries are ignored. `predict` takes `{"fixed": ..., "moving": ...}` or `[fixed, moving]`, and
    returns what the network does.

    The logs hold `loss` and each term by itself, unweighted and averaged over the samples. `evaluate`, and `fit` for
    its `validation_data`, adds `folds_percent`, `dice` where there are labels, and `tre` where there are landmarks,
    their mean distance in voxels, or in millimetres with a spacing.

    A network with a third input named `smoothness`, `(batch, 1)` in [0, 1], serves every regularisation: similarity,
    labels and landmarks weigh 1 minus the smoothness, and the regularity weighs the smoothness times its own weight.
    Where a batch has no entry `smoothness` it is drawn anew for each sample in training, and 0.5 otherwise; outputs
    repeat it.

    Args:
        network: Keras model, called with `[fixed, moving]`, or with a dictionary if its inputs are named so. It returns
            a dictionary with the `displacement` `(batch, *spatial, ndim)` in voxels, and with the image `moved` unless
            that is to be made here.
        similarity: Keras loss of (fixed, moved), `keramorph.losses.LNCC()` for one; None learns from labels or
            landmarks alone. Its values are averaged over the samples whatever its reduction.
        regularity: Keras loss whose `y_pred` is the displacement, `keramorph.losses.Diffusion()` for one.
        options: Weights of the terms, and further ones; None for `RegistrationOptions()`.
        atlas: One fixed image for all, `(*spatial, channels)`, which takes the place of `fixed`: it is kept with the
            weights, but not trained. Its labels and landmarks come with each batch.
        preparation: Grid of the images that the network is trained on, which its file then tells: at this spacing
            `keramorph.prediction.Predictor` shows it others.
        **kwargs: `name` and `dtype` of the Keras model. With the policy `"mixed_float16"` the loss is scaled.

    Raises:
        InputError: If a batch has not the entries that a term needs.
        OptionError: If there is nothing to learn from, or the network cannot be rematerialized.
        ShapeError: If the atlas is not an image, or a scale is larger than an image.

    Example:
        >>> from keramorph.losses import NCC, Diffusion
        >>> from keramorph.networks import VoxelMorph
        >>> network = VoxelMorph((16, 16, 1), encoder=(4,), decoder=(4,), final=(4,))
        >>> model = RegistrationModel(network, NCC(), Diffusion())
        >>> model.compile("adam")
        >>> pair = np.random.default_rng(0).random((2, 4, 16, 16, 1), dtype="float32")
        >>> logs = model.evaluate({"fixed": pair[0], "moving": pair[1]}, verbose=0, return_dict=True)
        >>> sorted(logs)
        ['folds_percent', 'loss', 'regularity', 'similarity']

    References:
        Balakrishnan, Zhao, Sabuncu, Guttag and Dalca, "VoxelMorph: A Learning Framework for Deformable Medical Image
        Registration", 2019, doi:10.1109/TMI.2019.2897538 (unsupervised, with labels, to an atlas). Hoopes, Hoffmann,
        Fischl, Guttag and Dalca, "HyperMorph: Amortized Hyperparameter Learning for Image Registration", 2021,
        doi:10.1007/978-3-030-78191-0_1 (smoothness as an input).
    """

    def __init__(
        self,
        network: Any,
        similarity: Any,
        regularity: Any,
        *,
        options: RegistrationOptions | None = None,
        atlas: Array | None = None,
        preparation: PairOptions | None = None,
        **kwargs: Any,
    ) -> None:
        # Casting is the network's affair: labels, landmarks and images lose digits here that they need later.
        super().__init__(autocast=False, **kwargs)
        self.network = network
        self.similarity = similarity
        self.regularity = regularity
        self.options = RegistrationOptions() if options is None else options
        self.preparation = preparation
        self.atlas = None if atlas is None else self._keep(np.asarray(atlas))
        self._rematerialized = Rematerialized(network) if self.options.rematerialize else None
        self.takes = tuple(tensor.name for tensor in getattr(network, "inputs", None) or ())
        self.seed_generator = keras.random.SeedGenerator() if "smoothness" in self.takes else None
        names = (*(["similarity"] if similarity is not None else []), *self.options.terms)
        if not names:
            raise OptionError(
                "A model learns from the similarity, or from a term that has a weight. Received: "
                f"similarity=None, options={self.options}. Give RegistrationOptions(labels=1.0) for one."
            )
        self.term_metrics = {name: keras.metrics.Mean(name=name) for name in names}
        self.scores = {
            "folds_percent": _FoldsPercent(name="folds_percent"),
            "dice": Dice(),
            "tre": keras.metrics.Mean("tre"),
        }
        self._scoring = False
        if {"fixed", "moving"} <= set(self.takes):
            self.build({tensor.name: tuple(tensor.shape) for tensor in network.inputs})

    def build(self, input_shape: Any) -> None:
        """Nothing of its own to build: the network has its weights, or gets them when it is called.

        Args:
            input_shape: Shapes by the names of the inputs.
        """
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Array]:
        """Return what the network does, and the smoothness if it takes that.

        Args:
            inputs: `{"fixed": ..., "moving": ...}` or `[fixed, moving]`; `moving` alone may do with an atlas.
            training: Whether a smoothness that is not given is drawn.
        """
        x = self._read(inputs)
        smoothness = self._choose_smoothness(x, training)
        return self._run(x["fixed"], x["moving"], smoothness, training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Array | None = None,
        training: bool = True,
    ) -> Array:
        """Return the mean over the samples of the weighted terms, and update their metrics; Keras calls it.

        Args:
            x: A batch, as for `fit`.
            y: Ignored.
            y_pred: What `call` returned.
            sample_weight: Weights `(batch,)` of the samples.
            training: Whether nothing is scored.
        """
        x = self._read(x)
        # Read now: calling the network again, the other way round, may add to them.
        extra = [ops.sum(loss) for loss in self.losses]
        found = self._measure_terms(x, y_pred, training)
        weights = ops.ones_like(next(iter(found.values())))
        if sample_weight is not None:
            weights = weights * ops.reshape(ops.cast(sample_weight, weights.dtype), (-1,))
        total = ops.zeros_like(weights)
        for name, values in found.items():
            self.term_metrics[name].update_state(ops.stop_gradient(values), sample_weight=weights)
            total = total + self._weigh(name, y_pred) * values
        self._scoring = not training
        if not training:
            self._score(x, y_pred, weights)
        total = weights * total + sum(extra)
        return _Average(name="average", dtype=total.dtype)(total, total)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Array | None = None) -> dict[str, Array]:
        """Return the loss, the terms, and in evaluation the scores for which a batch has what they need.

        Args:
            x: A batch, as for `fit`.
            y: Ignored.
            y_pred: What `call` returned.
            sample_weight: Ignored: the metrics are up to date.
        """
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        scored = self._list_scores(x) if self._scoring else ()
        return {name: value for name, value in results.items() if name not in self.scores or name in scored}

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the model again; of an atlas it holds the shape."""
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in _PARTS}
        shape = None if self.atlas is None else tuple(self.atlas.shape[1:])
        return {**super().get_config(), **parts, "atlas": shape}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RegistrationModel:
        """Return the model of a configuration; the values of an atlas come with the weights.

        Args:
            config: What `get_config` returned.
            custom_objects: Classes by name that are not registered.
        """
        config = {"preparation": None, **config}
        parts = {
            name: keras.saving.deserialize_keras_object(config.pop(name), custom_objects=custom_objects)
            for name in _PARTS
        }
        shape = config.pop("atlas")
        return cls(**parts, atlas=None if shape is None else np.zeros(shape, "float32"), **config)

    def _keep(self, atlas: np.ndarray) -> Any:
        """Weight `(1, *spatial, channels)` that holds the atlas."""
        if not 2 <= atlas.ndim <= 4:
            raise ShapeError(
                "An atlas is one image (*spatial, channels), without a batch axis. Received: "
                f"atlas.shape={atlas.shape}. Add the channel axis with `[..., None]` where there is none."
            )
        weight = self.add_weight(
            shape=(1, *atlas.shape), initializer="zeros", trainable=False, autocast=False, dtype="float32", name="atlas"
        )
        weight.assign(atlas[None].astype("float32"))
        return weight

    def _read(self, inputs: Any) -> dict[str, Array]:
        """Entries of a batch by name, the fixed image among them."""
        named = inputs if isinstance(inputs, dict) else dict(zip(("fixed", "moving"), inputs, strict=False))
        # JAX hands NumPy arrays over as they are, and Keras refuses them beside an atlas, which is a tensor.
        x = {name: ops.convert_to_tensor(value) for name, value in named.items()}
        if self.atlas is not None and "moving" in x:
            x["fixed"] = ops.broadcast_to(self.atlas, (ops.shape(x["moving"])[0], *self.atlas.shape[1:]))
        self._require(x, "", "an image to register")
        return x

    def _require(self, x: dict[str, Array], kind: str, purpose: str) -> None:
        """Raise unless a batch has what a term compares."""
        if not {f"fixed{kind}", f"moving{kind}"} <= set(x):
            raise InputError(
                f"A batch needs the entries 'fixed{kind}' and 'moving{kind}', {purpose}. Received: entries "
                f"{sorted(x)}. Add them to the dictionaries of the dataset{', or set the weight to 0' if kind else ''}."
            )

    def _choose_smoothness(self, x: dict[str, Array], training: bool | None) -> Array | None:
        if self.seed_generator is None:
            return None
        if "smoothness" in x:
            return ops.cast(x["smoothness"], "float32")
        shape = (ops.shape(x["moving"])[0], 1)
        if training:
            return keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        return ops.full(shape, 0.5, dtype="float32")

    def _run(self, fixed: Array, moving: Array, smoothness: Array | None, training: bool | None) -> dict[str, Array]:
        """What the network returns, with the moved image and the smoothness."""
        given = {"fixed": fixed, "moving": moving, "smoothness": smoothness}
        named = {"fixed", "moving"} <= set(self.takes)
        inputs = {name: given[name] for name in self.takes} if named else [fixed, moving]
        network = self._rematerialized if training and self._rematerialized else self.network
        informed = "training" in inspect.signature(getattr(network, "call", network)).parameters
        outputs = network(inputs, training=training) if informed else network(inputs)
        if not isinstance(outputs, dict) or "displacement" not in outputs:
            raise InputError(
                "A network returns a dictionary with the 'displacement'. Received: "
                f"{sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__} of {self.network.name}. "
                "Build it with keras.Model(inputs, {'displacement': ..., 'moved': ...})."
            )
        moved = {} if "moved" in outputs else {"moved": deformation.warp(promote(moving), outputs["displacement"])}
        return {**outputs, **moved, **({} if smoothness is None else {"smoothness": smoothness})}

    def _measure_terms(self, x: dict[str, Array], outputs: dict[str, Array], training: bool) -> dict[str, Array]:
        """Each term of the loss, `(batch,)` and unweighted."""
        found = self._measure_way(x, outputs)
        if not self.options.needs_inverse:
            return found
        back = {_OTHER_WAY.get(name, name): value for name, value in x.items()}
        backward = self._run(back["fixed"], back["moving"], outputs.get("smoothness"), training)
        if self.options.bidirectional:
            found = {name: (values + found[name]) / 2 for name, values in self._measure_way(back, backward).items()}
        composed = deformation.compose(*(promote(one["displacement"]) for one in (outputs, backward)))
        if self.options.inverse_consistency:
            found["inverse_consistency"] = terms.measure_consistency(composed)
        if self.options.gradicon:
            found["gradicon"] = terms.measure_gradicon(composed)
        return found

    def _measure_way(self, x: dict[str, Array], outputs: dict[str, Array]) -> dict[str, Array]:
        """Terms of one way: of a fixed and a moving image, and the displacement between them."""
        options, displacement, found = self.options, outputs["displacement"], {}
        if self.similarity is not None:
            found["similarity"] = terms.measure_similarity(
                self.similarity, x["fixed"], outputs["moved"], options.scales
            )
        if options.regularity:
            found["regularity"] = terms.measure_loss(self.regularity, ops.zeros_like(displacement), displacement)
        if options.labels:
            self._require(x, "_labels", "whose overlap has a weight")
            found["labels"] = terms.measure_labels(*self._move_labels(x, displacement))
        if options.landmarks:
            self._require(x, "_landmarks", "whose distance has a weight")
            found["landmarks"] = terms.measure_landmarks(displacement, x, options.spacing)
        return found

    def _move_labels(self, x: dict[str, Array], displacement: Array) -> tuple[Array, Array]:
        """Fixed and moved labels, a channel each."""
        fixed, moving = (
            terms.encode_labels(x[f"{name}_labels"], self.options.num_labels) for name in ("fixed", "moving")
        )
        return fixed, deformation.warp(moving, displacement)

    def _weigh(self, name: str, outputs: dict[str, Array]) -> Any:
        """Weight of a term, a number or `(batch,)` of them."""
        weight = 1.0 if name == "similarity" else getattr(self.options, name)
        if "smoothness" not in outputs or name not in (*_DATA_TERMS, "regularity"):
            return weight
        smoothness = ops.reshape(outputs["smoothness"], (-1,))
        return weight * (smoothness if name == "regularity" else 1.0 - smoothness)

    def _score(self, x: dict[str, Array], outputs: dict[str, Array], weights: Array) -> None:
        """Update what `evaluate` adds."""
        displacement = outputs["displacement"]
        scored = self._list_scores(x)
        self.scores["folds_percent"].update_state(None, displacement, sample_weight=weights)
        if "dice" in scored:
            self.scores["dice"].update_state(*self._move_labels(x, displacement), sample_weight=weights)
        if "tre" in scored:
            distances, there = terms.measure_distances(displacement, x, self.options.spacing)
            self.scores["tre"].update_state(distances, sample_weight=there * weights[:, None])

    def _list_scores(self, x: Any) -> tuple[str, ...]:
        """Names of the scores for which a batch has what they need; an atlas of labels comes with each batch."""
        entries = set(x) if isinstance(x, dict) else set()
        needs = {"folds_percent": "", "dice": "_labels", "tre": "_landmarks"}
        return tuple(n for n, kind in needs.items() if not kind or {f"fixed{kind}", f"moving{kind}"} <= entries)
