"""One registration by ITK: Mattes mutual information over the angles of a turn or all of a matrix; MONAI's is a network to be trained."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from common.transforms.head_masks import bounding_box
from common.transforms.head_volume import Head, head_region, upper_centre

WINDOW_HU: Final = (-200.0, 900.0)
"""Values that mutual information sees: from fat to compact bone; the contrast of brain is a few of its bins."""

BINS: Final = 32

SAMPLES: Final = 12000
"""Voxels that count in ITK's metric; with 6,000 the outcome depends on the pose by more than a millimetre."""


def optimise_rigid(fixed: Head, moving: Head, start: np.ndarray, shrink: int, sigma_mm: float, seed: int) -> np.ndarray:
    """ITK's rigid registration at one resolution; the start where ITK gives up.

    RAS numbers serve as ITK's world: it needs one frame, no name.
    """
    import itk

    return _optimise(itk.Euler3DTransform[itk.D].New(), upper_centre(fixed.points), fixed, moving, start, shrink, sigma_mm, seed)


def optimise_affine(fixed: Head, moving: Head, start: np.ndarray, shrink: int, sigma_mm: float, seed: int) -> np.ndarray:
    """As ``optimise_rigid``, with twelve parameters."""
    import itk

    return _optimise(itk.AffineTransform[itk.D, 3].New(), fixed.points.mean(axis=0), fixed, moving, start, shrink, sigma_mm, seed)


def _optimise(
    transform: Any, centre: np.ndarray, fixed: Head, moving: Head, start: np.ndarray, shrink: int, sigma_mm: float, seed: int
) -> np.ndarray:
    """Fill a transform around a centre; its matrix, RAS mm."""
    import itk

    region = head_region(fixed)
    box = bounding_box(region)
    affine = _shifted(fixed.affine, box)
    image = itk.Image[itk.F, 3]
    metric = itk.MattesMutualInformationImageToImageMetricv4[image, image].New()
    metric.SetNumberOfHistogramBins(BINS)
    metric.SetUseMovingImageGradientFilter(False)
    metric.SetUseFixedImageGradientFilter(False)
    metric.SetMaximumNumberOfWorkUnits(1)  # sums in one order: the same bits each time
    metric.SetFixedImageMask(_itk_mask(region[box], affine))
    transform.SetCenter(itk.Point[itk.D, 3](centre.tolist()))
    transform.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(start[:3, :3])))
    transform.SetTranslation(itk.Vector[itk.D, 3]((start[:3, :3] @ centre + start[:3, 3] - centre).tolist()))
    registration = itk.ImageRegistrationMethodv4[image, image].New()
    registration.SetFixedImage(_itk_image(fixed.hu[box], affine))
    registration.SetMovingImage(_itk_image(moving.hu, moving.affine))
    registration.SetMetric(metric)
    registration.SetOptimizer(_optimizer(itk, metric))
    registration.SetInitialTransform(transform)
    registration.InPlaceOn()
    _set_level(itk, registration, shrink, sigma_mm, min(1.0, SAMPLES * shrink**3 / region[box].size), seed)
    try:
        registration.Update()
    except RuntimeError:  # too few samples inside the moving scan
        return start
    found = np.eye(4)
    found[:3, :3] = itk.array_from_matrix(transform.GetMatrix())
    found[:3, 3] = np.array(transform.GetOffset())
    return found


def _optimizer(itk: Any, metric: Any) -> Any:
    """Gradient descent whose steps are physical shifts: 4 mm at first, shortened by 7 % at each turn, until 0.03 mm."""
    scales = itk.RegistrationParameterScalesFromPhysicalShift[type(metric)].New()
    scales.SetMetric(metric)
    scales.SetTransformForward(True)
    optimizer = itk.RegularStepGradientDescentOptimizerv4[itk.D].New()
    optimizer.SetScalesEstimator(scales)
    optimizer.SetDoEstimateLearningRateOnce(False)
    optimizer.SetDoEstimateLearningRateAtEachIteration(False)
    optimizer.SetLearningRate(4.0)
    optimizer.SetRelaxationFactor(0.93)  # halving, the default, stops in the narrow valleys of a head's turns: 10 mm off
    optimizer.SetMinimumStepLength(0.03)
    optimizer.SetNumberOfIterations(400)
    optimizer.SetNumberOfWorkUnits(1)
    return optimizer


def _set_level(itk: Any, registration: Any, shrink: int, sigma_mm: float, share: float, seed: int) -> None:
    """One resolution; a ``share`` of its voxels counts, regularly spaced but off the grid, drawn with ``seed``."""
    registration.SetNumberOfLevels(1)
    registration.SetShrinkFactorsPerLevel([shrink])
    registration.SetSmoothingSigmasPerLevel([sigma_mm])
    registration.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    registration.SetMetricSamplingStrategy(itk.ImageRegistrationMethodv4Enums.MetricSamplingStrategy_REGULAR)
    registration.SetMetricSamplingPercentagePerLevel([share])
    registration.MetricSamplingReinitializeSeed(seed + 1)
    registration.SetNumberOfWorkUnits(1)


def _shifted(affine: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in box]
    return moved


def _itk_image(hu: np.ndarray, affine: np.ndarray) -> Any:
    """Windowed HU as an ITK image."""
    return _with_geometry(np.clip(hu, *WINDOW_HU).astype(np.float32), affine)


def _itk_mask(mask: np.ndarray, affine: np.ndarray) -> Any:
    import itk

    spatial = itk.ImageMaskSpatialObject[3].New()
    spatial.SetImage(_with_geometry(mask.astype(np.uint8), affine))
    spatial.Update()
    return spatial


def _with_geometry(array: np.ndarray, affine: np.ndarray) -> Any:
    import itk

    image = itk.image_from_array(np.ascontiguousarray(array.transpose(2, 1, 0)))
    step = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(step.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:3, :3] / step)))
    return image
