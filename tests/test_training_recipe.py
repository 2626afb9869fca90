"""Recipes: what a file says becomes a model and data; what is wrong with it is said, all of it, each with its key."""

import dataclasses
import re

import keras
import numpy as np
import pytest
import yaml

from keramorph.errors import FileError, OptionError
from keramorph.io import write_image
from keramorph.losses import MSE, Bending
from keramorph.networks import VoxelMorph
from keramorph.preparation import PairOptions
from keramorph.space import Grid, Image
from keramorph.training import DataSource, Fit, Recipe, RegistrationOptions, Synthesis, read_recipe, read_synthesis
from keramorph.training.parts import build_part
from keramorph.training.recipe import PARTS
from keramorph.training.recipe_example import format_example
from keramorph.training.run import build_model, format_recipe, make_optimizer
from keramorph.training.sources import BatchesOf, make_learning, make_validation

GOOD = """
network: {class: VoxelMorph, encoder: [4], decoder: [4], final: [4]}
preparation: {shape: [8, 8]}
data: {folder: images}
"""


def read(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path)


def merge(**sections):
    return yaml.safe_dump({**yaml.safe_load(GOOD), **sections})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (merge(training={"epoch": 3}), ["training.epoch:", "did you mean epochs?"]),
        (merge(trainig={}), ["trainig:", "did you mean training?"]),
        (merge(data={"synthesis": {"shape": 3}}), ["data.synthesis.shape:", "did you mean shapes?"]),
        (merge(training={"epochs": 1.5}), ["training.epochs:", "integer", "Received: 1.5"]),
        (merge(training={"epochs": 0}), ["training:", "at least 1", "epochs=0"]),
        (merge(training={"schedule": "linear"}), ["training.schedule:", "'constant' or 'cosine'", "'linear'"]),
        (merge(training={"ema": 1.0}), ["ema", "between 0 and 1"]),
        (merge(training={"learning_rate": 0}), ["learning_rate", "more than 0"]),
        (merge(network="VoxelMorf"), ["network:", "did you mean VoxelMorph?"]),
        (merge(network={"encoder": [4]}), ["network:", "expected a `class`", "LapIRN"]),
        (merge(network={"class": "VoxelMorph", "encodr": [4]}), ["network.encodr:", "did you mean encoder?"]),
        (merge(network={"class": "VoxelMorph", "mode": "velo"}), ["network.mode:", "'velocity'", "'velo'"]),
        (merge(similarity="Diffusion"), ["similarity:", "Diffusion", "LNCC"]),
        (merge(similarity={"class": "LNCC", "size": "big"}), ["similarity.size:", "number", "'big'"]),
        (merge(training={"optimizer": {"class": "Adam", "use_ema": True}}), ["optimizer.use_ema:", "another key"]),
        (merge(options={"labels": -1}), ["options:", "0 or more", "labels=-1.0"]),
        (merge(preparation={"shape": [0, 8]}), ["preparation:", "at least 1"]),
        (merge(preparation={"shape": [8, 8], "spacing": "a"}), ["preparation.spacing:", "number", "'a'"]),
        (merge(preparation={}), ["preparation.shape:", "missing"]),
        (merge(data={}), ["data:", "folder, table, bids, synthesis", "none of them"]),
        (merge(data={"table": "a.csv", "labels": "b"}), ["data:", "`labels` belong to a `folder`"]),
        (merge(data={"synthesis": {}, "align": "rigid"}), ["data:", "Received: `align` with `synthesis`"]),
        (merge(data={"folder": "a", "align": "bent"}), ["data.align", "rigid"]),
        (merge(data={"folder": "a", "table": "b"}), ["data:", "folder and table"]),
        (
            merge(data={"synthesis": {"image": {"effects": [{"class": "RandomBlur", "sigm": 1}]}}}),
            ["data.synthesis.image.effects.sigm:", "did you mean sigma?"],
        ),
        (merge(data={"synthesis": {"image": {"num_labels": 3}}}), ["image.num_labels:", "another key"]),
        (merge(model="x.keras"), ["network", "model", "both"]),
        ("data: {folder: a}\npreparation: {shape: [8, 8]}", ["network", "model", "neither"]),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_what_was_expected(tmp_path, text, words):
    with pytest.raises(OptionError) as problem:
        read(tmp_path, text)
    assert all(word in str(problem.value) for word in words), problem.value


