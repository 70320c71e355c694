import pytest
from pydantic import ValidationError

from service.settings import Settings


def test_the_defaults_are_the_embedded_mode() -> None:
    settings = Settings()
    assert settings.embedded
    assert settings.database.startswith("sqlite:///")
    assert settings.storage.endswith("/robustreps-data/objects")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTREPS_PORT", "9000")
    assert Settings().port == 9000


def test_an_unknown_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTREPS_PROT", "9000")
    with pytest.raises(ValidationError, match=r"ROBUSTREPS_PROT.*known are.*ROBUSTREPS_PORT"):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "99999"), ("LEASE_SECONDS", "-1"), ("LOG_FORMAT", "xml"), ("MAX_ITEMS", "many")]
)
def test_a_value_out_of_bounds_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ROBUSTREPS_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_a_heartbeat_must_fit_twice_into_a_lease() -> None:
    with pytest.raises(ValidationError, match="at most half"):
        Settings(lease_seconds=10, heartbeat_seconds=6)


def test_an_in_process_broker_beside_a_database_server_is_refused() -> None:
    with pytest.raises(ValidationError, match="memory://"):
        Settings(database_url="postgresql+psycopg://localhost/x")


def test_the_database_is_shown_without_its_passwords() -> None:
    url = "postgresql+psycopg://u:hunter2@h/d?password=hunter3&sslpassword=hunter4&sslmode=require"
    assert Settings(broker_url="redis://h", database_url=url).database_shown == (
        "postgresql+psycopg://u:***@h/d?sslmode=require"
    )


def test_a_secret_does_not_show_itself() -> None:
    assert "hunter2" not in repr(Settings(s3_secret_key="hunter2"))
