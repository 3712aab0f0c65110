"""The network of screen.py in two parts: frozen sections, run once, and those that train."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression

from mlcls_jax.config import Data, Group, Loss, Phase
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.oversampling import with_repeats
from mlcls_jax.data.sampling import REPEAT, stream_order
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.weights.load import load_pretrained
from mlcls_jax.run.tta import of_mean_probability
from mlcls_jax.step import losses
from mlcls_jax.step.groups import active_modules, count_stages, trainable_paths
from mlcls_jax.step.mixup import mix_labels
from mlcls_jax.step.optimizer import make_optimizer
from mlcls_jax.step.param_tree import flatten, unflatten
from mlcls_jax.step.train_step import normalize

ROWS, AVERAGED = 32, 3  # images per step; epochs whose parameters are averaged


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a row can change.

    Attributes:
        cut: the first stage that trains, from 1; the number of stages + 2: the head alone.
        head: how the head trains on pooled features: "steps" as in the default phases, or
            "logistic" by scikit-learn's logistic regression of each class.
        strength: C of the logistic regression, of standardised features.
        head_epochs, epochs: length of the two phases.
        head_rate, rate, rate_of_head: learning rates of the first phase, and of backbone and head
            in the second.
        decay: weight decay of the second phase.
        layer_decay, clip: as in Phase; warmup: steps.
        mixup: alpha, of the activations at the cut.
        smoothing: of the labels.
        sam: radius of SAM (arXiv:2010.01412); 0: off.
        dropout, drop_path: rates.
        batch_norm: "frozen" or "train".
        views: views of an image in the first phase: 2 with the mirror image.
        drawn: views of an image that the second phase trains on, augmented at random by
            rand_augment, magnitude and min_scale; 0: the plain and the mirrored one.
        size: side of the images in pixels; 0: the variant's own.
        images: training images, drawn from those of the other folds; 0: all.
        flipped, unknown: shares of the training labels that are turned around, or hidden.
        own_folds: networks that train, each without one such fold of the training images; 0: one
            network, on all of them.
        oversample: as in Data.
        pos_weight: "auto" as in Loss, or "" for 1.
    """

    cut: int = 6
    head: str = "steps"
    strength: float = 0.01
    head_epochs: int = 6
    epochs: int = 12
    head_rate: float = 1e-2
    rate: float = 3e-4
    rate_of_head: float = 5e-4
    decay: float = 1e-2
    layer_decay: float = 1.0
    clip: float = 1.0
    warmup: int = 12
    mixup: float = 0.0
    smoothing: float = 0.0
    sam: float = 0.0
    dropout: float = 0.2
    drop_path: float = 0.2
    batch_norm: str = "frozen"
    views: int = 1
    drawn: int = 0
    rand_augment: int = 0
    magnitude: float = 5.0
    min_scale: float = 1.0
    size: int = 0
    images: int = 0
    flipped: float = 0.0
    unknown: float = 0.0
    own_folds: int = 0
    oversample: str = "none"
    pos_weight: str = ""

    def loss(self) -> Loss:
        """Returns the loss of the second phase; that of the first has no smoothing."""
        return Loss(label_smoothing=self.smoothing, pos_weight=self.pos_weight or 1.0)


