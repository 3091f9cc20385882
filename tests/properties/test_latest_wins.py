"""Any order of arrival, in any batches, files and periods, ends in the same online state."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from config import Settings
from feature_repo.stores.redis_online import LatestWinsRedisOnlineStore
from tests.feature_repo.stores.helpers import at, history, repo_config, store, view, write
from tests.feature_repo.stores.test_redis_online import OURS, row, stored

ranks = st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 4), st.integers(0, 4))


def state(url: str) -> dict[bytes, dict[bytes, bytes]]:
    client = redis.Redis.from_url(url)
    return {key: client.hgetall(key) for key in client.scan_iter()}


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), rows=st.lists(ranks, unique=True, max_size=12), batch=st.integers(1, 5))
def test_any_order_of_arrival_ends_in_the_same_state(
    settings: Settings, tmp_path: Path, data: Any, rows: list[tuple[str, int, int]], batch: int
) -> None:
    online, config = LatestWinsRedisOnlineStore(), repo_config(tmp_path, online=OURS)
    states = []
    for order in (sorted(rows), data.draw(st.permutations(rows)), data.draw(st.permutations(rows + rows[:3]))):
        redis.Redis.from_url(settings.redis_url).flushall()
        for start in range(0, len(order), batch):
            chunk = [
                row(key, event, created, 10 * event + created) for key, event, created in order[start : start + batch]
            ]
            online.online_write_batch(config, view("unused"), chunk, None)
        states.append(state(settings.redis_url))
    assert states[0] == states[1] == states[2]


instants = st.datetimes(timezones=st.just(UTC))


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(st.tuples(instants, instants), min_size=1, max_size=6, unique=True))
def test_greatest_event_then_created_time_stays_of_any_in_history(
    settings: Settings, tmp_path: Path, times: list[tuple[datetime, datetime]]
) -> None:
    redis.Redis.from_url(settings.redis_url).flushall()
    online, config = LatestWinsRedisOnlineStore(), repo_config(tmp_path, online=OURS)
    for number, (event, created) in enumerate(times):
        entity, values, *_ = row("a", 0, 0, number)
        online.online_write_batch(config, view("unused"), [(entity, values, event, created)], None)
    ((_, kept),) = stored(tmp_path, settings.redis_url, "a")
    assert kept == times.index(max(times))


@examples(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    files=st.lists(st.lists(ranks, max_size=8), min_size=1, max_size=4),
    memory=st.integers(2, 10),
)
def test_materialising_periods_in_any_order_leaves_the_newest_row_of_all(
    settings: Settings, tmp_path: Path, data: Any, files: list[list[tuple[str, int, int]]], memory: int
) -> None:
    redis.Redis.from_url(settings.redis_url).flushall()
    for number in range(4):
        (tmp_path / "rows" / f"{number}.parquet").unlink(missing_ok=True)
    for number, rows in enumerate(files):
        literal = [(key, event, created, 10 * event + created) for key, event, created in rows]
        write(history(literal), tmp_path / "rows" / f"{number}.parquet")
    engine = {"type": "feature_repo.stores.materialize.LatestRowsEngine", "rows_in_memory": memory}
    opened = store(tmp_path, [view(tmp_path / "rows")], online=OURS, batch_engine=engine)
    periods = data.draw(st.permutations([(0, 1), (1, 3), (2, 4), (0, 4)]))
    for start, end in periods[: data.draw(st.integers(1, 4))]:
        opened.materialize(at(start), at(end))
    opened.materialize(at(0), at(4))
    ordered = sorted((rank for rows in files for rank in rows), key=lambda rank: rank[1:])
    newest = {key: 10 * event + created for key, event, created in ordered}
    found = stored(tmp_path, settings.redis_url, "a", "b")
    assert [value for _, value in found] == [newest.get("a"), newest.get("b")]
