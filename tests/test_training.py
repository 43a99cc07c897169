import pytest
import torch
from dense import agree, cp_value, grid_points, kronecker_sum, modulation, pseudo_ntk

from seplib import SepPGD, fit
from seplib.training import State


def problem(make_cp, sizes=(6, 5), **kwargs):
    model, axes = make_cp(sizes, **kwargs)
    return model, axes, torch.randn(2, *sizes, generator=torch.Generator().manual_seed(5))


def clone(model, make_cp, sizes):
    other, _ = make_cp(sizes)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("sizes", [(6, 5), (4, 3, 5)])
def test_one_plain_step_descends_along_the_gradient_of_eq_6(sizes, make_cp):
    model, axes, target = problem(make_cp, sizes)
    start = [p.detach().clone() for p in model.parameters()]
    loss = (cp_value(model, grid_points(axes)) - target.flatten(1)).square().sum() / 2
    slow = torch.autograd.grad(loss, list(model.parameters()))
    history = fit(model, axes, target, torch.optim.SGD(model.parameters(), lr=1e-3), iterations=1)
    for before, after, gradient in zip(start, model.parameters(), slow):
        agree((before - after.detach()) / 1e-3, gradient, 1e-9)
    assert sum(history.loss[0]) == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_a_mask_leaves_unknown_entries_out_of_loss_and_gradient(preconditioned, make_cp):
    """Against ``J^T M S~ M r`` with the Jacobian and the matrix S~ written out; unknown target values do not matter."""
    model, axes, target = problem(make_cp)
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    known = mask.flatten().to(target.dtype)
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters]
    values = cp_value(model, grid_points(axes))
    residual = known * (values.detach() - target.flatten(1))
    sent = residual
    if preconditioned:
        matrices = [modulation(pseudo_ntk(f, x), 2, "flat") for f, x in zip(model.factors, axes)]
        sent = known * torch.stack([kronecker_sum(list(S)) @ r for *S, r in zip(*matrices, residual)])
    slow = torch.autograd.grad(values, parameters, grad_outputs=sent)
    history = fit(
        model,
        axes,
        torch.where(mask, target, 1e6),
        torch.optim.SGD(parameters, lr=1e-3),
        SepPGD(model, axes, k=2) if preconditioned else None,
        iterations=1,
        mask=mask,
    )
    for before, after, gradient in zip(start, parameters, slow):
        agree((before - after.detach()) / 1e-3, gradient, 1e-9)
    assert history.loss[0] == pytest.approx((residual.square().sum(1) / 2).tolist(), rel=1e-12)


def test_copies_do_not_interact(make_cp):
    """The batched pass gives every copy what a run of its own gives it, under Adam too."""
    model, axes, target = problem(make_cp)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    fit(model, axes, target, torch.optim.Adam(model.parameters(), 1e-2), SepPGD(model, axes, k=2), iterations=15)
    for e in range(2):
        alone, _ = make_cp((6, 5), ensemble=1)
        alone.load_state_dict({name: p[e : e + 1] for name, p in before.items()})
        optimizer = torch.optim.Adam(alone.parameters(), 1e-2)
        fit(alone, axes, target[e], optimizer, SepPGD(alone, axes, k=2), iterations=15)
        agree(model.grid(axes)[e].detach(), alone.grid(axes)[0].detach(), 1e-8)


def test_history_belongs_to_the_weights_after_t_updates(make_cp):
    model, axes, target = problem(make_cp)
    seen = []

    def callback(state: State):
        seen.append(state.iteration)
        return {"error": (state.prediction - target).square().sum().item() / 2}

    history = fit(model, axes, target, iterations=5, callbacks=[callback])
    assert seen == list(range(6))
    assert history.metrics["error"] == pytest.approx([sum(entry) for entry in history.loss], rel=1e-12)
    final = (model.grid(axes) - target).square().sum().item() / 2
    assert sum(history.loss[-1]) == pytest.approx(final, rel=1e-12)
    assert all(a <= b for a, b in zip(history.seconds, history.seconds[1:])) and len(history.seconds) == 6


class Stop(Exception):
    pass


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("cut", [4, 5, 9])
def test_a_cut_run_resumes_to_the_same_numbers(preconditioned, cut, make_cp, tmp_path):
    def run(model, axes, target, stop=None):
        def maybe_stop(state):
            if state.iteration == stop:
                raise Stop
            return {"twice": 2.0 * state.iteration}

        return fit(
            model, axes, target, torch.optim.Adam(model.parameters(), 1e-2),
            SepPGD(model, axes, k=2, update_every=4) if preconditioned else None,
            iterations=12, callbacks=[maybe_stop], checkpoint=path, checkpoint_every=3,
        )  # fmt: skip

    model, axes, target = problem(make_cp)
    cut_model, resumed_model = clone(model, make_cp, (6, 5)), clone(model, make_cp, (6, 5))
    path = tmp_path / "whole.pt"
    whole = run(model, axes, target)
    path = tmp_path / "cut.pt"
    with pytest.raises(Stop):
        run(cut_model, axes, target, stop=cut)
    assert path.exists()
    resumed = run(resumed_model, axes, target)
    assert resumed.loss == whole.loss and resumed.metrics == whole.metrics
    for a, b in zip(model.parameters(), resumed_model.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("sizes", [(6, 5), (4, 3, 5)])
def test_nothing_is_made_on_another_device(sizes, make_cp):
    """A whole SepPGD step on the meta device: one tensor created on the CPU would stop it."""
    model, axes = make_cp(sizes)
    model, axes = model.to("meta"), [x.to("meta") for x in axes]
    target = torch.empty(2, *sizes, device="meta")
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    before = [p.grad for p in model.parameters()]
    fit(model, axes, target, optimizer, SepPGD(model, axes, k=2), iterations=1)
    assert before == [None] * len(before) and all(p.grad.is_meta for p in model.parameters())


def test_bad_arguments_are_named(make_cp):
    model, axes, target = problem(make_cp)
    target[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"must be finite, but 1 of its values are not, the first at \(1, 2, 3\)"):
        fit(model, axes, target)
    with pytest.raises(ValueError, match=r"target must be \(E, \*\(6, 5\)\) for these axes, got \(2, 5, 6\)"):
        fit(model, axes, torch.zeros(2, 5, 6))
    with pytest.raises(ValueError, match=r"takes 2 axes of shape"):
        fit(model, [axes[0][None], axes[1]], torch.zeros(6, 5))
    with pytest.raises(ValueError, match=r"at least 1, got 0, 100"):
        fit(model, axes, torch.zeros(6, 5), iterations=0)
    with pytest.raises(ValueError, match=r"booleans of the target's shape \(1, 6, 5\), got torch.bool, \(5, 6\)"):
        fit(model, axes, torch.zeros(6, 5), mask=torch.ones(5, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"booleans of the target's shape \(1, 6, 5\), got torch.float64, \(6, 5\)"):
        fit(model, axes, torch.zeros(6, 5), mask=torch.ones(6, 5))
    with pytest.raises(ValueError, match="leaves no entry to fit"):
        fit(model, axes, torch.zeros(6, 5), mask=torch.zeros(6, 5, dtype=torch.bool))
    with pytest.raises(TypeError, match="a streamed run takes no mask"):
        fit(model, axes, torch.zeros(2, 6, 5), mask=torch.ones(6, 5, dtype=torch.bool), streamed=True)
    with pytest.raises(FloatingPointError, match=r"training diverged: the loss is .* after \d+ updates"):
        fit(model, axes, torch.ones(6, 5), torch.optim.SGD(model.parameters(), lr=1e200), iterations=20)
