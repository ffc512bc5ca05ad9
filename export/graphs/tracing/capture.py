"""A module to a graph of torch's core operators, in one pass.

torch.export and the decomposition that follows it take a function through the dispatcher twice, with machinery for
state, mutation and dynamic shapes that a kit has none of. One pass of make_fx with the same decompositions records the
same operators in a third of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

Decompositions = Mapping[Any, Callable[..., Any]]


def capture(
    module: torch.nn.Module, samples: dict[str, dict[str, torch.Tensor]], decompositions: Decompositions
) -> ExportedProgram:
    """What torch.export makes of `module`, run on `samples` by name, after `decompositions`.

    The module must have no weights of its own and change nothing; its results are new tensors.
    """
    flat, arguments = pytree.tree_flatten(((), samples))
    results = pytree.tree_structure(None)

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        nonlocal results
        positional, named = pytree.tree_unflatten(list(tensors), arguments)
        made, results = pytree.tree_flatten(module(*positional, **named))
        return made

    # An alias is what a slice of the whole becomes; its decomposition hands the tensor through, which views may not.
    table = {operator: to for operator, to in decompositions.items() if operator is not torch.ops.aten.alias.default}
    with torch.no_grad():
        graph = make_fx(run, decomposition_table=table, tracing_mode="fake", _allow_non_fake_inputs=True)(*flat)
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    outputs = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    return ExportedProgram(
        root=graph,
        graph=graph.graph,
        graph_signature=ExportGraphSignature(
            [InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None) for node in inputs],
            [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in outputs],
        ),
        state_dict={},
        range_constraints={},
        module_call_graph=[ModuleCallEntry("", ModuleCallSignature([], [], arguments, results))],
        example_inputs=((), samples),
        constants={},
    )
