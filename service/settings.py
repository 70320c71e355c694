"""Every setting of the service, in one place: the only reader of the environment.

Each field is set by an environment variable, ROBUSTREPS_ and its name in capitals. The defaults are the embedded mode:
one process, SQLite, local files, an in-process broker.
"""

import os
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, unquote_plus

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.remote.credentials import is_loopback

PREFIX = "ROBUSTREPS_"
BROKERS = ("redis://", "rediss://", "memory://")
"""As they are written: of another form, or with parameters ssl_..., kombu would speak TLS and check no certificate."""
PASSWORDS = [
    re.compile(r"://[^:/]*:([^@]*)@"),  # as SQLAlchemy reads a URL
    re.compile(r"://[^:/?#]*:([^/?#]*)@"),  # as Celery does
    re.compile(r"[?&]\w*password=([^&]+)"),
]
"""A URL's passwords. Not by urlsplit, which ends them at other characters, and raises at a bracket."""


class Settings(BaseSettings):
    """Frozen; an unknown ROBUSTREPS_ variable or a value out of bounds is refused at start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    data_dir: Path = Field(Path("robustreps-data"), description="Where the embedded mode keeps its files")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in data_dir")
    broker_url: str = Field(
        "memory://",
        description="redis://USER:PASSWORD@HOST:PORT/0, rediss:// by TLS, or memory:// for the embedded mode",
    )
    broker_ca: Path | None = Field(None, description="Certificates that sign the broker's; empty: the system's")
    broker_cert: Path | None = Field(None, description="Certificate that is shown to the broker")
    broker_key: Path | None = Field(None, description="Its private key; empty: in the same file")
    storage_url: str = Field("", description="s3://BUCKET, or a folder; empty: a folder in data_dir")
    s3_endpoint: str | None = Field(None, description="S3 endpoint; empty: AWS")
    s3_access_key: str | None = Field(None, description="S3 access key; empty: the usual AWS credential chain")
    s3_secret_key: SecretStr | None = Field(None, description="S3 secret key")
    s3_public_endpoint: str | None = Field(
        None, description="S3 endpoint as clients reach it, in links to upload and download; empty: s3_endpoint"
    )
    s3_ca: Path | None = Field(None, description="Certificates that sign the S3 endpoint's; empty: the system's")
    s3_region: str = Field("us-east-1", description="S3 region")
    assets_dir: Path = Field(
        Path(__file__).parent / "assets", description="Folder with models/NAME/card.json and datasets/NAME/card.json"
    )

    host: str = Field("127.0.0.1", description="Address that the API binds")
    port: int = Field(8000, ge=0, le=65535, description="Port that the API binds; 0: any free one")
    api: str = Field("", description="Where the command line finds the service; empty: at host and port")
    api_processes: int = Field(1, ge=1, le=64, description="Processes that serve the API; more need a broker")
    auth: Literal["on", "off"] = Field("on", description="Whether the API asks for keys; off: only on loopback")
    secret_key: SecretStr | None = Field(
        None, min_length=32, description="Under which keys are hashed, the same for every process; embedded: made once"
    )
    api_key: SecretStr | None = Field(None, description="Key that the command line and the Python client send")
    session_seconds: float = Field(43_200, gt=0, description="How long a browser that signed in stays so")
    log_format: Literal["console", "json"] = Field("console", description="Log lines for people or for machines")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="The least that is logged")
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of `host` with a worker's /metrics, /healthz and /readyz; 0: none",
    )
    metrics_token: SecretStr | None = Field(
        None, min_length=16, description="What Prometheus sends to read /metrics; empty: only loopback has metrics"
    )
    otlp_endpoint: str = Field(
        default_factory=lambda: os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        description="Where traces are sent, by OTLP over HTTP; empty: OTEL_EXPORTER_OTLP_ENDPOINT, or nowhere",
    )

    max_body_bytes: int = Field(20_000_000, gt=0, description="Largest request body")
    max_image_pixels: int = Field(16_000_000, gt=0, description="Largest uploaded image, width times height")
    max_queued_items: int = Field(
        5_000_000, gt=0, description="Most items of jobs that are not over; beyond, submissions are answered 429"
    )
    max_queued_items_per_client: int = Field(2_000_000, gt=0, description="Most of them from one client")
    max_requests_per_minute: int = Field(0, ge=0, description="Most requests of one tenant, in each pod; 0: any number")
    max_stored_bytes_per_client: int = Field(0, ge=0, description="Most bytes stored for one tenant; 0: any number")
    max_wrong_keys: int = Field(30, ge=1, description="Wrong keys a minute from one address, beyond which none is read")
    max_items: int = Field(
        4096,
        gt=0,
        description="Most optimisations in a job that is planned at once; larger inversions wait",
    )
    max_bulk_items: int = Field(1_300_000, gt=0, description="Most optimisations in a job that is planned later")
    max_drawing_bytes: int = Field(
        4_000_000_000, gt=0, description="Most memory for the images that one figure draws on"
    )
    max_upload_bytes: int = Field(8_000_000_000, gt=0, description="Largest uploaded checkpoint or manifest")
    presign_seconds: int = Field(
        900, ge=1, le=86_400, description="How long links to upload and download by may be used"
    )
    datasets_dir: Path | None = Field(
        None, description="Folder under which data sets may be registered from files, the same on every machine"
    )
    weights_dir: Path | None = Field(
        None, description="Folder with torchvision's weight files under their own names; empty: PyTorch's own cache"
    )
    cache_dir: Path | None = Field(None, description="Where copies of remote objects are kept; empty: in data_dir")
    cache_bytes: int = Field(20_000_000_000, gt=0, description="Most bytes of such copies")
    evaluation_images: int = Field(512, ge=1, le=65_536, description="Images that a worker evaluates under one lease")
    max_steps: int = Field(100_000, gt=0, description="Most PGD steps for one item")

    max_streams: int = Field(256, gt=0, description="Most event streams that one process of the API serves at once")
    webhook_http: bool = Field(False, description="Allow webhooks to plain http:// addresses")
    webhook_private: bool = Field(False, description="Allow webhooks to private addresses, as in an intranet")

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    torchrun_options: str = Field(
        "",
        description="For training on several nodes: --nnodes=2 --node-rank=0 --master-addr=HOST --master-port=29500",
    )
    worker_threads: int = Field(4, ge=1, le=64, description="Shards that one worker process holds at once")
    worker_nice: int = Field(
        5, ge=0, le=19, description="How far a worker that computes on processors gives way to others; 0: not at all"
    )
    batch_rows: int | None = Field(
        None, ge=1, le=4096, description="Most searches in one batch; empty: 256 on a GPU, 32 elsewhere, or what fits"
    )
    batch_rows_per_job: int | None = Field(None, ge=1, description="Most of them from one job; empty: all")
    compile: bool = Field(
        False, description="Searches through torch.compile: faster in bf16, after some seconds for each size of batch"
    )
    deterministic_rows: int = Field(
        16, ge=1, le=1024, description="Rows of every batch of deterministic jobs, whose results depend on it"
    )
    shard_items: int = Field(64, ge=1, le=1024, description="Most items in one shard, which one batch computes")
    lease_seconds: float = Field(60, gt=0, description="How long a silent worker keeps its shard")
    heartbeat_seconds: float = Field(5, gt=0, description="How often a worker reports progress and renews its lease")
    loading_seconds: float = Field(
        300, gt=0, description="How long a shard may take before its first step, and the device over one block of steps"
    )
    reconcile_seconds: float = Field(15, gt=0, description="How often lost messages and expired leases are looked for")
    checkpoint_seconds: float = Field(
        30, gt=0, description="How often a worker stores where its searches stand: what a killed one loses at most"
    )
    preview_seconds: float = Field(
        3, ge=0, description="How often, at most, a shard's worker shows what its items look like by now; 0: never"
    )
    drain_seconds: float = Field(10, gt=0, description="How long a worker that is asked to end may take to let go")
    max_attempts: int = Field(5, ge=1, description="Attempts without progress that end in an error before items fail")
    retry_seconds: float = Field(5, gt=0, description="The pause after a failed attempt; it doubles with each, to 300")
    collect_seconds: float = Field(
        3600, ge=0, description="How often objects that nothing points to are looked for and removed; 0: never"
    )
    retention_seconds: int | None = Field(
        None, ge=60, description="How long a job is kept after its end if its request does not say; empty: for ever"
    )
    max_crashes: int = Field(
        3, ge=2, description="Crashes without progress before an item fails, in the last of which it ran alone"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        known = {PREFIX + name.upper() for name in type(self).model_fields}
        unknown = sorted(k for k in os.environ if k.upper().startswith(PREFIX) and k.upper() not in known)
        if unknown:
            raise ValueError(f"unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("heartbeat_seconds must be at most half of lease_seconds")
        if self.embedded and not self.database.startswith("sqlite"):
            raise ValueError("broker_url memory:// serves one process: use redis:// beside a database server")
        if not self.broker_url.startswith(BROKERS) or ";" in self.broker_url:
            raise ValueError(f"broker_url must be of one server and begin with {', '.join(BROKERS)}")
        if own := [name for name, _ in parse_qsl(self.broker_url.partition("?")[2]) if name.startswith("ssl")]:
            raise ValueError(f"broker_url sets {', '.join(own)}; allowed: broker_ca, broker_cert, broker_key")
        if (self.broker_ca or self.broker_cert) and not self.broker_url.startswith("rediss:"):
            raise ValueError("broker_ca and broker_cert are of a broker by TLS: broker_url must be rediss://")
        if self.embedded and self.api_processes > 1:
            raise ValueError("broker_url memory:// serves one process: api_processes needs redis://")
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError(f"auth off is for this machine alone; host {self.host} is no loopback address")
        return self

    def environment(self, names: Collection[str]) -> dict[str, str]:
        """The variables that give another process these settings."""
        chosen = {name: value for name, value in self if name in names and value is not None}
        plain = {n: v.get_secret_value() if isinstance(v, SecretStr) else v for n, v in chosen.items()}
        return {PREFIX + name.upper(): str(value) for name, value in plain.items()}

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must stand in no log: every SecretStr, and the passwords of URLs, as they are and as URLs write them."""
        urls = (self.database_url, self.broker_url)
        passwords = [found for url in urls for each in PASSWORDS for found in each.findall(url)]
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        forms = {form(value) for value in (*passwords, *values) for form in (str, unquote, unquote_plus)}
        return tuple(forms - {""})

    @property
    def embedded(self) -> bool:
        """One process does everything: the API, the worker and the reconciler."""
        return self.broker_url.startswith("memory:")

    @property
    def api_url(self) -> str:
        return self.api or f"http://{self.host}:{self.port}"

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'robustreps.db').absolute()}"

    @property
    def database_shown(self) -> str:
        """The database's URL without its passwords, in the query too."""
        from sqlalchemy import make_url

        url = make_url(self.database)
        return url.difference_update_query([n for n in url.query if "password" in n]).render_as_string()

    @property
    def cache(self) -> Path:
        return self.cache_dir or self.data_dir / "cache"

    @property
    def storage(self) -> str:
        return self.storage_url or str((self.data_dir / "objects").absolute())


@cache
def get_settings() -> Settings:
    """The settings of this process, read once. Raises pydantic.ValidationError."""
    return Settings()
