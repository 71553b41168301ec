"""gigachat_lite under the name of the official SDK: what says ``import gigachat`` runs on it unchanged, without httpx.

Three ways in:

1.  Beside the program: copy this file and gigachat_lite.py into its directory, or any that is on the path before
    site-packages. ``import gigachat`` finds them.
2.  As the first import of the program, under any name that the file has there: ``import sber_shim``. It puts itself
    into ``sys.modules`` as ``gigachat``, though the official SDK may be installed.
3.  As a stand-in for the package: ``python build_wheel.py`` writes the wheel gigachat 0.2.3+lite, with both files in
    it. pip takes it for the SDK that others depend on. It is for your own machines: never upload it.

The classes are the product's own, ``gigachat.models.Chat is gigachat_lite.Chat``; they are changed in place, so in the
whole process: they get the manners of pydantic's models, and requests leave out what the API does not know.
"""

from __future__ import annotations

import enum
import functools
import json
import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Collection, Dict, Iterator, Optional, Tuple

try:
    import gigachat_lite as lite
except ModuleNotFoundError:  # both files were copied into a package
    from . import gigachat_lite as lite

VERSION = "0.2.3+lite"

# ---------- the manners of pydantic's models, as far as programs use them

_Base: Any = lite.JSONObject
_core_init, _core_adopt, _core_dump = _Base.__init__, _Base._adopt, _Base.model_dump
_core_validate, _core_as_chat = _Base.model_validate.__func__, lite._as_chat
_SPELLINGS = {key: key + "_" for key in ("id", "object", "type", "bytes", "schema")}  # key of the JSON: attribute
_KEYS = {spelling: key for key, spelling in _SPELLINGS.items()}


def _spelling(model: Any, key: str) -> str:
    plain = key not in model._defaults or (key == "type" and not model._sends_nulls)  # type_ is of JSON schemas alone
    return key if plain else _SPELLINGS.get(key, key)


def _key(kind: Any, name: str) -> str:
    return _KEYS[name] if _KEYS.get(name) in kind._defaults else name


def _init(self: Any, *values: Any, **named: Any) -> None:
    """Drop names that nobody knows, but for keywords of a JSON schema."""
    kind = type(self)
    unknown = set() if kind._takes_more else named.keys() - kind._defaults.keys()
    more = {name: named.pop(name) for name in unknown}
    try:
        _core_init(self, *values, **named)
    except TypeError as error:
        raise ValueError(str(error)) from error  # as pydantic's ValidationError is one
    vars(self).update((name, value) for name, value in more.items() if kind._sends_nulls or name == "x_headers")


# Requests of chat v1 hold nothing but what the API documents, at any level: LangChain puts "id" and "type" into
# function calls. JSON schemas are sent whole, and so are the models of chat v2.
_CLOSED = {
    lite.Chat, lite.Messages, lite.FunctionCall, lite.ChatFunctionCall, lite.Function, lite.FunctionRanker,
    lite.JsonSchemaResponseFormat, lite.Storage, lite.ThreadRunOptions,
}  # fmt: skip


def _adopt(self: Any, fields: Dict[str, Any]) -> None:
    kind = type(self)
    if kind is not lite.Messages:  # whose id does not go back
        for name in fields.keys() & _KEYS.keys():
            fields[_key(kind, name)] = fields.pop(name)
    if kind in _CLOSED:
        _close(kind, fields)
    if isinstance(fields.get("role"), enum.Enum):
        fields["role"] = fields["role"].value
    context, form = fields.get("data_for_context"), fields.get("response_format")
    if kind is lite.Messages and isinstance(context, list):
        fields["data_for_context"] = [lite.Messages.model_validate(one) for one in context]
    if kind is lite.Chat and isinstance(form, dict) and form.keys() & {"schema", "schema_"}:
        fields["response_format"] = lite.JsonSchemaResponseFormat.model_validate(form)
    _core_adopt(self, fields)
    if kind is lite.Function:
        for example in self.few_shot_examples or ():
            _close(lite.FewShotExample, vars(example))  # which chat v2 has as well


def _close(kind: Any, fields: Dict[str, Any]) -> None:
    for name in fields.keys() - kind._defaults.keys() - {"x_headers"}:
        del fields[name]


def _as_chat(payload: Any) -> Any:
    """Let an empty list of messages go out: programs count on the server's answer, a BadRequestError."""
    empty = isinstance(payload, (dict, lite.Chat)) and not dict(payload).get("messages", True)
    return lite.Chat.model_validate(payload) if empty else _core_as_chat(payload)


def _validate(kind: Any, value: Any, **_: Any) -> Any:
    return _core_validate(kind, value)


def _copy(self: Any, *, update: Optional[Dict[str, Any]] = None, deep: bool = False) -> Any:
    made = lite.copy.deepcopy(self) if deep else lite.copy.copy(self)
    vars(made).update((_key(self, name), value) for name, value in (update or {}).items())
    return made


