"""``samcancer infer-volume``: segment whole scans on their own grid."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from samcancer.commands.cohort_options import (
    add_cohort_arguments,
    cohort_executor,
    cohort_part,
)
from samcancer.commands.dicom_options import add_dicom_arguments, dicom_options
from samcancer.commands.shared_options import (
    add_read_arguments,
    positive,
    probability,
    reading_of,
    share,
)
from samcancer.errors import InputError

if TYPE_CHECKING:
    from samcancer.inference.batch import BatchResult
    from samcancer.inference.models import Ensemble, Question
    from samcancer.inference.prompts import CasePrompts
    from samcancer.inference.region import RegionModel

DESCRIPTION = "Segment whole scans: one label map on each scan's own grid, and a report beside it."
EXAMPLE = "samcancer infer-volume --input scans/ --output masks/ --model RUNS --device auto"

_log = logging.getLogger(__name__)

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE|DIR",
        help="scans (NIfTI, MHA, NRRD), folders of scans, DICOM folders (subfolders included) or "
        "the DICOM files of a series",
    )
    parser.add_argument(
        "--series",
        metavar="UID",
        help="SeriesInstanceUID to read where a DICOM folder holds several CT series",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="results")
    parser.add_argument(
        "--model",
        type=Path,
        nargs="+",
        required=True,
        metavar="RUN|FILE",
        help="run folder or weight file; several are averaged",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="slices per chunk (default 8, on a GPU 16, or what --budget allows)",
    )
    parser.add_argument(
        "--budget",
        metavar="SIZE",
        help="memory to do with, such as 4GB: on a GPU a cap, on a CPU what a scan adds",
    )
    parser.add_argument(
        "--skip-air",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the network once for all slices without a voxel above the window; same masks",
    )
    parser.add_argument(
        "--region",
        default="off",
        metavar="off|auto|RUN",
        help="segment only the slices in which a slice classifier expects something: RUN, or auto "
        "for the run `region` beside the model (default: %(default)s)",
    )
    parser.add_argument(
        "--overlap",
        type=share,
        metavar="SHARE",
        help="of a volume network's patches, 0 to under 1 (default: the model's, usually 0.5)",
    )
    parser.add_argument(
        "--stitch-device",
        choices=("cpu", "cuda"),
        help="where a volume network's patches are added up (default: --device); cpu spares a GPU",
    )
    parser.add_argument("--precision", choices=_PRECISIONS, default="32-true")
    parser.add_argument(
        "--presence-threshold",
        type=probability,
        metavar="P",
        help="one presence threshold for all classes in place of the calibrated; 0 gates nothing",
    )
    parser.add_argument(
        "--calibration",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="apply the thresholds that `samcancer calibrate` stored beside the model",
    )
    parser.add_argument("--tta", action="store_true", help="average with the mirrored scan")
    parser.add_argument(
        "--postprocess",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="apply the taxonomy's rules to the masks, and report what they change",
    )
    parser.add_argument(
        "--merge-lesions",
        action="store_true",
        help="write lesions of every class as label 1, and no organ, as FLARE24 asks for",
    )
    parser.add_argument("--per-class", action="store_true", help="also one mask per class")
    parser.add_argument(
        "--probabilities", action="store_true", help="also each class's probabilities"
    )
    parser.add_argument(
        "--html",
        action="store_true",
        help="also a page per scan, with a slice viewer, and an index.html of them",
    )
    parser.add_argument(
        "--skip-finished",
        action="store_true",
        help="leave out scans whose mask and report prove to be finished with this model",
    )
    manual = parser.add_argument_group(
        "prompts", "what you know already, in mm in LPS (DICOM, ITK); for a single scan or by table"
    )
    manual.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="CLASS=x1,y1,z1,x2,y2,z2",
        help="a lesion lies in this box; repeatable",
    )
    manual.add_argument(
        "--point",
        action="append",
        default=[],
        metavar="CLASS=x,y,z[,0]",
        help="a point on a lesion, or with ,0 outside of it; repeatable",
    )
    manual.add_argument(
        "--mask-prompt", type=Path, metavar="FILE", help="label map to start from, on the same grid"
    )
    manual.add_argument(
        "--prompts",
        type=Path,
        metavar="CSV",
        help="RECIST lines, boxes and points of many scans: case,class,x1,y1,z1,x2,y2,z2[,kind]",
    )
    asked = parser.add_argument_group("text prompts", "for a model of model.class_prompt text")
    asked.add_argument(
        "--ask",
        nargs="+",
        metavar="CLASS",
        help="classes to look for instead of the trained ones, trained or not",
    )
    asked.add_argument(
        "--text-embeddings", type=Path, metavar="FILE", help="of samcancer build-text-embeddings"
    )
    add_dicom_arguments(parser)
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default all)")
    add_cohort_arguments(parser)
    add_read_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the scans; 0 when all succeeded, 1 when some failed."""
    import torch

    from samcancer.cohort.progress import cohort_progress
    from samcancer.commands.view import write_result_pages
    from samcancer.files import require_writable_folder
    from samcancer.inference.batch import find_scans, named_dicom_files, segment_scans
    from samcancer.inference.options import InferenceOptions
    from samcancer.inference.prompts import require_known_classes
    from samcancer.inference.volume import EngineOptions
    from samcancer.inference.workers import segment_in_workers

    executor, part = cohort_executor(args), cohort_part(args)
    if part is not None and args.html:
        raise InputError(
            "--html is for the whole cohort",
            mend="leave it to the run without --num-parts and with --skip-finished",
        )
    if executor.elsewhere and args.region not in ("off", "auto"):
        args.region = str(Path(args.region).absolute())
    here, device = _devices(args, elsewhere=executor.elsewhere)
    if executor.workers > 1 and device == "cuda":
        raise InputError(
            f"--workers {executor.workers} is for a CPU; processes would share the one GPU",
            mend="leave it out or use --device cpu",
        )
    if args.stitch_device == "cuda" and here == device and not torch.cuda.is_available():
        raise InputError("--stitch-device cuda: no usable GPU was found", mend="leave it out")
    budget_bytes = _budget(args.budget, here)
    require_writable_folder(args.output)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    scans = find_scans(args.input, series=args.series)
    prompts = _prompts(args, list(scans))
    if part is not None:
        scans = part.of(scans)
        _log.info("%s: %d scans", part.name, len(scans))
        if not scans:
            return 0
    ensemble = _ensemble(args, here)
    if ensemble.calibrations and not args.postprocess:
        _log.warning("--no-postprocess also keeps lesions under the calibrated smallest volume")
    require_known_classes(prompts, ensemble.class_names)
    options = InferenceOptions(
        engine=EngineOptions(
            device=device,
            batch=args.batch,
            budget_bytes=budget_bytes,
            precision=args.precision,
            flip=args.tta,
            skip_air=args.skip_air,
            overlap=args.overlap,
            stitch_device=args.stitch_device,
        ),
        read=reading_of(args, series=args.series, files=named_dicom_files(args.input)),
        merge_lesions=args.merge_lesions,
        per_class=args.per_class,
        probabilities=args.probabilities,
        postprocess=args.postprocess,
        dicom=dicom_options(args),
    )
    segment: Callable[..., BatchResult] = partial(segment_scans, ensemble=ensemble)
    if not executor.in_process(len(scans)):
        segment = partial(
            segment_in_workers,
            executor=executor,
            load=partial(_load_in_worker, args, device),
            classes=ensemble.classes,
            threads=args.threads if executor.elsewhere else None,
        )
        del ensemble  # each worker loads its own
    with cohort_progress(len(scans), show=not args.quiet, steps="slices") as progress:
        result = segment(
            scans,
            args.output,
            options=options,
            prompts=prompts,
            skip_finished=args.skip_finished,
            part=part,
            on_case=progress.on_case,
            on_slices=progress.on_steps,
            on_done=progress.on_done,
        )
    if args.html:
        write_result_pages(result, scans, args.output, read=options.read, quiet=args.quiet)
    return _summary(result)


