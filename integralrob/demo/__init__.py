"""The demonstration: networks trained on real images, converted, and measured at every size."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from .._checks import check_int, describe
from .data import digit_images, photo_patches
from .measure import psnr
from .report import save, table
from .tasks import DigitsSettings, PhotosSettings, Settings, classify_digits, sharpen_photos
from .training import Schedule

__all__ = ["DigitsSettings", "PhotosSettings", "Schedule", "Settings", "run"]


def run(
    output: str | Path = "build/demo",
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    settings: Settings | None = None,
) -> Path:
    """Runs both tasks, prints a table, and writes `results.json` and figures (PNG).

    Digits: a classifier of scikit-learn's 8×8 digits; clean accuracy, and robust accuracy in balls of three norms.
    Photos: super-resolution of held-out parts of scikit-learn's two sample photographs; PSNR. Each network is trained,
    converted, trained over random sizes (the classifier then against attacks, too), and measured as a discretised
    network at all sizes. Takes about two minutes on a CPU, on one thread.

    Args:
        output: folder for the results; made if it does not exist.
        seed: of initial values, batches, sizes and attacks. On one machine all but the times follows from it.
        device: where to run; None for the accelerator if there is one, else the CPU.
        settings: how large and how long; None for the defaults.

    Returns:
        The path of `results.json`: ``{"versions", "seed", "settings", "rows"}``, a row having the attributes of
        `integralrob.demo.report.Row`.

    Raises:
        ModuleNotFoundError: scikit-learn or matplotlib is not installed.
        TypeError, ValueError: an argument is not as above.
    """
    check_int("seed", seed, 0)
    if settings is None:
        settings = Settings()
    if not isinstance(settings, Settings):
        raise TypeError(f"settings: expected a Settings or None, got {describe(settings)}")
    missing = [name for name in ("sklearn", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"the demonstration needs {' and '.join(missing)}: pip install 'integralrob[demo]'", name=missing[0]
        )
    from . import plots

    device = torch.accelerator.current_accelerator(check_available=True) if device is None else torch.device(device)
    device = device or torch.device("cpu")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()

    images, photographs = digit_images().to(device), photo_patches().to(device)
    with _repeatable():
        digits = classify_digits(images, settings.fractions, settings.digits, seed)
        photos = sharpen_photos(photographs, settings.fractions, settings.photos, seed)
        radii, steps = settings.digits.radii, settings.digits.attack_steps
        bicubic = psnr(photographs.test_x, photographs.test_y)
        plots.plot_accuracy(folder / "accuracy.png", digits, radii)
        plots.plot_weight_maps(folder / "weights.png", digits, images)
        plots.plot_adversarial_examples(
            folder / "adversarial.png", digits, images, eps=radii["linf"], steps=steps, seed=seed
        )
        plots.plot_psnr(folder / "psnr.png", photos, bicubic)
        plots.plot_photos(folder / "photos.png", photos, photographs)

    rows = [candidate.row for candidate in digits + photos]
    noted = {
        "device": str(device),
        **{norm: {"eps": eps, "steps": steps} for norm, eps in radii.items()},
        "bicubic_psnr": bicubic,
    }
    save(folder / "results.json", rows, seed, noted)
    print(table(rows))
    print(
        f"{', '.join(f'{norm} (eps {eps:g})' for norm, eps in radii.items())}: accuracy in % under PGD ({steps} steps, "
        "one random start), which is an upper bound of the robust accuracy; "
        f"psnr in dB; bicubic interpolation has {bicubic:.2f}."
    )
    print(f"{time.perf_counter() - begin:.0f} s on {device}. Results and figures: {folder}")
    return folder / "results.json"


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
    """One CPU thread; with cuDNN the same sums in each run, and no TF32.

    More threads would change the sums as well. The layers are too small to gain much from them, and beside other
    programs threads that wait for each other lose a multiple of it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
