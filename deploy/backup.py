"""Dump the service's database to a file, and restore it.

    python -m deploy.backup dump FILE
    python -m deploy.backup restore FILE [--replace] [--verify]

The database is the one of ROBUSTREPS_DATABASE_URL, or the embedded mode's SQLite file; a dump may be taken while the
service runs. Stop the service before a restore. It wants an empty database, or --replace; afterwards the schema is
brought up to date, and the database and the objects in the storage are made to agree (`service.restoring`).
"""

import argparse
import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqlalchemy import URL, inspect

from deploy.servers import ServerMissing, find
from service.db import Database, migrate
from service.objects import sync
from service.restoring import Report, reconcile
from service.serving import sole_process
from service.settings import Settings
from service.storage import open_storage


class BackupFailed(RuntimeError):  # noqa: N818 - what happened
    """Nothing was dumped or restored."""


def dump(settings: Settings, path: Path) -> None:
    """Write a consistent dump, whole or not at all. Raises BackupFailed, ServerMissing or OSError."""
    db, temporary = Database(settings.database), path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        if db.sqlite:
            copy_sqlite(str(db.url.database), str(temporary))
        else:
            run("pg_dump", db.url, "--format=custom", f"--file={temporary}")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        db.close()
        with suppress(FileNotFoundError):
            temporary.unlink()


def restore(settings: Settings, path: Path, replace: bool = False, verify: bool = False) -> Report:
    """Bring a dump back, and what it points to into line. Raises BackupFailed, ServerMissing or OSError."""
    if not path.is_file():
        raise BackupFailed(f"there is no dump {path}")
    with opened(settings) as db:
        if inspect(db.engine).get_table_names() and not replace:
            raise BackupFailed(f"{db.url.render_as_string()} is not empty: --replace replaces what it holds")
        db.close()  # nothing may hold what is replaced
        if db.sqlite:
            copy_sqlite(str(path), str(db.url.database))
        else:
            how = ["--single-transaction", "--exit-on-error", "--no-owner", "--clean", "--if-exists"]
            run("pg_restore", db.url, *how, str(path))
        migrate(settings.database)
        return reconcile(db, open_storage(settings), verify)


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """The database, and in the embedded mode the certainty that no process serves it."""
    db = Database(settings.database)
    try:
        if settings.embedded:
            with sole_process(settings.data_dir):
                yield db
        else:
            yield db
    finally:
        db.close()


def copy_sqlite(source: str, target: str) -> None:
    """Copy a database that may be in use, page by page. Raises BackupFailed."""
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
            closing(sqlite3.connect(target, timeout=30)) as new,
        ):
            old.backup(new)
            if (answer := new.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise BackupFailed(f"{source} is damaged: {answer}")
    except sqlite3.Error as e:
        raise BackupFailed(f"cannot copy {source} to {target}: {e}") from e


def run(program: str, url: URL, *options: str) -> None:
    """Run a program of Postgres on a database. The password travels in the environment, which others cannot read."""
    command = [find(program, "postgresql-client"), "--dbname", url.set(drivername="postgresql", password=None)
               .render_as_string(), *options]  # fmt: skip
    password = {"PGPASSWORD": str(url.password)} if url.password else {}
    done = subprocess.run(command, env=os.environ | password, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        raise BackupFailed(f"{program} failed: {done.stderr.decode(errors='replace').strip()}")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Dump the service's database, or restore it.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("dump", "restore"):
        commands.add_parser(name).add_argument("file", type=Path)
    options = commands.choices["restore"]
    options.add_argument("--replace", action="store_true", help="also if the database is not empty")
    options.add_argument("--verify", action="store_true", help="read every object, and compare its digest")
    return parser


def main() -> None:
    args = parser().parse_args()
    if args.command == "dump":
        dump(Settings(), args.file)
    else:
        print(json.dumps(dataclasses.asdict(restore(Settings(), args.file, args.replace, args.verify)), indent=2))


if __name__ == "__main__":
    try:
        main()
    except (BackupFailed, ServerMissing, OSError) as error:
        sys.exit(str(error))
