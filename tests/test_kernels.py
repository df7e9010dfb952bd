"""The loops of the C extension give the results of their reference in numpy to the bit."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from layerhouse.ingest.measure.kernels import cpu, numpy_loops
from layerhouse.ingest.measure.kernels.moments import ROW, SUB_BLOCK

if not (cpu.IS_BUILT or shutil.which("cc")):
    pytest.skip("no C compiler, so the C extension was not built", allow_module_level=True)

from layerhouse.ingest.measure.kernels import _loops  # an import error is a failure if there is a compiler

HASHING = {"begin", "mix", "digest"}
ODD = np.array([0, 1, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x007FFFFF, 0x7F7FFFFF], np.uint32)


def random(seed=0):
    return np.random.default_rng(seed)


def run_both(name, make):
    """The result and the array arguments after the call, for the C loop and the reference, each with fresh arguments."""
    outcomes = []
    for module in (_loops, numpy_loops):
        arguments = make()
        result = getattr(module, name)(*arguments)
        outcomes.append([result, *(argument for argument in arguments if isinstance(argument, np.ndarray))])
    return outcomes


def assert_alike(name, make, *, tables=None, fullest=None):
    """Both engines agree to the bit; returns the outcome of C.

    `tables` is the position of the tables of counts, of which only the sum is defined. `fullest` is that of the most values in
    a group, which is defined up to the point where no N:M pattern is left.
    """
    left, right = run_both(name, make)
    assert left[0] == right[0]
    for place, (ours, reference) in enumerate(zip(left[1:], right[1:], strict=True), start=1):
        assert ours.dtype == reference.dtype
        if place == tables:
            assert ours.sum(axis=0).tobytes() == reference.sum(axis=0).tobytes()
        elif place == fullest:
            assert np.minimum(ours, (3, 5)).tolist() == np.minimum(reference, (3, 5)).tolist()
        else:
            assert ours.tobytes() == reference.tobytes()
    return left


def weights(kind, size, seed=1):
    """float32 values: dense, half of them zero, or with NaNs, infinities, subnormal and huge values among them."""
    values = random(seed).standard_normal(size).astype(np.float32) / 50
    if kind == "half zero":
        values[random(seed + 1).random(size) < 0.5] = 0
    if kind == "odd":
        places = random(seed + 2).integers(0, size, 200) if size else []
        values.view(np.uint32)[places] = ODD[random(seed + 3).integers(0, len(ODD), len(places))]
    if kind == "around a mean":
        values += 100
    return values


def test_both_engines_have_every_loop_and_the_extension_is_used():
    names = {name for name, value in vars(_loops).items() if callable(value) and not name.startswith("_")}
    assert names == HASHING | set(numpy_loops.__all__)
    assert all(getattr(cpu, name) is getattr(_loops, name) for name in names)
    assert (cpu.IS_BUILT, cpu.ENGINE) == (True, "C")


@pytest.mark.parametrize("size", [0, 1, 3, 4, 1001])
def test_count_bytes(size):
    codes = random().integers(0, 256, size).astype(np.uint8)
    tables = assert_alike("count_bytes", lambda: (codes, tables_of(4, 8)), tables=2)[2]
    assert tables.sum(axis=0).tolist() == np.bincount(codes, minlength=256).tolist()


def tables_of(lanes, bits):
    return np.zeros((lanes, 1 << bits), np.uint32)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_count_words_and_drain(left):
    def make():
        codes = (weights("half zero", 4000 + left).view(np.uint32) >> 16).astype(np.uint16)
        return codes[:4000].view(np.uint64), codes[4000:], tables_of(2, 16)

    tables = assert_alike("count_words", make, tables=3)[3]
    distinct, _, codes, counts = assert_alike("drain", lambda: (tables.copy(), np.zeros(1 << 16, np.uint16), count_array()))
    words, rest, _ = make()
    expected = dict(zip(*np.unique(np.concatenate((words.view(np.uint16), rest)), return_counts=True), strict=True))
    assert dict(zip(codes[:distinct], counts[:distinct], strict=True)) == expected


@pytest.mark.parametrize("size", [4096, 4097, 40_043])
@pytest.mark.parametrize("kind", ["dense", "half zero", "2:4", "rows", "dense, then zeros, then dense"])
def test_count_words_with_many_zeros(kind, size):
    codes = (weights("half zero" if kind == "half zero" else "dense", size).view(np.uint32) >> 16).astype(np.uint16)
    if kind == "2:4":
        codes[::2] = 0
    if kind == "rows":
        codes[np.arange(size) // 100 % 3 == 0] = 0
    if kind == "dense, then zeros, then dense":
        codes[size // 3 : size // 2] = 0
    whole = size // 4 * 4
    outcome = assert_alike("count_words", lambda: (codes[:whole].view(np.uint64), codes[whole:], tables_of(2, 16)), tables=3)
    assert outcome[3].sum(axis=0).tolist() == np.bincount(codes, minlength=1 << 16).tolist()
    assert outcome[3][1, 0] == 0


def count_array():
    return np.zeros(1 << 16, np.int64)


def test_count_few():
    def make():
        codes = random().integers(0, 50, 333).astype(np.uint16)
        return codes, np.zeros(1 << 16, np.uint32), np.zeros(1 << 16, np.uint16), count_array()

    expected = np.unique(make()[0], return_counts=True)
    for size, _, table, distinct, counts in run_both("count_few", make):
        order = np.argsort(distinct[:size])
        assert distinct[:size][order].tolist() == expected[0].tolist()
        assert counts[:size][order].tolist() == expected[1].tolist()
        assert not table.any()


@pytest.mark.parametrize("near_zero", [-1.0, 0.01])
def test_describe_codes_and_sum_codes(near_zero):
    values = np.concatenate((np.linspace(-2, 2, 3000), [np.nan, np.inf, -np.inf, 0.0, -0.0]))
    ranks = np.unique(np.abs(values), return_inverse=True)[1].astype(np.uint16)
    ranks[3000] = 0  # the rank of a NaN is arbitrary
    codes = random(3).permutation(len(values)).astype(np.uint16)
    counts = random().integers(1, 1 << 40, len(codes)).astype(np.uint64)
    percents = np.array([1, 50, 99], np.uint64)

    description = assert_alike("describe_codes", lambda: (codes, counts, values, ranks, near_zero, percents))[0]
    by_code = counts[codes.argsort()]
    finite = np.isfinite(values)
    total = int(by_code[finite].sum())
    near = by_code[finite & (np.abs(values) <= near_zero)].sum()
    assert description[:5] == (by_code[-2:].sum(), near, by_code[3000], by_code[3001:3003].sum(), total)
    assert description[5:7] == (-2, 2)
    order = np.abs(values[finite]).argsort()
    running = np.cumsum(by_code[finite][order])
    places = [np.searchsorted(running, np.uint64(-(-percent * total // 100))) for percent in (1, 50, 99)]
    assert description[7] == tuple(np.abs(values[finite][order][places]).tolist())

    significands, groups = random().integers(-200, 200, len(values)), random(1).integers(0, 4, len(values))
    few = counts >> np.uint64(20)
    tables = (significands.astype(np.int32), groups.astype(np.uint16))
    sums = assert_alike("sum_codes", lambda: (codes, few, *tables, np.zeros((4, 3), np.int64)))[-1]
    terms = (significands[codes] * few.astype(np.int64))[groups[codes] == 2]
    assert sums[2].tolist() == [terms.sum(), np.abs(terms).sum(), (terms * significands[codes][groups[codes] == 2]).sum()]


def test_describe_codes_without_finite_values():
    codes, counts, ranks = np.arange(2, dtype=np.uint16), np.array([3, 4], np.uint64), np.zeros(2, np.uint16)
    arguments = codes, counts, np.array([np.nan, -np.inf]), ranks, 0.5, np.array([50], np.uint64)
    description = assert_alike("describe_codes", lambda: arguments)[0]
    assert description == (0, 0, 3, 4, 0, np.inf, -np.inf, (0.0,))


@pytest.mark.parametrize("size", [0, 1, 4097])
def test_add_up_loses_nothing_to_cancelling(size):
    terms = random().standard_normal((3, size)) * 10.0 ** random(1).integers(-15, 15, (3, size))
    terms = np.concatenate((terms, random(2).permutation(-terms, axis=1), np.full((3, 1), 1e-9)), axis=1)
    sums = assert_alike("add_up", lambda: (terms, np.zeros(3)))[2]
    assert sums.tolist() == pytest.approx([1e-9] * 3, abs=1e-12)
    assert not np.allclose(np.cumsum(terms, axis=1)[:, -1], 1e-9, rtol=1e-3, atol=0) or size < 4097


@pytest.mark.parametrize("kind", ["dense", "half zero", "odd", "around a mean"])
@pytest.mark.parametrize("size", [0, 1, 255, SUB_BLOCK, 3 * SUB_BLOCK + 1029])
@pytest.mark.parametrize("near_zero", [-1.0, 0.01])
def test_moments(kind, size, near_zero):
    rows = -(-size // SUB_BLOCK)

    def counts_and_ends():
        return np.zeros(4, np.int64), np.array([np.inf, -np.inf])

    with np.errstate(invalid="ignore"):
        wide = weights(kind, size).astype(np.float64) * 1e200
    assert_alike("moments", lambda: (wide, near_zero, *counts_and_ends(), np.zeros((rows, ROW))))

    def of_floats():
        return weights(kind, size), near_zero, *counts_and_ends(), np.zeros((rows, ROW)), tables_of(2, 16)

    tables = assert_alike("moments_of_floats", of_floats, tables=5)[-1]
    tops = weights(kind, size).view(np.uint32) >> 16
    assert tables.sum(axis=0).tolist() == np.bincount(tops, minlength=1 << 16).tolist()


@pytest.mark.parametrize("width", [7, 12, 16, 64])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_mark_nonzeros(width, kind, share):
    mask = np.uint64(np.iinfo(kind).max >> 1)

    def make(start=8 * width, size=40 * width):
        values = random(2).integers(0, 3, size).astype(kind)
        values[random(3).random(size) < 1 - share] = 0
        return values, mask, start, np.zeros(60, np.uint8), np.zeros(width, np.uint8), np.zeros(2, np.int64)

    assert_alike("mark_nonzeros", make, fullest=4)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("most", [1, 2, 3, 4, 8])
def test_mark_nonzero_words(bits, width, most):
    kind = np.dtype(f"u{bits // 8}").type
    mask, top = (np.uint64(sum(part << place for place in range(0, 64, bits))) for part in ((1 << bits - 1) - 1, 1 << bits - 1))

    def make():
        matrix = np.zeros((30, width), kind)
        for number, group in enumerate(matrix.reshape(-1, 8)):
            group[random(number).permutation(8)[:most]] = 5
        matrix[3] = 0
        matrix[:, 2] = 0
        matrix[:, 3] = 1 << bits - 1  # negative zeros
        flags = np.zeros(width * bits // 64, np.uint64)
        return matrix.view(np.uint64).ravel(), mask, top, 2 * width, np.zeros(40, np.uint8), flags, np.zeros(2, np.int64)

    rows, flags = assert_alike("mark_nonzero_words", make)[2:4]
    assert np.flatnonzero(rows).tolist() == [row for row in range(2, 32) if row != 5]
    assert flags.view(kind)[2:4].tolist() == [0, 0]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("width", [7, 12, 16, 64])
@pytest.mark.parametrize("case", ["settled", "a column is used late", "2:4 ends late", "4:8 ends late"])
def test_rows_once_every_column_is_used_and_no_pattern_is_left(kind, width, case):
    """Then a row is read only up to its first value; a value in its last column must still be seen."""
    matrix = random().integers(0, 2, (200, width)).astype(kind)
    matrix[random(1).random(200) < 0.3] = 0
    matrix[150] = 0
    matrix[150, -1] = 1
    if case == "a column is used late":
        matrix[:190, 3] = 0
        matrix[190, 3] = 1
    if case == "2:4 ends late":
        matrix[:190:2, ::2] = 0
        matrix[1:190:2, 1::2] = 0
        matrix[190] = 1
    if case == "4:8 ends late":
        matrix[:190:2, np.arange(width) % 8 < 4] = 0
        matrix[1:190:2, np.arange(width) % 8 >= 4] = 0
        matrix[190] = 1
    size = matrix.itemsize
    bits = 8 * size
    mask, top = (np.uint64(sum(part << place for place in range(0, 64, bits))) for part in ((1 << bits) - 1, 1 << bits - 1))
    for first in (0, 3):  # the first row of the first chunk
        expected_rows = [0] * first + matrix.any(axis=1).tolist() + [0] * (20 - first)
        for module in (_loops, numpy_loops):
            rows, columns, fullest = np.zeros(220, np.uint8), np.zeros(width, np.uint8), np.zeros(2, np.int64)
            for low in (0, 80, 160):
                part = matrix[low : low + 80].ravel()
                module.mark_nonzeros(part, np.uint64((1 << bits) - 1), (first + low) * width, rows, columns, fullest)
            assert rows.tolist() == expected_rows
            assert columns.tolist() == matrix.any(axis=0).tolist()
            groups = [width % group == 0 for group in (4, 8)]
            assert [fullest[0] > 2, fullest[1] > 4] == groups
            if size == 1 or width % 8:
                continue
            rows, flags, fullest = np.zeros(220, np.uint8), np.zeros(width * size // 8, np.uint64), np.zeros(2, np.int64)
            for low in (0, 80, 160):
                words = matrix[low : low + 80].ravel().view(np.uint64)
                module.mark_nonzero_words(words, mask, top, (first + low) * width, rows, flags, fullest)
            assert rows.tolist() == expected_rows
            assert fullest.tolist() == [3, 5]
            assert (flags.view(kind) != 0).tolist() == matrix.any(axis=0).tolist()


@pytest.mark.parametrize("size", [5000, 5007, 5001, 3, 0])
@pytest.mark.parametrize("of_base", ["dense", "half zero", "odd"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_count_differences(kind, of_base, size):
    base = weights(of_base, size).astype(kind)
    is_other = random(5).random(size) < 0.3
    is_other[-1:] = True
    values = np.where(is_other, weights("half zero", size, 9).astype(kind), base)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = base.astype(np.float16).astype(kind)
    counts, sums = assert_alike("count_differences", lambda: (values, base, rounded, np.zeros(4, np.int64), np.zeros(4)))[4:]
    unlike, apart = (~((values == other) | (np.isnan(values) & np.isnan(other))) for other in (base, rounded))
    kinds = values == 0, (values != 0) & (base == 0), (values != 0) & (base != 0)
    assert counts.tolist() == [unlike.sum(), *((unlike & apart & kind).sum() for kind in kinds)]
    finite = np.isfinite(values) & np.isfinite(base)
    one, other = values[finite].astype(np.float64), base[finite].astype(np.float64)
    assert sums.tolist() == pytest.approx([((one - other) ** 2).sum(), one @ one, other @ other, one @ other], rel=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("run", "entries"), [(1, 30), (30, 7)])
def test_add_squares(kind, run, entries):
    values = weights("dense", 155).astype(kind)
    assert_alike("add_squares", lambda: (values, 25, run, np.ones(entries)))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("start", "size"), [(0, 640), (25, 155), (64, 3), (6400, 0)])
def test_add_signed(kind, start, size):
    values = weights("dense", max(1, size)).astype(kind)[:size]
    (lanes,) = assert_alike("add_signed", lambda: (values, start, np.zeros(64)))[2:]
    expected = np.zeros(64)
    for number, value in enumerate(values.tolist(), start):
        expected[number % 64] += -value if split_mix(number // 64) >> number % 64 & 1 else value
    assert lanes.tolist() == expected.tolist()


def split_mix(index):
    """Output `index` of SplitMix64 from seed 0."""
    z = (index + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_project():
    signs = np.where(random().random((100, 64)) < 0.5, -1, 1).astype(np.int8)
    assert_alike("project", lambda: (weights("dense", 90).astype(np.float64), signs, np.ones(64)))


def test_add_bfloat16():
    codes = (weights("odd", 4000).view(np.uint32) >> 16).astype(np.uint16)
    places = random().integers(0, 300, 4000)
    assert_alike("add_bfloat16", lambda: (codes[:300].copy(), places, codes))


def test_values_at_any_address():
    raw = np.concatenate((np.zeros(1, np.uint8), weights("odd", 5000).view(np.uint8)))
    unaligned, aligned = raw[1:].view(np.float32), weights("odd", 5000)
    assert not unaligned.flags.aligned
    outcomes = []
    for values in (unaligned, aligned):
        outcome = assert_alike(
            "moments_of_floats",
            lambda values=values: (
                values,
                -1.0,
                np.zeros(4, np.int64),
                np.array([np.inf, -np.inf]),
                np.zeros((2, ROW)),
                tables_of(2, 16),
            ),
            tables=5,
        )
        outcomes.append([array.tobytes() for array in outcome[2:]])
    assert outcomes[0] == outcomes[1]


REFUSED = {
    "a table that is too small": ("count_words", (np.zeros(1, np.uint64), np.zeros(0, np.uint16), np.zeros(9, np.uint32))),
    "a place outside": ("add_bfloat16", (np.zeros(3, np.uint16), np.array([3]), np.zeros(1, np.uint16))),
    "a negative place": ("add_bfloat16", (np.zeros(3, np.uint16), np.array([-1]), np.zeros(1, np.uint16))),
    "a pattern that no table has": (
        "sum_codes",
        (np.ones(1, np.uint16), np.ones(1, np.uint64), np.ones(1, np.int32), np.zeros(1, np.uint16), np.ones(3)),
    ),
    "a group that no row is for": (
        "sum_codes",
        (np.zeros(1, np.uint16), np.ones(1, np.uint64), np.ones(1, np.int32), np.ones(1, np.uint16), np.ones(3)),
    ),
    "a value without a rank": (
        "describe_codes",
        (np.zeros(1, np.uint16), np.ones(1), np.ones(2), np.ones(1, np.uint16), -1.0, np.ones(1)),
    ),
    "too many percentages": (
        "describe_codes",
        (np.zeros(1, np.uint16), np.ones(1), np.ones(1), np.ones(1, np.uint16), -1.0, np.ones(17)),
    ),
    "missing rows": ("moments", (np.zeros(5000), -1.0, np.zeros(4, np.int64), np.zeros(2), np.zeros((1, ROW)))),
    "an element after the matrix": (
        "mark_nonzeros",
        (np.ones(32, np.uint8), 127, 16, np.zeros(2, np.uint8), np.zeros(16, np.uint8), np.zeros(2, np.int64)),
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_sizes_that_would_access_memory_out_of_bounds_are_refused(why):
    name, arguments = REFUSED[why]
    with pytest.raises(ValueError, match="do not match"):
        getattr(_loops, name)(*arguments)


def test_arguments_of_other_types_are_refused():
    with pytest.raises(TypeError, match="3 arguments, not 1"):
        _loops.count_words(np.zeros(1, np.uint64))
    with pytest.raises(TypeError, match="argument 1 has items of 4 bytes"):
        _loops.count_words(np.zeros(1, np.float32), np.zeros(0, np.uint16), tables_of(2, 16))
    with pytest.raises((BufferError, ValueError)):
        _loops.count_bytes(np.zeros(8, np.uint8)[::2], tables_of(4, 8))
    table = tables_of(4, 8)
    table.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        _loops.count_bytes(np.zeros(8, np.uint8), table)


def test_without_the_extension_the_reference_is_used():
    script = """
import sys
sys.modules["layerhouse.ingest.measure.kernels._loops"] = None
from layerhouse.ingest.measure.kernels import cpu, numpy_loops
print(cpu.IS_BUILT, cpu.ENGINE, all(getattr(cpu, name) is getattr(numpy_loops, name) for name in numpy_loops.__all__))
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "False numpy True\n"


def test_with_the_extension_the_reference_is_not_loaded():
    script = """
import sys
from layerhouse.ingest.measure.counter import Counter
Counter()
print([name for name in sys.modules if name.startswith("layerhouse.ingest.measure.kernels.numpy")])
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "[]\n"
