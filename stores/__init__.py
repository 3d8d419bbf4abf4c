"""Where campaigns are kept: maggma stores on a SQLite file or on MongoDB, and the builder that fills their collections.

import stores

with stores.open("configs/quickstart.yaml") as campaign:
    print(campaign.labels.table("fidelity=magnetic status!=ok"))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mfal.config import Campaign
    from stores.campaign import CampaignStores


def open(where: Campaign | Path | str) -> CampaignStores:
    """The stores of a campaign, of a campaign file, in a folder, or at an address such as mongodb://host/database.

    Raises:
        ValueError: nothing has run there, or the store cannot be used; names the place and the mend.
    """
    from stores.campaign import open_stores  # jobflow takes a second that `import stores` alone need not

    return open_stores(where)
