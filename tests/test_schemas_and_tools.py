"""Schemas of types, values of them, descriptions of functions, and the loop of calls."""

import asyncio
import enum
import functools
import json
import logging
import operator
import pickle
import sys
import threading
import time
import typing
from dataclasses import InitVar, dataclass, field
from typing import Any, Dict, List, NamedTuple, NewType, Optional, Tuple, TypeVar, Union

import pytest
from conftest import call_async, call_sync, raw_client
from faults import COMPLETION, LAST_CHUNK, STREAM_HEAD, WAIT_SECONDS, RawServer, always, answer, chunk, closing, event

import gigachat_lite
from gigachat_lite import (
    Chat,
    ChatCompletion,
    ChatCompletionRequest,
    ChatCompletionResponse,
    Function,
    GigaChat,
    InvalidResponseError,
    LengthFinishReasonError,
    Messages,
    Storage,
    StreamInterruptedError,
    schema_of,
)

try:
    from typing_extensions import Annotated, Literal, NotRequired, Required, TypedDict
except ImportError:  # there is no typing_extensions where nothing but pytest is installed
    if sys.version_info < (3, 11):
        raise
    from typing import Annotated, Literal, NotRequired, Required, TypedDict


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    NONE = None
    ONE = 1
    YES = "yes"


@dataclass
class Inner:
    x: float
    note: str = "none"


@dataclass
class Plan:
    title: Annotated[str, "What it is called."]
    inner: Inner
    steps: List[Inner] = field(default_factory=list)
    color: Optional[Color] = None
    secret: int = field(default=0, init=False)


@dataclass
class Other:
    title: str
    inner: str
    more: int


@dataclass
class Even:
    n: int

    def __post_init__(self):
        if self.n % 2:
            raise ValueError("an odd number")


@dataclass
class Scaled:
    """What only __init__ takes counts, too; what belongs to the class does not."""

    n: int
    factor: InitVar[int]
    offset: InitVar[Optional[int]] = None
    unit: typing.ClassVar = "mm"

    def __post_init__(self, factor, offset):
        self.n = self.n * factor + (offset or 0)


class Point(NamedTuple):
    x: int
    y: "int" = 0


class Movie(TypedDict):
    name: str
    year: NotRequired[int]


class Part(TypedDict, total=False):
    name: Required[str]
    size: "Annotated[NotRequired[int], 'In mm.']"


