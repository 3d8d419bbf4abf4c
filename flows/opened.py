"""The stores that a person names, for a command that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymongo.errors import PyMongoError

from flows.refuse import refuse, refusing
from mfal.config import Campaign
from stores.campaign import CampaignStores, open_stores
from stores.connect import FILE

#: Of an argument that names stores.
HELP = (
    "A campaign file, for what is of that campaign; a folder of 'mfal run' or 'mfal label', or an address such as"
    " mongodb://host/database, for all that is there."
)


def everywhere() -> list[str]:
    """The folders with a store where the campaigns of configs/ are kept."""
    return sorted(str(file.parent) for file in Path("runs").glob(f"*/{FILE}"))


@contextmanager
def opened(where: Campaign | Path | str, *, make: bool = False) -> Iterator[CampaignStores]:
    """The stores; what cannot be opened, read or written becomes a line and exit code 2."""
    with refusing():
        stores = open_stores(where, make=make)
        try:
            yield stores
        except PyMongoError as error:  # whose text may hold more of the address than is good to show
            refuse(f"store = {stores.address}: does not answer ({type(error).__name__}): try again")
        finally:
            stores.close()
