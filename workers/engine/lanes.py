"""A lane: the searches that share one batch, because they share a function of the image, its precision and a solver.

A batch is the first rows of fixed buffers, 1, 2, 4 ... `capacity` of them; every quantity of a row is a tensor, and the
host is asked at the end of a block only. Rows never mix, so a row's result depends on the number of rows at most.
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine import objectives, solvers
from workers.engine.memory import rows_that_fit
from workers.engine.pgd import Function, step
from workers.engine.rows import PLATEAU, Row, Search, State, as_frame

EXACT = 0.2
"""The share of its steps, the last, that a row makes in full precision."""
BLOCK = 25
"""Most steps between two looks at the host."""
COLUMNS = (
    "eps", "step_size", "scale", "steps", "schedule", "stop_loss", "patience", "exceeds", "inverts",
    "k", "live", "bad", "best_loss", "reference", "since",
)  # fmt: skip
"""A row's numbers: what was asked, then how it stands."""
_AT = {name: i for i, name in enumerate(COLUMNS)}
_FAR = 1e300


@dataclass(frozen=True)
class Program:
    """What the searches of a lane share: x [N, C, H, W] -> R [N, features], on a device. `key` names the function."""

    key: Hashable
    f: Function
    shape: tuple[int, int, int]
    features: int
    device: torch.device
    precision: str = "fp32"
    solver: str = "pgd"
    bucket: int | None = None
    """Rows of every batch, idle ones included: then a result is bitwise the same whatever shares the batch."""
    exact: "Program | None" = None
    """The same in full precision, where a row makes its last steps: rounding there would decide how near it ends."""

    def leaves_at(self, row: Row) -> int:
        """The step before which a row goes over to `exact`; one more than it makes if there is none."""
        return int(row.steps * (1 - EXACT)) if self.exact else row.steps + 1

    @property
    def lane(self) -> Hashable:
        exact = self.exact and self.exact.lane
        return self.key, self.shape, self.device, self.precision, self.solver, self.bucket, exact