class Schemed:
    """What pydantic's classes look like from outside."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return self.value == other.value

    __hash__ = None

    @classmethod
    def model_json_schema(cls):
        return {
            "$defs": {"Deep": {"type": "integer"}},
            "type": "object",
            "properties": {"deep": {"$ref": "#/$defs/Deep"}},
            "required": ["deep"],
        }

    @classmethod
    def model_validate(cls, value):
        if type(value.get("deep")) is not int:
            raise RuntimeError("1 validation error\n  deep: no integer")
        return cls(value)


@dataclass
class Holder:
    schemed: Schemed


T = TypeVar("T")
UserId = NewType("UserId", int)
INNER = {"type": "object", "properties": {"x": {"type": "number"}, "note": {"type": "string"}}, "required": ["x"]}
NUMBER_OR_NULL = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
COLORS = {"type": "string", "enum": ["red", "blue"]}


def an_object(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required)}


# A type, its schema, JSON with the values made of it, and JSON that does not fit with what is said of it.
TYPES = [
    (str, {"type": "string"}, [("a", "a")], [(1, "$ must be string, not 1"), (None, "$ must be string, not None")]),
    (
        int,
        {"type": "integer"},
        [(1, 1), (2.0, 2), (10**30, 10**30)],
        [
            (True, "$ must be integer, not True"),
            (1.5, "$ must be integer, not 1.5"),
            (1e999, "$ must be integer, not inf"),
        ],
    ),
    (
        float,
        {"type": "number"},
        [(1, 1.0), (1.5, 1.5)],
        [(False, "$ must be number, not False"), ("1", "$ must be number, not '1'"), (10**400, "$: int too large to")],
    ),
    (bool, {"type": "boolean"}, [(True, True)], [(1, "$ must be boolean, not 1")]),
    (None, {"type": "null"}, [(None, None)], [(0, "$ must be null, not 0")]),
    (Any, {}, [(None, None), ({"a": [1]}, {"a": [1]})], []),
    (T, {}, [("x", "x")], []),
    (UserId, {"type": "integer"}, [(1, 1)], [("x", "$ must be integer")]),
    ({"type": "object", "x": [1]}, {"type": "object", "x": [1]}, [([], [])], []),
    (
        Annotated[int, "How many."],
        {"type": "integer", "description": "How many."},
        [(1, 1)],
        [("", "$ must be integer")],
    ),
    (Annotated[int, 5], {"type": "integer"}, [(1, 1)], []),
    (
        Color,
        COLORS,
        [("red", Color.RED)],
        [("green", "$: must be one of 'red', 'blue', not 'green'"), ([], "$: must be one of 'red', 'blue', not []")],
    ),
    (
        Level,
        {"type": "integer", "enum": [1, 2]},
        [(2, Level.HIGH), (2.0, Level.HIGH)],
        [(True, "$: must be one of 1, 2")],
    ),
    (
        Mixed,
        {"enum": [None, 1, "yes"]},
        [(None, Mixed.NONE), (1, Mixed.ONE)],
        [(0, "$: must be one of None, 1, 'yes'")],
    ),
    (Literal["a", 1], {"enum": ["a", 1]}, [("a", "a"), (1, 1)], [(True, "$: must be one of 'a', 1, not True")]),
    (
        Literal[Color.RED],
        {"type": "string", "enum": ["red"]},
        [("red", Color.RED)],
        [("blue", "$: must be one of 'red'")],
    ),
    (
        typing.Literal[typing.Literal["a", "b"], typing.Literal[typing.Literal[1]]],  # noqa: RUF041
        {"enum": ["a", "b", 1]},
        [("b", "b"), (1, 1)],
        [("c", "$: must be one of 'a', 'b', 1, not 'c'")],
    ),
    (List, {"type": "array", "items": {}}, [([1, "a"], [1, "a"])], [({}, "$ must be array, not {}")]),
    (list, {"type": "array", "items": {}}, [([], [])], [("", "$ must be array, not ''")]),
    (
        List[int],
        {"type": "array", "items": {"type": "integer"}},
        [([1, 2.0], [1, 2])],
        [([1, "a"], "$[1] must be integer")],
    ),
    (
        Tuple[int, ...],
        {"type": "array", "items": {"type": "integer"}},
        [([1, 2], (1, 2))],
        [([None], "$[0] must be int")],
    ),
    (tuple, {"type": "array", "items": {}}, [([1, "a"], (1, "a"))], []),
    (
        Tuple[int, Color],
        {"type": "array", "prefixItems": [{"type": "integer"}, COLORS], "minItems": 2, "maxItems": 2},
        [([1, "red"], (1, Color.RED))],
        [
            ([1], "$ must have 2 items, not 1"),
            ([1, "red", 3], "$ must have 2 items, not 3"),
            ([1, 2], "$[1]: must be one"),
        ],
    ),
    (Dict, {**an_object(), "additionalProperties": {}}, [({"a": 1}, {"a": 1})], [([], "$ must be object, not []")]),
    (dict, {**an_object(), "additionalProperties": {}}, [({}, {})], []),
    (
        Dict[str, Inner],
        {**an_object(), "additionalProperties": INNER},
        [({"a": {"x": 1}}, {"a": Inner(1.0)})],
        [({"a": {"x": "q"}}, "$.a.x must be number, not 'q'")],
    ),
    (
        Optional[int],
        NUMBER_OR_NULL,
        [(1, 1), (None, None)],
        [("a", "$ must be integer, not 'a'; $ must be null, not 'a'")],
    ),
    (Union[int, float], None, [(1, 1), (1.0, 1.0)], []),
    (
        Union[float, int],
        None,
        [(1, 1), (1.0, 1.0)],
        [(True, "$ must be number, not True; $ must be integer, not True")],
    ),
    (Union[float, str], None, [(1, 1.0)], []),
    (Union[Color, str], None, [("red", Color.RED), ("green", "green")], []),
    (
        Union[Inner, Other],
        None,
        [({"x": 1}, Inner(1.0)), ({"title": "a", "inner": "b", "more": 1, "odd": 1}, Other("a", "b", 1))],
        [({"x": "a"}, "$.x must be number, not 'a'")],
    ),
    (
        Optional[Inner],
        None,
        [(None, None)],
        [({"x": "q"}, "$.x must be number"), ("q", "$ must be object, not 'q'; $ must be null, not 'q'")],
    ),
    (
        List[Optional[Plan]],
        None,
        [([None], [None])],
        [([{"title": "a", "inner": {"x": "q"}}], "$[0].inner.x must be num")],
    ),
    (
        Plan,
        an_object(
            ["title", "inner"],
            title={"type": "string", "description": "What it is called."},
            inner=INNER,
            steps={"type": "array", "items": INNER},
            color={"anyOf": [COLORS, {"type": "null"}]},
        ),
        [
            ({"title": "a", "inner": {"x": 1}, "odd": 1}, Plan("a", Inner(1.0))),
            ({"title": "a", "inner": {"x": 1}, "steps": [{"x": 2}], "color": "red"},)
            + (Plan("a", Inner(1.0), [Inner(2.0)], Color.RED),),
        ],
        [
            ({}, "$ lacks 'title', 'inner'"),
            ({"title": "a", "inner": {"x": "q"}}, "$.inner.x must be number, not 'q'"),
            ({"title": "a", "inner": {"x": 1}, "steps": [{"x": 1}, {}]}, "$.steps[1] lacks 'x'"),
            ([], "$ must be object, not []"),
        ],
    ),
    (Even, an_object(["n"], n={"type": "integer"}), [({"n": 2}, Even(2))], [({"n": 1}, "$: an odd number")]),
    (
        Scaled,
        an_object(["n", "factor"], n={"type": "integer"}, factor={"type": "integer"}, offset=NUMBER_OR_NULL),
        [({"n": 1, "factor": 2}, Scaled(1, 2)), ({"n": 1, "factor": 2, "offset": 3, "unit": "m"}, Scaled(1, 2, 3))],
        [({"n": 1}, "$ lacks 'factor'")],
    ),
    (
        Point,
        an_object(["x"], x={"type": "integer"}, y={"type": "integer"}),
        [({"x": 1}, Point(1)), ({"x": 1, "y": 2.0}, Point(1, 2))],
        [([1, 2], "$ must be object, not [1, 2]"), ({"y": 1}, "$ lacks 'x'")],
    ),
    (
        Movie,
        an_object(["name"], name={"type": "string"}, year={"type": "integer"}),
        [({"name": "a", "odd": 1}, {"name": "a"})],
        [({"year": 1}, "$ lacks 'name'"), ({"name": "a", "year": "b"}, "$.year must be integer, not 'b'")],
    ),
    (
        Part,
        an_object(["name"], name={"type": "string"}, size={"type": "integer", "description": "In mm."}),
        [({"name": "a"}, {"name": "a"})],
        [({}, "$ lacks 'name'")],
    ),
    (
        Schemed,
        Schemed.model_json_schema(),
        [({"deep": 1}, Schemed({"deep": 1}))],
        [({}, "$: 1 validation error deep: no")],
    ),
    (
        Holder,
        an_object(["schemed"], schemed=an_object(["deep"], deep={"type": "integer"})),
        [({"schemed": {"deep": 1}}, Holder(Schemed({"deep": 1})))],
        [({"schemed": {"deep": "a"}}, "$.schemed: 1 validation error deep: no integer")],
    ),
    (
        Storage,
        None,
        [({"is_stateful": True, "limit": 2, "odd": 1}, Storage(is_stateful=True, limit=2))],
        [({"is_stateful": 1}, "$.is_stateful must be boolean")],
    ),
]
if sys.version_info >= (3, 9):
    TYPES += [
        (list[int], {"type": "array", "items": {"type": "integer"}}, [([1], [1])], [(1, "$ must be array")]),
        (dict[str, int], {**an_object(), "additionalProperties": {"type": "integer"}}, [({"a": 1}, {"a": 1})], []),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}, [([1], (1,))], []),
    ]
if sys.version_info >= (3, 10):
    TYPES += [
        (int | None, NUMBER_OR_NULL, [(None, None)], [("a", "$ must be integer, not 'a'; $ must be null, not 'a'")]),
        (List[Color | int], None, [(["red", 1], [Color.RED, 1])], []),
    ]
if sys.version_info >= (3, 12):
    exec("type Ages = dict[str, int]")
    TYPES += [(eval("Ages"), {**an_object(), "additionalProperties": {"type": "integer"}}, [({"a": 1}, {"a": 1})], [])]


def made(kind, value):
    return gigachat_lite._shape_of(kind).value(value)


@pytest.mark.parametrize(("kind", "schema", "good", "bad"), TYPES, ids=[str(case[0])[:60] for case in TYPES])
def test_types(kind, schema, good, bad):
    assert schema in (None, schema_of(kind))
    json.dumps(schema_of(kind))
    for value, expected in good:
        result = made(kind, value)
        assert result == expected
        assert type(result) is type(expected)
    for value, problem in bad:
        with pytest.raises(ValueError) as caught:
            made(kind, value)
        assert str(caught.value).startswith(problem)


def test_a_value_shares_nothing_with_the_defaults():
    first, second = (made(Plan, {"title": "a", "inner": {"x": 1}}) for _ in range(2))
    first.steps.append(1)
    assert second.steps == []


class NoSchema:
    pass


@dataclass
class Nested:
    plan: Plan
    parts: Dict[str, List[complex]]


@dataclass
class Node:
    children: "List[Node]"


@dataclass
class Lost:
    where: "Nowhere"  # noqa: F821


class SelfSchemed(Schemed):
    @classmethod
    def model_json_schema(cls):
        itself = {"type": "array", "items": {"$ref": "#/$defs/SelfSchemed"}}
        return {"$defs": {"SelfSchemed": itself}, "$ref": "#/$defs/SelfSchemed"}


class Odd(enum.Enum):
    PAIR = (1, 2)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (NoSchema, "NoSchema'> has no JSON schema"),
        (NoSchema(), "NoSchema object at"),
        (object, "'object'> has no"),
        (bytes, "'bytes'> has no"),
        ([int], "[<class 'int'>] has no"),
        ("Plan", "'Plan' has no"),
        (Nested, "'complex'> has no JSON schema"),
        (Dict[int, str], "Dict[int, str] has no"),
        (Tuple[int, bytes], "'bytes'> has no JSON schema"),
        (Node, "Node'> holds itself, which no schema without $ref can say"),
        (List[SelfSchemed], "SelfSchemed] holds itself, which no schema without $ref can say"),
        (Lost, "the annotations of Lost cannot be read: name 'Nowhere' is not defined"),
        (Odd, "Odd'> has values that JSON does not have"),
    ],
    ids=str,
)
def test_types_without_a_schema(kind, problem):
    with pytest.raises(TypeError) as caught:
        schema_of(kind)
    assert problem in str(caught.value)


def test_annotations_that_are_text(tmp_path, monkeypatch):
    """A module with ``from __future__ import annotations`` is read alike, also if its loader did not register it."""
    source = """
