"""Every network in a size that tests can afford, images for them, and what makes an untrained one move something."""

import keras
import numpy as np
import pytest

from keramorph.networks import (
    AffineNetwork,
    Cascade,
    ConditionalAtlas,
    ConditionalVoxelMorph,
    DualStream,
    JointNetwork,
    LapIRN,
    TransMorph,
    VoxelMorph,
)

SAME_ON_ALL = pytest.mark.skipif(
    keras.config.backend() == "jax", reason="the same on all backends, and JAX compiles the drawing of each kernel"
)
"""Of tests that only build: seconds a network on JAX."""

WIDTHS = {"encoder": (4, 4), "decoder": (4, 4), "final": (4,)}


def make_cascade(shape, **options):
    """One network twice, at half the resolution first."""
    network = VoxelMorph((*(None for _ in shape[:-1]), shape[-1]), **WIDTHS, **options)
    return Cascade(shape, networks=[network, network], factors=(2, 1))


def make_joint(shape, **options):
    affine = AffineNetwork(shape, points=5, encoder=(4, 4), **options)
    return JointNetwork(shape, affine=affine, deformable=VoxelMorph(shape, **WIDTHS, **options))


MAKE = {
    "affine": lambda shape, **options: AffineNetwork(shape, points=5, encoder=(4, 4), **options),
    "cascade": make_cascade,
    "conditional": lambda shape, **options: ConditionalVoxelMorph(shape, **WIDTHS, **options),
    "dual": lambda shape, **options: DualStream(shape, encoder=(4, 4), decoder=(4, 4), **options),
    "joint": make_joint,
    "lapirn": lambda shape, **options: LapIRN(
        shape, levels=2, filters=4, blocks=1, mode="velocity", steps=2, **options
    ),
    "transmorph": lambda shape, **options: TransMorph(
        shape, width=4, depths=(2, 1), heads=(2, 2), window=2, final=4, **options
    ),
}
"""Networks from a shape and the options of the Keras model: those that any size of image goes through."""


def make_atlas(shape, **options):
    network = VoxelMorph(shape, mode="velocity", steps=2, **WIDTHS, **options)
    return ConditionalAtlas(shape, attributes=2, decoder=(4, 4), network=network, **options)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype="float32")


def draw_inputs(network, *sizes, batch=1, seed=0):
    """Arrays for each input of a network, images of these sizes."""
    shapes = [(batch, *(sizes if len(x.shape) > 2 else ()), x.shape[-1]) for x in network.inputs]
    return [draw(*shape, seed=seed + index) for index, shape in enumerate(shapes)]


def list_layers(network):
    """Layers of a network and of the networks inside it."""
    nested = [list_layers(layer) if isinstance(layer, keras.Model) else [layer] for layer in network.layers]
    return [layer for layers in nested for layer in layers]


def stir(network, *, amount=0.05, seed=0):
    """The network with its near-zero kernels blown up, so that it moves something."""
    generator = np.random.default_rng(seed)
    network.set_weights(
        [
            amount * generator.standard_normal(w.shape).astype(w.dtype) if w.ndim > 1 and np.abs(w).max() < 1e-3 else w
            for w in network.get_weights()
        ]
    )
    return network


def set_head(network, name, values):
    """Let a head predict the same vector everywhere."""
    head = network.get_layer(name)
    head.set_weights([np.zeros_like(head.get_weights()[0]), np.asarray(values, "float32")])


def call(network, inputs):
    """Outputs as NumPy arrays; of the network compiled as a whole on JAX, which else compiles each step by itself."""
    if keras.config.backend() == "jax":
        return network.predict_on_batch(inputs)
    return keras.tree.map_structure(to_numpy, network(inputs))


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)
