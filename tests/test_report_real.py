"""The reports of campaigns that ran for real, in Chromium: of the quickstart (GPAW), of a rehearsal on real labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from browser import CHROMIUM, MISSING, check_page, chromium

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
@pytest.mark.parametrize("name", ["rehearsal", "quickstart"])
def test_the_report_of_a_real_campaign(tmp_path, name):
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) | {"directory": str(tmp_path / "run")}
    for parent in content["parents"]:
        parent["structure"] = str(CONFIGS / parent["structure"])
    if "data" in content["engine"]:
        content["engine"]["data"] = str(CONFIGS / content["engine"]["data"])
    campaign = tmp_path / f"{name}.yaml"
    campaign.write_text(yaml.safe_dump(content))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    subprocess.run([sys.executable, "-m", "flows", "run", campaign], check=True, cwd=ROOT, env=environment)
    last = content["stop"]["rounds"] - 1
    page = tmp_path / "run" / "reports" / f"round-{last}.html"
    with chromium() as browser:
        check_page(browser, page)
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert numbers["round"] == last
    drawn = page.with_suffix("")
    if name == "quickstart":  # DFT: the figures are drawn after each round
        assert {path.suffix for path in drawn.iterdir()} == {".svg", ".png"}
    else:
        assert not drawn.exists()
