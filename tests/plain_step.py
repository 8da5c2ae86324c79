"""A training step written out plainly, to compare the trainer's with.

Ordinary losses, two ordinary backward passes, Adam as in its paper, all in float64 and in torch's own memory format;
nothing of losses.py, and no gradient that is worked out by hand. Only the networks' forward passes are those in use.
"""

import copy
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spadecli.core.recipe import Recipe
from spadecli.model.layers import SpectralConv2d
from spadecli.model.perceptual import squeezenet_layers, vgg16_layers, vgg19_layers
from spadecli.model.semantic import SemanticMap
from spadecli.training.step import TERMS, Trainer

EPS_OF_ADAM = 1e-8
# layers, the five taps, their weights, and the mean and deviation of images in [0,1]
CLASSIFIERS = {
    "vgg19": (vgg19_layers, (1, 6, 11, 20, 29), (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0), (0.5,) * 3, (0.5,) * 3),
    "vgg16": (vgg16_layers, (1, 6, 11, 18, 25), (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0), (0.5,) * 3, (0.5,) * 3),
    "squeezenet": (
        squeezenet_layers,
        (1, 4, 7, 10, 12),
        (0.4 / 12.8, 0.4 / 23.5, 0.4 / 17.3, 0.4 / 9.6, 0.4 / 1.48),
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),
}


class PlainSpectralConv2d(SpectralConv2d):
    """Weight / (u^T W v) after one step of power iteration, its gradient left to autograd."""

    def effective_weight(self) -> Tensor:
        rows = self.weight.flatten(1)
        if self.iterates:
            with torch.no_grad():
                v = F.normalize(rows.T @ self.weight_u, dim=0)
                u = F.normalize(rows @ v, dim=0)
            self.weight_u, self.weight_v = u, v
        return self.weight / (self.weight_u @ rows @ self.weight_v)