from __future__ import annotations
from typing import *
class Pair(NamedTuple):
    x: int
    y: Optional[str] = None
def weather(city: str, days: Optional[int] = None) -> Lost: ...
"""
    (tmp_path / "with_text.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    import with_text

    described = Function.of(with_text.weather).to_dict()["parameters"]
    assert described == an_object(["city"], city={"type": "string"}, days=NUMBER_OR_NULL)
    assert schema_of(with_text.Pair)["required"] == ["x"]
    monkeypatch.delitem(sys.modules, "with_text")
    assert schema_of(with_text.Pair)["required"] == ["x"]
    assert Function.of(with_text.weather).to_dict()["parameters"] == described


@pytest.mark.skipif(sys.version_info < (3, 9), reason="typing of 3.8 does not know which keys are required")
def test_typed_dicts_of_typing():
    class First(typing.TypedDict):
        a: int

    class Second(First, total=False):
        b: int

    assert schema_of(Second)["required"] == ["a"]


TEXTS = [
    ('{"a": 1}', {"a": 1}),
    (" \n[1, 2]\n", [1, 2]),
    ('```json\n{"a": 1}\n```', {"a": 1}),
    ('Here you are:\n```JSON\n{"a": 1}\n```\nIs it good?', {"a": 1}),
    ('```\n{"a": 1}```', {"a": 1}),
    ('```json {"a": 1}```', {"a": 1}),
    ('{"code": "```py\\n```"}', {"code": "```py\n```"}),
    ('```json\n{"code": "```py\\nx\\n```"}\n```\nand ```that```', {"code": "```py\nx\n```"}),
    ('First ```python\nx = 1\n``` and then ```json\n{"a": 1}\n```', {"a": 1}),
    ('```json\n{"a": 1}', {"a": 1}),
    ('"Привет"', "Привет"),
]


@pytest.mark.parametrize(("text", "value"), TEXTS)
def test_json_in_a_text(text, value):
    assert gigachat_lite._json_in(text) == value


@pytest.mark.parametrize(
    "text", ["", "Sorry.", "```json\nsorry\n```", "NaN", "```NaN```", "[" * 100_000, "```" + "[" * 100_000, '"\udc00"']
)
def test_no_json_in_a_text(text):
    with pytest.raises(ValueError):
        gigachat_lite._json_in(text)


@pytest.mark.parametrize(
    "unit", ["```", "`", "``` ", "```json ", "```a\n", '```["', "```{", " ", "```json\n\n", '"```\\']
)
def test_looking_for_json_takes_linear_time(unit):
    start = time.perf_counter()
    with pytest.raises(ValueError):
        gigachat_lite._json_in("x" + unit * 200_000)
    assert time.perf_counter() - start < 2  # it takes 0.02; trying at each fence would take minutes


# ---------- functions


def weather(
    city: Annotated[str, "Where."],
    unit: Literal["C", "F"] = "C",
    days: int = None,  # noqa: RUF013
    extra=None,
    *,
    plan: Inner = None,
):
    """Tell the weather
    of a city.

    It is always fine.
    """
    return f"{city} {unit} {days} {extra} {plan}"


PARAMETERS = an_object(
    ["city"],
    city={"type": "string", "description": "Where."},
    unit={"type": "string", "enum": ["C", "F"]},
    days={"type": "integer"},
    extra={},
    plan=INNER,
)


class Service:
    """Serve."""

    def method(self, x: int) -> int:
        """Work."""
        return x

    @classmethod
    def made(cls, x: int) -> "Service":
        """Make."""

    @staticmethod
    def free(x: int):
        """Free."""


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


async def slow(x: int):
    """Wait."""
    await asyncio.sleep(0)
    return x


X = an_object(["x"], x={"type": "integer"})


@pytest.mark.parametrize(
    ("function", "name", "description", "parameters"),
    [
        (weather, "weather", "Tell the weather of a city.", PARAMETERS),
        (logged(weather), "weather", "Tell the weather of a city.", PARAMETERS),
        (Service().method, "method", "Work.", X),
        (logged(Service().method), "method", "Work.", X),
        (Service.made, "made", "Make.", X),
        (Service.free, "free", "Free.", X),
        (slow, "slow", "Wait.", X),
    ],
    ids=str,
)
def test_functions(function, name, description, parameters):
    described = Function.of(function)
    assert isinstance(described, Function)
    assert described.to_dict() == {"name": name, "description": description, "parameters": parameters}


def google(a, b: int, c="x", d=None, e=None):
    """Google.

    Args:
        a: The first,
            which goes on: here.
        b (Dict[str, int], optional): The second.

        *c: The third.
        other: a: no
    Returns:
        e: The result.
    """


def numpy(a, b, c=1, d=None, e=None):
    """NumPy.

    Parameters
    ----------
    a : int
        The first,
        which goes on.
    b, c : {'x', 'y'}, optional
        The others.
    d

    Returns
    -------
    e : int
        The result.
    """


def sphinx(a, b, c=1, d=None, e=None):
    """Sphinx.
    :param a: The first,
        which goes on.
    :param int b: The second.
    :type b: int
    :param dict(str, int) c: The third.
    :returns: e: The result.
    """


@pytest.mark.parametrize(
    ("function", "descriptions"),
    [
        (google, {"a": "The first, which goes on: here.", "b": "The second.", "c": "The third."}),
        (numpy, {"a": "The first, which goes on.", "b": "The others.", "c": "The others."}),
        (sphinx, {"a": "The first, which goes on.", "b": "The second.", "c": "The third."}),
    ],
)
def test_docstrings(function, descriptions):
    described = Function.of(function).to_dict()
    assert described["description"] == {"google": "Google.", "numpy": "NumPy.", "sphinx": "Sphinx."}[described["name"]]
    properties = described["parameters"]["properties"].items()
    assert {name: schema["description"] for name, schema in properties if "description" in schema} == descriptions


def undocumented(city): ...


def only_arguments(city):
    """
    Args:
        city: Where.
    """


def test_a_function_without_a_docstring():
    assert Function.of(undocumented).to_dict() == {"name": "undocumented", "parameters": an_object(["city"], city={})}
    described = Function.of(only_arguments).to_dict()
    assert described == {"name": "only_arguments", "parameters": an_object(["city"], city={"description": "Where."})}


def with_args(*args: int): ...
def with_keywords(x, **kwargs): ...
def with_complex(x: Dict[str, complex]): ...
def with_lost(x: "Nowhere"): ...  # noqa: F821


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (with_args, "with_args cannot be described to the model: *args: int cannot be given by name"),
        (with_keywords, "with_keywords cannot be described to the model: **kwargs cannot be given by name"),
        (lambda x: x, "<lambda> cannot be described to the model: it has no name"),
        (with_complex, "'complex'> has no JSON schema"),
        (with_lost, "the annotations of with_lost cannot be read: name 'Nowhere' is not defined"),
        (len, "len cannot be described to the model: obj cannot be given by name"),
        (5, "5 cannot be described to the model: 5 is not a callable object"),
        ("weather", "'weather' cannot be described to the model"),
    ],
    ids=str,
)
def test_functions_that_cannot_be_described(function, problem):
    with pytest.raises(TypeError) as caught:
        Function.of(function)
    assert problem in str(caught.value)


def test_the_cut_answer_pickles():
    error = pickle.loads(pickle.dumps(LengthFinishReasonError(ChatCompletion(choices=[]))))
    assert error.completion == ChatCompletion(choices=[])
    assert "max_tokens" in str(error)


# ---------- the loop


def a_call(name, arguments, **more):
    message = {"role": "assistant", "function_call": {"name": name, "arguments": arguments}, **more}
    return {**COMPLETION, "choices": [{"message": message, "index": 0, "finish_reason": "function_call"}]}


@pytest.fixture(params=["run_tools", "arun_tools"])
def run_tools(request):
    """Answer with *replies* in turn; give what the loop gave and the messages of each request."""

    def run(replies, functions, payload="Погода?", max_rounds=10):
        queue = iter(replies)

        def serve(wire):
            while wire.receive():
                wire.send(answer(next(queue)))

        with RawServer(serve) as server, GigaChat(base_url=server.base_url, access_token="token") as client:
            result = getattr(client, request.param)(payload, functions, max_rounds=max_rounds)
            completion, messages = asyncio.run(result) if request.param == "arun_tools" else result
            return completion, messages, [sent.json for sent in server.requests]

    return run


def test_the_loop(run_tools):
    """Arguments are converted, the assistant's whole message goes back, the history is whole, the payload unchanged."""
    payload = Chat(messages=[Messages(role="user", content="Погода?")], functions=[Function(name="text2image")])
    replies = [
        a_call("weather", {"city": "Москва", "days": 2.0, "plan": {"x": 1}, "odd": 1}, functions_state_id="7"),
        a_call("undocumented", {"city": None}),
        COMPLETION,
    ]
    completion, messages, sent = run_tools(replies, [weather, undocumented, {"name": "get_file_content"}], payload)
    assert completion.choices[0].message.content == "да"
    names = [function["name"] for function in sent[0]["functions"]]
    assert sorted(names) == ["get_file_content", "text2image", "undocumented", "weather"]
    history = [
        {"role": "user", "content": "Погода?"},
        {
            "role": "assistant",
            "content": "",
            "function_call": replies[0]["choices"][0]["message"]["function_call"],
            "functions_state_id": "7",
        },
        {"role": "function", "name": "weather", "content": '{"result": "Москва C 2 None Inner(x=1.0, note=\'none\')"}'},
        {"role": "assistant", "content": "", "function_call": {"name": "undocumented", "arguments": {"city": None}}},
        {"role": "function", "name": "undocumented", "content": '{"result": null}'},
    ]
    assert [request["messages"] for request in sent] == [history[:1], history[:3], history]
    assert [message.to_dict() for message in messages] == [*history, {"role": "assistant", "content": "да"}]
    assert len(payload.messages) == 1
    assert len(payload.functions) == 1


