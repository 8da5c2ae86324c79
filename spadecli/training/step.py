"""One training step of SPADE: forward pass, two losses, two updates; and the state that a checkpoint keeps.

The terms of the losses are in model/losses.py; the adversarial losses of both networks come from the discriminator
(model/discriminator.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..compute.devices import fp32_math
from ..core.recipe import Recipe
from ..model.augment import Augmentation
from ..model.cutting import cut
from ..model.discriminator import AnyDiscriminator, build_discriminator
from ..model.encoder import ImageEncoder, reparameterize
from ..model.generator import Generator
from ..model.init import initialize
from ..model.layers import SpectralConv2d
from ..model.losses import (
    DISCRIMINATOR_TERMS,
    GENERATOR_TERMS,
    ForwardPass,
    at_least_fp32,
    generator_terms,
    weighted_sum,
)
from ..model.perceptual import PerceptualLoss, load_perceptual
from ..model.semantic import BatchClasses, SemanticMap, class_shares
from .balance import LossBalance
from .distributed import Processes, unsynchronized
from .ema import EMA
from .prior import AggregatePosterior

LOSSES = (*GENERATOR_TERMS, *DISCRIMINATOR_TERMS)
TERMS = (*LOSSES, "g_norm", "d_norm", "skipped")  # the values that a step reports


def build_networks(recipe: Recipe) -> tuple[Generator, ImageEncoder | None, AnyDiscriminator]:
    """Build the networks that a recipe trains, not yet initialized."""
    arch, channels = recipe.model, recipe.labels.semantic_channels
    encoder = ImageEncoder(arch) if arch.has_encoder else None
    return Generator(arch, channels), encoder, build_discriminator(recipe)


class Trainer:
    """Networks, losses and optimizers of a recipe on one device.

    One forward pass of generator and discriminator serves both losses: both are computed on the same fakes, by the
    networks before either update. The published code updates the generator first and gives the discriminator new
    fakes; the losses are the same functions. The discriminator's spectral norms take one step of power iteration
    instead of two.

    Several processes (see :meth:`distribute`) train like one with the whole batch: every loss is a mean, and gradients
    are averaged over the processes before they are checked, clipped and applied, so that weights, averages and the
    vectors of spectral norm are equal in all of them.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        if recipe.train.precision == "auto":
            raise ValueError('train.precision = "auto" must be settled first: Recipe.with_precision')
        self.recipe, self.device = recipe, device
        self.dtype = torch.float64 if recipe.train.precision == "fp64" else torch.float32
        self.generator, self.encoder, self.discriminator = build_networks(recipe)
        self.perceptual: PerceptualLoss | None = None
        if recipe.loss.perceptual_network != "none" and recipe.loss.uses_perceptual_network:
            file = Path(recipe.loss.perceptual_weights) if recipe.loss.perceptual_weights else None
            self.perceptual = load_perceptual(recipe.loss.perceptual_network, file)
        for i, network in enumerate(self.networks().values()):
            initialize(network, recipe.train.seed + i)
        features = recipe.discriminator.features_weights
        self.discriminator.load_frozen(Path(features) if features else None)
        frozen = [self.perceptual] if self.perceptual is not None else []
        for module in (*self.networks().values(), *frozen):
            module.to(device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer_g = self._adam([m for m in (self.generator, self.encoder) if m is not None], recipe.train.lr_g)
        self.optimizer_d = self._adam([self.discriminator], recipe.train.lr_d)
        self.totals = torch.zeros(len(TERMS), dtype=self.dtype, device=device)
        self.processes = Processes()
        self.balance = LossBalance(recipe.loss, device, self.dtype)
        self.aggregate = AggregatePosterior(recipe.model.z_dim, device, self.dtype)
        d = recipe.discriminator
        self.augmentation = Augmentation(d.augment, d.augment_from, device, d.augment_adaptive)
        self._called = self.networks()
        self._encoded: dict[int, Tensor] = {}  # rows that encode their photo, by the number of images
        self.restart_ema()

    def step(self, batch: Mapping[str, Any], lr_scale: float, generator_learns: bool = True) -> None:
        """Train on this process's share of a batch (see data.dataset.TrainingSet), learning rates times ``lr_scale``.

        The batch may contain its label ``windows`` (see windows/collate.py); with ``at`` its label maps are windows of
        the photos. Unless ``generator_learns``, the discriminator alone is updated. Nothing here waits for the device:
        TERMS accumulate in ``totals``, there.
        """
        losses = torch.zeros_like(self.totals[: len(LOSSES)])
        with fp32_math(self.recipe.train.precision == "tf32"):
            shares = self._class_shares(batch)
            for micro_batch, share in self._micro_batches(batch):
                losses += share * self._add_gradients(micro_batch, share, shares, generator_learns)
            d_norm, d_skipped = self._update(self.optimizer_d, self.recipe.train.lr_d * lr_scale)
            g_norm, g_skipped = torch.zeros_like(d_norm), torch.zeros_like(d_skipped)
            if generator_learns:
                g_norm, g_skipped = self._update(self.optimizer_g, self.recipe.train.lr_g * lr_scale)
                self.ema.update()
        self.aggregate.update(self.processes.mean)
        if self.augmentation.kinds:
            d_real = self.processes.mean(losses)[LOSSES.index("d_real")]
            self.augmentation.watch(d_real / self.discriminator.chance_loss)
        self.totals += torch.cat([losses, torch.stack([g_norm, d_norm, g_skipped + d_skipped])])

    def _add_gradients(
        self, batch: Mapping[str, Any], share: float, shares: Tensor | None, generator_learns: bool
    ) -> Tensor:
        """Add the gradients of ``share`` times both losses of a micro-batch; return the values of LOSSES.

        shares: of the classes in the step's whole batch, see :meth:`_class_shares`.
        """
        semantic, whole, eps = self.inputs(batch)
        at = batch["at"].to(self.device, non_blocking=True) if "at" in batch else None
        numbers = batch["augment"].to(self.device, non_blocking=True) if "augment" in batch else None
        places = batch["noise_places"].to(self.device, non_blocking=True) if "noise_places" in batch else None
        photo = whole
        if at is not None:  # the losses see windows
            photo = cut(whole, at, semantic.size).contiguous(memory_format=torch.channels_last)

        # one forward pass of all networks
        with self._autocast():
            with torch.set_grad_enabled(generator_learns):
                z, mu, logvar, reconstructed = self._latent(whole, eps)
                render = self._called["generator"](semantic, z, at, places)
            fake = self._known(render, semantic, photo)
            judged_map, judged = self.augmentation(semantic, [fake, photo.to(fake.dtype)], numbers)
            verdict = self._called["discriminator"](judged_map, *judged, self._classes(batch, shares))
            done = ForwardPass(fake, photo, verdict, mu, logvar, self.perceptual, reconstructed)
            g_terms = generator_terms(done, self.recipe.loss)
            d_loss, d_terms = verdict.discriminator, {name: v.detach() for name, v in verdict.terms.items()}
        if generator_learns:
            self.balance.measure(g_terms, render, self.processes.mean)
            g_loss = weighted_sum(g_terms, self.recipe.loss, self.balance.weights())

        # each loss has gradients for its own networks only
        del judged_map, judged, verdict, done  # so that the backward pass frees feature maps as it uses them
        torch.autograd.backward(share * d_loss, inputs=_parameters(self.optimizer_d), retain_graph=generator_learns)
        if generator_learns:
            torch.autograd.backward(share * g_loss, inputs=_parameters(self.optimizer_g))
        nothing, terms = d_loss.new_zeros(()), g_terms | d_terms
        return torch.stack([terms.get(name, nothing).detach().to(self.dtype) for name in LOSSES])

    def _update(self, optimizer: torch.optim.Adam, lr: float) -> tuple[Tensor, Tensor]:
        """Clip gradients, update, and clear them; the device itself skips an update with non-finite gradients.

        Returns the gradient norm (0 if skipped) and whether the update was skipped (1 or 0).
        """
        for group in optimizer.param_groups:
            group["lr"] = lr
        gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if limit := self.recipe.train.max_grad_norm:
            torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1))
        finite = torch.isfinite(norm)
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return torch.where(finite, norm, 0).to(self.dtype), (~finite).to(self.dtype)

    def _micro_batches(self, batch: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], float]]:
        """Yield the micro-batches of a batch (``train.accumulate``), and each one's share of it.

        Whatever their number, spectral norms iterate once per step, and processes exchange gradients once per step.
        """
        parts = self.recipe.train.accumulate
        if parts == 1:
            yield batch, 1.0
            return
        split = {name: value.tensor_split(parts) for name, value in batch.items()}
        for i in range(parts):
            for module in (m for network in self.networks().values() for m in network.modules()):
                if isinstance(module, SpectralConv2d):
                    module.iterates = i == 0
            with unsynchronized(self._called, i < parts - 1):
                yield {name: values[i] for name, values in split.items()}, 1 / parts

    def _known(self, render: Tensor, semantic: SemanticMap, photo: Tensor) -> Tensor:
        """With ``loss.ignore_unknown``, return the render with the photo pasted in where the map is unknown."""
        unknown = self.recipe.labels.unknown_channel
        if unknown is None or not self.recipe.loss.ignore_unknown:
            return render
        return torch.where((semantic.channels == unknown)[:, None], photo.to(render.dtype), render)

    def _latent(self, photo: Tensor, eps: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """Return z of each sample, the posterior's mean and log variance or None, and the rows that encode their photo
        (None: all of them)."""
        if self.encoder is None:
            return (eps if self.recipe.model.uses_z else None), None, None, None
        rows = encoded_rows(len(photo), self.recipe.train.prior_share)
        if rows is None:
            mu, logvar = map(at_least_fp32, self._called["encoder"](photo))
            if self.recipe.train.match_prior:  # another stage may draw from it
                self.aggregate.watch(mu, logvar)
            return reparameterize(mu, logvar, eps), mu, logvar, None
        if len(photo) not in self._encoded:  # once: a copy to the device waits for it
            self._encoded[len(photo)] = torch.tensor(rows, device=self.device)
        encoded = self._encoded[len(photo)]
        photo = photo.index_select(0, encoded).contiguous(memory_format=torch.channels_last)
        mu, logvar = map(at_least_fp32, self._called["encoder"](photo))
        drawn = eps
        if self.recipe.train.match_prior:
            drawn = self.aggregate.sample(eps)
            self.aggregate.watch(mu, logvar)
        z = drawn.index_copy(0, encoded, reparameterize(mu, logvar, eps.index_select(0, encoded)).to(eps.dtype))
        return z, mu, logvar, encoded

    def _class_shares(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Return the classes' shares of the pixels of the whole batch, if the discriminator weighs its loss by them.

        They are those of all processes and micro-batches, so that the loss does not depend on how a batch is split.
        """
        if not self.recipe.discriminator.weighs_classes:
            return None
        channels = batch["channels"].to(self.device, non_blocking=True)
        return self.processes.mean(class_shares(channels, self.recipe.labels.num_classes, self.dtype))

    def _classes(self, batch: Mapping[str, Any], shares: Tensor | None) -> BatchClasses | None:
        if shares is None:
            return None
        mixed = batch["from_photo"].to(self.device, non_blocking=True) if "from_photo" in batch else None
        return BatchClasses(shares, mixed)

    def inputs(self, batch: Mapping[str, Any]) -> tuple[SemanticMap, Tensor, Tensor]:
        """Return semantic map, whole photos [N,3,H,W] in [-1,1] and noise [N,Z] of a batch, on the device."""
        moved = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        photo = (moved["photo"].to(self.dtype) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        channels, edges, num_classes = moved["channels"].long(), moved.get("edges"), self.recipe.labels.num_classes
        windows = moved["windows"].by_size() if "windows" in moved else None
        semantic = SemanticMap(channels, edges, num_classes, self.recipe.train.modulation, torch.channels_last, windows)
        return semantic, photo, moved["eps"].to(self.dtype)

    def pop_losses(self, steps: int) -> dict[str, float]:
        """Return the means of TERMS over the last ``steps`` steps (for skipped, the sum), and reset the totals.

        They are those of the whole batch: every process must call this, and gets the same values.
        """
        values = dict(zip(TERMS, self.processes.mean(self.totals).tolist(), strict=True))
        self.totals.zero_()
        return {name: value if name == "skipped" else value / steps for name, value in values.items()}

    def nonfinite(self) -> list[str]:
        """Return the names of the networks whose weights or averages contain non-finite numbers."""
        tensors: dict[str, list[Tensor]] = {name: [*network.parameters()] for name, network in self.networks().items()}
        for name, average in self.ema.averages.items():
            tensors[name] += average.values()
        return [name for name, ts in tensors.items() if not torch.isfinite(torch.nn.utils.get_total_norm(ts))]

    def restart_ema(self) -> None:
        """Restart the averages from the current weights."""
        averaged = {n: m for n, m in self.networks().items() if n != "discriminator"}
        self.ema = EMA(averaged, self.recipe.train.ema_decay)

    def distribute(self, processes: Processes) -> None:
        """Train together with other processes from now on, all from the main process's state."""
        if processes.many:
            state = processes.broadcast_state(self.state_dict() if processes.is_main else None)
            if not processes.is_main:
                self.load_state_dict(state)
        self.processes = processes
        self._called = {name: processes.parallel(network) for name, network in self.networks().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to resume, as tensors and plain containers."""
        return {
            "networks": {n: m.state_dict() for n, m in self.networks().items()},
            "optimizers": [self.optimizer_g.state_dict(), self.optimizer_d.state_dict()],
            "ema": self.ema.state_dict(),
            "balance": self.balance.state_dict(),
            "augmentation": self.augmentation.state_dict(),
            "aggregate": self.aggregate.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, network in self.networks().items():
            network.load_state_dict(state["networks"][name])
        for optimizer, saved in zip((self.optimizer_g, self.optimizer_d), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            # the fused optimizer pairs values by memory position, so its state needs the strides of the parameters
            for parameter, state_of in optimizer.state.items():
                for key, value in state_of.items():
                    if value.shape == parameter.shape and value.stride() != parameter.stride():
                        state_of[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        self.ema.load_state_dict(state["ema"])
        if "balance" in state:  # runs that began before this option have none
            self.balance.load_state_dict(state["balance"])
        if "augmentation" in state:
            self.augmentation.load_state_dict(state["augmentation"])
        if "aggregate" in state:
            self.aggregate.load_state_dict(state["aggregate"])

    def networks(self) -> dict[str, nn.Module]:
        """Return the trained networks by name."""
        networks: dict[str, nn.Module | None] = {
            "generator": self.generator,
            "encoder": self.encoder,
            "discriminator": self.discriminator,
        }
        return {name: network for name, network in networks.items() if network is not None}

    def _adam(self, networks: list[nn.Module], lr: float) -> torch.optim.Adam:
        train = self.recipe.train
        parameters = [p for network in networks for p in network.parameters()]
        return torch.optim.Adam(parameters, lr=lr, betas=(train.beta1, train.beta2), fused=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.train.precision == "bf16")


def encoded_rows(images: int, prior_share: float) -> list[int] | None:
    """Return the rows of a micro-batch whose z comes from the encoder; None for all.

    The others, ``prior_share`` of them, are spread evenly, so that a micro-batch has the same ones however many
    processes share it.
    """
    if not prior_share:
        return None
    return [i for i in range(images) if int((i + 1) * prior_share + 1e-9) == int(i * prior_share + 1e-9)]


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