class Adam:
    """Kingma and Ba (2015), algorithm 1."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], beta1: float, beta2: float) -> None:
        self.parameters, self.betas, self.steps = dict(parameters), (beta1, beta2), 0
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, lr: float, max_norm: float) -> float:
        """Move the parameters, and forget their gradients; returns their norm before it was limited."""
        gradients = {name: p.grad for name, p in self.parameters.items()}
        norm = sum(g.square().sum() for g in gradients.values()).sqrt().item()
        limit = min(1.0, max_norm / (norm + 1e-6)) if max_norm else 1.0
        self.steps += 1
        beta1, beta2 = self.betas
        for name, parameter in self.parameters.items():
            gradient = limit * gradients[name]
            self.first[name] = beta1 * self.first[name] + (1 - beta1) * gradient
            self.second[name] = beta2 * self.second[name] + (1 - beta2) * gradient**2
            first = self.first[name] / (1 - beta1**self.steps)
            second = self.second[name] / (1 - beta2**self.steps)
            parameter.sub_(lr * first / (second.sqrt() + EPS_OF_ADAM))
            parameter.grad = None
        return norm


class PlainTraining:
    """What a trainer does from its present state on."""

    def __init__(self, trainer: Trainer) -> None:
        self.recipe = trainer.recipe
        self.networks = {name: _plain(network) for name, network in trainer.networks().items()}
        self.generator, self.discriminator = self.networks["generator"], self.networks["discriminator"]
        self.encoder = self.networks.get("encoder")
        self.perceptual = _perceptual(self.recipe)
        betas = self.recipe.train.beta1, self.recipe.train.beta2
        named = {f"{n}.{k}": p for n, network in self.networks.items() for k, p in network.named_parameters()}
        of_d = {name: p for name, p in named.items() if name.startswith("discriminator.")}
        self.adam_d = Adam(of_d, *betas)
        self.adam_g = Adam({name: p for name, p in named.items() if name not in of_d}, *betas)
        self.averages = {name: _folded(n) for name, n in self.networks.items() if name != "discriminator"}
        self.steps = 0
        self.segments = self.recipe.discriminator.kind == "segmentation"
        self.hinge_average, self.augmented = 1.0, False
        self.codes = [
            torch.full([self.recipe.model.z_dim], v, dtype=torch.float64) for v in (0, 1)
        ]  # mean, mean square
        self.encoded: list[tuple[Tensor, Tensor]] = []  # posteriors of a step, by micro-batch
        self.balanced: dict[str, Tensor] = {}  # weights by term, from the first micro-batch
        self.terms = dict.fromkeys(TERMS, 0.0)

    def step(self, batch: Mapping[str, Tensor], lr_scale: float) -> None:
        """Both networks learn from the same fakes, made and judged as they were before the step."""
        train = self.recipe.train
        size, sure_before = train.batch // train.accumulate, self.terms["d_real"]
        for i in range(train.accumulate):
            for network in self.networks.values():
                for layer in network.modules():
                    if isinstance(layer, PlainSpectralConv2d):
                        layer.iterates = i == 0
            part = {name: v[i * size : (i + 1) * size] for name, v in batch.items()}
            self._backward(part, 1 / train.accumulate, batch["channels"])
        self.terms["g_norm"] += self.adam_g.step(train.lr_g * lr_scale, train.max_grad_norm)
        of_a_guess = math.log(self.recipe.labels.num_classes + 1) if self.segments else 1
        self.hinge_average = 0.99 * self.hinge_average + 0.01 * (self.terms["d_real"] - sure_before) / of_a_guess
        begun = self.hinge_average < self.recipe.discriminator.augment_from
        self.augmented = self.augmented or bool(self.recipe.discriminator.augment and begun)
        self.terms["d_norm"] += self.adam_d.step(train.lr_d * lr_scale, train.max_grad_norm)

        if self.encoded:
            mu, logvar = (torch.cat(x) for x in zip(*self.encoded, strict=True))
            found = mu.mean(0), (mu**2 + logvar.exp()).mean(0)
            self.codes = [0.98 * old + 0.02 * new for old, new in zip(self.codes, found, strict=True)]
            self.encoded = []

        self.steps += 1
        decay = min(train.ema_decay, (1 + self.steps) / (10 + self.steps))
        for name, average in self.averages.items():
            for key, value in _folded(self.networks[name]).items():
                average[key] = decay * average[key] + (1 - decay) * value

    def _backward(self, batch: Mapping[str, Tensor], share: float, whole_batch: Tensor) -> None:
        weights = self.recipe.loss
        photo = batch["photo"].double() / 127.5 - 1
        whole = photo
        eps = batch["eps"].double()
        semantic = SemanticMap(batch["channels"].long(), batch.get("edges"), self.recipe.labels.num_classes)
        judge = copy.deepcopy(self.discriminator)  # the generator's loss reaches the weights of this one, if any

        # generator and encoder
        terms = dict.fromkeys(TERMS[:-3], torch.zeros(()))
        z = eps if self.recipe.model.uses_z else None
        encoded = list(range(len(photo)))  # the others, every so many, meet the adversarial loss alone
        if self.encoder is not None:
            if self.recipe.train.prior_share:
                every = round(1 / self.recipe.train.prior_share)
                encoded = [i for i in encoded if (i + 1) % every]
            mu, logvar = self.encoder(whole[encoded])
            z = eps.clone()
            if self.recipe.train.match_prior:
                z = self.codes[0] + (self.codes[1] - self.codes[0] ** 2) ** 0.5 * eps
                self.encoded.append((mu.detach(), logvar.detach()))
            z[encoded] = mu + (logvar / 2).exp() * eps[encoded]
            terms["kl"] = (0.5 * (mu**2 + logvar.exp() - 1 - logvar)).sum(1).mean()
        if "at" in batch:
            photo = _windows(whole, batch["at"], semantic.size)
            grid, stride = self.recipe.model.start_grid, self.recipe.model.stride
            start = self.generator.fc(z).reshape(len(z), -1, *grid)
            size = semantic.size[0] // stride, semantic.size[1] // stride
            fake = self.generator.from_start(_windows(start, batch["at"] // stride, size), semantic)
        else:
            fake = self.generator(semantic, z, noise_places=batch.get("noise_places"))
        render = fake
        if weights.ignore_unknown:
            names = [c.name for c in self.recipe.labels.classes]
            unknown = (semantic.channels == names.index(self.recipe.labels.unknown)).double()[:, None]
            fake = unknown * photo + (1 - unknown) * fake
        seen = [fake, photo]
        if self.augmented:
            seen, semantic = self._augmented(seen, semantic, batch["augment"].tolist())
        segmented = Segmented(self.recipe, semantic, whole_batch, share) if self.segments else None
        terms |= (
            segmented.of_generator(judge, seen) if segmented else _of_generator(judge(semantic, *seen).maps, encoded)
        )
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(fake[encoded], photo[encoded])
            if weights.gram:
                terms["gram"] = self.perceptual.gram(fake[encoded], photo[encoded])
        if weights.color:
            terms["color"] = (_squares(fake[encoded]) - _squares(photo[encoded])).abs().mean()
        for named, part in weights.balance.items() if not self.balanced else ():
            name = {"adversarial": "g_hinge"}.get(named, named)
            norm = torch.autograd.grad(terms[name], render, retain_graph=True)[0].square().sum().sqrt()
            self.balanced[name] = weights.balance_norm * part / sum(weights.balance.values()) / norm
        weight_of = {
            "g_hinge": 1,
            "feature_matching": weights.feature_matching,
            "perceptual": weights.perceptual,
            "gram": weights.gram,
            "color": weights.color,
            "kl": weights.kl * weights.kl_reference_batch,
        } | self.balanced
        loss = sum(weight * terms[name] for name, weight in weight_of.items())
        (share * loss).backward()

        # discriminator
        seen[0] = seen[0].detach()
        terms |= (
            segmented.of_discriminator(self.discriminator, *seen, batch.get("from_photo"))
            if segmented
            else _of_discriminator(*self.discriminator(semantic, *seen).maps)
        )
        of_mix = self.recipe.discriminator.label_mix * terms["d_mix"]
        (share * (terms["d_fake"] + terms["d_real"] + of_mix)).backward()

        for name, value in terms.items():
            self.terms[name] += share * value.item()

    def _augmented(
        self, images: list[Tensor], semantic: SemanticMap, numbers: list[list[float]]
    ) -> tuple[list[Tensor], SemanticMap]:
        """Images and map as DiffAugment changes them, one image after the other."""
        kinds = self.recipe.discriminator.augment
        planes = semantic.planes(semantic.size, torch.float64)
        (height, width), found, moved = semantic.size, [[] for _ in images], []
        for i, (light, saturation, contrast, down, right, row, column, _) in enumerate(numbers):
            dy, dx = (int(u * (2 * (n // 8) + 1)) - n // 8 for u, n in ((down, height), (right, width)))
            top, left = (int(u * (n + 1)) - n // 4 for u, n in ((row, height), (column, width)))
            for images_of, into in zip(images, found, strict=True):
                x = images_of[i]
                if "color" in kinds:
                    x = x + light - 0.5
                    x = x.mean(0) + 2 * saturation * (x - x.mean(0))
                    x = x.mean() + (contrast + 0.5) * (x - x.mean())
                if "translation" in kinds:
                    x = _translated(x, dy, dx)
                if "cutout" in kinds:
                    kept = torch.ones(height, width, dtype=torch.float64)
                    kept[max(top, 0) : top + height // 2, max(left, 0) : left + width // 2] = 0
                    x = x * kept
                into.append(x)
            moved.append(_translated(planes[i], dy, dx) if "translation" in kinds else planes[i])
        return [torch.stack(xs) for xs in found], semantic.with_planes(torch.stack(moved))

    def numbers(self, steps: int) -> dict[str, Tensor]:
        """Everything that a step changes, by name; the terms are means over the last ``steps`` steps."""
        found = {f"network {n}.{k}": v for n, network in self.networks.items() for k, v in network.state_dict().items()}
        for adam in (self.adam_g, self.adam_d):
            found |= {f"exp_avg {name}": v for name, v in adam.first.items()}
            found |= {f"exp_avg_sq {name}": v for name, v in adam.second.items()}
        found |= {f"ema {n}.{k}": v for n, average in self.averages.items() for k, v in average.items()}
        found |= {f"term {name}": torch.tensor(v / steps, dtype=torch.float64) for name, v in self.terms.items()}
        self.terms = dict.fromkeys(TERMS, 0.0)
        return {name: value.detach().clone() for name, value in found.items()}


def _of_generator(maps: tuple[list, list], encoded: list[int]) -> dict[str, Tensor]:
    """Hinge and feature matching; the latter sees the images that are ``encoded``."""
    fakes, reals = maps
    inner = [[f[encoded] for maps in side for f in maps[:-1]] for side in (fakes, reals)]
    distance = sum((f - r.detach()).abs().mean() for f, r in zip(*inner, strict=True))
    hinge = sum(-maps[-1].mean() for maps in fakes) / len(fakes)
    return {"g_hinge": hinge, "feature_matching": distance / len(fakes)}


def _of_discriminator(fakes: list, reals: list) -> dict[str, Tensor]:
    of_fakes = sum((1 + maps[-1]).clamp(min=0).mean() for maps in fakes) / len(fakes)
    return {"d_fake": of_fakes, "d_real": sum((1 - maps[-1]).clamp(min=0).mean() for maps in reals) / len(reals)}


class Segmented:
    """The losses of OASIS for a part of a batch, ``share`` of it, class by class and pixel by pixel.

    Their means are those of the whole batch: a part has the sum over its own pixels, divided by the number of pixels of
    all parts and by the part's share.
    """

    def __init__(self, recipe: Recipe, semantic: SemanticMap, whole: Tensor, share: float) -> None:
        planes = semantic.planes(semantic.size, torch.float64)
        self.share, self.num_classes = share, recipe.labels.num_classes
        self.unknown = recipe.labels.unknown_channel
        self.of = [planes[:, c] == 1 for c in range(self.num_classes)]  # nowhere, where the map was moved away
        self.counts = [0 if c == self.unknown else int((whole == c).sum()) for c in range(self.num_classes)]

    def balanced(self, logits: Tensor) -> Tensor:
        """The mean over the classes of the batch of the mean cross entropy of their pixels."""
        surprise = -logits.log_softmax(1)
        means = [surprise[:, c][self.of[c]].sum() / n for c, n in enumerate(self.counts) if n]
        return sum(means) / len(means) / self.share

    def of_generator(self, network: nn.Module, images: list[Tensor]) -> dict[str, Tensor]:
        """The fakes' cross entropy with the classes they are to show."""
        return {"g_hinge": self.balanced(network.logits(images)[0])}

    def of_discriminator(
        self, network: nn.Module, fake: Tensor, photo: Tensor, sides: Tensor | None
    ) -> dict[str, Tensor]:
        """Its terms. sides: which classes of each image are the photo's in a mixed one."""
        images = [fake, photo]
        if sides is not None:
            nowhere = ~torch.stack(self.of).any(0)
            mask = (nowhere & sides[:, 0, None, None]).double()[:, None]
            for c, of in enumerate(self.of):
                mask += (of & sides[:, c, None, None])[:, None]
            images.append(mask * photo + (1 - mask) * fake)
        of_fake, of_photo, *of_mixed = network.logits(images)
        known = sum(of for c, of in enumerate(self.of) if c != self.unknown) > 0
        terms = {
            "d_fake": -of_fake.log_softmax(1)[:, -1][known].sum() / sum(self.counts) / self.share,
            "d_real": self.balanced(of_photo),
        }
        if sides is not None:
            terms["d_mix"] = ((of_mixed[0] - mask * of_photo - (1 - mask) * of_fake) ** 2).mean()
        return terms