def test_the_loop_ends(run_tools):
    """At a call of a name it does not know, and after so many requests."""
    completion, messages, sent = run_tools([a_call("search", {})], [weather])
    assert completion.choices[0].finish_reason == "function_call"
    assert (len(sent), len(messages)) == (1, 2)
    completion, messages, sent = run_tools([a_call("undocumented", {"city": 1})] * 3, [undocumented], max_rounds=2)
    assert (len(sent), len(messages)) == (2, 5)
    completion, messages, sent = run_tools([{**COMPLETION, "choices": []}], [weather])
    assert (len(sent), len(messages)) == (1, 1)


def run_one(run_tools, function, arguments):
    """Have *function* called once; give what the model is told."""
    sent = run_tools([a_call(function.__name__, arguments), COMPLETION], [function])[2]
    return json.loads(sent[1]["messages"][2]["content"])


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": Color.RED, 1: [2]}, {"a": "red", "1": [2]}),
        (Plan("a", Inner(1.0), color=Color.BLUE), None),
        (Movie(name="a"), {"name": "a"}),
        (Storage(is_stateful=True), {"is_stateful": True}),
        (None, {"result": None}),
        ("да", {"result": "да"}),
        ([Inner(1.0)], {"result": [{"x": 1.0, "note": "none"}]}),
        (Point(1), {"result": [1, 0]}),
        ("\udc00", {"result": "?"}),
        (float("nan"), {"error": "ValueError: Out of range float values are not JSON compliant"}),
        ({(1, 2): 3}, {"error": "TypeError: keys must be str, int, float, bool or None, not tuple"}),
    ],
    ids=repr,
)
def test_results(run_tools, value, told):
    def function():
        return value

    if told is None:
        inner = {"x": 1.0, "note": "none"}
        told = {"title": "a", "inner": inner, "steps": [], "color": "blue", "secret": 0}
    result = run_one(run_tools, function, None)
    if "error" in told:  # later versions of Python tell the number, too
        assert result["error"].startswith(told["error"])
    else:
        assert result == told