def _devices(args: argparse.Namespace, *, elsewhere: bool) -> tuple[str, str]:
    """Return the devices of this process and of the workers.

    Workers on other machines compute on a GPU only when told so: this one cannot look there.
    """
    if elsewhere and args.device == "cuda":
        return "cpu", "cuda"
    device = _device("cpu" if elsewhere else args.device, args.precision)
    return device, device


def _load_in_worker(args: argparse.Namespace, device: str) -> Ensemble:
    """Load the networks in a worker process, once it has what the options ask for."""
    _device(device, args.precision)
    if device == "cuda":
        _budget(args.budget, device)
    return _ensemble(args, device)


def _ensemble(args: argparse.Namespace, device: str) -> Ensemble:
    """Load the networks as the options say."""
    from samcancer.inference.models import load_ensemble

    ensemble = load_ensemble(
        args.model, device=device, question=_question(args), use_calibration=args.calibration
    )
    if args.presence_threshold is not None:
        ensemble = ensemble.with_threshold(args.presence_threshold)
    return replace(ensemble, region=_region(args, ensemble.class_names, device))


def _budget(text: str | None, device: str) -> int | None:
    """Return the bytes to do with; on a GPU nothing beyond can be had any more."""
    from samcancer.inference.budget import cap_gpu_memory, parse_bytes

    if text is None:
        return None
    budget_bytes = parse_bytes(text)
    if device == "cuda":
        cap_gpu_memory(budget_bytes)
    return budget_bytes