def numbers_of(trainer: Trainer, steps: int) -> dict[str, Tensor]:
    """As :meth:`PlainTraining.numbers`, of the trainer."""
    networks = trainer.networks()
    found = {f"network {n}.{k}": v for n, network in networks.items() for k, v in network.state_dict().items()}
    for n, network in networks.items():
        optimizer = trainer.optimizer_d if n == "discriminator" else trainer.optimizer_g
        for k, p in network.named_parameters():
            found |= {f"{moment} {n}.{k}": optimizer.state[p][moment] for moment in ("exp_avg", "exp_avg_sq")}
    found |= {f"ema {n}.{k}": v for n, average in trainer.ema.averages.items() for k, v in average.items()}
    terms = trainer.pop_losses(steps)
    assert tuple(terms) == TERMS
    found |= {f"term {name}": torch.tensor(v, dtype=torch.float64) for name, v in terms.items()}
    return {name: value.detach().clone() for name, value in found.items()}


# Biases whose effect the next norm takes out: their gradient is rounding alone, which is to be small beside the other
# gradients of the network. Adam divides it by 1e-8, and makes a millionth of a learning rate of it; statistics follow.
CANCELLED = re.compile(r"generator\.(fc|blocks\.\d\.(conv_[01]|norm_s\.gamma_beta))\.bias|running_mean")


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Raise AssertionError that names what differs by more than ``tolerance`` of its tensor's largest value."""
    assert found.keys() == expected.keys()
    different = []
    for name, value in expected.items():
        size, allowed = value.double().abs().max().item(), tolerance
        if CANCELLED.search(name):
            if name.startswith("exp_avg"):
                size = _largest(expected, name.partition(".")[0])
            else:
                allowed = max(tolerance, 1e-7)
        distance = (found[name].double() - value).abs().max().item()
        if not distance <= allowed * size:
            different.append(f"{name}: {distance:.1e} of {size:.1e}")
    assert not different, "\n".join(different)