def test_failures(run_tools, caplog):
    """The model is told; the log has the traceback, but not the arguments."""

    def fail(key: str):
        return {}[len(key)]

    with caplog.at_level(logging.WARNING, "gigachat_lite"):
        assert run_one(run_tools, fail, {"key": "secret"}) == {"error": "KeyError: 6"}
    [record] = caplog.records
    assert "fail()" in record.getMessage()
    assert record.exc_info[0] is KeyError
    assert "secret" not in caplog.text
    assert run_one(run_tools, fail, {"key": 5}) == {"error": "ValueError: $.key must be string, not 5"}
    assert run_one(run_tools, fail, {}) == {"error": "ValueError: $ lacks 'key'"}


def test_failures_that_are_hard_to_tell(run_tools):
    """An error keeps its name, though no coroutine can raise this one, and is told if its text is an error, too."""

    class SilentError(Exception):
        def __str__(self):
            raise AttributeError

    def empty():
        return next(iter([]))

    def silent():
        raise SilentError

    assert run_one(run_tools, empty, {}) == {"error": "StopIteration: "}
    assert run_one(run_tools, silent, {}) == {"error": "SilentError"}


@pytest.mark.parametrize("name", ["run_tools", "arun_tools", "chat.run_tools", "achat.run_tools"])
def test_two_functions_of_one_name(name):
    """The model could not tell them apart: nothing is sent."""

    def other():
        raise AssertionError

    other.__name__ = "weather"
    with RawServer(always(answer(COMPLETION))) as server, raw_client(server) as client:
        with pytest.raises(TypeError, match="two different functions are called weather"):
            result = operator.attrgetter(name)(client)("a", [weather, undocumented, {"name": "f"}, other])
            asyncio.run(result)
        assert server.requests == []


@pytest.mark.parametrize("run_tools", ["arun_tools"], indirect=True)
def test_coroutine_functions_run_in_the_callers_loop(run_tools):
    ran = {}

    async def here():
        await asyncio.sleep(0)
        ran["here"] = asyncio.get_running_loop(), threading.current_thread()

    def aside():
        ran["aside"] = threading.current_thread()

    run_tools([a_call("here", {}), a_call("aside", {}), COMPLETION], [here, aside])
    assert ran["here"][1] is threading.current_thread()
    assert ran["aside"] is not threading.current_thread()


# ---------- typed answers


def saying(content, finish_reason="stop", **fields):
    message = {"role": "assistant", "content": content, **fields}
    return answer({**COMPLETION, "choices": [{"message": message, "index": 0, "finish_reason": finish_reason}]})


@pytest.fixture(params=["chat_parse", "achat_parse"])
def parse(request):
    """Have *reply* read as a type; give the result and the requests."""

    def run(reply, payload="Привет", **options):
        with RawServer(always(reply)) as server, raw_client(server) as client:
            try:
                return call_of(request.param)(client, "chat_parse", payload, **options), server.requests
            finally:
                assert len(server.requests) <= 1

    return run


def call_of(name):
    return call_async if name.startswith("a") else call_sync


