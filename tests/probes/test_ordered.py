import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vitprobe_jax.probes.ordered import from_ordered_int, ordered_int


@settings(deadline=None)  # Every length is a shape of its own.
@given(st.lists(st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=2, max_size=20))
def test_ordered_integers_keep_the_order_and_come_back(values):
    x = np.array(values, np.float32)
    keys = np.asarray(ordered_int(jnp.asarray(x)))
    np.testing.assert_array_equal(np.less.outer(x, x), np.less.outer(keys, keys))
    np.testing.assert_array_equal(from_ordered_int(jnp.asarray(keys)), x)