def _pairs(self: Any) -> Iterator[Tuple[str, Any]]:
    """Iterate over all fields, so that ``dict(model)`` works."""
    return ((_spelling(self, key), getattr(self, key)) for key in {**self._defaults, **vars(self)})


def _equal(self: Any, other: Any) -> bool:
    """Compare all fields: one that is absent equals one that is None."""
    return type(self) is type(other) and dict(self) == dict(other)


def _extra(self: Any) -> Dict[str, Any]:
    return {key: value for key, value in vars(self).items() if key not in self._defaults and key != "x_headers"}


def _dump(
    self: Any, *, mode: str = "python", include: Optional[Collection[str]] = None,
    exclude: Optional[Collection[str]] = None, by_alias: Optional[bool] = False, exclude_unset: bool = False,
    exclude_defaults: bool = False, exclude_none: bool = False, **_: Any,
) -> Dict[str, Any]:  # fmt: skip
    if any(type(chosen) is dict for chosen in (include, exclude)):
        raise TypeError("include and exclude choose among the fields at the top: give a set of names")
    by_alias = bool(by_alias)
    dump = _core_dump(self, mode=mode, by_alias=by_alias, exclude_none=exclude_none)
    if exclude_unset or exclude_defaults:
        _prune(self, dump, by_alias, exclude_unset, exclude_defaults)
    for key in {**self._defaults, **vars(self)}:
        name = _spelling(self, key)
        if (include is not None and name not in include) or (exclude is not None and name in exclude):
            dump.pop(key if by_alias else name, None)
    return dump


def _prune(value: Any, dump: Any, by_alias: bool, unset: bool, defaults: bool) -> None:
    """Take out of a dump of models, at every level, the fields that were never set, or that have their defaults."""
    if isinstance(value, list):
        for item, dumped in zip(value, dump):
            _prune(item, dumped, by_alias, unset, defaults)
    elif isinstance(value, lite.JSONObject):
        for key in {**value._defaults, **vars(value)}:
            name, field = key if by_alias else _spelling(value, key), getattr(value, key)
            if (unset and key not in vars(value)) or (defaults and field == value._defaults.get(key)):
                dump.pop(name, None)
            elif name in dump:
                _prune(field, dump[name], by_alias, unset, defaults)


class _Fields:
    """The fields of a class, by the SDK's names: ``Chat.model_fields``."""

    def __get__(self, model: Any, kind: Any) -> Dict[str, Any]:
        return {_spelling(kind, key): kind.__dataclass_fields__[key] for key in kind._defaults}


def _core_schema(kind: Any, source: Any, handler: Any) -> Any:
    """Have pydantic and FastAPI take a model for a field, an argument, a ``response_model``."""
    from pydantic_core import core_schema

    def serialize(value: Any, info: Any) -> Any:
        options = ("mode", "by_alias", "exclude_unset", "exclude_defaults", "exclude_none")
        return value.model_dump(**{name: getattr(info, name) for name in options})

    serialization = core_schema.plain_serializer_function_ser_schema(serialize, info_arg=True)
    validate = functools.partial(_validate, kind)
    return core_schema.no_info_plain_validator_function(validate, serialization=serialization)


def _settable(key: str) -> property:
    return property(lambda self: getattr(self, key), lambda self, value: setattr(self, key, value))


# Fields that SDK 0.2.3 does not have: only where they are set may dumps and dict(function_call) show them.
_NEWER = {
    "id": "FunctionCall PrimaryChatFunctionCall ChatFunctionResult ChatToolExecution", "type": "Model",
    "logprobs": "Messages MessagesChunk ChatContentPart", "inline_data": "Messages MessagesChunk",
    "additional_data": "ChatCompletion ChatCompletionChunk", "thread_id": "ChatCompletionChunk",
    "error_details": "ChatCompletion ChatCompletionChunk ChatCompletionResponse PrimaryChatCompletionChunk",
    "message_id": "ChatCompletionChunk",
}  # fmt: skip


def _teach_manners() -> None:
    for field, kinds in _NEWER.items():
        for kind in kinds.split():
            getattr(lite, kind)._defaults.pop(field, None)
    manners = {
        "__init__": _init, "_adopt": _adopt, "__eq__": _equal, "__iter__": _pairs,
        "model_dump": _dump, "dict": _dump, "json": _Base.model_dump_json,
        "model_validate": classmethod(_validate), "parse_obj": classmethod(_validate),
        "model_validate_json": classmethod(lambda kind, text, **_: _validate(kind, json.loads(text))),
        "model_copy": _copy, "copy": _copy, "model_fields": _Fields(), "model_extra": property(_extra),
        "model_fields_set": property(lambda self: {_spelling(self, key) for key in vars(self)}),
        "__get_pydantic_core_schema__": classmethod(_core_schema),
        "__get_pydantic_json_schema__": classmethod(lambda kind, *_: {"type": "object", "title": kind.__name__}),
        **{spelling: _settable(key) for key, spelling in _SPELLINGS.items()},
    }  # fmt: skip
    for name, manner in manners.items():
        setattr(_Base, name, manner)
    lite._as_chat = _as_chat


