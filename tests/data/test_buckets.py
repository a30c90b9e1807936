"""Rows spread over buckets."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from detect.data.buckets import Buckets, RowBlock, buckets_of_images, text_column


@given(st.lists(st.integers(-(2**62), 2**62), max_size=20), st.integers(1, 5000))
def test_every_id_has_a_bucket_that_depends_on_it_alone(ids, num_buckets):
    buckets = buckets_of_images(np.array(ids, np.int64), num_buckets)
    assert ((buckets >= 0) & (buckets < num_buckets)).all()
    for place, number in enumerate(ids):
        assert buckets_of_images(np.array([number], np.int64), num_buckets) == buckets[place]


@pytest.mark.parametrize("step", [1, 1000, 2**20])
def test_buckets_are_of_like_size(step):
    counts = np.bincount(buckets_of_images(np.arange(1_000_000) * step, 170), minlength=170)
    assert counts.max() < 1.3 * counts.mean()
    assert counts.min() > 0.7 * counts.mean()


def test_rows_come_back_in_order_from_memory_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr("detect.data.buckets.FLUSH_BYTES", 4000)
    rng, buckets, expected = np.random.default_rng(0), Buckets(str(tmp_path), 7), {bucket: [] for bucket in range(7)}
    for start in range(0, 3000, 100):
        rows, own = np.arange(start, start + 100), rng.integers(0, 6, 100)
        texts = {"text": [str(row).encode() for row in rows]} if start % 200 else {}
        buckets.add(RowBlock(pa.table({"row": rows}), texts, 1000), own)
        for row, bucket in zip(rows.tolist(), own.tolist(), strict=True):
            expected[bucket].append(row)
    buckets.flush()
    assert len(list(tmp_path.iterdir())) > 3
    found = {
        bucket: [row for table in buckets.tables(bucket) for row in table["row"].to_pylist()] for bucket in range(7)
    }
    assert found == expected
    texts = [row for table in buckets.tables(0) for row in table.to_pylist()]
    assert all(each["text"] == (str(each["row"]) if each["row"] // 100 % 2 else None) for each in texts)


@given(st.lists(st.none() | st.text(max_size=5), max_size=9))
def test_texts_are_null_where_there_are_none(texts):
    raw = [Raw(text.encode()) if text is not None else UNSET for text in texts]
    assert text_column(raw).to_pylist() == texts
    assert text_column(raw).type == pa.string()


def test_no_rows(tmp_path):
    buckets = Buckets(str(tmp_path), 3)
    buckets.add(RowBlock(pa.table({"row": []}), {"text": []}, 2), np.zeros(0, np.int64))
    buckets.flush()
    assert list(buckets.tables(1)) == []
