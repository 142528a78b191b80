"""Compiling for tests: of models so small that it is most of the time they take."""

import functools

import jax

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""`jax.jit` in half the time, to code that LLVM has not optimised."""
