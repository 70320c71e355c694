"""The name of every object in the storage. Keys that a worker writes carry its epoch: a late one overwrites nothing."""


def checkpoint_upload_key(upload_id: str) -> str:
    return f"checkpoints/{upload_id.removeprefix('sha256:')}"


def manifest_key(manifest_id: str) -> str:
    return f"manifests/{manifest_id.removeprefix('sha256:')}"


def pending_key(upload_id: str) -> str:
    """Where a client puts an object by itself, until it has been checked."""
    return f"uploads/{upload_id}"


def weights_key(job_id: str, epoch: int) -> str:
    """A registered network's weights, kept apart from its job's files."""
    return f"models/{job_id}/{epoch}/model.safetensors"


def dataset_key(job_id: str, epoch: int, name: str) -> str:
    """A registered data set's index, and its images where they do not stay where they were found."""
    return f"datasets/{job_id}/{epoch}/{name}"


def shard_checkpoint_key(job_id: str, shard_id: str, epoch: int, number: int) -> str:
    """Where a later claim goes on with a shard's searches."""
    return f"jobs/{job_id}/shards/{shard_id.rpartition('.')[2]}/{epoch}/checkpoint-{number}.safetensors"


def previews_key(job_id: str, shard_id: str, epoch: int, number: int) -> str:
    """What some of a shard's items look like while they are computed; no row points to it."""
    return f"jobs/{job_id}/shards/{shard_id.rpartition('.')[2]}/{epoch}/previews-{number}.rgb"


def checkpoint_key(job_id: str, index: int, epoch: int, step: int) -> str:
    """Where a later claim goes on with an item."""
    return f"jobs/{job_id}/items/{index}/{epoch}/checkpoint-{step}.pt"


def result_shard_key(job_id: str, shard_id: str, epoch: int, number: int) -> str:
    """A tar of items' files: one of those that a claim of the shard stores, counted from 0.

    Not under `shards/`, where collectors from before there were tars look, and find nothing that points to them.
    """
    return f"jobs/{job_id}/results/{shard_id.rpartition('.')[2]}/{epoch}/{number}.tar"
