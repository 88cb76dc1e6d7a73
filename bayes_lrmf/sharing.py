"""Programs compiled once for all fits of one shape: what a fit holds constant is an argument."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr

__all__ = ["Program", "shared", "traced"]

_KEPT = 64


@dataclass(frozen=True)
class Program:
    """A function whose constants are its first argument; equal to those that compute the same.

    Attributes
    ----------
    digest : str
        Of what it is lowered to, with its gradient where it is to have one.
    call : callable
        Takes the tuple of constants, and the arguments; compiled by JAX.
    """

    digest: str
    call: Callable[..., Any] = field(compare=False)


def traced(
    function: Callable[..., Any], *example: Any, gradient: bool = False
) -> tuple[Program, tuple[Any, ...]]:
    """Take the arrays that a function closes over out of it.

    Arrays that it closes over in functions which are compiled apart stay, and so do numbers of
    Python and scalars of NumPy: functions that differ in these are different programs.

    Parameters
    ----------
    function : callable
        That JAX can trace.
    *example
        Arguments with the shapes and types to come.
    gradient : bool
        Whether the gradient of a scalar will be asked for: programs are then equal only where their
        gradients are.

    Returns
    -------
    Program, tuple of arrays
        The constants by their places in the program.
    """
    jaxpr, constants, form = _without_constants(function, example)

    # Constants that are not used would be left out of the text, and with them their places.
    @functools.partial(jax.jit, keep_unused=True)
    def call(constants: tuple[Any, ...], *arguments: Any) -> Any:
        out = eval_jaxpr(jaxpr, (), *jax.tree.leaves((constants, arguments)))
        return jax.tree.unflatten(form, out)

    with_gradient = jax.value_and_grad(call, argnums=1)
    whole = jax.jit(with_gradient, keep_unused=True) if gradient else call
    text = whole.lower(constants, *example).as_text()
    digest = hashlib.sha256(f"{form}\n{text}".encode()).hexdigest()
    return Program(digest, call), constants


def _without_constants(
    function: Callable[..., Any], example: tuple[Any, ...]
) -> tuple[Any, tuple[Any, ...], Any]:
    """Return the jaxpr of constants and arguments, the constants, and the form of the result."""
    closed, shape = jax.make_jaxpr(lambda *given: function(*given), return_shape=True)(*example)
    # As long as its trace lives, JAX takes an array of NumPy to have the type that it had in it,
    # of 64 bits or 32: so arrays are copied, and the trace is made anew of arguments alone.
    constants = tuple(jnp.array(c) for c in closed.consts)

    def flat(constants: tuple[Any, ...], *arguments: Any) -> Any:
        return eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(arguments))

    anew = jax.make_jaxpr(flat)(constants, *example)
    return anew.jaxpr, constants, jax.tree.structure(shape)


def shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function by shapes of its arguments, or take what was compiled for an equal one.

    Parameters
    ----------
    function : callable
        That JAX can trace. The arrays that it closes over must stay as they are.
    """
    known: dict[Any, Callable[..., Any]] = {}

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        leaves, form = jax.tree.flatten(arguments)
        kind = form, tuple(jax.typeof(x) for x in leaves), jax.config.jax_enable_x64
        if kind not in known:
            program, constants = traced(function, *arguments)
            known[kind] = functools.partial(_first(program).call, constants)
        return known[kind](*arguments)

    return call


@functools.lru_cache(maxsize=_KEPT)
def _first(program: Program) -> Program:
    """Return the first of all equal programs, which is the one that is compiled."""
    return program