def _largest(numbers: Mapping[str, Tensor], prefix: str) -> float:
    return max(v.abs().max().item() for name, v in numbers.items() if name.startswith(f"{prefix}."))


def _plain(network: nn.Module) -> nn.Module:
    copied = copy.deepcopy(network).to(torch.float64, memory_format=torch.contiguous_format)
    for layer in copied.modules():
        if isinstance(layer, SpectralConv2d):
            layer.__class__ = PlainSpectralConv2d
    return copied


def _folded(network: nn.Module) -> dict[str, Tensor]:
    """What the network computes with in evaluation."""
    state = {name: v.detach().clone() for name, v in network.state_dict().items()}
    for name in [n for n in state if n.endswith(".weight_u")]:
        key = name.removesuffix("_u")
        u, v = state.pop(name), state.pop(f"{key}_v")
        state[key] = state[key] / (u @ state[key].flatten(1) @ v)
    return {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}


def _squares(image: Tensor) -> Tensor:
    """Mean colours of 16 x 16 squares."""
    n, c, h, w = image.shape
    return image.reshape(n, c, 16, h // 16, 16, w // 16).mean((3, 5))


def _translated(x: Tensor, dy: int, dx: int) -> Tensor:
    """Row y and column x of the result are y + dy and x + dx of [C,H,W], or 0."""
    (height, width), far = x.shape[1:], max(x.shape)
    return F.pad(x, (far,) * 4)[:, far + dy : far + dy + height, far + dx : far + dx + width]


def _windows(maps: Tensor, at: Tensor, size: tuple[int, int]) -> Tensor:
    """The window of each map that begins at this row and column."""
    (height, width), places = size, at.tolist()
    return torch.stack([m[:, y : y + height, x : x + width] for m, (y, x) in zip(maps, places, strict=True)])


def _perceptual(recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor] | None:
    loss = recipe.loss
    if loss.perceptual_network == "none" or not loss.perceptual:
        return None
    layers, taps, weights, mean, std = CLASSIFIERS[loss.perceptual_network]
    classifier = nn.Sequential(*layers()[0]).double().requires_grad_(False)
    classifier.load_state_dict(torch.load(Path(loss.perceptual_weights)))
    # images are in [-1,1]; the constants are kept in float32 whatever the precision
    mean, std = (x.double().view(3, 1, 1) for x in (2 * torch.tensor(mean) - 1, 2 * torch.tensor(std)))

    def maps(image: Tensor) -> list[Tensor]:
        x, found = (image - mean) / std, []
        for i, layer in enumerate(classifier):
            x = layer(x)
            if i in taps:
                found.append(x)
        return found

    def perceptual(fake: Tensor, photo: Tensor) -> Tensor:
        return sum(w * (f - r).abs().mean() for w, f, r in zip(weights, maps(fake), maps(photo), strict=True))

    def matrix(x: Tensor) -> Tensor:
        return torch.einsum("ncyx,ndyx->ncd", x, x) / (x.shape[2] * x.shape[3] * x.shape[1] ** 0.5)

    def gram(fake: Tensor, photo: Tensor) -> Tensor:
        distances = []
        for f, r in zip(maps(fake), maps(photo), strict=True):
            size = (r**2).mean().sqrt() + 1e-6
            distances.append((matrix(f / size) - matrix(r / size)).abs().mean())
        return sum(distances) / len(distances)

    perceptual.gram = gram
    return perceptual
