"""One training step of SPADE, and everything that has to survive an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.recipe import Recipe
from ..model import losses
from ..model.discriminator import Discriminator
from ..model.encoder import ImageEncoder, reparameterize
from ..model.generator import Generator
from ..model.init import initialize
from ..model.layers import SpectralConv2d
from ..model.perceptual import PerceptualLoss, load_perceptual
from ..model.semantic import SemanticMap
from .distributed import Processes, unsynchronized
from .ema import EMA

TERMS = ("g_hinge", "feature_matching", "perceptual", "color", "kl", "d_fake", "d_real", "g_norm", "d_norm", "skipped")


def build_networks(recipe: Recipe) -> tuple[Generator, ImageEncoder | None, Discriminator]:
    """The networks that a recipe trains, not yet initialized."""
    arch, channels = recipe.model, recipe.labels.semantic_channels
    encoder = ImageEncoder(arch) if arch.has_encoder else None
    return Generator(arch, channels), encoder, Discriminator(channels, **recipe.discriminator.model_dump())


class Trainer:
    """Networks, losses and optimizers of a recipe on one device.

    One forward pass of generator and discriminator serves both of their steps: both learn from the same
    fakes, made and judged by the networks as they were before. In the published code the discriminator sees
    fakes of the generator one update later; the losses and their gradients are the same. Its spectral norms
    take one step of power iteration instead of two.

    Several processes (see :meth:`distribute`) train as one with their batches put together: every loss is a mean,
    gradients are means over all processes before they are checked, clipped and applied, so that weights, averages
    and the vectors of spectral norm come out equal everywhere.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.dtype = torch.float64 if recipe.train.precision == "fp64" else torch.float32
        self.generator, self.encoder, self.discriminator = build_networks(recipe)
        self.perceptual: PerceptualLoss | None = None
        if recipe.loss.perceptual_network != "none" and recipe.loss.perceptual > 0:
            file = Path(recipe.loss.perceptual_weights) if recipe.loss.perceptual_weights else None
            self.perceptual = load_perceptual(recipe.loss.perceptual_network, file)
        for i, network in enumerate(self.networks().values()):
            initialize(network, recipe.train.seed + i)
        frozen = [self.perceptual] if self.perceptual is not None else []
        for module in (*self.networks().values(), *frozen):
            module.to(device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer_g = self._adam(self._generating(), recipe.train.lr_g)
        self.optimizer_d = self._adam([self.discriminator], recipe.train.lr_d)
        self.totals = torch.zeros(len(TERMS), dtype=self.dtype, device=device)
        self.processes = Processes()
        self._called = self.networks()
        self.restart_ema()

    def restart_ema(self) -> None:
        """Let the averages start from the present weights."""
        averaged = {n: m for n, m in self.networks().items() if n != "discriminator"}
        self.ema = EMA(averaged, self.recipe.train.ema_decay)

    def distribute(self, processes: Processes) -> None:
        """Train together with other processes from now on, all from process 0's state."""
        if processes.many:
            state = processes.spread(self.state_dict() if processes.is_first else None)
            if not processes.is_first:
                self.load_state_dict(state)
        self.processes = processes
        self._called = {name: processes.parallel(network) for name, network in self.networks().items()}

    def step(self, batch: Mapping[str, Any], lr_scale: float) -> None:
        """Train on this process's part of a batch (see data.dataset.TrainingSet), learning rates times ``lr_scale``.

        The batch may hold its label ``windows`` (see windows/collate.py). Nothing here waits for the device;
        the terms of the losses add up in ``totals``.
        """
        for optimizer, lr in ((self.optimizer_g, self.recipe.train.lr_g), (self.optimizer_d, self.recipe.train.lr_d)):
            for group in optimizer.param_groups:
                group["lr"] = lr * lr_scale
        # the processes exchange gradients in the backward pass of the last micro-batch
        parts = self.recipe.train.accumulate
        terms = torch.zeros_like(self.totals[:-3])
        for i in range(parts):
            micro = batch if parts == 1 else {name: value.tensor_split(parts)[i] for name, value in batch.items()}
            if parts > 1:
                self._let_spectral_norms_iterate(i == 0)
            with unsynchronized(self._called, i < parts - 1):
                terms += self._backward(micro, 1 / parts) / parts

        d_norm, d_skipped = self._update(self.optimizer_d)
        g_norm, g_skipped = self._update(self.optimizer_g)
        self.ema.update()
        self.totals += torch.cat([terms, torch.stack([g_norm, d_norm, g_skipped + d_skipped])])

    def _backward(self, batch: Mapping[str, Any], scale: float) -> Tensor:
        """Add the gradients of ``scale`` times a (micro-)batch's losses; returns the losses, the first of TERMS."""
        semantic, photo, eps = self._to_device(batch)
        weights = self.recipe.loss

        # one forward pass of everything
        with self._autocast():
            z, kl = self._latent(photo, eps)
            fake = self._called["generator"](semantic, z)
            image = fake.detach().requires_grad_()
            fakes, reals = self._called["discriminator"](semantic, image, photo)
            hinge = losses.hinge_generator(fakes)
            matching = losses.feature_matching(fakes, reals)
            d_fake, d_real = losses.hinge_discriminator(fakes, reals)
            perceptual = self.perceptual(image, photo) if self.perceptual is not None else hinge.new_zeros(())
            color = losses.color(image, photo) if weights.color else hinge.new_zeros(())

        # what the generator's losses say about the image
        judged = hinge + weights.feature_matching * matching + weights.color * color
        torch.autograd.backward(scale * judged, inputs=[image], retain_graph=True)
        if self.perceptual is not None:
            torch.autograd.backward(scale * weights.perceptual * perceptual, inputs=[image])

        # discriminator
        torch.autograd.backward(scale * (d_fake + d_real), inputs=list(self.discriminator.parameters()))

        # generator and encoder
        del fakes, reals, judged
        kl_loss = scale * weights.kl * weights.kl_reference_batch * kl
        roots = [fake, kl_loss] if kl_loss.requires_grad else [fake]
        torch.autograd.backward(roots, [image.grad, None][: len(roots)])
        terms = (hinge, matching, perceptual, color, kl, d_fake, d_real)
        return torch.stack([term.detach().to(self.dtype) for term in terms])

    def inputs(self, batch: Mapping[str, Any]) -> tuple[SemanticMap, Tensor, Tensor]:
        """Semantic map, photos [N,3,H,W] in [-1,1] and noise [N,Z] of a batch, on the device."""
        return self._to_device(batch)

    def take_terms(self, steps: int) -> dict[str, float]:
        """Means of the loss terms over the last ``steps`` steps (skipped: their sum); starts the sums anew.

        They are those of the whole batch: every process calls this, and gets the same.
        """
        values = dict(zip(TERMS, self.processes.mean(self.totals).tolist(), strict=True))
        self.totals.zero_()
        return {name: value if name == "skipped" else value / steps for name, value in values.items()}

    def broken(self) -> list[str]:
        """Names of the networks whose weights or averages hold a number that is not finite."""
        tensors: dict[str, list[Tensor]] = {name: [*network.parameters()] for name, network in self.networks().items()}
        for name, average in self.ema.averages.items():
            tensors[name] += average.values()
        return [name for name, ts in tensors.items() if not torch.isfinite(torch.nn.utils.get_total_norm(ts))]

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on: tensors and plain containers."""
        return {
            "networks": {n: m.state_dict() for n, m in self.networks().items()},
            "optimizers": [self.optimizer_g.state_dict(), self.optimizer_d.state_dict()],
            "ema": self.ema.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        for name, network in self.networks().items():
            network.load_state_dict(state["networks"][name])
        for optimizer, saved in zip((self.optimizer_g, self.optimizer_d), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.ema.load_state_dict(state["ema"])

    def networks(self) -> dict[str, nn.Module]:
        """The trained networks by name."""
        networks: dict[str, nn.Module | None] = {
            "generator": self.generator,
            "encoder": self.encoder,
            "discriminator": self.discriminator,
        }
        return {name: network for name, network in networks.items() if network is not None}

    def _let_spectral_norms_iterate(self, wanted: bool) -> None:
        """Once a step, however many micro-batches it has."""
        for network in self.networks().values():
            for module in network.modules():
                if isinstance(module, SpectralConv2d):
                    module.iterates = wanted

    def _generating(self) -> list[nn.Module]:
        return [m for m in (self.generator, self.encoder) if m is not None]

    def _adam(self, networks: list[nn.Module], lr: float) -> torch.optim.Adam:
        train = self.recipe.train
        parameters = [p for network in networks for p in network.parameters()]
        return torch.optim.Adam(parameters, lr=lr, betas=(train.beta1, train.beta2), fused=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.train.precision == "bf16")

    def _to_device(self, batch: Mapping[str, Any]) -> tuple[SemanticMap, Tensor, Tensor]:
        moved = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        photo = (moved["photo"].to(self.dtype) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        channels, edges, num_classes = moved["channels"].long(), moved.get("edges"), self.recipe.labels.num_classes
        windows = moved["windows"].by_size() if "windows" in moved else None
        semantic = SemanticMap(channels, edges, num_classes, self.recipe.train.modulation, torch.channels_last, windows)
        return semantic, photo, moved["eps"].to(self.dtype)

    def _latent(self, photo: Tensor, eps: Tensor) -> tuple[Tensor | None, Tensor]:
        """z of each sample, and the KL term."""
        zero = eps.new_zeros(())
        if self.encoder is not None:
            mu, logvar = map(losses.wide, self._called["encoder"](photo))
            return reparameterize(mu, logvar, eps), losses.kl_divergence(mu, logvar)
        return (eps if self.recipe.model.uses_z else None), zero

    def _update(self, optimizer: torch.optim.Adam) -> tuple[Tensor, Tensor]:
        """Clip, step and clear; a step with a gradient that is not finite is left out, on the device itself.

        Returns the gradient norm (0 where left out) and 1 where the step was left out.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if limit := self.recipe.train.max_grad_norm:
            torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1))
        finite = torch.isfinite(norm)
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return torch.where(finite, norm, 0).to(self.dtype), (~finite).to(self.dtype)