# ---------- the modules of the SDK

_MODULES = """
    client context exceptions settings assistants threads _types api api.utils resources resources.chat models
    models.assistants models.auth models.base models.chat models.chat_completions models.embeddings models.files
    models.models models.response_format models.threads models.tools
"""


def _build_headers(access_token: Optional[str] = None) -> Dict[str, str]:
    token = {"Authorization": f"Bearer {access_token}"} if access_token else {}
    return {**token, "User-Agent": "GigaChat-python-lib", **lite._context_headers()}


def _settings_attribute(name: str) -> Any:
    """Make ``gigachat.settings.Settings`` when somebody asks for it: a class of pydantic-settings, as in the SDK."""
    if name != "Settings":
        raise AttributeError(f"module 'gigachat.settings' has no attribute {name!r}")
    try:
        from pydantic_settings import BaseSettings, SettingsConfigDict
    except ImportError as error:
        raise ImportError("gigachat.settings.Settings needs pydantic-settings, which is not installed") from error
    hints = lite.get_type_hints(lite._Settings, vars(lite))
    body: Dict[str, Any] = {name: setting.default for name, setting in lite._SETTINGS.items()}
    body.update(model=None, __module__="gigachat.settings")
    body["__annotations__"] = {**{name: hints[name] for name in lite._SETTINGS}, "model": Optional[str]}
    body["model_config"] = SettingsConfigDict(env_prefix="GIGACHAT_", arbitrary_types_allowed=True, extra="ignore")
    made = sys.modules["gigachat.settings"].Settings = type(BaseSettings)("Settings", (BaseSettings,), body)
    return made


def _modules() -> Dict[str, ModuleType]:
    """Make all modules; each has all public names, whatever it is called."""
    public = {name: getattr(lite, name) for name in lite.__all__}
    names = ["gigachat", *("gigachat." + name for name in _MODULES.split())]
    for name, kind in public.items():  # 0.1 had a module for each model: gigachat.models.messages_role
        if isinstance(kind, type) and issubclass(kind, (lite.JSONObject, enum.Enum)):
            words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
            names.append("gigachat.models." + words.lower())
    default = {name: setting.default for name, setting in lite._SETTINGS.items()}
    v2 = {"ChatCompletionChunk": lite.PrimaryChatCompletionChunk, "ChatFunctionCall": lite.PrimaryChatFunctionCall}
    own: Dict[str, Dict[str, Any]] = {
        "gigachat": {"__file__": __file__, "__version__": VERSION},
        "gigachat.client": {"GIGACHAT_MODEL": default["model"]},
        "gigachat.settings": {
            "ENV_PREFIX": "GIGACHAT_", "BASE_URL": default["base_url"], "AUTH_URL": default["auth_url"],
            "SCOPE": default["scope"], "__getattr__": _settings_attribute,
        },
        "gigachat._types": {"FileTypes": lite.FileSource, "FileContent": lite.FileContent},
        "gigachat.api.utils": {"build_headers": _build_headers},
        "gigachat.models.chat_completions": v2,
    }  # fmt: skip
    modules: Dict[str, ModuleType] = {}
    for name in dict.fromkeys(names):
        module = modules[name] = ModuleType(name, f"gigachat_lite under the name of {name}.")
        vars(module).update(public, __all__=lite.__all__, **own.get(name, {}))
        package = any(other.startswith(name + ".") for other in names)
        spec = module.__spec__ = ModuleSpec(name, None, origin=__file__, is_package=package)
        module.__package__ = spec.parent
        if package:
            module.__path__ = []
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    return modules


class _Absent:
    """Comes last of those who find modules, and says why a part of the SDK is not here."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith("gigachat."):
            raise ModuleNotFoundError(f"{name}: gigachat_lite stands in for gigachat here, without it", name=name)


# ---------- the start


def _stand_in() -> None:
    present = sys.modules.get("gigachat")
    if present is not None and __name__ != "gigachat":
        if getattr(present, "__version__", None) == VERSION:  # another copy of this file was first
            sys.modules[__name__] = present
            return
        where = getattr(present, "__file__", None)
        raise ImportError(f"the official SDK is imported already, from {where}: import {__name__} before it")
    _teach_manners()
    modules = _modules()
    top = modules.pop("gigachat")
    sys.modules.update(modules)
    sys.meta_path.append(_Absent)
    sys.modules["gigachat"] = sys.modules[__name__] = top
    # A thread that has waited for this import is given this very module.
    globals().update({name: value for name, value in vars(top).items() if name[:2] != "__"}, __path__=[])


_stand_in()