def test_all_wrong_keys_are_named_at_once(tmp_path):
    sections = {"training": {"epoch": 3, "batch_size": "x"}, "similarity": "LNC", "options": {"scales": 2}}
    with pytest.raises(OptionError) as problem:
        read(tmp_path, merge(**sections))
    lines = str(problem.value).splitlines()
    for key in ("training.epoch:", "training.batch_size:", "similarity:", "options.scales:"):
        assert sum(key in line for line in lines) == 1


@pytest.mark.parametrize(("text", "word"), [("- 1", "names and values"), ("a: [", "YAML")])
def test_what_is_no_recipe_is_refused(tmp_path, text, word):
    with pytest.raises(FileError, match=word):
        read(tmp_path, text)
    with pytest.raises(FileError, match="no-file"):
        read_recipe(tmp_path / "no-file.yaml")


def test_the_example_is_a_recipe_and_has_each_key(tmp_path):
    text = format_example()
    recipe = read(tmp_path, text)
    assert recipe.options.labels == 0.5
    for section in (Recipe, DataSource, Synthesis, Fit, PairOptions, RegistrationOptions):
        for field in dataclasses.fields(section):
            assert re.search(rf"^ *(# )?{field.name}:", text, re.MULTILINE), field.name


def test_paths_count_from_the_folder_of_the_recipe(tmp_path):
    recipe = read(tmp_path, merge(data={"folder": "images", "labels": "../maps", "cache": str(tmp_path / "c")}))
    assert recipe.data.folder == str(tmp_path / "images")
    assert recipe.data.labels == str(tmp_path / "../maps")
    assert recipe.data.cache == str(tmp_path / "c")


def test_a_written_recipe_is_read_as_the_same(tmp_path):
    given = merge(training={"learning_rate": 0.5, "ema": 0.9}, options={"scales": [1, 2]}, similarity=None)
    recipe = read(tmp_path, given)
    assert recipe.similarity is None
    assert read(tmp_path, format_recipe(recipe)) == recipe


@pytest.mark.parametrize(("word", "number"), [("1e-4", 1e-4), ("2E3", 2000.0), ("3.5e-1", 0.35), (".5", 0.5)])
def test_numbers_are_numbers_however_they_are_written(tmp_path, word, number):
    """YAML 1.1 takes 1e-4 for a text."""
    assert read(tmp_path, f"{GOOD}\ntraining: {{learning_rate: {word}}}").training.learning_rate == number


def test_parts_become_objects_with_their_arguments(tmp_path):
    text = merge(
        data={"synthesis": {}}, similarity={"class": "MSE"}, regularity={"class": "Bending", "spacing": [1.0, 2.0]}
    )
    model = build_model(read(tmp_path, text))
    assert isinstance(model.network, VoxelMorph)
    assert tuple(model.network.inputs[0].shape) == (None, 8, 8, 1)
    assert list(model.network.get_config()["encoder"]) == [4]
    assert isinstance(model.similarity, MSE)
    assert isinstance(model.regularity, Bending)
    assert tuple(model.regularity.spacing) == (1.0, 2.0)
    assert model.preparation == PairOptions((8, 8))


def test_a_part_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(OptionError, match="network: VoxelMorph expects"):
        build_model(read(tmp_path, merge(data={"synthesis": {}}, network={"class": "VoxelMorph", "encoder": [0]})))


def test_networks_within_a_network_are_parts_too():
    small = {"class": "VoxelMorph", "input_shape": [None, None, 1], "encoder": [4], "decoder": [4], "final": [4]}
    network = build_part(
        {"class": "Cascade", "networks": [small, {**small, "final": [5]}]},
        PARTS["network"],
        where="network",
        implied={"input_shape": (8, 8, 1), "dtype": "float32"},
    )
    finals = [one["config"]["final"] for one in network.get_config()["networks"]]
    assert [list(final) for final in finals] == [[4], [5]]


