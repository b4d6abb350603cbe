"""Run another system on one scan, file to mask, with random weights, and print its times as JSON.

``nnunet`` and ``nnunet_mirrored``: nnU-Net v2's predictor with the default 3d_fullres U-Net of a
usual CT plan (patch 64 x 192 x 160, tile step 0.5). ``swin_unetr`` and ``segresnet``: MONAI's
networks under its sliding window, BTCV's recipe (1.5 x 1.5 x 2 mm, windows of 96, overlap 0.5).
``sam_vit_b``: segment_anything's predictor at 1024 px, slice by slice, with a box of the whole
slice. All have one foreground class.

Whole passes take minutes to hours, so the network runs on ``--patches`` of the N patches after one
to warm up; for the others zeros are returned at once, and all else (reading, resampling, the loop
over N patches, blending, writing) is done in full. Imports nothing of samcancer, so that it can run
under an interpreter with other packages. Example:
``python benchmarks/compared_systems.py segresnet --scan ct.nii.gz --mask mask.nii.gz``
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import torch
from torch import Tensor

CLASSES = 2
"""Background and one foreground class."""

NNUNET_PATCH = (64, 192, 160)
NNUNET_SPACING_MM = (2.5, 0.8, 0.8)
"""Of the plan, (z, y, x): the scan's own, so that nothing is resampled."""
NNUNET_STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
NNUNET_FEATURES = (32, 64, 128, 256, 320, 320)

MONAI_SPACING_MM = (1.5, 1.5, 2.0)
"""Of MONAI's BTCV recipe, in (x, y, z) order."""
MONAI_WINDOW_HU = (-175.0, 250.0)
MONAI_OVERLAP = 0.5
MONAI_WINDOW = 96
"""Voxels along the side of a window."""

SAM_WINDOW_HU = (-200.0, 300.0)


class PatchClock:
    """Lets the network run on some patches, times them, and answers zeros for the others."""

    def __init__(self, wanted: int | None) -> None:
        """Time ``wanted`` patches after one to warm up; None runs and times all."""
        self.wanted = wanted
        self.patches = 0
        self.seconds: list[float] = []

    def __call__(self, network: Callable[[Tensor], Tensor], patch: Tensor) -> Tensor:
        """(1, C, ...) -> (1, CLASSES, ...)."""
        self.patches += 1
        if self.wanted is not None and self.patches > self.wanted + 1:
            return torch.zeros(1, CLASSES, *patch.shape[2:])
        started = time.perf_counter()
        output = network(patch)
        self.seconds.append(time.perf_counter() - started)
        return output

    def report(self) -> dict[str, Any]:
        """Return the counts, the seconds spent, and those that all patches would take."""
        timed = self.seconds if self.wanted is None else self.seconds[1:] or self.seconds
        each_s = sum(timed) / len(timed)
        return {
            "patches": self.patches,
            "timed": len(timed),
            "spent_s": sum(self.seconds),
            "all_s": each_s * self.patches,
            "torch": torch.__version__,
        }


