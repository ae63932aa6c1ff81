"""Scans as files, made here."""

import gzip
import io

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    generate_uid,
)


def nifti(voxels: np.ndarray, affine: np.ndarray | None = None, packed: bool = False) -> bytes:
    image = nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    content = image.to_bytes()
    return gzip.compress(content, mtime=0) if packed else content


def slice_of(pixels: np.ndarray, position=(0.0, 0.0, 0.0), **tags) -> bytes:
    """One DICOM slice of whole numbers (rows, columns)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(position), str(tags)])
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    made.Modality, made.SeriesInstanceUID = "CT", "1.2.3"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    made.PixelSpacing, made.SliceThickness = [0.5, 0.8], 2.0
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.ImagePositionPatient = [float(x) for x in position]
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    for name, value in tags.items():
        setattr(made, name, value)
    made.PixelData = pixels.astype("<i2").tobytes()
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


def directory() -> bytes:
    """A file that lists others, as DICOMDIR."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["directory"])
    made = Dataset()
    made.file_meta = meta
    made.FileSetID = "SCANS"
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


def series(count: int = 5, step: float = 2.0, rows: int = 6, columns: int = 8, **tags):
    """Slices from the top down, and their numbers (slices, rows, columns)."""
    pixels = np.random.default_rng(0).integers(0, 2000, (count, rows, columns))
    slices = [slice_of(p, (10.0, 20.0, -step * i), **tags) for i, p in enumerate(pixels)]
    return slices, pixels