def test_typed_answers(parse):
    """The type goes out as its schema, the answer comes back as a value; the payload is not changed."""
    payload = Chat(messages=["Привет"], temperature=1)
    (completion, value), [request] = parse(saying('{"x": 1}'), payload, response_format=Inner)
    assert (completion.choices[0].message.content, value) == ('{"x": 1}', Inner(1.0))
    assert request.json["response_format"] == {"type": "json_schema", "schema": INNER, "strict": True}
    assert request.json["temperature"] == 1
    assert payload.response_format is None
    (_, value), [request] = parse(saying('[{"x": 1}]'), response_format=List[Inner], strict=False)
    assert value == [Inner(1.0)]
    sent = {"type": "json_schema", "schema": {"type": "array", "items": INNER}, "strict": False}
    assert request.json["response_format"] == sent
    (_, value), [request] = parse(saying('{"any": [1]}'), {"messages": ["a"]}, response_format={"type": "object"})
    assert value == {"any": [1]}
    (_, value), [request] = parse(saying('{"deep": 1}'), response_format=Schemed)
    assert value == Schemed({"deep": 1})
    assert request.json["response_format"]["schema"] == Schemed.model_json_schema()


@pytest.mark.parametrize(
    ("reply", "kind", "problem"),
    [
        (
            saying('{"title": "a", "inner": {"x": "q"}}'),
            Plan,
            r"the answer does not fit: \$.inner.x must be number, not 'q'",
        ),
        (saying("Sorry."), Plan, "does not fit: .*Expecting value"),
        (saying(""), Plan, "does not fit: .*Expecting value"),
        (saying('{"deep": "a"}'), Schemed, r"\$: 1 validation error deep: no integer"),
        (answer({**COMPLETION, "choices": []}), Plan, "does not fit: .*Expecting value"),
    ],
)
def test_answers_that_do_not_fit(parse, reply, kind, problem):
    with pytest.raises(InvalidResponseError, match=problem) as caught:
        parse(reply, response_format=kind)
    assert isinstance(caught.value.completion, ChatCompletion)
    assert pickle.loads(pickle.dumps(caught.value)).completion == caught.value.completion


def test_answers_that_were_cut(parse):
    with pytest.raises(LengthFinishReasonError, match="max_tokens") as caught:
        parse(saying('{"title": "a', "length"), response_format=Plan)
    assert caught.value.completion.choices[0].message.content == '{"title": "a'


def test_types_that_cannot_be_asked_for():
    """They are refused before anything is sent; a type that plain chat is given leads to chat_parse()."""
    with RawServer(always(b"")) as server, raw_client(server) as client:
        for kind in (NoSchema, List[complex], Node):
            with pytest.raises(TypeError):
                client.chat_parse("a", response_format=kind)
        for name in ("chat", "achat"):
            for payload in (
                {"messages": ["a"], "response_format": Plan},
                Chat(messages=["a"], response_format=List[Plan]),
            ):
                with pytest.raises(TypeError, match="chat_parse"):
                    call_of(name)(client, "chat", payload)
        assert server.requests == []


# ---------- functions in payloads


def test_functions_in_a_payload():
    """They may stand among descriptions, in a Chat and in a dict."""
    with RawServer(always(answer(COMPLETION))) as server, raw_client(server) as client:
        functions = [weather, {"name": "text2image"}, Function.of(undocumented)]
        for payload in ({"messages": ["a"], "functions": functions}, Chat(messages=["a"], functions=functions)):
            client.chat(payload)
        for request in server.requests:
            first, second, third = request.json["functions"]
            assert first == Function.of(weather).to_dict()
            assert (second, third["name"]) == ({"name": "text2image"}, "undocumented")
        with pytest.raises(TypeError, match="with_args cannot be described"):
            client.chat({"messages": ["a"], "functions": [with_args]})


def test_a_coroutine_function_in_the_blocking_loop():
    with RawServer(always(b"")) as server, raw_client(server) as client:
        with pytest.raises(TypeError, match=r"slow is a coroutine function: arun_tools\(\)"):
            client.run_tools("a", [slow])
        assert server.requests == []


def test_a_coroutine_that_a_plain_function_gives():
    """The blocking loop takes it, too, unless it waits for something."""

    def now():
        return done()

    async def done():
        return 5

    def later():
        return slow(1)

    replies = [a_call("now", {}), COMPLETION, a_call("later", {})]

    def serve(wire):
        while wire.receive():
            wire.send(answer(replies.pop(0)))

    with RawServer(serve) as server, raw_client(server) as client:
        assert json.loads(client.run_tools("a", [now])[1][2].content) == {"result": 5}
        with pytest.raises(TypeError, match=r"waits: arun_tools\(\)"):
            client.run_tools("a", [later])


def test_a_function_that_was_described_already_is_described_once(run_tools):
    payload = Chat(messages=["a"], functions=[weather, {"name": "text2image"}])
    assert len(run_tools([COMPLETION], [weather], payload)[2][0]["functions"]) == 2


def test_a_cancelled_loop_ends_at_once():
    """So does the coroutine function that is under way."""
    ended = []

    def serve(wire):
        wire.receive()
        wire.send(answer(a_call("wait", {})))

    async def main(client):
        reached = asyncio.Event()

        async def wait():
            reached.set()
            try:
                await asyncio.sleep(WAIT_SECONDS)
            finally:
                ended.append(True)

        task = asyncio.ensure_future(client.arun_tools("a", [wait]))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with RawServer(serve) as server, raw_client(server) as client:
        asyncio.run(main(client))
    assert ended == [True]


# ---------- streams


def an_event(*deltas, usage=None):
    """Write a chunk: a delta and a finish reason for each choice."""
    choices = [{"delta": delta, "index": i, "finish_reason": end} for i, (delta, end) in deltas]
    used = {"usage": usage} if usage else {}
    return event({**COMPLETION, "object": "chat.completion.chunk", "choices": choices, "usage": None, **used})


CALL = {"name": "weather", "arguments": {"city": "Москва"}}
EVENTS = [
    an_event((0, ({"role": "assistant", "content": "", "reasoning_content": "Ду"}, None))),
    an_event((0, ({"reasoning_content": "мает"}, None))),
    an_event((0, ({"content": "При"}, None)), (1, ({"role": "assistant", "content": "Other"}, "stop"))),
    an_event((0, ({"content": "вет"}, None))),
    an_event((0, ({"content": "", "function_call": CALL, "functions_state_id": "7"}, "function_call"))),
    an_event(usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}),
    event("[DONE]"),
]


