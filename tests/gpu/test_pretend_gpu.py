"""The pretend GPU itself: what it refuses, what it counts, and that its numbers are the CPU's."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import seplib
from seplib import CP, FactorMLP, metrics
from seplib.reproduce import profiles

LIBRARY = Path(seplib.__file__).parent


def test_it_is_a_device_as_torch_knows_them(device):
    x = torch.zeros(2, 3, device="pretend")
    assert x.device == device == torch.zeros(2).to("pretend").device and x.cpu().device.type == "cpu"
    assert profiles.resolve_device("pretend").type == "pretend" and profiles.resolve_device("pretend:0") == device
    with pytest.raises(ValueError, match=r"device 'pretend:1' was asked for, but torch finds none here"):
        profiles.resolve_device("pretend:1")


def test_values_and_gradients_are_the_cpus(device):
    generator = torch.Generator().manual_seed(0)
    model = CP([FactorMLP(4, width=6, depth=3, generator=generator) for _ in range(2)])
    axes = [torch.linspace(-1, 1, n) for n in (5, 7)]
    there = copy.deepcopy(model).to(device)
    for network, where in ((model, axes), (there, [x.to(device) for x in axes])):
        network.grid(where).square().sum().backward()
    for p, q in zip(model.parameters(), there.parameters()):
        assert q.device == q.grad.device == device and torch.equal(p.grad, q.grad.cpu())


def test_tensors_of_two_devices_do_not_mix(device):
    x, host = torch.ones(3, 4, device=device), torch.ones(3, 4)
    index = torch.tensor([0, 2])
    for call in (
        lambda: x + host,
        lambda: host + x,
        lambda: host.add_(x),
        lambda: torch.tensor(1.0).add_(x.sum()),
        lambda: x @ host.mT,
        lambda: torch.cat([x, host]),
        lambda: torch.stack([x.sum(), host.sum()]),
        lambda: torch.where(host > 0, x, 0.0),
        lambda: x.index_add_(0, index, x[:2]),
        lambda: x.index_select(0, index),
        lambda: x.masked_fill(host > 0, 0.0),
        lambda: torch.bmm(x[None], x.mT[None], out=torch.empty(1, 3, 3)),
    ):
        with pytest.raises(RuntimeError, match=r"expected all tensors to be on the same device, .* pretend:0 and cpu"):
            call()


def test_what_cuda_lets_pass_passes(device):
    x = torch.arange(12.0, device=device).reshape(3, 4)
    assert (x + torch.tensor(1.0)).tolist() == (torch.tensor(1.0) + x).tolist()
    assert x[torch.tensor([2, 0])].tolist() == x[[2, 0]].tolist() == x.cpu()[[2, 0]].tolist()
    x[0] = torch.tensor(5.0)
    x[1], x[2:] = torch.zeros(4), x[:1] * 0
    assert x.tolist() == [[5.0] * 4, [0.0] * 4, [0.0] * 4]
    assert f"{x.sum():.1f}" == "20.0" and torch.equal(copy.deepcopy(x).cpu(), x.cpu())


def test_nothing_becomes_an_array_on_the_quiet(device):
    x = torch.ones(3, device=device)
    for call in (x.numpy, x.detach().numpy, lambda: np.asarray(x), lambda: np.array(list(x)), lambda: np.sqrt(x)):
        with pytest.raises(TypeError, match=r"can't convert pretend:0 device type tensor to numpy"):
            call()
    assert x.cpu().numpy().tolist() == [1, 1, 1]


def test_random_numbers_come_from_the_host(device):
    host = torch.Generator()
    with pytest.raises(RuntimeError, match="expected a generator of pretend, got one of the CPU"):
        torch.randn(3, device=device, generator=host)
    for call in (lambda: torch.rand(3, device=device), lambda: torch.ones(3, device=device).normal_()):
        with pytest.raises(RuntimeError, match="draw them from a generator of the CPU and copy"):
            call()
    assert torch.equal(
        torch.randn(3, generator=host.manual_seed(1)).to(device).cpu(), torch.randn(3, generator=host.manual_seed(1))
    )


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("value fetched", lambda x: x.sum().item()),
        ("value fetched", lambda x: x.tolist()),
        ("value fetched", lambda x: float(x.sum())),
        ("value fetched", lambda x: bool((x > 0).all())),
        ("value fetched", lambda x: torch.equal(x, x)),
        ("value fetched", lambda x: f"{x.sum():.3g}"),
        ("size depends on values", lambda x: (x > 0).nonzero()),
        ("size depends on values", lambda x: x[x > 0]),
        ("error code of a decomposition", lambda x: torch.linalg.eigh(x)),
        ("error code of a decomposition", lambda x: torch.linalg.svdvals(x)),
        ("error code of a decomposition", lambda x: torch.linalg.solve(x, x)),
        ("copy to the host", lambda x: x.cpu()),
        ("copy to the device", lambda x: torch.tensor([1.0, 2.0], device=x.device)),
        ("copy to the device", lambda x: x.new_tensor([1.0, 2.0])),
        ("copy to the device", lambda x: x[torch.tensor([0])]),
        ("synchronize", lambda x: torch.pretend.synchronize()),
    ],
)  # fmt: skip
def test_waits_are_counted_by_kind(kind, call, device, waits):
    x = torch.eye(2, device=device)
    with waits.during() as seen:
        call(x)
    assert [(what, count) for (what, _), count in seen.items()] == [(kind, 1)]


def test_waits_are_counted_by_place(device, waits):
    x = torch.full((2, 2), 0.1, device=device)
    with waits.during() as seen:
        metrics.psnr(x, torch.zeros_like(x))
        x.sum().item()
    (_, inside), (_, outside) = seen
    assert re.fullmatch(r"metrics\.py:\d+", inside) and re.fullmatch(r"gpu/test_pretend_gpu\.py:\d+", outside)


def test_work_that_hands_nothing_back_waits_for_nothing(device, waits):
    x = torch.ones(4, 4, device=device)
    with waits.during() as seen:
        y = (x @ x).softmax(-1) * torch.linspace(0, 1, 4, device=device)
        y = torch.where(y > 0, y, 0.0)[1:, :2].masked_fill(y[1:, :2] > 1, 0.0) + torch.eye(4, device=device)[1:, :2]
        y.cumsum(0).sum()
    assert not seen


def test_events_must_be_waited_for(device):
    first, last = (torch.pretend.Event(enable_timing=True) for _ in range(2))
    first.record()
    last.record()
    with pytest.raises(RuntimeError, match="device not ready"):
        first.elapsed_time(last)
    torch.ones(1, device=device).item()
    assert first.elapsed_time(last) >= 0


def test_a_saved_tensor_comes_back_to_the_device(device, tmp_path):
    x = torch.arange(3.0, device=device)
    torch.save({"x": x}, tmp_path / "x.pt")
    back = torch.load(tmp_path / "x.pt", weights_only=True, map_location=device)["x"]
    assert back.device == device and torch.equal(back.cpu(), x.cpu())


def test_what_it_cannot_follow_is_an_error(device):
    with pytest.raises(NotImplementedError, match="changes a tensor's shape in place"):
        torch.ones(2, 3, device=device).unsqueeze_(0)


def test_the_library_keeps_to_what_it_sees():
    """``.data`` and torch.func go past it. Kernels of factor networks that are not the library's have no other way."""
    past = re.compile(r"\.data = |torch\.func\b|functorch|\bvmap\(")
    found = {path.name: past.findall(path.read_text()) for path in LIBRARY.rglob("*.py")}
    own = {name: uses for name, uses in found.items() if uses}
    assert own == {"ntk.py": ["torch.func", "torch.func", "vmap(", "torch.func"]}
