"""Whether a model keeps something of the first query that it ever saw, and answers all others by it.

A fresh copy of the model gets another query first. What Python keeps outside of the module is not copied with it:
globals and classes of the files that define its classes, defaults of their functions and what these enclose are put
back to what they held before the first query.
"""

from __future__ import annotations

import copy
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping

import torch
from torch import nn

_DEPTH = 4
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class FreshCopy:
    """Made before a module runs for the first time."""

    def __init__(self, module: nn.Module) -> None:
        self._restore: list[Callable[[], None]] = []
        seen: set[int] = set()
        for scope in _scopes(module):
            self._note(scope, seen, 0)
        try:
            self._module: nn.Module | None = copy.deepcopy(module)
        except Exception:  # holds what cannot be copied, such as an open file
            self._module = None

    def take(self) -> nn.Module | None:
        """The module as it was, once; everything around it is as it was, too. None: it cannot be copied."""
        module, self._module = self._module, None
        if module is not None:
            for restore in self._restore:
                restore()
        return module

    def _note(self, value: object, seen: set[int], depth: int) -> None:
        if id(value) in seen or depth > _DEPTH:
            return
        seen.add(id(value))
        restore, held = _restorer(value)
        if restore is not None:
            self._restore.append(restore)
        for item in held:
            self._note(item, seen, depth + 1)


def _scopes(module: nn.Module) -> Iterator[object]:
    """What the model's own code can keep things in, beside the module."""
    own = type(module).__module__.partition(".")[0]  # the rest of what is installed are libraries
    classes = {cls for part in module.modules() for cls in type(part).__mro__ if _is_own(cls.__module__, own)}
    yield from classes
    for name in sorted({cls.__module__ for cls in classes}):
        yield vars(sys.modules[name])
    for part in module.modules():  # functions are not copied with a module
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            yield from hooks.values()
        yield from (value for value in vars(part).values() if isinstance(value, types.FunctionType))


def _is_own(name: str, package: str) -> bool:
    top = name.partition(".")[0]
    if top in ("torch", __package__) or name not in sys.modules:
        return False
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and (top == package or not file.startswith(_INSTALLED))


def _restorer(value: object) -> tuple[Callable[[], None] | None, list[object]]:
    """How to put `value` back to what it holds now, and what it holds."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            return None, []
        content = value.detach().clone()
        return lambda: value.data.copy_(content), []
    if isinstance(value, MutableMapping):
        items = dict(value)
        return lambda: _refill(value, items), [item for name, item in items.items() if not _is_dunder(name)]
    if isinstance(value, (list, deque)):
        elements = list(value)
        return lambda: (value.clear(), value.extend(elements)), elements
    if isinstance(value, set):
        members = set(value)
        return lambda: (value.clear(), value.update(members)), []
    if isinstance(value, type):
        if value.__module__.partition(".")[0] in ("torch", "builtins", "typing", "collections"):
            return None, []
        attributes = {name: item for name, item in vars(value).items() if not _is_dunder(name) or name == "__init__"}
        return lambda: _reset_class(value, attributes), list(attributes.values())
    if isinstance(value, (staticmethod, classmethod)):
        return None, [value.__func__]
    if isinstance(value, types.FunctionType):
        if value.__code__.co_filename.startswith(_INSTALLED):
            return None, []
        cells = [(cell, cell.cell_contents) for cell in value.__closure__ or () if _is_filled(cell)]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        attributes = list(vars(value).values())
        return lambda: _refill_cells(cells), [*(content for _, content in cells), *defaults, *attributes]
    if type(value).__module__ in sys.modules and hasattr(value, "__dict__") and not _of_library(value):
        return None, [vars(value)]
    return None, []


def _of_library(value: object) -> bool:
    file = getattr(sys.modules[type(value).__module__], "__file__", None)
    return file is None or file.startswith(_INSTALLED) or isinstance(value, (nn.Module, types.ModuleType))


def _is_dunder(name: object) -> bool:
    return isinstance(name, str) and name.startswith("__")


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _refill(mapping: MutableMapping, items: dict) -> None:
    for key in [key for key in mapping if key not in items]:
        del mapping[key]
    for key, item in items.items():
        if key not in mapping or mapping[key] is not item:
            mapping[key] = item


def _reset_class(cls: type, attributes: dict[str, object]) -> None:
    now = {name for name in vars(cls) if not _is_dunder(name)}
    for name in now - attributes.keys():
        delattr(cls, name)
    for name, item in attributes.items():
        if vars(cls).get(name) is not item:
            setattr(cls, name, item)


def _refill_cells(cells: list[tuple[types.CellType, object]]) -> None:
    for cell, content in cells:
        if not _is_filled(cell) or cell.cell_contents is not content:
            cell.cell_contents = content