def test_optimizers_get_what_the_training_says():
    optimizer = make_optimizer(
        Fit(epochs=4, optimizer={"class": "AdamW", "weight_decay": 0.1}, learning_rate=0.1, schedule="cosine",
            ema=0.9, accumulate=2), steps=10,
    )  # fmt: skip
    assert isinstance(optimizer, keras.optimizers.AdamW)
    config = optimizer.get_config()
    assert config["weight_decay"] == 0.1
    assert (config["use_ema"], config["ema_momentum"], config["gradient_accumulation_steps"]) == (True, 0.9, 2)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 10, 20)]
    # Half a cosine over 4 epochs of 10 batches, two of which make a step.
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.0], atol=1e-8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Four images, three of them named as scans, with a label map each."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    for kind in ("images", "maps"):
        (folder / kind).mkdir()
    for name in ("one_T1w", "two_T1w", "three_T1w", "four_T2w"):
        grid = Grid.from_spacing((8, 8), 1.0)
        write_image(Image(generator.random((8, 8, 1)).astype("float32"), grid), folder / f"images/{name}.nii.gz")
        write_image(Image(generator.integers(0, 3, (8, 8, 1)).astype("uint8"), grid), folder / f"maps/{name}.nii.gz")
    return folder


def test_pairs_of_a_folder_follow_the_pattern_and_the_steps(files):
    source = DataSource(folder=str(files / "images"), pattern="*_T1w.nii.gz", labels=str(files / "maps"))
    options = PairOptions((8, 8), labels=(1, 2))
    whole = make_learning(source, options, Fit(batch_size=2))
    assert len(whole) == 3
    assert whole[0]["fixed_labels"].shape == (2, 8, 8, 2)
    some = make_learning(source, options, Fit(batch_size=2, steps=2))
    some.epoch = 3
    whole.epoch = 3
    assert (len(some), some.epoch) == (2, 3)
    np.testing.assert_array_equal(some[1]["fixed"], whole[1]["fixed"])
    some.on_epoch_end()
    assert some.dataset.epoch == 4
    aligned = dataclasses.replace(source, align="rigid")
    assert whole.align is None
    assert None not in [make(aligned, options, Fit()).align for make in (make_learning, make_validation)]


@pytest.mark.usefixtures("compile_quickly")
def test_synthetic_validation_stays_the_same_and_is_not_learned_from():
    synthesis = Synthesis(num_labels=3, image={"effects": []}, shapes={"scales": [4.0]}, deformation={"scales": [4.0]})
    source, options = DataSource(synthesis=synthesis), PairOptions((8, 8))
    validation = make_validation(source, options, Fit())
    assert isinstance(validation, BatchesOf)
    first = validation[0][0]
    validation.on_epoch_end()
    np.testing.assert_array_equal(validation[0][0]["fixed"], first["fixed"])
    learning = make_learning(source, options, Fit())
    assert (len(learning), first["fixed_labels"].shape) == (100, (1, 8, 8, 3))
    assert np.abs(learning[0][0]["fixed"] - first["fixed"]).max() > 0.1


@pytest.mark.usefixtures("compile_quickly")
def test_label_maps_take_the_place_of_shapes(files):
    source = DataSource(synthesis=Synthesis(maps=str(files / "maps"), image={"effects": []}, scored=(1, 2)))
    learning = make_learning(source, PairOptions((8, 8), labels=(1, 2)), Fit())
    assert learning.labels.shape == (4, 8, 8, 1)
    assert learning[0][0]["fixed_labels"].shape == (1, 8, 8, 2)
    with pytest.raises(OptionError, match=r"preparation\.labels"):
        make_learning(source, PairOptions((8, 8)), Fit())


def test_synthesis_is_read_with_and_without_the_rest_of_a_recipe(tmp_path):
    path = tmp_path / "shapes.yaml"
    path.write_text("synthesis: {num_labels: 5}")
    assert read_synthesis(path) == (Synthesis(num_labels=5), None)
    path.write_text("data: {synthesis: {num_labels: 5}}\npreparation: {shape: [8, 9]}\nnetwork: LapIRN")
    assert read_synthesis(path) == (Synthesis(num_labels=5), PairOptions((8, 9)))
    path.write_text("synthesis: {num_label: 5}")
    with pytest.raises(OptionError, match="did you mean num_labels"):
        read_synthesis(path)
    path.write_text("data: {folder: x}")
    with pytest.raises(OptionError, match="section `synthesis`"):
        read_synthesis(path)
