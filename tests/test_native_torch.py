"""PyTorch with the comparison of two images: which operation runs when, and inside which of PyTorch's machinery."""

import numpy as np
import pytest

from keramorph import backend
from keramorph.backend import native
from plain_measures import MEASURES

COMPARISON, FORMULA = MEASURES["ncc"]
VALUE, BOTH = "keramorph::compare", "keramorph::compare_with_derivative"


@pytest.fixture(autouse=True)
def _torch_with_kernels(engine_name):
    if engine_name != "torch" or native.extension() is None:
        pytest.skip("PyTorch's kernels")


def formula(fixed, moved):
    return FORMULA(backend.use("torch").xp, fixed, moved)


def compare(fixed, moved):
    return backend.use("torch").compare(fixed, moved, COMPARISON, portably=formula)


def case(shape=(9, 8), dtype="float32"):
    import torch

    rng = np.random.default_rng(0)
    fixed = rng.normal(size=(2, *shape, 3))
    return [torch.as_tensor(a.astype(dtype)) for a in (fixed, 0.6 * fixed + rng.normal(size=fixed.shape))]


def list_operations(function):
    import torch

    with torch.profiler.profile() as profile:
        function()
    return sorted(name for event in profile.key_averages() for name in [event.key] * event.count if "::compare" in name)


def test_each_gradient_costs_one_operation_and_none_costs_the_value_alone():
    import torch

    fixed, moved = case()
    wanted = [a.clone().requires_grad_() for a in (fixed, moved)]
    assert list_operations(lambda: compare(fixed, moved)) == [VALUE]
    with torch.no_grad():
        assert list_operations(lambda: compare(*wanted)) == [VALUE]
    assert list_operations(lambda: compare(fixed, wanted[1]).sum().backward()) == [BOTH]
    assert list_operations(lambda: compare(wanted[0], moved).sum().backward()) == [BOTH]
    assert list_operations(lambda: compare(*wanted).sum().backward()) == [BOTH, BOTH]


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_keeps_one_graph_with_the_operation_in_it(dynamic):
    import torch

    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(compare, fullgraph=True, backend=record, dynamic=dynamic)
    for shape in ((9, 8), (7, 10)):
        fixed, moved = case(shape)
        moved.requires_grad_()
        found, expected = compiled(fixed, moved), formula(fixed, moved)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        weight = torch.tensor([1.0, -3.0])
        one, other = (torch.autograd.grad((x * weight).sum(), moved)[0] for x in (found, expected))
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-4)
    assert len(graphs) == (1 if dynamic else 2)
    for graph in graphs:
        assert [str(node.target) for node in graph.graph.nodes].count("keramorph.compare_with_derivative.default") == 1


def test_function_transforms_fold_into_the_batch():
    import torch

    fixed, moved = case()
    one = lambda f, m: compare(f[None], m[None])[0]  # noqa: E731
    torch.testing.assert_close(torch.func.vmap(one)(fixed, moved), formula(fixed, moved), atol=1e-6, rtol=1e-5)
    shared = torch.func.vmap(one, in_dims=(None, 0))(fixed[0], moved)
    torch.testing.assert_close(shared, formula(fixed[:1].expand(2, -1, -1, -1), moved), atol=1e-6, rtol=1e-5)
    for which in (0, 1):
        expected = torch.func.grad(lambda *pair: formula(*pair).sum(), which)(fixed, moved)
        for found in (
            torch.func.vmap(torch.func.grad(one, which))(fixed, moved),
            torch.func.grad(lambda *pair: compare(*pair).sum(), which)(fixed, moved),
        ):
            torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


def test_gradients_and_second_gradients_pass_pytorchs_own_check():
    import torch

    fixed, moved = (a.requires_grad_() for a in case((4, 3), "float64"))
    assert torch.autograd.gradcheck(compare, (fixed, moved), atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(compare, (fixed, moved), atol=1e-6, rtol=1e-5)


def test_tensors_may_lie_in_any_way():
    import torch

    fixed, moved = case()
    turned = [a.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0) for a in (fixed, moved)]
    torch.testing.assert_close(compare(*turned), compare(fixed, moved), atol=0, rtol=0)


def test_an_exported_program_holds_the_formula():
    import torch

    class Model(torch.nn.Module):
        def forward(self, fixed, moved):
            return compare(fixed, moved)

    pair = case()
    exported = torch.export.export(Model(), tuple(pair))
    assert not any("keramorph" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(*pair), formula(*pair))
