"""Mutated weight files of each container are read or refused in one line; every tensor that is read can be measured.

`python -m layerhouse.tests.test_mutations N` makes N mutations of each file, and prints the slowest and the peak of memory.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import pytest

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.tests.weight_files import mutated, save_vanished

ROUNDS = 200


def state():
    import torch

    torch.manual_seed(3)
    weight = torch.randn(8, 12)
    return {
        "embed.weight": weight,
        "tied.weight": weight,
        "half": weight.bfloat16().t(),
        "small": (weight > 0).to(torch.int8),
        "coo": torch.sparse_coo_tensor(torch.tensor([[0, 3, 3], [1, 2, 2]]), torch.tensor([1.0, 2.0, 3.0]), (8, 12)),
        "csr": (weight * (weight > 1)).to_sparse_csr(),
    }


def write_zip(path: Path) -> None:
    import torch

    torch.save(state(), path)


def write_legacy(path: Path) -> None:
    import torch

    torch.save(state(), path, _use_new_zipfile_serialization=False)


def write_model(path: Path) -> None:
    save_vanished(path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    dense = {name: tensor.clone() for name, tensor in state().items() if name not in ("coo", "csr", "tied.weight")}
    save_file({name: tensor.contiguous() for name, tensor in dense.items()}, path)


WRITERS = {"m.safetensors": write_safetensors, "m.bin": write_zip, "m.pt": write_legacy, "m.pth": write_model}


def read_whole(path: Path) -> bool:
    """Whether the file can be read with every byte of its tensors; False if it is refused in one line."""
    try:
        with TensorReader() as reader:
            for ref in read_weight_file(path, "m").tensors:
                size = sum(chunk.size for chunk in reader.chunks(ref))
                assert size == ref.logical_bytes
    except InputError as error:
        assert "\n" not in str(error)
        return False
    return True


def mutate(folder: Path, name: str, rounds: int, seed: int) -> tuple[int, float]:
    """How many mutations can still be read, and the seconds that the slowest took."""
    path = folder / name
    WRITERS[name](path)
    assert read_whole(path)
    whole, source = path.read_bytes(), random.Random(seed)
    read, slowest = 0, 0.0
    for _ in range(rounds):
        path.write_bytes(mutated(source, whole))
        started = time.perf_counter()
        read += read_whole(path)
        slowest = max(slowest, time.perf_counter() - started)
    return read, slowest


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("ignore:Sparse", "ignore:Couldn't retrieve source code")
def test_every_mutation_is_read_or_refused(tmp_path, name):
    read, _ = mutate(tmp_path, name, ROUNDS, seed=29)
    assert 0 < read < ROUNDS


def main() -> None:
    rounds = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        for name in WRITERS:
            read, slowest = mutate(Path(folder), name, rounds, seed=time.time_ns())
            print(f"{name}: {read} of {rounds} read, the slowest took {slowest:.3f} s")
    print(f"peak of memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
