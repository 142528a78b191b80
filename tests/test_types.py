from vitprobe_jax import types


def test_every_token_is_an_intermediate():
    assert set(types.TOKENS) < set(types.INTERMEDIATES)
