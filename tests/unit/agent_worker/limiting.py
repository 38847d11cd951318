"""What limiter tests are made of: random questions to a bucket, at random times."""

from __future__ import annotations

from hypothesis import strategies as st

from agent_worker.limiter.bucket import UNKNOWN, Ask, Bucket, Heard, Side
from agent_worker.limiter.script import LOOK, Question, drawing, learning, refusing, settling

WATERMARKS = (0.0, 0.2, 0.4)

_costs = st.one_of(st.floats(0, 5_000), st.sampled_from([0.0, 1.0, 60_000.0]))
_left = st.one_of(st.just(UNKNOWN), st.floats(0, 20_000))
_watermarks = st.sampled_from(WATERMARKS)
_limits = st.sampled_from([0.0, 1.0, 7.0, 60.0, 10_000.0])
heard = st.builds(Heard, _limits, _left)
draws = st.builds(Ask, tokens=_costs, watermark=_watermarks)
questions: st.SearchStrategy[Question] = st.one_of(
    draws.map(drawing),
    draws.map(drawing),
    st.builds(settling, st.sampled_from([0.0, 1.0]), st.floats(-3_000, 5_000), _watermarks),
    st.builds(refusing, st.floats(0, 90), st.booleans(), _left, _left, _watermarks),
    st.builds(learning, heard, heard),
    st.just(LOOK),
)
moments = st.one_of(st.floats(0, 2), st.floats(0, 200), st.floats(-30, 0))
"""Seconds between two questions; a server's clock may be put back."""
histories = st.lists(st.tuples(moments, questions), min_size=1, max_size=25)
buckets = st.builds(
    lambda requests, tokens: Bucket(1_000.0, Side(requests), Side(tokens)),
    st.sampled_from([0.0, 1.0, 12.0, 600.0]),
    st.sampled_from([0.0, 100.0, 40_000.0]),
)