def _region(
    args: argparse.Namespace, class_names: tuple[str, ...], device: str
) -> RegionModel | None:
    from samcancer.inference.region import load_region, region_run

    if args.region == "off":
        return None
    run = region_run(args.region, args.model)
    return load_region(run, device=device, class_names=class_names)


def _question(args: argparse.Namespace) -> Question | None:
    from samcancer.inference.models import Question
    from samcancer.pretrained.text_embeddings import read_text_embeddings

    if (args.ask is None) != (args.text_embeddings is None):
        raise InputError(
            "--ask and --text-embeddings go together",
            mend="give both, or neither for the trained classes",
        )
    if args.ask is None:
        return None
    if len(set(args.ask)) != len(args.ask):
        raise InputError("--ask names a class twice", mend="name each class once")
    return Question(tuple(args.ask), read_text_embeddings(args.text_embeddings))


def _prompts(args: argparse.Namespace, case_ids: list[str]) -> dict[str, CasePrompts]:
    """Return case id -> what is said about the case."""
    from samcancer.inference.prompts import (
        NO_PROMPTS,
        CasePrompts,
        parse_box,
        parse_point,
        read_prompt_table,
    )

    given = (*map(parse_box, args.box), *map(parse_point, args.point))
    if (given or args.mask_prompt) and len(case_ids) != 1:
        raise InputError(
            f"--box, --point and --mask-prompt are for one scan, --input holds {len(case_ids)}",
            mend="give one scan, or a table with --prompts",
        )
    if args.mask_prompt is not None and not args.mask_prompt.is_file():
        raise InputError("no such file", path=args.mask_prompt, mend="check --mask-prompt")
    prompts = {case_ids[0]: CasePrompts(given, args.mask_prompt)}
    if args.prompts is not None:
        table = read_prompt_table(args.prompts)
        if not table.keys() & set(case_ids):
            raise InputError(
                f"names no case of --input, which holds {', '.join(case_ids[:3])}",
                path=args.prompts,
                mend="give the case ids: file names without suffix and _0000",
            )
        for case_id, lines in table.items():
            earlier = prompts.get(case_id, NO_PROMPTS)
            prompts[case_id] = CasePrompts((*earlier.given, *lines), earlier.mask)
    return {case_id: case for case_id, case in prompts.items() if case and case_id in case_ids}


def _summary(result: BatchResult) -> int:
    from samcancer.commands import EXIT_BAD_INPUT, EXIT_SOME_FAILED, print_failures

    _log.info(
        "%d segmented, %d already finished, %d failed",
        len(result.finished),
        len(result.skipped),
        len(result.failures),
    )
    if not result.failures:
        return 0
    print_failures(result.failures.values())
    alone = len(result.failures) == 1 and not result.finished and not result.skipped
    return EXIT_BAD_INPUT if alone else EXIT_SOME_FAILED


def _device(wanted: str, precision: str) -> str:
    from samcancer.modeling.devices import chosen_device

    device = chosen_device(wanted)
    if device == "cpu" and precision != "32-true":
        raise InputError(
            f"--precision {precision} is far slower than 32-true on a CPU",
            mend="leave --precision out or use --device cuda",
        )
    return device
