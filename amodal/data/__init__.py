"""Records in: what a dataset is, where it comes from, in which order and in what batches it is
seen."""

from amodal.data.class_numbers import class_numbers
from amodal.data.dataset import Dataset
from amodal.data.infer import infer, init
from amodal.data.learn_tokens import learn_tokens
from amodal.data.loader import Loader, Views
from amodal.data.mixture import Mixture
from amodal.data.open_dataset import Openable
from amodal.data.open_dataset import open_dataset as as_dataset
from amodal.data.open_dataset import open_dataset as open
from amodal.data.pack import pack
from amodal.data.quarantine import Bad
from amodal.data.report import Report
from amodal.data.schema import Label
from amodal.data.write_zarr import write_zarr

__all__ = [
    "Openable",
    "Bad",
    "Dataset",
    "Label",
    "Loader",
    "Mixture",
    "Report",
    "Views",
    "as_dataset",
    "class_numbers",
    "infer",
    "init",
    "learn_tokens",
    "open",
    "pack",
    "write_zarr",
]
