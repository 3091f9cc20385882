"""Any order of arrival, in any batches, ends in the same online state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from config import Settings
from feature_repo.stores.redis_online import LatestWinsRedisOnlineStore
from tests.feature_repo.stores.helpers import repo_config, view
from tests.feature_repo.stores.test_redis_online import OURS, row

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