class Network:
    """A pretrained network, and its sections as functions."""

    def __init__(self, variant: str, classes: int, settings: Settings):
        pretrained = load_pretrained("imagenet", variant)
        self.normalization = pretrained.pretrained_config.normalization
        self.model = EfficientNet(
            variant=variant,
            num_classes=classes,
            convention=pretrained.pretrained_config.convention,
            dropout=settings.dropout,
            drop_path=settings.drop_path,
            active=frozenset(),
        )
        self.backbone = pretrained.variables["params"]["backbone"]
        self.statistics = pretrained.variables["batch_stats"]
        self.stages = count_stages({"backbone": self.backbone})
        self.width = self.backbone["top"]["conv"]["kernel"].shape[-1]

    def activations(self, views: Iterable[np.ndarray], cut: int) -> np.ndarray:
        """Returns the input of a section for each view of the images.

        Args:
            views: uint8 [image, size, size, 3] of each view.
            cut: number of the section; the head takes the mean of the last map.

        Returns:
            float32 [image, view, ...].
        """
        end = None if cut == self.stages + 2 else cut
        head = {"kernel": jnp.zeros((self.width, 1)), "bias": jnp.zeros(1)}
        variables = {"params": {"backbone": self.backbone, "head": head}}
        variables |= {"batch_stats": self.statistics}

        @jax.jit
        def compute(batch: jax.Array) -> jax.Array:
            pixels = normalize(batch, self.normalization)
            x: Any = self.model.apply(variables, pixels, False, None, 0, end, method=_backbone)
            return x.astype(jnp.float32).mean((1, 2)) if end is None else x

        return np.stack([_by_rows(compute, view) for view in views], axis=1)

    def logits(self, leaves: dict, statistics: dict, x: Any, cut: int) -> jax.Array:
        """Returns the logits of the activations at a cut, in evaluation mode."""
        variables = {"params": unflatten(leaves), "batch_stats": unflatten(statistics)}
        return self.model.apply(variables, x, cut, False, None, method=_from_cut)  # pyright: ignore


def _backbone(model: Any, x: jax.Array, train: bool, example: Any, begin: int, end: int | None):
    return model.backbone(x, train, example, begin, end)


def _from_cut(model: Any, x: jax.Array, cut: int, train: bool, example: Any) -> jax.Array:
    x = model.backbone(x, train, example, cut, None).astype(jnp.float32).mean((1, 2))
    return model.classify(x, train, example)


def _by_rows(function: Callable, rows: np.ndarray) -> np.ndarray:
    """Returns a function of equally large batches, whose last one is padded."""
    parts = []
    for begin in range(0, len(rows), ROWS):
        batch = rows[begin : begin + ROWS]
        padded = np.concatenate([batch, np.repeat(batch[:1], ROWS - len(batch), axis=0)])
        parts.append(np.asarray(function(padded))[: len(batch)])
    return np.concatenate(parts)