class Lane:
    """The buffers of one program, and the searches in their rows."""

    def __init__(self, program: Program, most: int) -> None:
        self.program, self.solver = program, solvers.SOLVERS[program.solver]
        example = torch.zeros(1, *program.shape, device=program.device)
        self.capacity = program.bucket or rows_that_fit(program.f, example, most)
        self.seconds_per_row: float | None = None
        self.graphs: dict[int, torch.cuda.CUDAGraph] | None = {} if program.device.type == "cuda" else None
        self._pool = None if self.graphs is None else torch.cuda.graph_pool_handle()
        self._allocate()

    def _allocate(self) -> None:
        p, n = self.program, self.capacity
        images = [torch.zeros(n, *p.shape, device=p.device) for _ in range(3 + self.solver.buffers)]
        self.images = [image.contiguous(memory_format=torch.channels_last) for image in images]
        self.aim = torch.zeros(n, p.features, device=p.device)
        self.numbers = torch.zeros(n, len(COLUMNS), dtype=torch.float64, device=p.device)
        self.numbers[:, _AT["scale"]] = 1
        self.trace = torch.zeros(BLOCK, 2, n, device=p.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=p.device)
        self.slots: list[Search | None] = [None] * n
        self.count = 0

    @property
    def searches(self) -> list[Search]:
        return [search for search in self.slots if search]

    @property
    def bucket(self) -> int:
        """Rows of the batch: up to the last one taken, as a power of two."""
        if self.program.bucket:
            return self.program.bucket
        last = max((i for i, search in enumerate(self.slots) if search), default=0)
        return 1 << last.bit_length()

    def put(self, search: Search) -> None:
        """Take a search in, new or as it stood when it was taken out. Raises ValueError for one that does not fit."""
        slot, row, p = self.slots.index(None), search.row, self.program
        try:
            state, aim = search.state or _fresh(row, self.solver.buffers), torch.as_tensor(row.aim, dtype=torch.float32)
        except (TypeError, RuntimeError) as e:
            raise ValueError(str(e)) from e
        own = state.images[0], row.x0, *state.images[1:]
        if aim.shape != (p.features,) or any(image.shape != p.shape for image in own):
            shapes = ", ".join(str(tuple(t.shape)) for t in (*own[:2], aim))
            raise ValueError(f"x, x0 and aim have shapes {shapes}; allowed: {p.shape} twice and ({p.features},)")
        for buffer, image in zip(self.images, own, strict=True):
            buffer[slot].copy_(image, non_blocking=True)
        self.aim[slot].copy_(aim, non_blocking=True)
        self.numbers[slot].copy_(state.numbers, non_blocking=True)
        self.slots[slot], search.state = search, None
        self.count += 1

    def take(self, search: Search) -> None:
        """Take a search out; its state says how it stands."""
        search.state = self.state(search)
        self._clear(self.slots.index(search))

    def state(self, search: Search) -> State:
        """How one that is in a row stands."""
        slot = self.slots.index(search)
        x, _, *others = (image[slot].to("cpu", copy=True) for image in self.images)
        return State([x, *others], self.numbers[slot].to("cpu", copy=True))

    def hand_over(self, search: Search) -> None:
        """Take out one that goes on elsewhere: what it knows of its losses is of this precision, and is forgotten."""
        self.take(search)
        assert search.state
        for name, value in (("best_loss", _FAR), ("reference", _FAR), ("since", 0)):
            search.state.numbers[_AT[name]] = value

    def result(self, search: Search) -> tuple[Tensor, float, bool]:
        """x [C, H, W] of a search that `fetch` found over, its least loss, and whether it met a bad number."""
        slot = self.slots.index(search)
        x = self.images[2 if search.row.best else 0][slot].to("cpu", copy=True)
        best_loss, bad = (float(self.fetched[slot, _AT[name]]) for name in ("best_loss", "bad"))
        self._clear(slot)
        return x, best_loss, bool(bad)

    def _clear(self, slot: int) -> None:
        self.slots[slot] = None
        self.count -= 1
        self.numbers[slot, _AT["live"]] = 0
        self.images[0][slot].zero_()  # the batch still computes it: nothing of it may be anyone's trouble

    def compact(self) -> None:
        """Move the last rows into free ones, as long as that halves the batch."""
        while not self.program.bucket and 0 < self.count <= self.bucket // 2:
            last = max(i for i, search in enumerate(self.slots) if search)
            free = self.slots.index(None)
            for buffer in (*self.images, self.aim, self.numbers):
                buffer[free].copy_(buffer[last])
            self.slots[free] = self.slots[last]
            self.count += 1
            self._clear(last)

    def shrink(self) -> bool:
        """Half the rows, after running out of memory, with every search taken out. False if they cannot be fewer."""
        if self.program.bucket or self.capacity == 1:
            return False
        self.capacity //= 2
        self.images, self.graphs = [], self.graphs if self.graphs is None else {}
        if self.program.device.type == "cuda":
            torch.cuda.empty_cache()
        self._allocate()
        return True

    def run(self, steps: int) -> Iterator[int]:
        """`steps` steps of the batch; yields the number made after each, without asking the device."""
        bucket = self.bucket
        self.at.zero_()
        for search in self.searches:
            search.bucket = max(search.bucket, bucket)
        framed = [(slot, search) for slot, search in enumerate(self.slots) if search and search.row.frames]
        with _numerics(self.program):
            for i in range(steps):
                for slot, search in framed:
                    if search.k + i in search.row.frames:
                        search.frames[search.k + i] = as_frame(self.images[0][slot])
                self._advance(bucket)
                yield i + 1

    def _advance(self, bucket: int) -> None:
        """One step: replayed from a CUDA graph once the batch of this size has made one."""
        if self.graphs is None:
            self.advance(bucket)
        elif bucket in self.graphs:
            self.graphs[bucket].replay()
        else:
            self.advance(bucket)  # lets the libraries choose and allocate what a capture may not
            self._capture(bucket)

    def _capture(self, bucket: int) -> None:
        assert self.graphs is not None
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self.advance(bucket)
            self.graphs[bucket] = graph
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # a network whose forward pass asks the device cannot be captured; it runs as it is
            self.graphs = None

    def advance(self, bucket: int) -> None:
        """One step of the first `bucket` rows, without a look at the host."""
        x, x0, best_x, *buffers = (image[:bucket] for image in self.images)
        n = {name: self.numbers[:bucket, i] for name, i in _AT.items()}
        objective = objectives.mixed(self.aim[:bucket], n["inverts"] > 0, n["scale"].float())
        exceeds_all = objectives.exceeds_all(self.aim[:bucket].argmax(dim=1))
        objective = objectives.until(objective, lambda r: exceeds_all(r) & (n["exceeds"] > 0))
        size = n["step_size"] * solvers.multiplier(n["schedule"].long(), n["k"].long(), n["steps"].long())
        constraint = solvers.constraint(self.solver, x, buffers, n["k"].long())
        after, loss, grad_norm = step(self.program.f, objective, x, x0, n["eps"], size, constraint)

        live, finite = n["live"] > 0, loss.isfinite() & grad_norm.isfinite()
        better = live & finite & (loss < n["best_loss"])
        fell = loss < n["reference"] - PLATEAU * n["reference"].abs()
        since = torch.where(fell, 0, n["since"] + 1)
        tired = (n["patience"] > 0) & (since >= n["patience"])
        over = ~finite | (grad_norm == 0) | (n["k"] >= n["steps"]) | (loss <= n["stop_loss"]) | tired
        moves = live & ~over
        of_row = (slice(None), None, None, None)

        self.trace[:, :, :bucket].index_copy_(0, self.at, torch.stack([loss, grad_norm])[None])
        self.at += 1
        torch.where(better[of_row], x, best_x, out=best_x)
        torch.where(moves[of_row], after, x, out=x)
        for name, value in (
            ("bad", (n["bad"] > 0) | (live & ~finite)), ("best_loss", torch.where(better, loss, n["best_loss"])),
            ("reference", torch.where(fell, loss, n["reference"])), ("since", since),
            ("k", n["k"] + moves), ("live", moves),
        ):  # fmt: skip
            n[name].copy_(value)

    def fetch(self, steps: int) -> list[Search]:
        """Bring the traces up to date with the last `steps` steps; answers the searches that are over."""
        if not steps:
            return []
        trace, numbers = self.trace[:steps].cpu().numpy(), self.numbers.cpu().numpy()
        self.fetched = numbers
        over = []
        for slot, search in enumerate(self.slots):
            if not search:
                continue
            moved = int(numbers[slot, _AT["k"]]) - search.k
            ended = not numbers[slot, _AT["live"]]
            search.loss.append(trace[: moved + ended, 0, slot].copy())
            search.grad_norm.append(trace[:moved, 1, slot].copy())
            search.k += moved
            search.frames = {k: frame.cpu() for k, frame in search.frames.items()}
            search.ticket.steps[search.number] = search.k
            if ended:
                over.append(search)
        return over


def _fresh(row: Row, buffers: int) -> State:
    asked = [row.eps, row.step_size, row.scale, row.steps, solvers.SCHEDULES.index(row.schedule), row.stop_loss,
             row.patience, row.exceeds, row.inverts]  # fmt: skip
    stands = [0, 1, 0, _FAR, _FAR, 0]
    images = [row.x, row.x, *(torch.zeros_like(row.x) for _ in range(buffers))]
    return State(images, torch.tensor([*asked, *stands], dtype=torch.float64))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether convolutions and matrix products may round to TF32, on GPUs that have it."""
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = conv.allow_tf32, matmul.allow_tf32
    conv.allow_tf32 = matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        conv.allow_tf32, matmul.allow_tf32 = before


@contextmanager
def _numerics(program: Program) -> Iterator[None]:
    """The device's switches for a program: TF32 where it was declared, fixed kernels where the bucket is pinned."""
    if program.device.type != "cuda":
        yield
        return
    conv, pinned = torch.backends.cudnn, program.bucket is not None
    before = conv.benchmark, conv.deterministic
    conv.benchmark, conv.deterministic = not pinned, pinned
    try:
        with tf32(program.precision == "tf32"):
            yield
    finally:
        conv.benchmark, conv.deterministic = before
