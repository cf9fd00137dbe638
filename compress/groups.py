"""Which channels of a network can only go together, and what each such group is worth: torch-pruning's dependency graph and criteria."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning import ops

from segc.compress.stand_ins import CUT_HEAD_TABLES, PRUNERS, fixed_layers, heads_of, traceable
from segc.core.errors import UserError

# Large enough for every window and pyramid of the networks here, small enough to trace in a second.
TRACED = (1, 3, 256, 256)
# Operations that move pixels into channels: the tracer takes them for sums.
_MIXING = ("PixelUnshuffle", "PixelShuffle")

Score = Callable[[Any], Tensor | None]


@dataclass(frozen=True)
class Member:
    """A tensor dimension of a group: what to call to cut ``path``, and which of its channels go with which channel of the root."""

    path: str
    side: str
    cut: Callable[[nn.Module, list[int]], Any]
    indices: list[int]
    roots: list[int]


@dataclass(frozen=True)
class Group:
    """Channels that several modules share.

    name: a module that gives these channels. units: the root's channels that go together. scores: worth of each unit. kind: names the
    modules and sides, equal for groups of one structure. unit: what a unit is (``channel``, ``channel of every head``, ``head`` or
    ``channel of every block``). size: channels of a unit that count when widths are rounded.
    """

    name: str
    members: list[Member]
    units: list[list[int]]
    scores: Tensor
    kind: str
    unit: str
    size: int


def find_groups(model: nn.Module, score: Score, kept: Sequence[nn.Module] = ()) -> list[Group]:
    """The groups of an mmseg segmentor whose channels may be cut: not those of logits, of ``kept`` modules, or that cannot be followed.

    Args:
        model: in eval mode on the CPU; it is only read.
        score: worth of each channel of a torch-pruning group; None where a criterion does not apply.
        kept: modules whose output channels stay.

    Raises:
        UserError: the network cannot be traced.
    """
    graph = _trace(model)
    ignored = [*fixed_layers(model), *kept]
    names = {module: name for name, module in model.named_modules()}
    heads = heads_of(model)
    found = []
    for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=[ops.TORCH_CONV, ops.TORCH_LINEAR]):
        rooted, count, whole = _at_attention(graph, group, heads)
        if not _touches_logits(group) and _is_sound(graph, rooted):
            found += _make(graph, rooted, score, names, count, whole)
    return found


def _trace(model: nn.Module) -> Any:
    try:
        with traceable(model), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return tp.DependencyGraph().build_dependency(
                model, torch.rand(TRACED), forward_fn=_outputs, customized_pruners=PRUNERS, verbose=False
            )
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError, KeyError) as error:
        raise UserError(f"the network cannot be traced for pruning: {type(error).__name__}: {error}.") from error


def _outputs(model: Any, images: Tensor) -> list[Tensor]:
    """Everything that the heads give, auxiliary ones too: they lose the same channels."""
    features = model.extract_feat(images)
    heads = list(model.decode_head) if isinstance(model.decode_head, nn.ModuleList) else [model.decode_head]
    outputs = [heads[0](features)]
    for head in heads[1:]:
        outputs.append(head(features, outputs[-1]))
    auxiliary = getattr(model, "auxiliary_head", None)
    extra = list(auxiliary) if isinstance(auxiliary, nn.ModuleList) else [auxiliary] if auxiliary is not None else []
    outputs += [head(features) for head in extra]
    # The product ends every path in an operation of its own, by which the tracer knows an output.
    return [tensor * 1.0 for tensor in _flat(outputs)]


def _flat(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, (list, tuple)):
        for item in outputs:
            yield from _flat(item)


def _touches_logits(group: Any) -> bool:
    return any(dep.target.type == ops.OPTYPE.OUTPUT for dep, _ in group)


def _is_sound(graph: Any, group: Any) -> bool:
    """Whether the tracer followed the channels: every module has the channels it is said to lose, and nothing mixed them on the way."""
    for dep, indices in group:
        if any(word in str(getattr(dep.target.module, "_grad_fn", "")) for word in _MIXING):
            return False
        inward = graph.is_in_channel_pruning_fn(dep.handler) and not graph.is_out_channel_pruning_fn(dep.handler)
        width = graph.get_in_channels(dep.target) if inward else graph.get_out_channels(dep.target)
        if width is not None and (not indices or max(indices) >= width):
            return False
    return True


def _at_attention(graph: Any, group: Any, heads: dict[nn.Module, tuple[int, bool]]) -> tuple[Any, int, bool]:
    """A group seen from its attention's output projection, whose input has every channel once; with heads and way of cutting."""
    for dep, indices in group:
        if dep.target.module in heads and graph.is_in_channel_pruning_fn(dep.handler):
            return graph.get_pruning_group(dep.target.module, dep.handler, sorted(indices)), *heads[dep.target.module]
    return group, 1, False


