"""The packed file: what goes in comes out, in every process."""

import multiprocessing
import os
import pickle

import numpy as np
import pytest
from files import THREE_CLASSES

from spadecli.core.errors import UserError
from spadecli.data.packed import Packed, create_packed

CONFIG = {"labels": THREE_CLASSES.model_dump(mode="json"), "size": [4, 6]}


def sample(i, instances=True):
    rng = np.random.default_rng(i)
    ids = rng.integers(0, 1 << 32, (4, 6), np.uint32) if instances else None
    return rng.integers(0, 3, (4, 6), np.uint8), ids, rng.integers(0, 256, (4, 6, 3), np.uint8)


def write(path, n=3, capacity=5, instances=True):
    with create_packed(path, capacity, instances, CONFIG, "source") as writer:
        for i in range(n):
            writer.add(f"é/{i}", sample(i, instances))
        return writer.finish({"pairs": n})


@pytest.mark.parametrize("instances", [True, False])
def test_round_trip(tmp_path, instances):
    digest = write(tmp_path / "p.h5", instances=instances)
    packed = Packed(tmp_path / "p.h5")
    assert len(packed) == 3
    assert packed.names == ["é/0", "é/1", "é/2"]
    assert packed.size == (4, 6)
    assert packed.labels == THREE_CLASSES
    assert packed.has_instances is instances
    assert (packed.sha256, packed.source_sha256) == (digest, "source")
    for i in range(3):
        for got, put in zip(packed.get(i), sample(i, instances), strict=True):
            assert (got is None) == (put is None)
            if got is not None:
                assert got.dtype == put.dtype
                assert (got == put).all()
    packed.close()


def test_digest_follows_content_and_names_alone(tmp_path):
    a, b = write(tmp_path / "a.h5"), write(tmp_path / "b.h5", capacity=3)
    assert a == b
    assert write(tmp_path / "c.h5", n=2) != a


def test_survives_pickling_and_closing(tmp_path):
    write(tmp_path / "p.h5")
    packed = Packed(tmp_path / "p.h5")
    packed.get(0)
    copy = pickle.loads(pickle.dumps(packed))
    packed.close()
    assert (copy.get(1)[0] == sample(1)[0]).all()
    assert (packed.get(2)[2] == sample(2)[2]).all()


def read_in_child(packed, i, queue):
    queue.put((os.getpid(), packed.get(i)[0].tolist()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_opens_its_own_file(tmp_path, method):
    write(tmp_path / "p.h5")
    packed = Packed(tmp_path / "p.h5")
    packed.get(0)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(packed, 1, queue))
    child.start()
    pid, codes = queue.get(timeout=30)
    child.join()
    assert pid != os.getpid()
    assert codes == sample(1)[0].tolist()
    assert (packed.get(2)[0] == sample(2)[0]).all()


def test_failed_writing_leaves_nothing(tmp_path):
    with pytest.raises(IndexError):
        write(tmp_path / "p.h5", n=3, capacity=2)
    assert list(tmp_path.iterdir()) == []


def test_truncated_and_foreign_files_are_refused(tmp_path):
    write(tmp_path / "p.h5")
    (tmp_path / "t.h5").write_bytes((tmp_path / "p.h5").read_bytes()[:600])
    (tmp_path / "x.h5").write_text("no")
    for name in ("t.h5", "x.h5", "missing.h5"):
        with pytest.raises(UserError, match=name):
            Packed(tmp_path / name)
