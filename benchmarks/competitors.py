"""Other ways to segment lumens, for benchmarks/accuracy.py: thresholds, vesselness filters, MONAI's 3-D U-Net."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet as MonaiUNet
from numpy.typing import NDArray
from skimage.filters import frangi, sato, threshold_otsu

from micronet.data.dataset import Sample
from micronet.measure.overlap import Overlap, overlap
from micronet.networks.normalize import standardize
from micronet.networks.weights import load_session, save_session

__all__ = ["FILTERS", "UNet", "fit_filter", "fit_otsu", "otsu"]

_Mask = NDArray[np.bool_]
#: Standard deviations in voxels: from a capillary to a large vein.
_SIGMAS = (2.0, 4.0, 8.0)
_CANDIDATES = 100
#: Thresholds are fitted in the middle of a volume along Z: this many planes.
_PLANES = 64


def otsu(sample: Sample, *, bright: bool) -> _Mask:
    """Return what lies above the threshold of Otsu (1979), or below it."""
    above = sample.image > threshold_otsu(sample.image)
    return above if bright else ~above


def fit_otsu(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return on which side of the threshold the lumens lie."""
    f = {bright: _pooled([otsu(s, bright=bright) for s in samples], samples).f_score() for bright in (True, False)}
    return {"bright": f[True] >= f[False]}


def _filtered(function: Callable[..., Any]) -> Callable[..., NDArray[np.float32]]:
    def response(sample: Sample, *, black_ridges: bool) -> NDArray[np.float32]:
        return function(sample.normalized(), sigmas=_SIGMAS, black_ridges=black_ridges).astype(np.float32)

    return response


#: Frangi et al. 1998 and Sato et al. 1998, as scikit-image has them.
FILTERS = {"frangi": _filtered(frangi), "sato": _filtered(sato)}


def fit_filter(name: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the polarity and the threshold of a filter's response that give the largest F on these volumes."""
    best: dict[str, Any] = {"f": -1.0}
    samples = [_middle(sample) for sample in samples]
    for black_ridges in (False, True):
        responses = [FILTERS[name](sample, black_ridges=black_ridges) for sample in samples]
        drawn = np.concatenate([response.ravel()[::97] for response in responses])
        for threshold in np.unique(np.quantile(drawn, np.linspace(0.5, 0.999, _CANDIDATES))):
            f = _pooled([response > threshold for response in responses], samples).f_score()
            if f > best["f"]:
                best = {"f": f, "threshold": float(threshold), "black_ridges": black_ridges}
    return best


def _middle(sample: Sample) -> Sample:
    first = max(0, (len(sample.mask) - _PLANES) // 2)
    part = slice(first, first + _PLANES)
    return replace(sample, image=sample.image[part], mask=sample.mask[part])


def _pooled(masks: Sequence[_Mask], samples: Sequence[Sample]) -> Overlap:
    counts = [overlap(mask, sample.mask) for mask, sample in zip(masks, samples, strict=True)]
    return sum(counts, Overlap(0, 0, 0))


class UNet:
    """MONAI's residual 3-D U-Net (Kerfoot et al. 2019), trained for a given CPU time.

    Random crops, half of them around a lumen voxel, mirrored along z and x as ours; Dice and cross-entropy; AdamW
    with a rate that falls as a cosine over the time; the weights that validate best are kept.

    Parameters
    ----------
    crop : int
        Edge of a training crop and of an inference window, voxels; a multiple of 16.
    seed : int
        Of the initial weights and the crops.
    """

    _BATCH, _RATE, _VALIDATIONS = 2, 1e-3, 10

    def __init__(self, crop: int, seed: int) -> None:
        self.crop, self.seed = crop, seed
        torch.manual_seed(seed)
        self.network = MonaiUNet(3, 1, 1, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2)

    def load(self, path: Path) -> bool:
        """Take trained weights from a session file; return whether it is there and finished."""
        if not path.exists():
            return False
        content = load_session(path)
        if content["done"]:
            self.network.load_state_dict(content["best"])
        return bool(content["done"])

    def train(self, train: Sequence[Sample], validation: Sequence[Sample], cpu_seconds: float, path: Path) -> None:
        """Train for a CPU time, going on from `path` and keeping what is done there."""
        loss_of = DiceCELoss(sigmoid=True)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self._RATE)
        state: dict[str, Any] = {"spent": 0.0, "step": 0, "best_f": -1.0, "best": None, "done": False}
        if path.exists():
            state = load_session(path)
            self.network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
        began = time.process_time() - state["spent"]
        while not state["done"]:
            part = min((time.process_time() - began) / cpu_seconds, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = self._RATE * 0.5 * (1 + math.cos(math.pi * part))
            image, target = self._batch(train, state["step"])
            self.network.train()
            optimizer.zero_grad()
            loss_of(self.network(image), target).backward()
            optimizer.step()
            state["step"] += 1
            spent = time.process_time() - began
            if spent * self._VALIDATIONS // cpu_seconds > state["spent"] * self._VALIDATIONS // cpu_seconds:
                f = _pooled([self.predict(sample) for sample in validation], validation).f_score()
                if f >= state["best_f"]:
                    best = {key: tensor.clone() for key, tensor in self.network.state_dict().items()}
                    state |= {"best_f": f, "best": best}
                state |= {"spent": time.process_time() - began, "done": spent >= cpu_seconds}
                state |= {"network": self.network.state_dict(), "optimizer": optimizer.state_dict()}
                save_session(path, state)
                print(f"MONAI U-Net step {state['step']}, {spent / 60:.1f} CPU minutes, F {f:.3f}", flush=True)
        self.network.load_state_dict(state["best"])

    def _batch(self, samples: Sequence[Sample], step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, step])
        images, targets = [], []
        for _ in range(self._BATCH):
            sample = samples[rng.integers(len(samples))]
            shape = np.array(sample.mask.shape)
            size = np.minimum(self.crop, shape - shape % 16)
            first = rng.integers(0, shape - size + 1)
            if rng.random() < 0.5:  # around a lumen voxel
                lumen = np.flatnonzero(sample.mask)
                place = np.array(np.unravel_index(lumen[rng.integers(len(lumen))], sample.mask.shape))
                first = np.clip(place - size // 2, 0, shape - size)
            box = tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))
            mirrored = tuple(axis for axis in (0, 2) if rng.random() < 0.5)
            normal = standardize(np.flip(sample.image[box], mirrored), sample.mean, sample.sd)
            images.append(torch.from_numpy(normal))
            targets.append(torch.from_numpy(np.flip(sample.mask[box], mirrored).astype(np.float32)))
        if len({tuple(image.shape) for image in images}) > 1:  # volumes of two sizes: crops of the smaller one's size
            least = np.min([image.shape for image in images], axis=0)
            cut = tuple(slice(0, n) for n in least)
            images, targets = [i[cut] for i in images], [t[cut] for t in targets]
        return torch.stack(images)[:, None], torch.stack(targets)[:, None]

    def predict(self, sample: Sample) -> _Mask:
        """Return the mask of a volume, from windows that overlap by a quarter."""
        self.network.eval()
        with torch.inference_mode():
            image = torch.from_numpy(sample.normalized())[None, None]
            logits = sliding_window_inference(image, (self.crop,) * 3, 1, self.network, overlap=0.25, mode="gaussian")
        mask: _Mask = logits[0, 0].numpy() > 0
        return mask