System = Callable[[Path, Path, PatchClock, int], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one system and print its report as the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__.splitlines()[-1].replace("``", "")
    )
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--mask", type=Path, required=True)
    parser.add_argument("--patches", type=int, help="that are timed (default all)")
    parser.add_argument("--window", type=int, default=MONAI_WINDOW, help="of MONAI's, in voxels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clock = PatchClock(args.patches)
    with torch.inference_mode():
        SYSTEMS[args.system](args.scan, args.mask, clock, args.window)
    print()
    print(json.dumps(clock.report()))
    return 0


def nnunet(scan: Path, mask: Path, clock: PatchClock, _: int, *, mirrored: bool = False) -> None:
    """Predict with nnU-Net v2's own predictor, in one process."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    class TimedPredictor(nnUNetPredictor):  # type: ignore[misc]
        def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
            return clock(super()._internal_maybe_mirror_and_predict, x)

    plans = PlansManager(nnunet_plans())
    configuration = plans.get_configuration("3d_fullres")
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        CLASSES,
        deep_supervision=False,
    )
    predictor = TimedPredictor(use_mirroring=mirrored, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        network,
        plans,
        configuration,
        [network.state_dict()],
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "lesion": 1},
            "file_ending": ".nii.gz",
        },
        "nnUNetTrainer",
        (0, 1, 2) if mirrored else None,
    )
    stem = mask.name.removesuffix(".nii.gz")
    predictor.predict_from_files_sequential([[str(scan)]], [str(mask.with_name(stem))])


def nnunet_plans() -> dict[str, Any]:
    """Return plans as nnU-Net writes them for a usual CT data set, 3d_fullres alone."""
    stages = len(NNUNET_FEATURES)
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    of_labels = {**resampling, "is_seg": True, "order": 1}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(NNUNET_FEATURES),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * (stages - 1)],
            "strides": [list(stride) for stride in NNUNET_STRIDES],
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(NNUNET_PATCH),
        "spacing": list(NNUNET_SPACING_MM),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": of_labels,
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "batch_dice": False,
        "architecture": architecture,
    }
    grey_values = {"mean": 40.0, "std": 80.0, "percentile_00_5": -150.0, "percentile_99_5": 250.0}
    return {
        "dataset_name": "Dataset900_Random",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": grey_values},
        "configurations": {"3d_fullres": configuration},
    }


def nnunet_mirrored(scan: Path, mask: Path, clock: PatchClock, window: int) -> None:
    """Predict as nnU-Net does by default, with the mean over all eight mirrorings."""
    nnunet(scan, mask, clock, window, mirrored=True)


def swin_unetr(scan: Path, mask: Path, clock: PatchClock, window: int) -> None:
    """Predict with MONAI's SwinUNETR of feature size 48."""
    from monai.networks.nets import SwinUNETR

    network = SwinUNETR(in_channels=1, out_channels=CLASSES, feature_size=48)
    _monai(network.eval(), scan, mask, clock, window)


def segresnet(scan: Path, mask: Path, clock: PatchClock, window: int) -> None:
    """Predict with MONAI's SegResNet of 16 filters."""
    from monai.networks.nets import SegResNet

    network = SegResNet(init_filters=16, in_channels=1, out_channels=CLASSES)
    _monai(network.eval(), scan, mask, clock, window)


def _monai(
    network: Callable[[Tensor], Tensor], scan: Path, mask: Path, clock: PatchClock, window: int
) -> None:
    """Resample, slide a window over the scan, take the larger logit and resample back."""
    from monai.inferers import sliding_window_inference

    image = sitk.ReadImage(str(scan), sitk.sitkFloat32)
    size = [
        max(round(n * mm / wanted), 1)
        for n, mm, wanted in zip(image.GetSize(), image.GetSpacing(), MONAI_SPACING_MM, strict=True)
    ]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetOrigin(image.GetOrigin())
    grid.SetDirection(image.GetDirection())
    grid.SetSpacing(MONAI_SPACING_MM)
    lower, upper = MONAI_WINDOW_HU
    resampled = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, lower)
    values = np.clip((sitk.GetArrayFromImage(resampled) - lower) / (upper - lower), 0, 1)
    logits = sliding_window_inference(
        torch.from_numpy(values.transpose(2, 1, 0).copy())[None, None],
        (window,) * 3,
        1,
        lambda patch: clock(network, patch),
        overlap=MONAI_OVERLAP,
    )
    labels = logits[0].argmax(dim=0).byte().numpy().transpose(2, 1, 0)
    predicted = sitk.GetImageFromArray(labels)
    predicted.CopyInformation(grid)
    whole = sitk.Resample(predicted, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    sitk.WriteImage(whole, str(mask), useCompression=True)


def sam_vit_b(scan: Path, mask: Path, clock: PatchClock, _: int) -> None:
    """Predict every slice with segment_anything, prompted with a box of the whole slice."""
    from segment_anything import SamPredictor, sam_model_registry

    predictor = SamPredictor(sam_model_registry["vit_b"]().eval())
    image = sitk.ReadImage(str(scan), sitk.sitkInt16)
    lower, upper = SAM_WINDOW_HU
    labels = np.zeros(image.GetSize()[::-1], dtype=np.uint8)
    for index, plane in enumerate(sitk.GetArrayViewFromImage(image)):
        grey = (np.clip((plane - lower) / (upper - lower), 0, 1) * 255).astype(np.uint8)
        labels[index] = clock(
            lambda pixels: _sam_slice(predictor, pixels), torch.from_numpy(grey)[None, None]
        )[0, 1].numpy()
    predicted = sitk.GetImageFromArray(labels)
    predicted.CopyInformation(image)
    sitk.WriteImage(predicted, str(mask), useCompression=True)


def _sam_slice(predictor: Any, grey: Tensor) -> Tensor:
    """(1, 1, rows, columns) uint8 -> background and foreground (1, 2, rows, columns)."""
    pixels = grey[0, 0].numpy()
    rows, columns = pixels.shape
    predictor.set_image(np.stack([pixels] * 3, axis=-1))
    box = np.array([0, 0, columns - 1, rows - 1])
    found, _, _ = predictor.predict(box=box, multimask_output=False)
    return torch.from_numpy(np.stack([~found[0], found[0]]))[None]


SYSTEMS: dict[str, System] = {
    "nnunet": nnunet,
    "nnunet_mirrored": nnunet_mirrored,
    "swin_unetr": swin_unetr,
    "segresnet": segresnet,
    "sam_vit_b": sam_vit_b,
}


if __name__ == "__main__":
    sys.exit(main())