def _make(graph: Any, group: Any, score: Score, names: dict[nn.Module, str], heads: int, whole: bool) -> list[Group]:
    """The group as data; nothing when the criterion says nothing about it or its blocks do not divide its channels.

    Behind a concatenation one group holds the channels of several layers: each layer's become a group, so that none loses all of its own.
    """
    scores = score(group)
    items = [group[number] for number in range(len(group)) if _has_weights(group[number].dep)]
    blocks = math.lcm(heads, *(_blocks(item.dep.target.module) for item in items))
    if scores is None or len(scores) % blocks or (blocks != heads and not _aligned(items)):
        return []
    members = [_member(graph, item, names) for item in items]
    numbers = torch.arange(len(scores)).view(blocks, -1)
    units = numbers if whole else numbers.T
    if whole:
        path, every = names[group[0].dep.target.module].rpartition(".")[0], numbers.flatten().tolist()
        members.append(Member(path, "heads", CUT_HEAD_TABLES, every, every))
    worth = scores.detach().float().cpu()[units].mean(1)
    kind = " ".join(sorted(f"{type(item.dep.target.module).__name__}.{_side(graph, item.dep)}" for item in items))
    unit = "head" if whole else "channel of every head" if heads > 1 else "channel of every block" if blocks > 1 else "channel"
    size = units.shape[1] if heads == 1 or whole else 1
    order = {path: number for number, path in enumerate(names.values())}
    return [
        Group(_name(members, parts, order), parts, units[rows].tolist(), worth[rows], kind, unit, size)
        for rows, parts in _by_layer(members, units)
    ]


def _by_layer(members: list[Member], units: Tensor) -> Iterator[tuple[list[int], list[Member]]]:
    """Rows of the units that meet the same members, with those members reduced to them."""
    rows: dict[tuple[int, ...], list[int]] = {}
    meets = [set(member.roots) for member in members]
    for row, unit in enumerate(units.tolist()):
        rows.setdefault(tuple(number for number, roots in enumerate(meets) if not roots.isdisjoint(unit)), []).append(row)
    for numbers, found in rows.items():
        channels = set(units[found].flatten().tolist())
        yield found, [_reduced(members[number], channels) for number in numbers]


def _reduced(member: Member, channels: set[int]) -> Member:
    pairs = [(index, root) for index, root in zip(member.indices, member.roots, strict=True) if root in channels]
    return replace(member, indices=[index for index, _ in pairs], roots=[root for _, root in pairs])


def _name(members: list[Member], parts: list[Member], order: dict[str, int]) -> str:
    """The first layer, in the network's order, of those with no other channels than these."""
    widths = {(member.path, member.side): len(member.indices) for member in members}
    giving = [part for part in parts if part.side == "out" and widths[part.path, "out"] == len(part.indices)] or parts
    return min(giving, key=lambda part: order.get(part.path, len(order))).path


def _member(graph: Any, item: Any, names: dict[nn.Module, str]) -> Member:
    module, handler, dim = item.dep.target.module, item.dep.handler, item.dep.target.pruning_dim
    if isinstance(module, nn.Parameter):
        return Member(graph._param_to_name[module], "parameter", _cut_parameter(dim), list(item.idxs), list(item.root_idxs))
    return Member(names[module], _side(graph, item.dep), handler, list(item.idxs), list(item.root_idxs))


def _cut_parameter(dim: int) -> Callable[[nn.Module, list[int]], Any]:
    def cut(parameter: Any, indices: list[int]) -> nn.Parameter:
        kept = [index for index in range(parameter.shape[dim]) if index not in set(indices)]
        return nn.Parameter(parameter.detach().index_select(dim, torch.tensor(kept)), parameter.requires_grad)

    return cut


def _has_weights(dep: Any) -> bool:
    module = dep.target.module
    return isinstance(module, nn.Parameter) or next(module.parameters(recurse=False), None) is not None


def _side(graph: Any, dep: Any) -> str:
    return "out" if graph.is_out_channel_pruning_fn(dep.handler) else "in"


def _blocks(module: nn.Module) -> int:
    """Blocks of channels that must stay equally long: groups of a norm or of a convolution that is not depthwise."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups != module.out_channels:
        return module.groups
    return 1


def _aligned(items: Sequence[Any]) -> bool:
    """Whether modules with blocks number the channels as the root does."""
    return all(item.idxs == item.root_idxs for item in items if _blocks(item.dep.target.module) > 1)
