"""The embedded mode, one process over SQLite and local files: killed again and again, it loses nothing either."""

import time
from pathlib import Path

import pytest

from deploy import servers
from service import collector
from service.client import Client
from service.db import Database
from service.settings import Settings
from service.storage import LocalStorage
from tests.chaos import invariants
from tests.chaos.load import BITWISE, Load, waited
from tests.chaos.processes import ROBUSTREPS, Part
from tests.chaos.violations import Violation
from tests.chaos.world import computes, hurried, ready

KILLS = 4


@pytest.mark.chaos
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_embedded_service_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    port, broken = servers.usable_port(), list[Violation]()
    part = Part("embedded", [ROBUSTREPS, "serve"], hurried({"port": port, "data_dir": tmp_path}), tmp_path)
    settings = Settings(data_dir=tmp_path)
    db, storage = Database(settings.database), LocalStorage(Path(settings.storage))

    def tend() -> None:
        broken.extend(filter(None, [part.tend()]))
        time.sleep(0.2)

    try:
        while not (tmp_path / "robustreps.db").exists():
            tend()
        with Client(f"http://127.0.0.1:{port}", timeout=60) as client, Load(client, storage, 3, False) as load:
            for _ in range(KILLS):
                while not computes(db, part):
                    tend()
                for _ in range(10):
                    tend()
                part.kill()
                part.process.wait()
            while not ready(client):
                tend()
            load.finish()
            broken += waited(client, load.ledger, 600, tend)
            unbroken = load.submit("unbroken", "unbroken", BITWISE["by pgd"])
            broken += waited(client, load.ledger, 240, tend)
    finally:
        part.end()
    collector.collect(db, storage)
    broken += [*load.ledger.broken, *invariants.check(db, storage, load.ledger)]
    broken += invariants.same_bits(db, storage, load.ledger, {"by pgd": unbroken.job_id})
    db.close()
    assert broken == []
