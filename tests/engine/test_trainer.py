"""One step at a time: the attack inside an update, batches, first weights, what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.training import ROBUST, images, trainer
from workers.engine.datasets import Images
from workers.engine.seeding import generator
from workers.engine.sources import Memory
from workers.engine.trainer import Trainer

STANDARD = replace(ROBUST, epsilon=0.0)


class Watched(Trainer):
    """Keeps what networks are asked: the network, the mode it is in, and the images."""

    asked: tuple[tuple[nn.Module, bool, Tensor], ...] = ()

    def logits(self, network: nn.Module, x: Tensor) -> Tensor:
        self.asked += ((network, network.training, x.detach().clone()),)
        return super().logits(network, x)


def watched(config: Any) -> Watched:
    t = Watched(config, Memory(images(32), config.augmentation))
    t.asked = ()
    return t


@pytest.mark.parametrize(("norm", "eps", "step"), [("l2", 1.0, 0.75), ("linf", 8 / 255, 6 / 255)])
@pytest.mark.parametrize("random_start", [True, False])
def test_an_update_trains_once_on_images_within_eps_which_it_finds_in_eval_mode(
    norm: str, eps: float, step: float, random_start: bool
) -> None:
    config = replace(ROBUST, norm=norm, epsilon=eps, attack_steps=3, attack_step_size=step, random_start=random_start)
    t = watched(config)
    x, label = next(t.batches())
    t.update(x, label)
    assert [training for _, training, _ in t.asked] == [False, False, False, True]
    assert t.asked[-1][0] is t.model
    assert torch.equal(t.asked[0][2], x) != random_start
    trained_on = t.asked[-1][2]
    assert trained_on.min() >= 0
    assert trained_on.max() <= 1
    moved = (trained_on - x).double().flatten(1).norm(dim=1, p=2 if norm == "l2" else torch.inf)
    assert (moved <= eps * (1 + 1e-5)).all()
    assert (moved > 0.1 * eps).all()


def test_an_update_of_standard_training_asks_once_with_the_images_themselves() -> None:
    t = watched(STANDARD)
    x, label = next(t.batches())
    t.update(x, label)
    ((network, training, trained_on),) = t.asked
    assert network is t.model
    assert training
    assert torch.equal(trained_on, x)


def test_adversarial_images_raise_the_loss_of_the_network_as_it_is_after_earlier_updates() -> None:
    t = trainer(replace(ROBUST, attack_steps=5, attack_step_size=0.3, lr=0.05), 64)
    for x, label in t.batches():
        adversarial = t.adversarial(x, label)
        with torch.no_grad():
            model = t.model.eval()
            losses = [nn.functional.cross_entropy(model(z), label).item() for z in (x, adversarial)]
        assert losses[1] > losses[0]
        t.update(x, label)
        if t.step == 5:
            break


def test_the_attack_of_an_update_leaves_the_batch_statistics_alone() -> None:
    t = trainer()
    t.update(*next(t.batches()))
    assert t.model.get_buffer("bn.num_batches_tracked") == 1


@pytest.mark.parametrize("config", [STANDARD, ROBUST])
def test_an_update_in_bf16_keeps_float32_weights_and_nearly_the_same_loss(config: Any) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        t = trainer(replace(config, precision=precision))
        losses.append(t.update(*next(t.batches())).item())
        assert all(p.dtype == torch.float32 for p in t.model.parameters())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_an_update_is_sgd_with_momentum_and_weight_decay() -> None:
    config = replace(STANDARD, schedule="step", lr_drops=(1,), lr=0.1, momentum=0.5, weight_decay=0.01, batch_size=32)
    t = trainer(config)
    weight = t.model.get_parameter("linear.weight")
    w, v = weight.detach().double(), torch.zeros(weight.shape, dtype=torch.float64)
    for (x, label), lr in zip(t.batches(), (0.1, 0.01), strict=True):
        t.update(x, label)
        assert weight.grad is not None
        v = 0.5 * v + weight.grad.double() + 0.01 * w
        w = w - lr * v
        torch.testing.assert_close(weight.detach().double(), w, rtol=1e-5, atol=1e-7)


def test_an_epoch_shows_each_image_at_most_once_in_an_order_of_its_own() -> None:
    source = Memory(Images(images(35).pixels, torch.arange(35) % 10), "none")
    t, numbered = Trainer(STANDARD, source), torch.arange(35)
    source.labels = numbered
    shown = torch.cat([label for _, label in t.batches()]).tolist()
    epochs = shown[:32], shown[32:]
    assert len(shown) == 64
    assert [len(set(epoch)) for epoch in epochs] == [32, 32]
    assert epochs[0] != epochs[1]


def test_batches_taken_up_in_mid_epoch_are_the_rest_of_the_unbroken_run() -> None:
    whole, resumed = trainer(), trainer()
    resumed.step = 2
    for (x, label), (expected_x, expected_label) in zip(resumed.batches(), list(whole.batches())[2:], strict=True):
        assert torch.equal(x, expected_x)
        assert torch.equal(label, expected_label)


def test_the_seed_alone_decides_the_first_weights_and_the_global_generator_is_not_touched() -> None:
    before = torch.random.get_rng_state()
    trainers = [trainer(replace(ROBUST, seed=s), 16) for s in (0, 0, 1)]
    first, again, other = (t.model.get_parameter("linear.weight") for t in trainers)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    trainers[0].update(*next(trainers[0].batches()))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_generators_of_different_keys_draw_different_numbers() -> None:
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (0, 2, 0), (0, 0, 2), (2, 0, 0)]
    assert len({torch.randn((), generator=generator(*key)).item() for key in keys}) == len(keys)
    assert torch.equal(torch.randn(5, generator=generator(3, 1, 4)), torch.randn(5, generator=generator(3, 1, 4)))


def test_a_batch_larger_than_the_data_and_labels_that_the_network_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 8; allowed: up to 7, the training images"):
        trainer(n=7)
    with pytest.raises(ValueError, match="labels run from 0 to 9; allowed: 0 to 4, the network's classes"):
        trainer(replace(ROBUST, classes=5))


def test_a_network_takes_the_recipe_s_classes_and_normalisation() -> None:
    t = trainer(replace(ROBUST, classes=12, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)))
    assert t.model.get_parameter("linear.bias").shape == (12,)
    assert t.model.get_buffer("mean").flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert t.model.get_buffer("std").flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