@pytest.mark.parametrize("events", [EVENTS, EVENTS[:5] + EVENTS[6:]], ids=["with usage", "without usage"])
@pytest.mark.parametrize("method", ["stream", "astream"])
def test_a_stream_as_a_whole(method, events):
    """The text alone; then all of it, with what was read before, as often as one asks."""

    async def read_async(stream):
        first = await stream.__anext__()
        texts = [text async for text in stream.text_stream]
        return first, texts, await stream.get_final_completion(), await stream.get_final_completion()

    def read_sync(stream):
        with stream:
            first = next(stream)
            texts = list(stream.text_stream)
        return first, texts, stream.get_final_completion(), stream.get_final_completion()

    with RawServer(closing(STREAM_HEAD, *map(chunk, events), LAST_CHUNK)) as server, raw_client(server) as client:
        stream = getattr(client, method)("Привет")
        first, texts, whole, again = read_sync(stream) if method == "stream" else asyncio.run(read_async(stream))
    assert first.choices[0].delta.reasoning_content == "Ду"
    assert texts == ["При", "вет"]
    assert type(whole) is ChatCompletion
    message = {"role": "assistant", "content": "Привет", "reasoning_content": "Думает"}
    assert whole.choices[0].message.to_dict() == {**message, "function_call": CALL, "functions_state_id": "7"}
    assert whole.choices[0].message.function_call.arguments == {"city": "Москва"}
    assert [choice.finish_reason for choice in whole.choices] == ["function_call", "stop"]
    assert whole.choices[1].message.content == "Other"
    assert (whole.usage and whole.usage.total_tokens) == (2 if events is EVENTS else None)
    assert (whole.model, whole.created, whole.object) == ("GigaChat:1", 1_700_000_000, "chat.completion")
    assert whole.x_headers == first.x_headers
    assert whole == again


UNKNOWN = [
    {"choices": [{"delta": {"text": ["l"], "content": "a"}, "extra": "x"}], "text": "q", "content": {"k": 1}, "odd": 1},
    {
        "choices": [{"delta": {"content": "b"}, "extra": "", "finish_reason": "stop"}],
        "text": "r",
        "odd": 0,
        "usage": {},
    },
]


@pytest.mark.parametrize("call", [call_sync, call_async], ids=["sync", "async"])
@pytest.mark.parametrize("most", [10_000, 2])
def test_keys_that_nobody_knows_in_a_whole_answer(call, most, monkeypatch):
    """The text of messages goes on; of anything else the last value counts, whatever it is."""
    monkeypatch.setattr(gigachat_lite, "_MOST_EVENTS", most)
    with RawServer(closing(STREAM_HEAD, *map(chunk, [*map(event, UNKNOWN), event("[DONE]")]), LAST_CHUNK)) as server:
        with raw_client(server) as client:
            whole = final(client, call).to_dict()
    assert whole["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ab", "text": ["l"]},
            "extra": "",
            "finish_reason": "stop",
        }
    ]
    assert (whole["text"], whole["content"], whole["odd"]) == ("r", {"k": 1}, 0)


def final(client, call):
    async def read():
        return await client.astream("a").get_final_completion()

    return client.stream("a").get_final_completion() if call is call_sync else asyncio.run(read())


@pytest.mark.parametrize("call", [call_sync, call_async], ids=["sync", "async"])
def test_a_stream_without_any_part(call):
    with RawServer(closing(STREAM_HEAD, chunk(event("[DONE]")), LAST_CHUNK)) as server, raw_client(server) as client:
        with pytest.raises(InvalidResponseError, match="no part of an answer"):
            final(client, call)


def test_a_stream_that_was_cut_has_no_final_completion():
    with RawServer(closing(STREAM_HEAD, *map(chunk, EVENTS[:4]))) as server, raw_client(server) as client:
        with pytest.raises(StreamInterruptedError):
            client.stream("Привет").get_final_completion()


# ---------- all of it in the second version of chat


def second(*content, finish_reason="stop", **fields):
    """Write an answer: the model's reasoning, then a message of these parts."""
    thoughts = {"role": "reasoning", "content": [{"text": '{"x": 7}'}]}
    message = {"role": "assistant", "content": list(content), **fields}
    return {"model": "G:1", "created_at": 5, "messages": [thoughts, message], "finish_reason": finish_reason}


def ask(client, name, method, *args, **options):
    """Call a method of the namespace, ``chat`` or ``achat``."""
    result = getattr(getattr(client, name), method)(*args, **options)
    return asyncio.run(result) if name == "achat" else result


SECOND = pytest.mark.parametrize("name", ["chat", "achat"])


@SECOND
def test_typed_answers_of_the_second_version(name):
    with RawServer(always(answer(second({"text": '{"x"'}, {"text": ": 1}"})))) as server, raw_client(server) as client:
        payload = ChatCompletionRequest(messages=["a"], model_options={"temperature": 1})
        completion, value = ask(client, name, "parse", payload, response_format=Inner, strict=False)
        assert (completion.text, value) == ('{"x": 1}', Inner(1.0))
        assert payload.response_format is None
        wanted = {"type": "json_schema", "schema": INNER, "strict": False}
        [request] = server.requests
        assert request.path.endswith("/v2/chat/completions")
        assert request.json["model_options"] == {"temperature": 1, "response_format": wanted}
        with pytest.raises(InvalidResponseError, match=r"\$ lacks 'title', 'inner'") as caught:
            ask(client, name, "parse", "a", response_format=Plan)
        assert caught.value.completion.text == '{"x": 1}'


@SECOND
@pytest.mark.parametrize(
    "reply",
    [
        second({"text": '{"x": 1}'}, finish_reason="length"),
        {**second(finish_reason="length"), "messages": [{"role": "reasoning"}]},
        {
            "messages": [{"role": "assistant", "content": '{"x": 1}', "finish_reason": "length"}],
            "finish_reason": "stop",
        },
    ],
)
def test_cut_answers_of_the_second_version(name, reply):
    with RawServer(always(answer(reply))) as server, raw_client(server) as client:
        with pytest.raises(LengthFinishReasonError) as caught:
            ask(client, name, "parse", "a", response_format=Inner)
        assert isinstance(caught.value.completion, ChatCompletionResponse)


