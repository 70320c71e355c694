"""What must hold once faults have stopped and every job is over, whatever happened before.

Each promise is a generator of evidence that it was broken, from the database and the storage alone.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby, pairwise
from operator import itemgetter

from safetensors.numpy import load
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.bulk_models import ResultShard
from service.db import Database
from service.keys import result_shard_key, weights_key
from service.models import Artifact, Item, Job, RegisteredModel, Shard, Transition
from service.states import JOB_MOVES, TERMINAL_ITEM, TERMINAL_JOB, ItemState, JobState, ShardState
from service.storage import ObjectNotFound, Storage, artifact_key, read_file
from tests.chaos.load import UNREADABLE, Ledger
from tests.chaos.violations import Violation

Promise = Callable[[Session, Storage, Ledger], Iterator[str]]
STOPPED = {JobState.CANCELLED, JobState.EXPIRED}
RESULTS = ("result.safetensors", "model.safetensors")
STUDIES = {"inversion", "radius_sweep", "interpolation", "feature_visualization", "feature_manipulation"}


def check(db: Database, storage: Storage, ledger: Ledger) -> list[Violation]:
    """Every broken promise. Raises StorageError, or what the database raises."""
    with db.reading() as session:
        return [
            Violation(name, evidence)
            for name, promise in PROMISES.items()
            for evidence in promise(session, storage, ledger)
        ]


def jobs_are_over(session: Session, _: Storage, __: Ledger) -> Iterator[str]:
    for job_id, state in session.execute(select(Job.id, Job.state).where(Job.state.not_in(TERMINAL_JOB))):
        yield f"{job_id} is {state}"


def items_are_over(session: Session, _: Storage, __: Ledger) -> Iterator[str]:
    rows = select(Item.job_id, Item.index, Item.state, Job.state).join(Job)
    for job_id, index, state, of_job in session.execute(rows):
        if state not in TERMINAL_ITEM or (state == ItemState.CANCELLED and of_job not in STOPPED):
            yield f"item {index} of {job_id}, which is {of_job}, is {state}"


def ends_are_of_claims(session: Session, _: Storage, __: Ledger) -> Iterator[str]:
    rows = select(Item.job_id, Item.index, Item.epoch, Shard.epoch, Item.finished_at).join(Shard)
    for job_id, index, epoch, newest, at in session.execute(rows.where(Item.state != ItemState.CANCELLED)):
        if epoch is None or not 1 <= epoch <= newest or at is None:
            yield f"item {index} of {job_id} ended under epoch {epoch} of {newest}, at {at}"


def objects_are_as_stored(session: Session, storage: Storage, _: Ledger) -> Iterator[str]:
    files = select(Artifact.key, Artifact.size, Artifact.sha256, Artifact.offset)
    tars = select(ResultShard.key, ResultShard.size, ResultShard.sha256)
    pointers: list[tuple[str, int, str, int | None]] = [*session.execute(files)]
    pointers += [(*tar, None) for tar in session.execute(tars)]
    for table in (Item, Shard):
        kept = session.scalars(select(table.checkpoint)).all()
        pointers += [(each["key"], each["size"], each["sha256"], None) for each in kept if each]
    for key, of_key in groupby(sorted(pointers, key=itemgetter(0)), itemgetter(0)):
        try:
            data = storage.get(key)
        except ObjectNotFound:
            yield f"{key} is not there"
            continue
        for _key, size, sha256, offset in of_key:
            own = data if offset is None else data[offset : offset + size]
            if (len(own), hashlib.sha256(own).hexdigest()) != (size, sha256):
                yield f"{key} has other bytes than were stored"


def artifacts_are_of_the_last_claim(session: Session, _: Storage, __: Ledger) -> Iterator[str]:
    tars = set(session.scalars(select(ResultShard.key)))
    for artifact, epoch, shard in session.execute(select(Artifact, Item.epoch, Item.shard_id).join(Item)):
        own = artifact_key(artifact.job_id, artifact.item_index, epoch or 0, artifact.name)
        folder = result_shard_key(artifact.job_id, shard, epoch or 0, 0).rpartition("/")[0]
        in_tar = artifact.key in tars and artifact.key.rpartition("/")[0] == folder
        if not in_tar and artifact.key not in (own, weights_key(artifact.job_id, epoch or 0)):
            yield f"{artifact.key} is that of an item which ended under epoch {epoch}"


def results_are_whole(session: Session, _: Storage, __: Ledger) -> Iterator[str]:
    names: dict[tuple[str, int], set[str]] = defaultdict(set)
    for job_id, index, name in session.execute(select(Artifact.job_id, Artifact.item_index, Artifact.name)):
        names[job_id, index].add(name)
    for kind, job_id, index, state in session.execute(select(Job.kind, Item.job_id, Item.index, Item.state).join(Job)):
        own = names[job_id, index]
        if state != ItemState.SUCCEEDED and own:
            yield f"item {index} of {job_id} is {state}, and has {sorted(own)}"
        if state == ItemState.SUCCEEDED and kind in STUDIES and not {RESULTS[0], "result.png", "trace.json"} <= own:
            yield f"item {index} of {job_id} succeeded, and has {sorted(own)} only"


def counts_add_up(session: Session, _: Storage, __: Ledger) -> Iterator[str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for job_id, state, n in session.execute(
        select(Item.job_id, Item.state, func.count()).group_by(Item.job_id, Item.state)
    ):
        counts[job_id][state] = n
    for job in session.scalars(select(Job)):
        own = counts[job.id]
        if own.total() != job.items:
            yield f"{job.id} has {own.total()} of {job.items} items"
        ended = own["succeeded"], own["failed"]
        right = {
            JobState.SUCCEEDED: ended == (job.items, 0),
            JobState.FAILED: ended == (0, job.items),
            JobState.PARTIALLY_SUCCEEDED: all(ended) and sum(ended) == job.items,
        }
        if not right.get(JobState(job.state), True):
            yield f"{job.id} is {job.state}, and of its items are {dict(own)}"


def shards_are_let_go(session: Session, _: Storage, __: Ledger) -> Iterator[str]:
    over = (ShardState.DONE, ShardState.CANCELLED)
    held = Shard.state.not_in(over) | Shard.lease_expires_at.is_not(None)
    for shard_id, state, worker in session.execute(select(Shard.id, Shard.state, Shard.worker).where(held)):
        yield f"{shard_id} is {state}, last held by {worker}"


def moves_are_legal(session: Session, _: Storage, __: Ledger) -> Iterator[str]:
    moves: dict[str, list[JobState]] = defaultdict(list)
    for job_id, state in session.execute(select(Transition.job_id, Transition.state).order_by(Transition.id)):
        moves[job_id].append(JobState(state))
    for job in session.scalars(select(Job)):
        own = moves[job.id]
        legal = all(after in JOB_MOVES[before] for before, after in pairwise(own))
        if not legal or own[-1:] != [job.state] or sum(state in TERMINAL_JOB for state in own) != 1:
            yield f"{job.id}, which is {job.state}, went through {', '.join(own)}"


def a_key_makes_one_job(session: Session, _: Storage, ledger: Ledger) -> Iterator[str]:
    found = select(Job.idempotency_key, Job.id).where(Job.parent_id.is_(None), Job.idempotency_key.is_not(None))
    jobs = {str(key): job_id for key, job_id in session.execute(found)}
    for key, accepted in ledger.accepted.items():
        if jobs.get(key) != accepted.job_id:
            yield f"{key} was answered {accepted.job_id}, and the database has {jobs.get(key)}"
    strange = session.scalars(select(Job.id).where(Job.parent_id.is_(None), Job.idempotency_key.is_(None))).all()
    for job_id in [*strange, *(jobs[key] for key in jobs.keys() - ledger.sent)]:
        yield f"nobody asked for {job_id}"


def only_bad_input_fails(session: Session, _: Storage, ledger: Ledger) -> Iterator[str]:
    failing = {each.job_id: each.failing for each in ledger.accepted.values()}
    stopped = {each.job_id for each in ledger.accepted.values() if each.stopped}
    for item in session.scalars(select(Item).where(Item.state == ItemState.FAILED)):
        title = (item.error or {}).get("title")
        if item.index not in failing.get(item.job_id, ()) or title != UNREADABLE:
            yield f"item {item.index} of {item.job_id} failed: {item.error}"
    for job_id, indices in failing.items():
        states = session.scalars(select(Item.state).where(Item.job_id == job_id, Item.index.in_(indices)))
        if job_id not in stopped and any(state != ItemState.FAILED for state in states):
            yield f"{job_id} made something of an image that is not there"
    for job_id, state in session.execute(
        select(Job.id, Job.state).where(Job.state.in_(STOPPED), Job.parent_id.is_(None))
    ):
        if job_id not in stopped:
            yield f"{job_id} is {state}, and nobody stopped it"


def no_orphans(session: Session, storage: Storage, _: Ledger) -> Iterator[str]:
    known = {*session.scalars(select(Artifact.key)), *session.scalars(select(RegisteredModel.key))}
    if unused := set(session.scalars(select(ResultShard.key))) - known:
        yield f"no item lies in {sorted(unused)}"
    for table in (Item, Shard):
        known |= {each["key"] for each in session.scalars(select(table.checkpoint)) if each}
    for key in (*storage.keys("jobs/"), *storage.keys("models/")):
        if key not in known:
            yield f"nothing points to {key}"


PROMISES: dict[str, Promise] = {
    "every job ends": jobs_are_over,
    "every item ends": items_are_over,
    "an item ends under a claim": ends_are_of_claims,
    "a row points to what was stored": objects_are_as_stored,
    "artifacts are of the claim that ended their item": artifacts_are_of_the_last_claim,
    "a result is whole": results_are_whole,
    "a job is what its items are": counts_add_up,
    "no lease outlives its job": shards_are_let_go,
    "a job ends once": moves_are_legal,
    "a key makes one job": a_key_makes_one_job,
    "only bad input fails": only_bad_input_fails,
    "nothing is left over in the storage": no_orphans,
}


def same_bits(db: Database, storage: Storage, ledger: Ledger, unbroken: Mapping[str, str]) -> Iterator[Violation]:
    """Results of deterministic jobs against those of an unbroken run, whose job's id is given for each label."""
    with db.reading() as session:
        for accepted in ledger.accepted.values():
            reference = unbroken.get(accepted.label)
            if reference is None or reference == accepted.job_id:
                continue
            right = dict(_results(session, reference))
            for index, file in _results(session, accepted.job_id):
                if not _equal(read_file(storage, *file), read_file(storage, *right[index])):
                    evidence = f"item {index} of {accepted.job_id} is not that of {reference} ({accepted.label})"
                    yield Violation("a deterministic result is the same to the last bit", evidence)


def _results(session: Session, job_id: str) -> list[tuple[int, tuple[str, int | None, int]]]:
    wanted = select(Artifact).where(Artifact.job_id == job_id, Artifact.name.in_(RESULTS))
    return [(each.item_index, (each.key, each.offset, each.size)) for each in session.scalars(wanted)]


def _equal(one: bytes, other: bytes) -> bool:
    """Whether two files have the same tensors, bit by bit; how they came about may differ."""
    first, second = load(one), load(other)
    return first.keys() == second.keys() and all(
        (first[name].dtype, first[name].shape, first[name].tobytes())
        == (second[name].dtype, second[name].shape, second[name].tobytes())
        for name in first
    )