def mean_loss(loss: losses.Loss, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean over the known labels."""
    total, known = losses.known_sum(loss(logits, labels), labels)
    return total / jnp.maximum(known, 1.0)


def train_table(labels: np.ndarray, settings: Settings) -> LabelTable:
    """Returns a table of training labels, int [image, class], with the repeats of the settings."""
    names, classes = (tuple(map(str, range(count))) for count in labels.shape)
    table = LabelTable("", names, labels.astype(np.int8), classes)
    return with_repeats(table, Data(oversample=settings.oversample))


def train_head(features: np.ndarray, labels: np.ndarray, settings: Settings, seed: int) -> dict:
    """Returns {kernel, bias} after the first phase, on pooled features [image, view, width]."""
    images, width = len(features), features.shape[-1]
    steps = max(settings.head_epochs * images // ROWS, 1)
    table = train_table(labels, settings)
    config, means = dataclasses.replace(settings.loss(), label_smoothing=0.0), table.mean_targets
    bce = losses.make_loss(config, labels.shape[1], means)
    bias = losses.prior_bias(config, means)
    head = {"kernel": jnp.zeros((width, labels.shape[1])), "bias": jnp.asarray(bias)}
    rate = optax.cosine_decay_schedule(settings.head_rate, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    epoch, row = stream_order(np.arange(steps * ROWS), images, seed, table.repeats)
    earlier, epoch = np.divmod(epoch, REPEAT)
    place = stream_order(epoch * images + row, images, seed + 2**31)[1]
    view = (place + earlier) % settings.views
    inputs, targets, key = jnp.asarray(features), jnp.asarray(labels), jax.random.key(seed)

    def step(carry, batch):
        head, state = carry
        rows, views, number = batch

        def loss(head):
            keep = jax.random.bernoulli(
                jax.random.fold_in(key, number), 1 - settings.dropout, (ROWS, width)
            )
            x = jnp.where(keep, inputs[rows, views] / (1 - settings.dropout), 0.0)
            return mean_loss(bce, x @ head["kernel"] + head["bias"], targets[rows])

        updates, state = optimizer.update(jax.grad(loss)(head), state, head)
        return (optax.apply_updates(head, updates), state), None

    batches = row.reshape(steps, ROWS), view.reshape(steps, ROWS), np.arange(steps)
    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, batches)[0])
    return jax.tree.map(np.asarray, scan((head, optimizer.init(head)))[0])


def fit_logistic(features: np.ndarray, labels: np.ndarray, strength: float) -> dict:
    """Returns {kernel, bias} of a logistic regression per class on plain, pooled features."""
    x = features[:, 0]
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    kernel, bias = np.zeros((x.shape[1], labels.shape[1])), np.full(labels.shape[1], -10.0)
    for c in range(labels.shape[1]):
        known = labels[:, c] >= 0
        target = labels[known, c] > 0.5
        if target.all() or not target.any():
            continue
        model: Any = LogisticRegression(C=strength, max_iter=1000)
        model.fit((x[known] - mean) / deviation, target)
        kernel[:, c] = model.coef_[0] / deviation
        bias[c] = model.intercept_[0] - mean @ kernel[:, c]
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


class Tail:
    """The sections from the cut to the head: their training step and their scores."""

    def __init__(
        self, network: Network, settings: Settings, per_epoch: int, means: Sequence[float]
    ):
        self.network, self.settings, self.per_epoch = network, settings, per_epoch
        self.loss = losses.make_loss(settings.loss(), network.model.num_classes, means)
        cut, stages = settings.cut, network.stages
        sections = [f"stage{number}" for number in range(cut, stages + 1)]
        pattern = f"backbone/({'|'.join([*sections, 'top'])})/.*"
        steps = settings.epochs * per_epoch
        rates = (settings.rate_of_head, settings.rate)
        patterns = ("head/.*", pattern)
        groups = [Group(p, r, settings.decay) for p, r in zip(patterns, rates, strict=True)]
        self.phase = Phase(
            "tail",
            f"{steps} steps",
            groups,
            clip_norm=settings.clip,
            layer_decay=settings.layer_decay,
            batch_norm=settings.batch_norm,
        )
        params = {"backbone": network.backbone, "head": {"kernel": np.zeros(1), "bias": 0}}
        self.trainable = trainable_paths(params, self.phase)
        active = active_modules(self.trainable, self.phase, network.statistics)
        self.model = network.model.clone(active=active)
        warmup = min(settings.warmup, steps)
        self.optimizer = make_optimizer(self.phase, self.trainable, steps, warmup, stages=stages)
        self.step = jax.jit(self._step, donate_argnums=(0, 1, 2))
        self.scores = jax.jit(partial(network.logits, cut=cut))

    def _loss(self, leaves, statistics, x, labels, position, key):
        settings = self.settings
        if settings.mixup:
            draw, _ = jax.random.split(jax.random.fold_in(key, 7))
            share = jax.random.beta(draw, settings.mixup, settings.mixup, (len(x) // 2,))
            share, other = jnp.repeat(jnp.maximum(share, 1 - share), 2), jnp.arange(len(x)) ^ 1
            kept = share.reshape(-1, *(1 for _ in x.shape[1:]))
            x = kept * x + (1 - kept) * x[other]
            labels = mix_labels(labels, labels[other], share[:, None], "mixed")
        variables = {"params": unflatten(leaves), "batch_stats": unflatten(statistics)}
        logits, updated = self.model.apply(
            variables,
            x,
            settings.cut,
            True,
            position,
            method=_from_cut,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        changed: Any = updated["batch_stats"]
        return mean_loss(self.loss, logits, labels), flatten(changed)

    def _step(self, leaves, state, statistics, x, labels, position, key):
        gradient = jax.grad(self._loss, has_aux=True)
        arguments = statistics, x, labels, position, key
        grads, changed = gradient(leaves, *arguments)
        if self.settings.sam:
            scale = self.settings.sam / optax.tree.norm(grads)
            grads, _ = gradient(jax.tree.map(lambda p, g: p + scale * g, leaves, grads), *arguments)
        updates, state = self.optimizer.update(grads, state, leaves)
        return optax.apply_updates(leaves, updates), state, statistics | changed

    def train(self, heads: list[dict], data: list[tuple], held_out: Any, seed: int):
        """Returns the logits of the held-out activations by their names; see screen.py.

        Args:
            heads: of each network, before this phase.
            data: activations and labels that each network trains on.
            held_out: activations to score.
            seed: of the first network.
        """
        fits = [
            self.fit(head, x, labels, seed + 1000 * number)
            for number, (head, (x, labels)) in enumerate(zip(heads, data, strict=True))
        ]
        first, leaves, mean, statistics = fits[0]
        half = jax.tree.map(lambda a, b: (a + np.asarray(b)) / 2, first, leaves)
        plain = partial(self.evaluate, statistics=statistics, held_out=held_out)
        end = plain(leaves, view=0)
        result = {
            "logits": end,
            "logits_flip": (end + plain(leaves, view=1)) / 2,
            "logits_average": plain(mean, view=0),
            "logits_half": plain(half, view=0),
        }
        if len(fits) > 1:
            ends = [fitted[1] for fitted in fits]
            soup = jax.tree.map(lambda *a: np.mean(a, axis=0), *ends)
            scores = np.stack([end, *(plain(other, view=0) for other in ends[1:])])
            ensemble = np.asarray(of_mean_probability(jnp.asarray(scores)))
            result |= {"logits_soup": plain(soup, view=0), "logits_ensemble": ensemble}
        return result

    def fit(self, head: dict, x: np.ndarray, labels: np.ndarray, seed: int):
        """Returns the parameters before, after, and averaged, and the statistics after training."""
        params: Any = {"backbone": self.network.backbone, "head": head}
        params = flatten(params)
        leaves = {path: jnp.asarray(params[path]) for path in self.trainable}
        first = jax.tree.map(np.asarray, leaves)
        used = {path for path in flatten(self.network.statistics) if self._is_above(path)}
        statistics = {
            path: jnp.asarray(leaf)
            for path, leaf in flatten(self.network.statistics).items()
            if path in used
        }
        state, key = self.optimizer.init(leaves), jax.random.key(seed)
        steps = self.settings.epochs * self.per_epoch
        first_row = self.settings.head_epochs * len(x)
        repeats = train_table(labels, self.settings).repeats
        _, rows = stream_order(first_row + np.arange(steps * ROWS), len(x), seed, repeats)
        begin, end = (2, x.shape[1]) if self.settings.drawn else (0, 2)
        views, average = np.random.default_rng(seed + 5).integers(begin, end, len(rows)), []
        for step, chosen in enumerate(np.split(np.arange(len(rows)), steps)):
            row, view = rows[chosen], views[chosen]
            drawn = x[row, view], labels[row], chosen.astype(np.uint32)
            leaves, state, statistics = self.step(
                leaves, state, statistics, *drawn, jax.random.fold_in(key, step)
            )
            left = steps - step - 1
            if left % self.per_epoch == 0 and left < AVERAGED * self.per_epoch:
                average.append(jax.tree.map(np.asarray, leaves))
        mean = jax.tree.map(lambda *a: np.mean(a, axis=0), *average)
        return first, leaves, mean, statistics

    def _is_above(self, path: str) -> bool:
        return any(leaf.startswith(path.rsplit("/", 1)[0] + "/") for leaf in self.trainable)

    def evaluate(self, leaves: dict, statistics: dict, held_out: np.ndarray, view: int):
        """Returns the logits of one view of the held-out activations."""
        rows = held_out[:, view]
        return _by_rows(lambda x: self.scores(leaves, statistics, x), rows)