def called(name, **fields):
    return {"function_call": {"name": name, "arguments": {"x": 1}, **fields}}


def double(x: int):
    return 2 * x


def fail(x: int):
    raise KeyError(x)


@SECOND
@pytest.mark.parametrize("ids", [("1", "2"), ("1", None), (None, None)])
def test_the_loop_of_the_second_version(name, ids):
    """Calls of one message are answered in one, with ids if all have one, and with the message's state."""
    calls = [called(f, **({"id": one} if one else {})) for f, one in zip(("double", "fail"), ids)]
    replies = [second({"text": "Hm"}, *calls, tool_state_id="7"), second({"text": "да"}, tool_state_id="8")]

    def serve(wire):
        for _request in wire:
            wire.send(answer(replies[len(server.requests) - 1]))

    payload = ChatCompletionRequest(messages=["a"], tools=["web_search"])
    with RawServer(serve) as server, raw_client(server) as client:
        completion, messages = ask(client, name, "run_tools", payload, [double, "image_generate", fail])
        first, last = [request.json for request in server.requests]
    assert completion.text == "да"
    *tools, functions = first["tools"]
    assert tools == [{"web_search": {}}, {"image_generate": {}}]
    assert functions == {"functions": {"specifications": [Function.of(double).to_dict(), Function.of(fail).to_dict()]}}
    _user, assistant, tool = last["messages"]
    assert assistant == {"role": "assistant", "tools_state_id": "7", "content": [{"text": "Hm"}, *calls]}
    results = [{"name": "double", "result": {"result": 2}}, {"name": "fail", "result": {"error": "KeyError: 1"}}]
    if all(ids):
        results = [{**result, "id": one} for result, one in zip(results, ids)]
    content = [{"function_result": result} for result in results]
    assert tool == {"role": "tool", "tools_state_id": "7", "content": content}
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[-1].text == "да"
    assert (len(payload.messages), len(payload.tools)) == (1, 1)


@SECOND
def test_the_loop_of_the_second_version_ends(name):
    with RawServer(always(answer(second(called("search"))))) as server, raw_client(server) as client:
        completion, messages = ask(client, name, "run_tools", "a", [double])
        assert (completion.message.function_calls[0].name, len(messages)) == ("search", 2)
    with RawServer(always(answer(second(called("double"))))) as server, raw_client(server) as client:
        assert len(ask(client, name, "run_tools", "a", [double], max_rounds=2)[1]) == 5
        assert len(server.requests) == 2


def test_coroutine_functions_in_the_second_version():
    replies = [second(called("slow")), second({"text": "да"})]

    def serve(wire):
        for _request in wire:
            wire.send(answer(replies[len(server.requests) - 1]))

    with RawServer(serve) as server, raw_client(server) as client:
        with pytest.raises(TypeError, match=r"achat\.run_tools\(\)"):
            client.chat.run_tools("a", [slow])
        messages = ask(client, "achat", "run_tools", "a", [slow])[1]
        assert messages[2].content[0].function_result.result == {"result": 1}


def test_functions_among_tools():
    """All of them make one tool, and each is described once."""
    described = {"functions": {"specifications": [{"name": "f", "parameters": {}}, Function.of(double).to_dict()]}}
    with RawServer(always(answer(second({"text": "да"})))) as server, raw_client(server) as client:
        client.chat.create({"messages": ["a"], "tools": [double, "web_search", described]})
        client.chat.create({"messages": ["a"], "tools": ["web_search", described]})
        first, last = [request.json["tools"] for request in server.requests]
    assert first[0] == {"web_search": {}}
    names = [function["name"] for function in first[1]["functions"]["specifications"]]
    assert sorted(names) == ["double", "f"]
    assert last == [{"web_search": {}}, described]


def named_event(name, *messages, **fields):
    body = {"model": "G:1", "created_at": 5, "messages": list(messages), **fields}
    return b"event: response.%b\n" % name.encode() + event(body)


def said(*content, role="assistant", **fields):
    return {"role": role, "content": list(content), **fields}


SECOND_EVENTS = [
    named_event("message.delta", said({"text": "Ду"}, role="reasoning")),
    named_event("message.delta", said({"text": "мает"}, role="reasoning")),
    named_event("tool.in_progress", said({"tool_execution": {"id": "", "name": "web_search"}})),
    named_event("tool.completed", said({"tool_execution": {"id": "", "name": "web_search", "status": "success"}})),
    named_event("message.delta", said({"text": "При"})),
    named_event("message.delta", said({"text": "вет"})),
    named_event("message.done", said(called("double"), tool_state_id="7"), finish_reason="function_call"),
]


@pytest.mark.parametrize("name", ["chat", "achat"])
def test_a_stream_of_the_second_version_as_a_whole(name):
    async def read_async(stream):
        first = await stream.__anext__()
        return first, [text async for text in stream.text_stream], await stream.get_final_completion()

    def read_sync(stream):
        return next(stream), list(stream.text_stream), stream.get_final_completion()

    with RawServer(closing(STREAM_HEAD, *map(chunk, SECOND_EVENTS), LAST_CHUNK)) as server, raw_client(
        server
    ) as client:
        stream = getattr(client, name).stream("a")
        first, texts, whole = read_sync(stream) if name == "chat" else asyncio.run(read_async(stream))
    assert first.messages[0].role == "reasoning"
    assert texts == ["При", "вет"]
    assert type(whole) is ChatCompletionResponse
    execution = {"tool_execution": {"id": "", "name": "web_search", "status": "success"}}
    message = said(execution, {"text": "Привет"}, called("double"), tools_state_id="7")
    assert whole.to_dict() == {
        "model": "G:1",
        "created_at": 5,
        "messages": [said({"text": "Думает"}, role="reasoning"), message],
        "finish_reason": "function_call",
    }
    assert whole.usage is None
    assert whole.x_headers == first.x_headers
