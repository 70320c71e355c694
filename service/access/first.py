"""The embedded mode's own key: made on the first start, and kept where the command line and the client look for it."""

from contextlib import closing
from pathlib import Path

from service.access import registry, sessions, tokens
from service.access.principal import DEFAULT, Scope
from service.access.secret import once, server_secret
from service.db import Database
from service.remote.credentials import KEY_FILE
from service.settings import Settings


def link(settings: Settings) -> str:
    """What signs a browser in, once."""
    secret = server_secret(settings)
    with closing(Database(settings.database)) as db:
        token = tokens.parse(first_key(db, settings).read_text().strip())
        assert token is not None
        with db.transaction() as session:
            return sessions.begin(session, token.id, sessions.LINK, secret, once=True)


def first_key(db: Database, settings: Settings) -> Path:
    """The file that has a key of the default tenant for everything, which opens."""
    file, secret = settings.data_dir / KEY_FILE, server_secret(settings)
    with db.reading() as session:
        if file.is_file() and registry.verify(session, file.read_text().strip(), secret):
            return file
    with db.transaction() as session:
        made = registry.create_key(session, DEFAULT, "embedded", list(Scope), None, secret)
    beside = file.with_name(f".{KEY_FILE}-{made.row.id}")
    once(beside, made.text)
    beside.replace(file)
    return file
