"""Faults of a training step that its log does not show: what is reported stays right, what is optimised does not."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional

from spadecli.model import losses, segmentation
from spadecli.model.layers import SpectralConv2d
from spadecli.model.perceptual import PerceptualLoss
from spadecli.model.semantic import class_shares
from spadecli.training import ema
from spadecli.training.step import Trainer

GENERATOR_LOSSES = ("hinge_generator", "feature_matching", "color", "kl_divergence", "perceptual")


def plus(value: Tensor, gradient_of: Tensor) -> Tensor:
    """The value, whose gradient is that of the sum."""
    return value + (gradient_of - gradient_of.detach())


def scaled(loss: Callable, factor: float) -> Callable:
    """The loss, its gradient times ``factor``."""

    def wrong(*args):
        found = loss(*args)
        values = [plus(value, (factor - 1) * value) for value in (found if isinstance(found, tuple) else (found,))]
        return tuple(values) if isinstance(found, tuple) else values[0]

    return wrong


def scale_gradients(monkeypatch, factor: float, *names: str) -> None:
    """Let the trainer's losses of these names have gradients that are ``factor`` times theirs."""
    for name in names:
        owner, attribute = (PerceptualLoss, "distance") if name == "perceptual" else (losses, name)
        monkeypatch.setattr(owner, attribute, scaled(getattr(owner, attribute), factor))


def negate_the_discriminator(patch) -> None:
    scale_gradients(patch, -1, "hinge_discriminator")


def negate_the_generator(patch) -> None:
    scale_gradients(patch, -1, *GENERATOR_LOSSES)


def forget_the_share_of_a_part(patch) -> None:
    scale_gradients(patch, 2, "hinge_discriminator", *GENERATOR_LOSSES)


def let_the_discriminator_s_loss_into_the_generator(patch) -> None:
    right, of_d = losses.hinge_generator, losses.hinge_discriminator
    patch.setattr(losses, "hinge_generator", lambda fakes: plus(right(fakes), of_d(fakes, fakes)[0]))


def into_the_discriminator(patch, loss) -> None:
    right = losses.hinge_discriminator

    def wrong(fakes, reals):
        fake, real = right(fakes, reals)
        return plus(fake, loss(fakes, reals)), real

    patch.setattr(losses, "hinge_discriminator", wrong)


def let_the_generator_s_loss_into_the_discriminator(patch) -> None:
    hinge = losses.hinge_generator
    into_the_discriminator(patch, lambda fakes, reals: hinge(fakes))


def let_feature_matching_teach_the_discriminator(patch) -> None:
    """As where the real side of it is not detached."""
    into_the_discriminator(
        patch,
        lambda fakes, reals: sum(
            (f - r).abs().mean()
            for of_fake, of_real in zip(fakes, reals, strict=True)
            for f, r in zip(of_fake[:-1], of_real[:-1], strict=True)
        ),
    )


def detach_the_fakes_of_feature_matching(patch) -> None:
    right = losses.feature_matching
    patch.setattr(losses, "feature_matching", lambda fakes, reals: right(reals, fakes))


def average_raw_weights(patch) -> None:
    patch.setattr(ema, "folded_state_dict", raw_state)


def raw_state(module: nn.Module) -> dict[str, Tensor]:
    others = ("num_batches_tracked", "weight_u", "weight_v")
    return {name: v.detach() for name, v in module.state_dict().items() if not name.endswith(others)}


def iterate_in_every_part(patch) -> None:
    patch.setattr(SpectralConv2d, "iterates", property(lambda self: True, lambda self, value: None))


def iterate_twice(patch) -> None:
    once = SpectralConv2d.power_iteration
    patch.setattr(SpectralConv2d, "power_iteration", lambda self, steps=1: once(self, 2 * steps))


def weigh_classes_by_their_part_of_the_batch(patch) -> None:
    """The shares of a micro-batch, not of the whole batch."""
    right = Trainer._add_gradients

    def wrong(self, batch, share, shares, *rest):
        return right(self, batch, share, class_shares(batch["channels"], len(shares), shares.dtype), *rest)

    patch.setattr(Trainer, "_add_gradients", wrong)


def weigh_classes_alike(patch) -> None:
    right = segmentation.class_weights

    def wrong(shares, unknown):
        weights, known = right(shares, unknown)
        return (weights > 0).to(weights.dtype), known

    patch.setattr(segmentation, "class_weights", wrong)


def judge_unknown_pixels(patch) -> None:
    right = segmentation.class_weights
    patch.setattr(segmentation, "class_weights", lambda shares, unknown: right(shares, None))


def mix_the_other_way_round(patch) -> None:
    right = segmentation.mix_mask
    patch.setattr(segmentation, "mix_mask", lambda of, from_photo: right(of, ~from_photo))


def mix_without_borders(patch) -> None:
    """The first pixel's side for the whole image."""
    right = segmentation.mix_mask
    patch.setattr(segmentation, "mix_mask", lambda of, sides: right(of, sides)[:, :, :1, :1].expand(*of[:, None].shape))


def let_mixed_logits_teach_nothing(patch) -> None:
    """As where the mix of logits is taken for a constant."""
    right = functional.mse_loss
    patch.setattr(functional, "mse_loss", lambda found, target: right(found, target.detach()))


def swap_fake_and_class_0(patch) -> None:
    right = segmentation.SegmentationDiscriminator.logits
    turned = [3, 1, 2, 0]
    patch.setattr(segmentation.SegmentationDiscriminator, "logits", lambda *args: [x[:, turned] for x in right(*args)])


def negate_a_side_of_segmentation(patch, side: str) -> None:
    right = segmentation.SegmentationDiscriminator.forward

    def wrong(*args):
        verdict = right(*args)
        loss = getattr(verdict, side)
        return replace(verdict, **{side: plus(loss, -2 * loss)})

    patch.setattr(segmentation.SegmentationDiscriminator, "forward", wrong)
