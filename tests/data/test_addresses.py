import pytest

from amodal import data
from amodal.core import AmodalError


@pytest.mark.parametrize("address", ["s3://bucket/records.parquet", "https://example.org/shard.tar", "memory://photos"])
def test_an_address_is_told_from_a_missing_file(address):
    with pytest.raises(AmodalError, match=f"{address} is an address.*Mount the store, or copy"):
        data.open(address)
